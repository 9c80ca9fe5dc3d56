"""What rounds are compared by: one score of an evaluation report, or the weighted mean of several, with its interval.

Scores of different items are independent, so the variances of their parts of a mean add up, as in Miller 2024, "Adding
Error Bars to Evals" (arXiv 2411.00640), section 3. Hand-written because the rules are the platform's own:

1. Scores that share items are not independent. Their half-widths add up instead, which is never too narrow.
2. Where both rounds kept their items, a score's difference is paired over the items.
3. Where nobody names a headline, it is the world's greedy accuracy; else the mean over the harness's tasks of each
   task's main metric, a group in place of its subtasks; else the length-controlled win rate.
4. Scores of which a higher one is better have no mean with scores of which a lower one is better.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import polars as pl

from lance_assets.algorithms.measures.statistics import (
    Interval,
    compute_independent_difference,
    compute_paired_difference,
)

ALL_TASKS = "all"
"""The `task` of a score over every task of a benchmark."""

JUDGE = "judge"
"""The benchmark of a judge's scores."""

CONTROLLED = "length_controlled_win_rate"
"""The judge's metric that rounds are compared by."""

GREEDY = "greedy"
"""The metric of greedy accuracy on a world."""

MAIN_METRICS = ("acc_norm", "acc", "exact_match", "f1", "em", "mcc")
"""Which of a harness task's metrics is its main one: the first of these that it has, else the first by name."""

MAIN_FILTERS = ("none", "flexible-extract")
"""Which filter of the main metric counts: the first of these that the task has, else the first by name."""

LOWER_IS_BETTER = frozenset(
    {"perplexity", "ppl", "loss", "nll", "bits", "bpb", "error", "wer", "cer", "ter", "brier", "mse", "rmse", "mae"}
)
"""Words of a metric's name that say that lower is better, for a harness that does not say it."""


class ScoreRow(TypedDict):
    """One row of an evaluation report; the fields are described at `records.EVAL_REPORT`."""

    model: str
    benchmark: str
    metric: str
    task: str
    stratum: int | None
    score: float
    ci_low: float | None
    ci_high: float | None
    num_items: int | None
    higher_is_better: bool
    part_of: str | None


class Headline(TypedDict):
    """What a round is compared by."""

    model: str
    """The model under evaluation."""
    benchmark: str
    """The benchmark of a single score, or `mean of 6` for a mean."""
    metric: str
    """The metric of a single score, or the names of all scores of a mean."""
    score: float
    """The score, or the weighted mean."""
    ci_low: float | None
    """95% interval; None where nothing is known of the noise."""
    ci_high: float | None
    """Its upper end."""
    num_items: int | None
    """The items of all scores together; None where they are not known."""
    higher_is_better: bool
    """False for a perplexity, a word error or a loss."""
    parts: list[ScoreRow]
    """The scores."""
    weights: list[float]
    """The weight of each in the mean; they add up to 1."""


@dataclass(frozen=True)
class Wanted:
    """A score that a person names."""

    benchmark: str
    """The world's name, a task of the harness, or `judge`."""
    metric: str
    """As in the report: with the filter, where the harness has one."""
    task: str = ALL_TASKS
    """A task of the world; `all` for every task."""
    stratum: int | None = None
    """A stratum of the world; None for every stratum."""
    weight: float = 1.0
    """Its weight in a mean."""


Items = Mapping[str, float]
"""Each item's part in a score, which is their mean, by the item's prompt or key; empty where none were kept."""


def name_metric(metric: str, filter_name: str | None) -> str:
    """A harness's metric as a report names it.

    >>> name_metric("exact_match", "strict-match"), name_metric("acc", "none")
    ('exact_match (strict-match)', 'acc')
    """
    return metric if filter_name in (None, "none") else f"{metric} ({filter_name})"


def name_score(row: ScoreRow | Wanted) -> str:
    """A score in words: benchmark, metric, and its task or stratum where it has one.

    >>> name_score(Wanted("durations", "greedy", stratum=4)), name_score(Wanted("gsm8k", "exact_match"))
    ('durations greedy stratum 4', 'gsm8k exact_match')
    """
    benchmark, metric, task, stratum = (
        (row.benchmark, row.metric, row.task, row.stratum)
        if isinstance(row, Wanted)
        else (row["benchmark"], row["metric"], row["task"], row["stratum"])
    )
    words = [benchmark, metric, *([f"task {task}"] if task != ALL_TASKS else [])]
    return " ".join([*words, *([f"stratum {stratum}"] if stratum is not None else [])])


