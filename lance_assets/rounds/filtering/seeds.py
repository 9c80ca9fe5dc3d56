"""Which seeds are used: those in whose completions the base model has confidence, as r0000 measured it (CLEAR)."""

import polars as pl

from lance_assets.algorithms.filters.confidence import ConfidenceRule
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.algorithms.selection.confidence import list_reasons
from lance_assets.records import SEED_CONFIDENCE
from lance_assets.rounds.filtering.models import build_sample
from lance_assets.rounds.report import Counts, Report, Rows, round_measure
from lance_assets.rounds.round import Round


def take_confident(this_round: Round, seeds: pl.DataFrame, rule: ConfidenceRule) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The seeds that are used, in order, and the confidence in every seed.

    r0000 asks its model; later rounds use the seeds that it kept, or all of them in a recipe that corrects seeds.

    Args:
        this_round: the round.
        seeds: those of the file, schema `SEED_SET`.
        rule: how confidence is measured, and what a seed needs.

    Returns:
        Schemas `SEED_SET` and `SEED_CONFIDENCE`; the latter has every seed in r0000, and none later.

    Raises:
        ValueError: no seed is kept, or r0000 did not rate a seed, whose file has changed since.
    """
    if not this_round.is_start:
        rated = this_round.read("seed_confidence", START_ROUND)
        known = dict(rated.select("row_id", "drop_reason").iter_rows())
        if unknown := [row_id for row_id in seeds["row_id"] if row_id not in known]:
            raise ValueError(
                f"{len(unknown)} seeds, the first {unknown[0]}, have no confidence in {START_ROUND}: their file has "
                f"changed since; redo {START_ROUND}: lance run {this_round.plan.name} --redo-from {START_ROUND}"
            )
        takes_all = this_round.plan.recipe.completes_left_out_seeds
        is_kept = [takes_all or known[row_id] is None for row_id in seeds["row_id"]]
        return seeds.filter(pl.Series(is_kept, dtype=pl.Boolean)), rated.clear()
    texts: list[tuple[str, str, str]] = seeds.select("row_id", "prompt", "completion").rows()
    found = rule.measure(texts, build_sample(this_round, "seed_set"))
    reasons = list_reasons(found, rule.min_confidence, keeps_unread=rule.unread == "keep")
    rows = [
        (*row, found[row[0]].value, found[row[0]].consistency, found[row[0]].reflection, reasons.get(row[0]))
        for row in texts
    ]
    rated = pl.DataFrame(rows, schema=SEED_CONFIDENCE, orient="row")
    kept = seeds.filter(rated["drop_reason"].is_null())
    if kept.is_empty():
        raise ValueError(
            f"seeds.confidence leaves none of {len(seeds)} seeds: {rated['drop_reason'][0]}; lower min_confidence, or "
            "look at what the model answers"
        )
    return kept, rated


def describe_confidence(rated: pl.DataFrame) -> Report:
    """The median confidence, what was left out, and the seeds in which there was the least; nothing in later rounds."""
    if rated.is_empty():
        return {}
    reasons = rated["drop_reason"].drop_nulls().value_counts(sort=True)
    counts = {str(reason): int(number) for reason, number in reasons.iter_rows()}
    middle = rated["confidence"].median()
    columns = ("row_id", "confidence", "consistency", "reflection", "drop_reason", "prompt", "completion")
    return {
        "median_confidence": round_measure(middle if isinstance(middle, float) else None),
        "left_out_by_confidence": Counts("reason", counts),
        "preview_least_confident": Rows(rated.sort("confidence", nulls_last=True), columns, num_rows=8),
    }
