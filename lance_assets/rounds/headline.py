"""How finished rounds stand: their headline and other scores, their items, which of them are rejected, and why.

The headline is read off the stored eval_report by the experiment's settings as they are now, so that naming another one
needs no new evaluation.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.algorithms.measures.headline import (
    ALL_TASKS,
    GREEDY,
    JUDGE,
    Headline,
    Items,
    ScoreRow,
    choose_headline,
    combine_scores,
    compare_headlines,
    find_score,
    is_fall,
    list_main_scores,
    name_score,
    read_rows,
)
from lance_assets.algorithms.measures.progress import START_ROUND, RoundOutcome, find_best_outcome
from lance_assets.algorithms.measures.retention import Scores, find_best, measure_fall
from lance_assets.algorithms.measures.statistics import Interval
from lance_assets.rounds.judging.report import find_parts
from lance_assets.rounds.plan import Plan
from lance_assets.settings.evaluation import EvaluationSettings


class Spent(Protocol):
    """What one noun of a round took."""

    @property
    def completion_tokens(self) -> int:
        """Tokens it sampled."""
        ...

    @property
    def seconds(self) -> float:
        """Seconds it took."""
        ...


class ReadsRounds(Protocol):
    """What is needed of a round: to read its tables and those of the rounds before it."""

    @property
    def key(self) -> str:
        """The round."""
        ...

    @property
    def experiment(self) -> Plan:
        """Its experiment as the file has it: what rounds are compared by is the same in all of them."""
        ...

    def at(self, key: str) -> "ReadsRounds":
        """Another round of the experiment."""
        ...

    def has(self, noun: str, key: str) -> bool:
        """Whether a table of a round exists."""
        ...

    def read(self, noun: str, key: str | None = None) -> pl.DataFrame:
        """A table of this or another round."""
        ...

    def read_made_with(self, noun: str) -> Mapping[str, Any]:
        """The settings that a noun of this round was made with; empty where none were kept."""
        ...

    def read_costs(self, key: str | None = None) -> Mapping[str, Spent]:
        """What each noun of a round took."""
        ...


def direct_rows(rows: Sequence[ScoreRow], evaluation: EvaluationSettings | None) -> list[ScoreRow]:
    """The scores with the directions that the experiment's file gives them."""
    given = evaluation.higher_is_better if evaluation is not None else {}
    directed = []
    for row in rows:
        names = (row["metric"], row["metric"].partition(" (")[0])
        found = [given[name] for name in names if name in given]
        directed.append(ScoreRow(**{**row, "higher_is_better": found[0]}) if found else row)
    return directed


def read_headline(
    report: pl.DataFrame, *, model: str = "checkpoint", evaluation: EvaluationSettings | None = None
) -> Headline | None:
    """What rounds are compared by, of one model; None where its report has no such score.

    Args:
        report: schema `EVAL_REPORT`.
        model: whose scores.
        evaluation: names the headline; without it, or where it names none, `choose_headline` chooses.

    Raises:
        ValueError: the report has no score of a name, or the scores have no mean, or one is no number.
    """
    rows = direct_rows(read_rows(report.filter(pl.col("model") == model)), evaluation)
    if evaluation is not None and evaluation.headline and rows:
        wanted = [score.wanted for score in evaluation.headline]
        try:
            parts = [find_score(rows, one) for one in wanted]
        except ValueError as error:
            raise ValueError(f"evaluation.headline: {error}; name one of these") from None
        return combine_scores(parts, [one.weight for one in wanted])
    chosen = choose_headline(rows)
    return combine_scores(chosen, [1.0] * len(chosen)) if chosen else None


def find_headline(this_round: ReadsRounds, *, model: str = "checkpoint") -> Headline | None:
    """The headline of a finished round by its experiment's settings, as `read_headline`."""
    try:
        found = read_headline(
            this_round.read("eval_report"), model=model, evaluation=this_round.experiment.settings.evaluation
        )
    except ValueError as error:
        raise ValueError(f"{this_round.experiment.name} {this_round.key}: {error}") from None
    return found


def require_headline(this_round: ReadsRounds) -> Headline:
    """The headline of a round whose eval_report is written."""
    found = find_headline(this_round)
    assert found is not None, "a written eval_report has a headline"
    return found


def read_items(this_round: ReadsRounds, row: ScoreRow) -> Items:
    """By prompt or key each item's part in a score, which is their mean; empty where none were kept."""
    if row["benchmark"] == JUDGE:
        return find_parts(this_round.read("judge_items").filter(model=row["model"]), row["metric"])
    world = this_round.experiment.world
    if world is None or row["benchmark"] != world.name:
        return _read_harness_items(this_round, row)
    items = this_round.read("eval_items").filter(model=row["model"], metric=row["metric"])
    if row["task"] != ALL_TASKS:
        items = items.filter(task=row["task"])
    if row["stratum"] is not None:
        items = items.filter(stratum=row["stratum"])
    return dict(items.select("prompt", pl.col("is_correct").cast(pl.Float64)).iter_rows())