def guess_direction(metric: str) -> bool:
    """Whether a higher score is better, by the words of a metric's name.

    >>> guess_direction("exact_match"), guess_direction("word_perplexity")
    (True, False)
    """
    return LOWER_IS_BETTER.isdisjoint(re.split(r"[^a-z]+", metric.lower()))


def read_rows(report: pl.DataFrame) -> list[ScoreRow]:
    """The rows of a report, schema `EVAL_REPORT`."""
    rows: list[ScoreRow] = report.to_dicts()  # type: ignore[assignment]
    return rows


def rank_metric(row: ScoreRow) -> tuple[int, str, int, str]:
    """The place of a score among those of its task: the main one comes first, whatever the order of the rows."""
    match = re.fullmatch(r"(.*) \((.*)\)", row["metric"])
    metric, filter_name = match.groups() if match else (row["metric"], "none")
    named = ((MAIN_METRICS, metric), (MAIN_FILTERS, filter_name))
    place = [known.index(name) if name in known else len(known) for known, name in named]
    return place[0], metric, place[1], filter_name


def list_main_scores(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Each benchmark's main score over all its tasks and strata, by the benchmark's name."""
    whole = sorted(
        (row for row in rows if row["task"] == ALL_TASKS and row["stratum"] is None),
        key=lambda row: (row["benchmark"], rank_metric(row)),
    )
    main: dict[str, ScoreRow] = {}
    for row in whole:
        main.setdefault(row["benchmark"], row)
    return list(main.values())


def choose_headline(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """The scores that rounds are compared by where nobody names any; empty where there is none.

    Args:
        rows: of one model.
    """
    whole = [row for row in rows if row["task"] == ALL_TASKS and row["stratum"] is None]
    # A greedy score has no noise of sampling; the win rate comes last, since it depends on the judge as well.
    if greedy := [row for row in whole if row["metric"] == GREEDY]:
        return greedy[:1]
    harness = [row for row in whole if row["benchmark"] != JUDGE]
    # A group's score holds those of its subtasks already.
    if harness:
        return [row for row in list_main_scores(harness) if row["part_of"] is None]
    return [row for row in whole if row["metric"] == CONTROLLED]


def find_score(rows: Sequence[ScoreRow], wanted: Wanted) -> ScoreRow:
    """The score that a person names.

    Raises:
        ValueError: the report has none of this name.
    """
    name = name_score(wanted)
    for row in rows:
        if name_score(row) == name:
            return row
    near = [name_score(row) for row in rows if row["benchmark"] == wanted.benchmark] or sorted(
        {row["benchmark"] for row in rows}
    )
    raise ValueError(f"eval_report has no score {name!r}; it has {', '.join(near)}")


def shares_items(one: ScoreRow, other: ScoreRow) -> bool:
    """Whether two scores may be of the same items."""
    tasks, strata = {one["task"], other["task"]}, {one["stratum"], other["stratum"]}
    return (
        one["benchmark"] == other["benchmark"]
        and (len(tasks) == 1 or ALL_TASKS in tasks)
        and (len(strata) == 1 or None in strata)
    )


def combine_halves(parts: Sequence[ScoreRow], halves: Sequence[float]) -> float:
    """The half-width of a sum of scores from those of its terms, weights included.

    >>> row = ScoreRow(benchmark="a", task="all", stratum=None)
    >>> combine_halves([row, row | {"benchmark": "b"}, row], [1.0, 4.0, 2.0])
    5.0
    """
    groups: list[list[int]] = []
    for place, part in enumerate(parts):
        like = [group for group in groups if any(shares_items(part, parts[other]) for other in group)]
        groups = [group for group in groups if group not in like]
        groups.append([place, *(other for group in like for other in group)])
    return math.hypot(*(sum(halves[place] for place in group) for group in groups))


def combine_scores(parts: Sequence[ScoreRow], weights: Sequence[float]) -> Headline:
    """One score as it is, or the weighted mean of several.

    Args:
        parts: at least one, of one model.
        weights: one for each, above 0.

    Raises:
        ValueError: a score is not a number, two scores have opposite directions, or one is a part of another.
    """
    for part in parts:
        if not math.isfinite(part["score"]):
            raise ValueError(
                f"the headline has the score {name_score(part)}, and it is {part['score']}, which no round can be "
                "compared by; look for the cause in the log of the evaluation, or name another score in "
                "evaluation.headline"
            )
    shares = [weight / sum(weights) for weight in weights]
    if len(parts) == 1:
        names = {"benchmark": parts[0]["benchmark"], "metric": parts[0]["metric"]}
        low, high, num_items = parts[0]["ci_low"], parts[0]["ci_high"], parts[0]["num_items"]
        score = parts[0]["score"]
    else:
        _check_mean(parts)
        names = {"benchmark": f"mean of {len(parts)}", "metric": ", ".join(map(name_score, parts))}
        score = sum(share * part["score"] for share, part in zip(shares, parts, strict=True))
        low, high = _find_interval(parts, shares, score)
        counts = [part["num_items"] for part in parts]
        num_items = None if None in counts else sum(count for count in counts if count is not None)
    return Headline(
        model=parts[0]["model"],
        benchmark=names["benchmark"],
        metric=names["metric"],
        score=score,
        ci_low=low,
        ci_high=high,
        num_items=num_items,
        higher_is_better=parts[0]["higher_is_better"],
        parts=list(parts),
        weights=shares,
    )


def _check_mean(parts: Sequence[ScoreRow]) -> None:
    if len({part["higher_is_better"] for part in parts}) > 1:
        told = ", ".join(f"{name_score(part)} {'higher' if part['higher_is_better'] else 'lower'}" for part in parts)
        raise ValueError(
            f"these scores have no mean, because of some a higher and of some a lower one is better ({told}); name "
            "scores of one direction in evaluation.headline"
        )
    names = {part["benchmark"] for part in parts}
    for part in parts:
        if part["part_of"] in names:
            raise ValueError(
                f"{part['benchmark']} is part of {part['part_of']} and would count twice in the mean; name one of the "
                "two in evaluation.headline"
            )


def _find_interval(
    parts: Sequence[ScoreRow], shares: Sequence[float], score: float
) -> tuple[float, float] | tuple[None, None]:
    halves = []
    for part, share in zip(parts, shares, strict=True):
        low, high = part["ci_low"], part["ci_high"]
        if low is None or high is None:
            return None, None
        halves.append(share * (high - low) / 2)
    half = combine_halves(parts, halves)
    return score - half, score + half


def compare_scores(before: ScoreRow, after: ScoreRow, then: Items, now: Items) -> Interval:
    """The change of one score with its 95% interval.

    Args:
        before: what is compared with.
        after: what is compared.
        then: the items of `before`.
        now: the items of `after`.

    Returns:
        (difference, low, high) of after minus before: paired over the items that both have, else from the two
        intervals, and endless where one has none.
    """
    if both := [item for item in then if item in now]:
        is_rate = all(0 <= row["score"] <= 1 for row in (before, after))
        return compute_paired_difference(
            [then[item] for item in both], [now[item] for item in both], largest=1.0 if is_rate else math.inf
        )
    return compute_independent_difference(*((one["score"], one["ci_low"], one["ci_high"]) for one in (before, after)))


def compare_headlines(before: Headline, after: Headline, then: Sequence[Items], now: Sequence[Items]) -> Interval:
    """The change of a headline with its 95% interval.

    Args:
        before: what is compared with.
        after: what is compared, of the same scores in the same order.
        then: the items of each score of `before`.
        now: the items of each score of `after`.

    Returns:
        (difference, low, high) of after minus before, in the scores' own unit: where a lower one is better, a gain is
        below zero.

    Raises:
        ValueError: the two are of different scores.
    """
    names = [[name_score(part) for part in one["parts"]] for one in (before, after)]
    if names[0] != names[1]:
        raise ValueError(
            f"a headline of {', '.join(names[1])} does not compare with one of {', '.join(names[0])}; materialize "
            "eval_report of both rounds with the same settings"
        )
    differences = [compare_scores(*pair) for pair in zip(before["parts"], after["parts"], then, now, strict=True)]
    if len(differences) == 1:
        return differences[0]
    weighted = list(zip(differences, after["weights"], strict=True))
    mean = sum(weight * difference[0] for difference, weight in weighted)
    # A paired interval is cut at -1 and 1, and then its longer side is the half-width.
    halves = [weight * max(high - middle, middle - low) for (middle, low, high), weight in weighted]
    half = combine_halves(after["parts"], halves)
    return mean, mean - half, mean + half


def is_fall(difference: Interval, *, higher_is_better: bool) -> bool:
    """Whether a change is for the worse beyond its interval.

    >>> is_fall((-0.2, -0.3, -0.1), higher_is_better=True), is_fall((-0.2, -0.3, -0.1), higher_is_better=False)
    (True, False)
    """
    return difference[2] < 0 if higher_is_better else difference[1] > 0
