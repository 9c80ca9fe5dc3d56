"""decision_set: what people decided of a round's reviewed rows, and how far they agree with the reviews."""

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from lance_assets.algorithms.measures.agreement import Agreement, measure_agreement
from lance_assets.rounds.deciding.applying import build_decision_set
from lance_assets.rounds.deciding.asked import (
    WaitingForPeopleError,
    describe_open,
    forget_waiting,
    hash_decisions,
    list_asked,
    note_waiting,
)
from lance_assets.rounds.deciding.decisions import read_ledger
from lance_assets.rounds.report import Judged, Made, Measures, Report, Rows, count_values, round_measure
from lance_assets.rounds.round import Round

MIN_VERDICTS = 10
"""Rows that both judged, below which the check says nothing of their agreement."""


def make_decision_set(this_round: Round) -> Made:
    """What people decided, once nothing that they are asked about is open; nothing in r0000.

    Raises:
        WaitingForPeopleError: rows have no decision yet.
    """
    if this_round.is_start:
        return Made(this_round.empty("decision_set"))
    plan = this_round.plan
    ledger = read_ledger(this_round.platform.root, plan.name)
    asked = list_asked(this_round, ledger)
    if len(asked.open_rows):
        note_waiting(this_round)
        raise WaitingForPeopleError(describe_open(plan.name, this_round.key, asked))
    table = build_decision_set(plan.recipe, this_round.build_inputs(), this_round.read("reviewed_set"), ledger)
    return Made(table, facts={"num_asked": len(asked.rows)})


def finish_decision_set(this_round: Round) -> Report:
    """The round waits for nobody any more."""
    forget_waiting(this_round)
    return {}


def is_current_decision_set(this_round: Round) -> bool:
    """Whether decisions are still those that the set was made of."""
    if this_round.is_start:
        return True
    ledger = read_ledger(this_round.platform.root, this_round.plan.name)
    now = build_decision_set(this_round.plan.recipe, this_round.build_inputs(), this_round.read("reviewed_set"), ledger)
    return now.equals(this_round.read("decision_set"))


def find_decisions_version(this_round: Round) -> str:
    """What the decisions on the rows of a round are known by."""
    return hash_decisions(this_round, read_ledger(this_round.platform.root, this_round.plan.name))


def report_decision_set(this_round: Round) -> Report:
    """What was decided by whom, how far people agree with the reviews, and where they do not."""
    table = this_round.read("decision_set")
    facts: Report = {
        "dagster/row_count": len(table),
        "decisions": count_values(table["decision"], of="decision"),
        "decided_by": count_values(table["decided_by"], of="person"),
        "num_decided_again": table.filter(pl.col("earlier").list.len() > 0).height,
    }
    return facts | describe_agreement(table) | describe_scores(table) | show_differing(this_round, table)


def read_agreement(table: pl.DataFrame) -> Agreement:
    """How far people and the reviews agree on the rows that both judged; `table` has schema `DECISION_SET`."""
    both = table.drop_nulls("model_takes")
    return measure_agreement(both["model_takes"].to_list(), both["person_takes"].to_list())


def describe_agreement(table: pl.DataFrame) -> Report:
    """The rate, Cohen's kappa and the four cases."""
    found = read_agreement(table)
    cases: list[dict[str, float | str | None]] = [
        {"review": "trains on it", "people train on it": found.num_both_take, "people do not": found.num_first_alone},
        {
            "review": "leaves it out",
            "people train on it": found.num_second_alone,
            "people do not": found.num_both_leave,
        },
    ]
    return {
        "agreement/num_rows": found.num_rows,
        "agreement/rate": round_measure(found.rate),
        "agreement/kappa": round_measure(found.kappa),
        "agreement/cases": Measures(cases if found.num_rows else []),
    }


def describe_scores(table: pl.DataFrame) -> Report:
    """How people's scores stand to the reviews' where there are both; nothing where there are none."""
    both = table.drop_nulls(["score", "model_score"]).filter(decision="score")
    if both.is_empty():
        return {}
    people, model = both["score"].to_numpy(), both["model_score"].to_numpy()
    differ = len(both) > 1 and np.ptp(people) > 0 and np.ptp(model) > 0
    return {
        "scores/num_rows": len(both),
        "scores/mean_difference": round_measure(float(np.mean(people - model))),
        "scores/rank_correlation": round_measure(float(spearmanr(people, model).statistic) if differ else None),
    }


def show_differing(this_round: Round, table: pl.DataFrame) -> Report:
    """The rows on which a person and the review differ, with both texts."""
    differing = table.filter(pl.col("model_takes") != pl.col("person_takes"))
    texts = this_round.read("reviewed_set").select("row_id", "prompt", reviewed="completion")
    rows = differing.join(texts, on="row_id", how="left", maintain_order="left")
    columns = ("row_id", "decision", "decided_by", "note", "model_score", "score", "prompt", "reviewed", "completion")
    return {"agreement/num_differing": len(rows), "differing": Rows(rows, columns, num_rows=20)}


def agrees_with_people(this_round: Round) -> Judged:
    """Whether the reviews agree with people beyond chance, by Cohen's kappa and its bar."""
    found, bar = read_agreement(this_round.read("decision_set")), this_round.plan.settings.checks.min_kappa
    facts: Report = {
        "num_rows": found.num_rows,
        "rate": round_measure(found.rate),
        "kappa": round_measure(found.kappa),
        **({} if bar is None else {"min_kappa": bar}),
    }
    if bar is None or found.num_rows < MIN_VERDICTS or found.kappa is None:
        told = "no bar is set" if bar is None else f"fewer than {MIN_VERDICTS} rows tell, or all have one verdict"
        return Judged(passed=True, is_error=False, facts=facts, description=f"Nothing is held against the bar: {told}.")
    passed = found.kappa >= bar
    said = (
        f"People and the reviews agree on {found.rate:.0%} of {found.num_rows} rows, kappa {found.kappa:.2f}, "
        f"{'at or above' if passed else 'below'} checks.min_kappa={bar:g}."
    )
    helps = " Look at the rows on which they differ; another reviewer, rubric or threshold helps." if not passed else ""
    return Judged(passed=passed, is_error=False, facts=facts, description=said + helps)
