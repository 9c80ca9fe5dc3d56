"""What a loop of rounds forgot: every round, task by task and stratum by stratum, beside the best it ever had.

A mean can rise while one task falls, as in the paper's own table, where the mean of six tasks rose by 3.64 and one task
fell by 0.43. Continual learning calls the difference to the best round before forgetting (Chaudhry et al. 2018,
"Riemannian Walk for Incremental Learning", arXiv 1801.10112, section 3). How it differs:

1. A score of which a lower one is better falls by rising.
2. A fall counts where its interval lies wholly beyond a bar. It is paired over the items that both rounds kept. The
   intervals of all scores of a round hold together at 95% (Bonferroni), since among twenty scores chance lets one fall.
3. The best of several noisy rounds flatters. So a fall may be overstated, which the interval does not know.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from lance_assets.algorithms.measures.headline import Items, ScoreRow
from lance_assets.algorithms.measures.statistics import (
    compute_cautious_difference,
    compute_independent_difference,
    find_quantile,
)

RETENTION = pl.Schema(
    {
        "name": pl.String,  # of the score, as `name_score` gives it
        "round": pl.String,
        "score": pl.Float64,
        "best_round": pl.String,  # of this and all rounds before, the earliest on ties
        "best_score": pl.Float64,
        "fall": pl.Float64,  # from the best, 0 or more, in the score's own unit
        "retained_rate": pl.Float64,  # 0..1, what is left of the best; null where the best is 0 or below
        "higher_is_better": pl.Boolean,
    }
)
"""One row for each score and round that has it."""


@dataclass(frozen=True)
class Fall:
    """One score of a round beside the best that any earlier round had."""

    name: str
    """The score's name."""
    best_round: str
    """The earlier round with the best score, the earliest on ties."""
    before: float
    """Its score."""
    after: float
    """The score now."""
    fall: float
    """By how much it is worse, in the score's own unit; below zero where it is better than ever."""
    low: float
    """The interval of the fall, which holds at 95% together with those of the round's other scores."""
    high: float
    """Its upper end."""


Scores = Mapping[str, ScoreRow]
"""The watched scores of one round by their names."""

ReadItems = Callable[[str, ScoreRow], Items]
"""Given a round and one of its scores: its items."""


def find_best(scores: Mapping[str, ScoreRow]) -> str:
    """The round with the best score, the earliest on ties.

    Args:
        scores: one score by round, at least one.
    """
    sign = -1 if next(iter(scores.values()))["higher_is_better"] else 1
    return min(scores, key=lambda key: (sign * scores[key]["score"], key))


def measure_fall(best: ScoreRow, row: ScoreRow) -> float:
    """By how much a score is worse than another; below zero where it is better."""
    worse = best["score"] - row["score"]
    return worse if row["higher_is_better"] else -worse


def measure_retained(best: ScoreRow, row: ScoreRow) -> float | None:
    """What is left of the best score: score over best, or best over score where a lower one is better.

    >>> row = ScoreRow(score=40.0, higher_is_better=False)
    >>> measure_retained(row | {"score": 10.0}, row)
    0.25
    """
    small, large = (row["score"], best["score"]) if row["higher_is_better"] else (best["score"], row["score"])
    return min(1.0, max(0.0, small / large)) if large > 0 else None


def build_retention(rounds: Mapping[str, Scores]) -> pl.DataFrame:
    """The retention matrix over rounds, one row for each score and round, schema `RETENTION`.

    Args:
        rounds: the watched scores of each round, in the order of the rounds.

    Returns:
        The scores in the order in which they first appear, each with its rounds in order.

    >>> row = ScoreRow(benchmark="a", metric="acc", task="all", stratum=None, score=0.5, higher_is_better=True)
    >>> found = build_retention({key: {"a acc": row | {"score": score}} for key, score in (("r0", 0.8), ("r1", 0.4))})
    >>> found.select("round", "best_round", "retained_rate").row(1)
    ('r1', 'r0', 0.5)
    """
    names = dict.fromkeys(name for scores in rounds.values() for name in scores)
    found = []
    for name in names:
        so_far: dict[str, ScoreRow] = {}
        for key, scores in rounds.items():
            if name not in scores:
                continue
            so_far[key] = row = scores[name]
            best = find_best(so_far)
            found.append(
                {
                    **{"name": name, "round": key, "score": row["score"]},
                    **{"best_round": best, "best_score": so_far[best]["score"]},
                    "fall": measure_fall(so_far[best], row),
                    "retained_rate": measure_retained(so_far[best], row),
                    "higher_is_better": row["higher_is_better"],
                }
            )
    return pl.DataFrame(found, schema=RETENTION)


