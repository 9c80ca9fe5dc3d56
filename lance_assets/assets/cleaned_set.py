"""cleaned_set: every candidate, kept or dropped with its reason; kept texts join the history in LanceDB."""

from dataclasses import asdict

import dagster as dg
import polars as pl

from lance_assets.algorithms.filters.cleaning import count_drop_reasons, mark_dropped
from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import count_table, preview_rows
from lance_assets.rounds.contamination import find_contaminated
from lance_assets.rounds.near_duplicates import drop_near_duplicates
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round


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


def make_cleaned_set(this_round: Round) -> Made:
    """Clean by the recipe, then against the whole history."""
    plan = this_round.plan
    cleaned = plan.recipe.clean(
        this_round.read("raw_generations"),
        this_round.read("seed_set"),
        settings=plan.settings.parameters,
        is_evaluation_prompt=this_round.is_evaluation_prompt,
    )
    deduplicated = drop_near_duplicates(this_round, drop_evaluation_neighbours(this_round, cleaned))
    cleaned, stored, pairs = deduplicated.cleaned, deduplicated.kept, deduplicated.pairs
    history, embedder = this_round.platform.history, this_round.embedder
    history.replace_round(plan.name, this_round.key, stored, deduplicated.vectors, model_hash=embedder.model_hash)
    health = history.maintain()
    this_round.write("near_duplicates", pairs)
    version = this_round.write("cleaned_set", cleaned)
    counts, is_kept = count_drop_reasons(cleaned), pl.col("drop_reason").is_null()
    kept, dropped = (cleaned.filter(rows) for rows in (is_kept, ~is_kept))
    by_kind = cleaned.group_by("kind").agg(pl.len().alias("rows"), pl.col("drop_reason").is_null().sum().alias("kept"))
    metadata = {
        "dagster/row_count": len(cleaned),
        "num_kept": len(stored),
        "keep_rate": len(stored) / len(cleaned) if len(cleaned) else 0.0,
        "drop_reasons": count_table(counts, of="reason"),
        "kinds": preview_rows(by_kind.sort("kind"), ("kind", "rows", "kept")),
        "preview_kept": preview_rows(
            kept.group_by("kind", maintain_order=True).head(3), ("kind", "prompt", "completion"), num_rows=9
        ),
        "preview_dropped": preview_rows(
            dropped.unique("drop_reason", maintain_order=True),
            ("drop_reason", "kind", "prompt", "completion", "similarity"),
            num_rows=8,
        ),
        "near_duplicates": count_table(dict(pairs["tier"].value_counts().iter_rows()), of="tier"),
        "preview_near_duplicates": preview_rows(
            pairs.sort("similarity", "row_id", descending=[True, False]),
            ("tier", "similarity", "other_round", "text", "other_text"),
            num_rows=8,
        ),
        **{f"history/{name}": value for name, value in asdict(health).items()},
    }
    return Made(version.content_hash, metadata)


def build_cleaned_set(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(**plan.asset_arguments("cleaned_set", kinds={"polars", "lancedb"}, uses_model=True))
    def cleaned_set(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Kept rows, and every dropped row with its reason; kept texts are embedded into LanceDB under this round."""
        return make_noun(context, platform, plan, "cleaned_set", make_cleaned_set)

    return cleaned_set
