"""diversity_report: whether the loop's data narrows, round by round, with the check that stops a collapse."""

from dataclasses import asdict, fields

import numpy as np
import polars as pl

from lance_assets.algorithms.filters.cleaning_rules import count_words
from lance_assets.algorithms.measures.collapse import (
    DiversityFloors,
    DiversityReport,
    compute_cluster_entropy,
    compute_length_drift,
    compute_novelty,
    compute_score_length_correlation,
    compute_seed_share,
    find_collapse,
)
from lance_assets.algorithms.measures.diversity import compute_distinct_n, compute_vendi_score
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.records import DIVERSITY_REPORT
from lance_assets.rounds.report import Judged, Made, Report, Rows, Trends
from lance_assets.rounds.round import Round

NUM_CLUSTERS = 16
"""Clusters over which the evenness of a round's texts is measured."""

FLOORS = tuple(field.name for field in fields(DiversityFloors))
"""The settings of `checks` that are floors of the diversity report."""


def make(this_round: Round) -> Made:
    """Measure the round."""
    row = {"round": this_round.key, **asdict(measure_diversity(this_round))}
    return Made(pl.DataFrame([row], schema=DIVERSITY_REPORT))


def measure_diversity(this_round: Round) -> DiversityReport:
    """Every measure of one round, from its tables and the vectors that cleaning stored."""
    rows, vectors = this_round.platform.history.read_round(this_round.plan.name, this_round.key)
    reviewed, sft = this_round.read("reviewed_set"), this_round.read("sft_set")
    cleaned = this_round.read("cleaned_set").filter(pl.col("drop_reason").is_null())
    new = reviewed.filter(pl.col("kind") == "completion")
    texts = rows["text"].to_list()
    vendi = compute_vendi_score(vectors) if len(rows) else None
    return DiversityReport(
        num_rows=len(rows),
        novelty=compute_novelty(read_history_similarities(this_round, rows["row_id"])),
        vendi_score=vendi,
        vendi_rate=None if vendi is None else vendi / len(rows),
        distinct_1=compute_distinct_n(texts, 1) if texts else None,
        distinct_2=compute_distinct_n(texts, 2) if texts else None,
        cluster_entropy=compute_cluster_entropy(
            vectors, num_clusters=NUM_CLUSTERS, rng_seed=this_round.plan.settings.rng_seed
        ),
        length_drift=compute_length_drift(
            read_lengths(cleaned.filter(pl.col("kind") == "completion")),
            read_lengths(this_round.read("seed_set", START_ROUND)),
        ),
        score_length_correlation=compute_score_length_correlation(
            new["review_score"].to_list(), [count_words(text) for text in new["completion"]]
        ),
        seed_share=compute_seed_share(sft["source"].to_list()),
    )


def read_lengths(table: pl.DataFrame) -> list[int]:
    """Words of each completion."""
    return [count_words(text) for text in table["completion"].drop_nulls()]


def read_history_similarities(this_round: Round, row_ids: pl.Series) -> np.ndarray:
    """The cosine of each kept text to its nearest one of an earlier round; none in the first round with texts."""
    pairs = this_round.read("near_duplicates")
    to_earlier = (pl.col("tier") == "embedding") & (pl.col("other_round") != this_round.key)
    return pairs.filter(to_earlier & pl.col("row_id").is_in(row_ids.implode()))["similarity"].to_numpy()


def report(this_round: Round) -> Report:
    """The measures of this round, and of all rounds so far."""
    table = this_round.read("diversity_report")
    keys = [key for key in this_round.earlier_keys if this_round.has("diversity_report", key)]
    rounds = pl.concat([*(this_round.read("diversity_report", key) for key in keys), table])
    measures = table.drop("round").row(0, named=True)
    title = f"{this_round.plan.name}: how varied each round's data is"
    return {
        **{name: round(value, 4) for name, value in measures.items() if value is not None},
        "rounds": Rows(rounds, DIVERSITY_REPORT.names(), num_rows=len(rounds)),
        "over_rounds": Trends(rounds, title=title),
    }


def no_collapse(this_round: Round) -> Judged:
    """Whether every measure keeps the floor that the experiment sets for it."""
    row = this_round.read("diversity_report").drop("round").row(0, named=True)
    checks = this_round.plan.settings.checks
    floors = DiversityFloors(**{name: getattr(checks, name) for name in FLOORS})
    breached = find_collapse(DiversityReport(**row), floors)
    bars = {name: bar for name in FLOORS if (bar := getattr(floors, name)) is not None}
    # A floor is named min_ or max_ and its measure.
    not_measurable = [name for name in bars if row[name[4:]] is None]
    facts: Report = {"breached": breached, "not_measurable": not_measurable, **bars}
    return Judged(passed=not breached, description="; ".join(breached) or None, facts=facts)
