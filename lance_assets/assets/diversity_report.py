"""diversity_report: whether the loop's data narrows, round by round, with the check that stops a collapse."""

from dataclasses import asdict

import dagster as dg
import numpy as np
import polars as pl

from lance_assets.algorithms.filters.cleaning_rules import count_words
from lance_assets.algorithms.measures.collapse import (
    DiversityReport,
    compute_cluster_entropy,
    compute_length_drift,
    compute_novelty,
    compute_score_length_correlation,
    compute_seed_share,
)
from lance_assets.algorithms.measures.diversity import compute_distinct_n, compute_vendi_score
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import plot_trends, preview_rows
from lance_assets.records import DIVERSITY_REPORT
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round

NUM_CLUSTERS = 16
"""Clusters over which the evenness of a round's texts is measured."""


def read_lengths(table: pl.DataFrame) -> list[int]:
    """Words of each completion."""
    return [count_words(text) for text in table["completion"].drop_nulls()]


def measure_diversity(this_round: Round) -> DiversityReport:
    """Every guard of one round, from its tables and the vectors that cleaning stored."""
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


def read_history_similarities(this_round: Round, row_ids: pl.Series) -> np.ndarray:
    """The cosine of each kept text to its nearest one of an earlier round; none in the first round with texts."""
    pairs = this_round.read("near_duplicates")
    to_earlier = (pl.col("tier") == "embedding") & (pl.col("other_round") != this_round.key)
    return pairs.filter(to_earlier & pl.col("row_id").is_in(row_ids.implode()))["similarity"].to_numpy()


def make_diversity_report(this_round: Round) -> Made:
    """Measure the round and draw it beside all rounds before."""
    report = measure_diversity(this_round)
    table = pl.DataFrame([{"round": this_round.key, **asdict(report)}], schema=DIVERSITY_REPORT)
    version = this_round.write("diversity_report", table)
    keys = [key for key in this_round.earlier_keys if this_round.has("diversity_report", key)]
    rounds = pl.concat([*(this_round.read("diversity_report", key) for key in keys), table])
    metadata = {
        **{name: round(value, 4) for name, value in asdict(report).items() if value is not None},
        "rounds": preview_rows(rounds, DIVERSITY_REPORT.names(), num_rows=len(rounds)),
        "over_rounds": plot_trends(rounds, title=f"{this_round.plan.name}: how varied each round's data is"),
    }
    return Made(version.content_hash, metadata)


def build_diversity_report(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(**plan.asset_arguments("diversity_report", kinds={"polars"}))
    def diversity_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Novelty, Vendi score, distinct words, evenness, lengths and the share of seeds, over all rounds so far."""
        return make_noun(context, platform, plan, "diversity_report", make_diversity_report)

    return diversity_report
