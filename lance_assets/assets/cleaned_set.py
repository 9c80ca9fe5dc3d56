"""cleaned_set: every candidate, kept or dropped with its reason; kept texts join the history in LanceDB."""

import dagster as dg
import numpy as np
import polars as pl

from lance_assets.algorithms.cleaning import count_drop_reasons, mark_history_duplicates
from lance_assets.algorithms.near_duplicates import find_repeats
from lance_assets.assets.making import make_noun
from lance_assets.assets.pictures import count_table, preview_rows
from lance_assets.assets.plan import Plan
from lance_assets.assets.platform import Platform
from lance_assets.assets.rounds import Made, Round

NEAREST = pl.Schema({"row_id": pl.String, "nearest_id": pl.String, "similarity": pl.Float64})


def text_to_embed() -> pl.Expr:
    """What of a candidate is compared with history: a new prompt, or a prompt with its completion."""
    return (
        pl.when(pl.col("kind") == "new_prompt").then("prompt").otherwise(pl.col("prompt") + "\n" + pl.col("completion"))
    )


def keep_survivors(cleaned: pl.DataFrame, rows: pl.DataFrame, vectors: np.ndarray) -> tuple[pl.DataFrame, np.ndarray]:
    """Those rows, and their vectors, that the cleaned set still keeps."""
    survivors = cleaned.filter(pl.col("drop_reason").is_null())["row_id"]
    is_kept = rows["row_id"].is_in(survivors.implode())
    return rows.filter(is_kept), vectors[is_kept.to_numpy()]


def compare_with_history(this_round: Round, cleaned: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Drop near-duplicates of earlier rounds and of this one's earlier rows, and store what is kept.

    Returns:
        The cleaned set, and the kept rows' history rows (row_id, text).
    """
    plan, history = this_round.plan, this_round.platform.history
    bar = plan.settings.checks.max_history_similarity
    kept = cleaned.filter(pl.col("drop_reason").is_null()).select("row_id", text=text_to_embed())
    embedder = this_round.platform.open_embedder(plan.settings)
    vectors = embedder.embed(kept["text"].to_list())
    earlier = history.find_nearest(
        vectors, experiment=plan.name, before_round=this_round.key, model_hash=embedder.model_hash
    )
    earlier = pl.concat([kept.select("row_id"), earlier.select("nearest_id", "similarity")], how="horizontal")
    cleaned = mark_history_duplicates(cleaned, earlier.cast(NEAREST), threshold=bar)
    kept, vectors = keep_survivors(cleaned, kept, vectors)
    repeats_of, similarity = find_repeats(vectors, threshold=bar)
    ids = kept["row_id"].to_list()
    within = {
        "row_id": ids,
        "nearest_id": [ids[index] if index >= 0 else None for index in repeats_of],
        "similarity": [
            float(value) if index >= 0 else None for index, value in zip(repeats_of, similarity, strict=True)
        ],
    }
    cleaned = mark_history_duplicates(
        cleaned, pl.DataFrame(within, schema=NEAREST), threshold=bar, reason="like_in_round"
    )
    stored, vectors = keep_survivors(cleaned, kept, vectors)
    history.replace_round(plan.name, this_round.key, stored, vectors, model_hash=embedder.model_hash)
    history.compact()
    return cleaned, stored


def make_cleaned_set(this_round: Round) -> Made:
    """Clean by the recipe, then against the whole history."""
    plan = this_round.plan
    cleaned = plan.recipe.clean(
        this_round.read("raw_generations"),
        this_round.read("seed_set"),
        settings=plan.settings.parameters,
        is_evaluation_prompt=this_round.is_evaluation_prompt,
    )
    cleaned, stored = compare_with_history(this_round, cleaned)
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
    }
    return Made(version.content_hash, metadata)


def build_cleaned_set(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(**plan.asset_arguments("cleaned_set", kinds={"polars", "lancedb"}, uses_model=True))
    def cleaned_set(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Kept rows, and every dropped row with its reason; kept texts are embedded into LanceDB under this round."""
        return make_noun(context, platform, plan, "cleaned_set", make_cleaned_set)

    return cleaned_set
