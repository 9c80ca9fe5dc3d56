"""cleaned_set: every candidate, kept or dropped with its reason; kept texts join the history in LanceDB."""

from dataclasses import asdict

import polars as pl

from lance_assets.algorithms.filters.cleaning import count_drop_reasons, mark_dropped
from lance_assets.algorithms.similarity.near_duplicates import choose_survivors
from lance_assets.rounds.contamination import find_contaminated
from lance_assets.rounds.near_duplicates import (
    COMPARED_TOGETHER,
    compare_kept,
    drop_near_duplicates,
    read_thresholds,
)
from lance_assets.rounds.report import Counts, Judged, Made, Report, Rows, count_values
from lance_assets.rounds.round import Round

TOLERANCE = 1e-5
"""By how much a cosine may move between two ways of computing it."""


def make(this_round: Round) -> Made:
    """Clean by the recipe, then against the evaluation's neighbours and the whole history."""
    plan = this_round.plan
    cleaned = plan.recipe.clean(
        this_round.read("raw_generations"),
        this_round.read("seed_set"),
        settings=plan.settings.parameters,
        is_evaluation_prompt=this_round.is_evaluation_prompt,
    )
    found = drop_near_duplicates(this_round, drop_evaluation_neighbours(this_round, cleaned))
    history, model_hash = this_round.platform.history, this_round.embedder.model_hash
    history.replace_round(plan.name, this_round.key, found.kept, found.vectors, model_hash=model_hash)
    health = {f"history/{name}": value for name, value in asdict(history.maintain()).items()}
    return Made(found.cleaned, others={"near_duplicates": found.pairs}, facts=health)


def drop_evaluation_neighbours(this_round: Round, cleaned: pl.DataFrame) -> pl.DataFrame:
    """Drop rows whose prompt has an embedding neighbour in the evaluation; the recipe dropped the n-gram matches."""
    if this_round.plan.settings.evaluation.max_similarity is None:
        return cleaned
    kept = cleaned.filter(pl.col("drop_reason").is_null())
    found = find_contaminated(this_round, kept["row_id"].to_list(), kept["prompt"].to_list())
    found = found.sort("similarity", descending=True).unique("row_id", keep="first", maintain_order=True)
    dropped = found.select(
        "row_id", nearest_id=pl.lit(None, pl.String), tier=pl.lit("embedding"), similarity="similarity"
    )
    return mark_dropped(cleaned, dropped, reason="evaluation_neighbour")


def report(this_round: Round) -> Report:
    """How many rows were kept and why the others were dropped, with rows of each."""
    cleaned, pairs = this_round.read("cleaned_set"), this_round.read("near_duplicates")
    is_kept = pl.col("drop_reason").is_null()
    kept, dropped = (cleaned.filter(rows) for rows in (is_kept, ~is_kept))
    by_kind = cleaned.group_by("kind").agg(pl.len().alias("rows"), is_kept.sum().alias("kept"))
    nearest = pairs.sort("similarity", "row_id", descending=[True, False])
    return {
        "dagster/row_count": len(cleaned),
        "num_kept": len(kept),
        "keep_rate": len(kept) / len(cleaned) if len(cleaned) else 0.0,
        "drop_reasons": Counts("reason", count_drop_reasons(cleaned)),
        "kinds": Rows(by_kind.sort("kind"), ("kind", "rows", "kept")),
        "preview_kept": Rows(
            kept.group_by("kind", maintain_order=True).head(3), ("kind", "prompt", "completion"), num_rows=9
        ),
        "preview_dropped": Rows(
            dropped.unique("drop_reason", maintain_order=True),
            ("drop_reason", "kind", "prompt", "completion", "similarity"),
            num_rows=8,
        ),
        "near_duplicates": count_values(pairs["tier"], of="tier"),
        "preview_near_duplicates": Rows(
            nearest, ("tier", "similarity", "other_round", "text", "other_text"), num_rows=8
        ),
    }


def near_duplicates(this_round: Round) -> Judged:
    """Whether no kept text is a near-duplicate of another of this round or of an earlier one."""
    settings, cleaned = this_round.plan.settings.near_duplicates, this_round.read("cleaned_set")
    kept = cleaned.filter(pl.col("drop_reason").is_null())
    compared = [kept.filter(pl.col("kind").is_in(kinds)) for kinds in COMPARED_TOGETHER]
    found = pl.concat(compare_kept(this_round, rows) for rows in compared)
    num_compared = sum(map(len, compared))
    left = choose_survivors(kept["row_id"].to_list(), found, thresholds=read_thresholds(settings, TOLERANCE))
    examples = found.filter(pl.col("row_id").is_in(left["row_id"].implode()))
    return Judged(
        passed=left.is_empty(),
        description=None if num_compared else "This round has no rows of a kind that is compared.",
        facts={
            "num_rows": len(kept),
            "num_compared": num_compared,
            "num_left": len(left),
            "bars": str(read_thresholds(settings)),
            "examples": Rows(examples, found.columns),
        },
    )