def _read_harness_items(this_round: ReadsRounds, row: ScoreRow) -> Items:
    """A task's items, or those of all tasks of a group whose score is the mean over them."""
    report = this_round.read("eval_report").filter(model=row["model"], metric=row["metric"])
    parents = dict(report.select("benchmark", "part_of").iter_rows())
    below = {row["benchmark"]}
    while more := {task for task, group in parents.items() if group in below} - below:
        below |= more
    found = this_round.read("harness_items").filter(
        pl.col("benchmark").is_in(sorted(below)), model=row["model"], metric=row["metric"]
    )
    items = {f"{task} {item}": score for task, item, score in found.select("benchmark", "item", "score").iter_rows()}
    # The score of a group may weigh its tasks equally, and then it is no mean of the items.
    is_mean = bool(items) and math.isclose(
        math.fsum(items.values()) / len(items), row["score"], rel_tol=1e-6, abs_tol=1e-9
    )
    return items if is_mean else {}


HOW_SCORED = {
    "lm_eval": ("limit", "num_fewshot", "by_task", "apply_chat_template", "fewshot_as_multiturn"),
    "world": ("name", "per_stratum", "max_new_tokens"),
    "judge": ("limit", "opponent", "by", "max_new_tokens", "max_judge_tokens"),
}
"""By section of the evaluation the settings that a score depends on, beside the model."""


def describe_other_evaluation(this_round: ReadsRounds, other: ReadsRounds, parts: Sequence[ScoreRow]) -> str:
    """In what two rounds' evaluations of some scores differ, such as `lm_eval.limit 50 in place of 40`; empty: nothing.

    A round whose settings were not kept is taken as evaluated alike.
    """
    world = this_round.experiment.world
    own_names = {JUDGE: "judge", **({world.name: "world"} if world is not None else {})}
    then, now = other.read_made_with("eval_report"), this_round.read_made_with("eval_report")
    if not then or not now:
        return ""
    found = []
    for section in sorted({own_names.get(part["benchmark"], "lm_eval") for part in parts}):
        before, after = (side[section] if section in side else None for side in (then, now))
        for name in HOW_SCORED[section]:
            # A round of before there was the setting changed nothing for single tasks.
            absent: dict[str, object] | None = {} if name == "by_task" else None
            old, new = (side[name] if side and name in side else absent for side in (before, after))
            if old != new:
                found.append(f"{section}.{name} {json.dumps(new)} in place of {json.dumps(old)}")
    return "; ".join(found)


def compare_with(this_round: ReadsRounds, other_key: str) -> Interval:
    """This round's headline against another round's: mean difference and its 95% interval.

    Each score is paired over the same items where both rounds kept them, otherwise compared by the two intervals;
    without an interval nothing is known of the noise, and the interval is endless. Where a lower score is better, a
    gain is below zero.

    Raises:
        ValueError: the two rounds were evaluated on different scores, or with other limits or settings.
    """
    other = this_round.at(other_key)
    after, before = require_headline(this_round), require_headline(other)
    if otherwise := describe_other_evaluation(this_round, other, after["parts"]):
        raise ValueError(
            f"{this_round.experiment.name} {this_round.key} was evaluated otherwise than {other_key} ({otherwise}), so "
            "their scores are not compared; materialize eval_report of both rounds with the same settings"
        )
    then, now = (
        [read_items(one, part) for part in headline["parts"]]
        for one, headline in ((other, before), (this_round, after))
    )
    try:
        return compare_headlines(before, after, then, now)
    except ValueError as error:
        raise ValueError(f"{this_round.experiment.name} {this_round.key} against {other_key}: {error}") from None


def compare_with_backbone(this_round: ReadsRounds) -> Interval | None:
    """This round's headline against the raw backbone's, as `compare_with`; None where that was not evaluated."""
    start = this_round.at(START_ROUND)
    before = find_headline(start, model=BACKBONE)
    if before is None:
        return None
    after = require_headline(this_round)
    then = [read_items(start, part) for part in before["parts"]]
    return compare_headlines(before, after, then, [read_items(this_round, part) for part in after["parts"]])