def find_falls(rounds: Mapping[str, Scores], read_items: ReadItems, *, confidence: float = 0.95) -> list[Fall]:
    """The last round beside the best that earlier rounds had, one entry for each score that both have.

    Args:
        rounds: the watched scores of each round, in the order of the rounds.
        read_items: the items of a score of a round; empty where none were kept.
        confidence: of all intervals together, in (0, 1).

    Returns:
        In the order of the last round's scores; none for a single round.
    """
    *earlier, last = rounds
    compared = {
        name: before
        for name in rounds[last]
        if (before := {key: rounds[key][name] for key in earlier if name in rounds[key]})
    }
    each = 1 - (1 - confidence) / max(len(compared), 1)
    falls = []
    for name, before in compared.items():
        best, now = find_best(before), rounds[last][name]
        mean, low, high = _compare(
            before[best], now, read_items(best, before[best]), read_items(last, now), confidence=each
        )
        ends = (-mean, -high, -low) if now["higher_is_better"] else (mean, low, high)
        falls.append(Fall(name, best, before[best]["score"], now["score"], *ends))
    return falls


def _compare(
    before: ScoreRow, after: ScoreRow, then: Items, now: Items, *, confidence: float
) -> tuple[float, float, float]:
    if both := [item for item in then if item in now]:
        return compute_cautious_difference([then[item] for item in both], [now[item] for item in both], confidence)
    # The intervals of a report hold at 95%.
    wider = find_quantile(confidence) / find_quantile(0.95)
    mean, low, high = compute_independent_difference(
        *((one["score"], one["ci_low"], one["ci_high"]) for one in (before, after))
    )
    return mean, mean - wider * (mean - low), mean + wider * (high - mean)


def list_forgotten(falls: Sequence[Fall], *, bar: float) -> list[Fall]:
    """The falls whose interval lies wholly beyond the bar, the surest first.

    >>> list_forgotten([Fall("a acc", "r0000", 0.9, 0.7, 0.2, 0.1, 0.3)], bar=0.1)
    []
    """
    return sorted((fall for fall in falls if fall.low > bar), key=lambda fall: -fall.low)


def describe_fall(fall: Fall, round_key: str) -> str:
    """A fall in words.

    >>> describe_fall(Fall("durations greedy stratum 4", "r0001", 1.0, 0.5, 0.5, 0.2, 0.8), "r0002")
    'durations greedy stratum 4 fell from 1 in r0001 to 0.5 in r0002 (worse by 0.5 [0.2, 0.8])'
    """
    figures = f"{fall.fall:.4g} [{fall.low:.4g}, {fall.high:.4g}]"
    moved = "fell" if fall.after <= fall.before else "rose"
    return (
        f"{fall.name} {moved} from {fall.before:.4g} in {fall.best_round} to {fall.after:.4g} in {round_key} "
        f"(worse by {figures})"
    )


Interval = tuple[float, float, float]
"""A mean with the ends of its 95% interval."""


@dataclass(frozen=True)
class Continual:
    """What a round's model can do of all tasks so far, as continual learning counts it (TRACE)."""

    round_key: str
    """The round."""
    num_tasks: int
    """Tasks that were learned up to this round."""
    performance: Interval | None
    """OP: the mean score of those tasks now; None where scores of which a lower one is better are among them."""
    transfer: Interval | None
    """BWT: the mean change of the tasks that were learned before, since they were; below zero is forgotten. None where
    none was learned before."""
    general: Interval | None
    """The mean change of all tasks since the untouched model; None where that was not evaluated."""