def find_broken_floors(this_round: ReadsRounds, earlier: Sequence[str]) -> list[str]:
    """One sentence for each floor that a round breaks, in the order of the experiment's file.

    Args:
        this_round: a finished round.
        earlier: the finished rounds before it.

    Raises:
        ValueError: eval_report has no score of a floor's name.
    """
    evaluation = this_round.experiment.settings.evaluation
    if not evaluation.floors:
        return []
    reports = {
        key: direct_rows(read_rows(this_round.read("eval_report", key).filter(model="checkpoint")), evaluation)
        for key in [*earlier, this_round.key]
    }
    broken = []
    for floor in evaluation.floors:
        try:
            rows = {key: find_score(report, floor.wanted) for key, report in reports.items()}
        except ValueError as error:
            raise ValueError(
                f"{this_round.experiment.name} {this_round.key}: evaluation.floors: {error}; name one of these"
            ) from None
        now, name = rows.pop(this_round.key), name_score(floor.wanted)
        if floor.worst is not None and not _keeps(now, floor.worst):
            side = "below" if now["higher_is_better"] else "above"
            broken.append(f"{name} is {now['score']:.4g}, {side} the floor {floor.worst:g}")
        if floor.max_fall is not None and rows:
            best = find_best(rows)
            fall = measure_fall(rows[best], now)
            # A fall of exactly the bar keeps it, whatever the rounding.
            if not fall <= floor.max_fall + 1e-9:
                broken.append(
                    f"{name} is {now['score']:.4g}, worse by {fall:.4g} than {rows[best]['score']:.4g} in {best}; "
                    f"the largest fall allowed is {floor.max_fall:g}"
                )
    return broken


def _keeps(row: ScoreRow, worst: float) -> bool:
    return row["score"] >= worst if row["higher_is_better"] else row["score"] <= worst


def read_outcomes(
    this_round: ReadsRounds, keys: Sequence[str], *, known: Sequence[RoundOutcome] = ()
) -> list[RoundOutcome]:
    """The outcomes of those rounds among `keys` whose eval_report exists, in order.

    Args:
        this_round: any round of the experiment.
        keys: rounds, in order.
        known: the outcomes of the first of them, which are not read again.

    Raises:
        ValueError: a round has no headline or floor of the name that the settings give, or a headline of other scores.
    """
    outcomes = list(known)
    for key in keys[len(known) :]:
        if not this_round.has("eval_report", key):
            continue
        at_key = this_round.at(key)
        headline = require_headline(at_key)
        higher_is_better = headline["higher_is_better"]
        best = find_best_outcome(outcomes)
        costs = this_round.read_costs(key).values()
        outcomes.append(
            RoundOutcome(
                round_key=key,
                score=headline["score"],
                # Only a fall that noise does not explain counts: the whole interval is on the worse side.
                is_regression=best is not None
                and is_fall(compare_with(at_key, best), higher_is_better=higher_is_better),
                num_tokens=sum(cost.completion_tokens for cost in costs),
                seconds=sum(cost.seconds for cost in costs),
                higher_is_better=higher_is_better,
                broken_floors=tuple(find_broken_floors(at_key, [outcome.round_key for outcome in outcomes])),
            )
        )
    return outcomes


def read_watched(this_round: ReadsRounds, *, model: str = "checkpoint") -> Scores:
    """The scores of a finished round that retention looks at, by their names.

    They are greedy accuracy by task and by stratum of the world, the main score of each task and group of the harness,
    the length-controlled win rate, and every score of the headline and of a floor.
    """
    evaluation = this_round.experiment.settings.evaluation
    rows = direct_rows(read_rows(this_round.read("eval_report").filter(pl.col("model") == model)), evaluation)
    world = this_round.experiment.world
    of_world = [row for row in rows if world is not None and row["benchmark"] == world.name]
    watched = [
        row for row in of_world if row["metric"] == GREEDY and (row["task"] != ALL_TASKS or row["stratum"] is not None)
    ]
    watched += list_main_scores([row for row in rows if row not in of_world])
    named = {name_score(score.wanted) for score in (*evaluation.headline, *evaluation.floors)}
    watched += [row for row in rows if name_score(row) in named]
    # A score that is no number was refused where it counts, and is not compared elsewhere.
    return {name_score(row): row for row in watched if math.isfinite(row["score"])}


def read_retained(this_round: ReadsRounds, keys: Sequence[str]) -> dict[str, Scores]:
    """The watched scores of rounds, those of the raw backbone first, where it was evaluated.

    Args:
        this_round: any round of the experiment.
        keys: finished rounds, in order.
    """
    found: dict[str, Scores] = {}
    for key in keys:
        if key == START_ROUND:
            found[BACKBONE] = read_watched(this_round.at(key), model=BACKBONE)
        found[key] = read_watched(this_round.at(key))
    return {name: scores for name, scores in found.items() if scores}


def read_retained_items(this_round: ReadsRounds, key: str, row: ScoreRow) -> Items:
    """The items of a score of `read_retained`.

    Args:
        this_round: any round of the experiment.
        key: a round, or `BACKBONE`.
        row: the score.
    """
    return read_items(this_round.at(START_ROUND if key == BACKBONE else key), row)