def average_independent(parts: Sequence[Interval]) -> Interval:
    """The mean of independent estimates, with the interval that their own ones make together.

    Args:
        parts: at least one.

    >>> average_independent([(0.5, 0.2, 0.8), (0.7, 0.3, 1.1)])
    (0.6, 0.35, 0.85)
    """
    number, mean = len(parts), sum(part[0] for part in parts) / len(parts)
    below, above = (sum((part[end] - part[0]) ** 2 for part in parts) ** 0.5 / number for end in (1, 2))
    return round(mean, 12), round(mean - below, 12), round(mean + above, 12)


def measure_continual(
    rounds: Mapping[str, Scores], read_items: ReadItems, *, order: Sequence[str] = (), untouched: str
) -> list[Continual]:
    """OP and BWT of every round, and its change since the untouched model.

    Source: TRACE (Wang et al., arXiv 2310.06762), whose released code has no such figures: OP_t is the mean of the
    scores R[t, i] of the tasks i <= t, and BWT_t that of R[t, i] - R[i, i] over i < t.

    Differences: where rounds learn no tasks in turn (`order` is empty), every task is learned from the first round on,
    and compared with the best that an earlier round had, as `find_falls` does. Changes are paired over the items that
    both rounds kept. A change of a score of which a lower one is better counts with the other sign.

    Args:
        rounds: the scores by task of each round, the untouched model's among them, in the order of the rounds.
        read_items: the items of a score of a round.
        order: the tasks in the order in which rounds learn them, the first in the first round, by `ScoreRow`'s task or
            benchmark; scores of other tasks are in `general` alone.
        untouched: the key of the untouched model's scores in `rounds`, which need not be there.

    Returns:
        One entry for each round that has such a score, without the untouched model.

    Raises:
        ValueError: a task of the order has no score.
    """
    keys = [key for key in rounds if key != untouched]
    tasks = {name for scores in rounds.values() for name, row in scores.items() if row["stratum"] is None}
    learned = _place_tasks(rounds, order, tasks)
    found = []
    for place, key in enumerate(keys):
        now = {name: row for name, row in rounds[key].items() if name in tasks}
        known = [name for name in now if not order or learned.get(name, len(keys)) <= place]
        if not now:
            continue
        changes = []
        for name in known:
            before = keys[learned[name] : learned[name] + 1] if order else keys[:place]
            earlier = {other: rounds[other][name] for other in before if other != key and name in rounds[other]}
            if earlier:
                changes.append(_measure_gain(find_best(earlier), name, rounds, key, read_items))
        general = [
            _measure_gain(untouched, name, rounds, key, read_items)
            for name in now
            if untouched in rounds and name in rounds[untouched]
        ]
        found.append(
            Continual(
                round_key=key,
                num_tasks=len(known),
                performance=_average_scores([now[name] for name in known]),
                transfer=average_independent(changes) if changes else None,
                general=average_independent(general) if general else None,
            )
        )
    return found


def _place_tasks(rounds: Mapping[str, Scores], order: Sequence[str], tasks: set[str]) -> dict[str, int]:
    """The place in the order of each score by its name; of a score that the order does not name nothing."""
    rows = {name: row for scores in rounds.values() for name, row in scores.items() if name in tasks}
    places = dict[str, int]()
    for place, task in enumerate(order):
        own = [name for name, row in rows.items() if task in (row["task"], row["benchmark"])]
        if not own:
            known = ", ".join(sorted({row["task"] for row in rows.values()})) or "none"
            raise ValueError(f"the order of the tasks names {task!r}, and no score has that task; there are: {known}")
        places |= dict.fromkeys(own, place)
    return places


def _average_scores(rows: Sequence[ScoreRow]) -> Interval | None:
    if not rows or not all(row["higher_is_better"] for row in rows):
        return None
    ends = ((row["score"], row["ci_low"], row["ci_high"]) for row in rows)
    return average_independent(
        [(score, score if low is None else low, score if high is None else high) for score, low, high in ends]
    )


def _measure_gain(before: str, name: str, rounds: Mapping[str, Scores], now: str, read_items: ReadItems) -> Interval:
    """By how much a score is better than another round's, below zero where it is worse."""
    then, row = rounds[before][name], rounds[now][name]
    mean, low, high = _compare(then, row, read_items(before, then), read_items(now, row), confidence=0.95)
    return (mean, low, high) if row["higher_is_better"] else (-mean, -high, -low)
