"""preference_pairs: what preference training trains on."""

import dagster as dg
import polars as pl

from lance_assets.assets.making import make_noun
from lance_assets.assets.pictures import count_table, plot_histogram, preview_rows
from lance_assets.assets.plan import Plan
from lance_assets.assets.platform import Platform
from lance_assets.assets.rounds import Made, Round


def make_preference_pairs(this_round: Round) -> Made:
    """Pair the reviewed completions of each high seed; nothing in r0000."""
    plan = this_round.plan
    table = this_round.empty("preference_pairs")
    if not this_round.is_start:
        table = plan.recipe.build_pairs(
            this_round.read("reviewed_set"),
            this_round.read("preference_pairs", this_round.earlier_keys[-1]),
            settings=plan.settings.parameters,
            round_key=this_round.key,
        )
    version = this_round.write("preference_pairs", table)
    new = table.filter(pl.col("source_round") == this_round.key)
    metadata = {
        "dagster/row_count": len(table),
        "num_new": len(new),
        "rounds": count_table(dict(table["source_round"].value_counts().iter_rows()), of="round"),
        "gaps": plot_histogram(
            {"pairs": table["score_gap"].to_list()}, title="Score gaps", x_label="chosen minus rejected"
        ),
        "preview": preview_rows(new, ("prompt", "chosen", "chosen_score", "rejected", "rejected_score")),
    }
    return Made(version.content_hash, metadata)


def build_preference_pairs(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(**plan.asset_arguments("preference_pairs", kinds={"polars", "parquet"}))
    def preference_pairs(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Chosen and rejected completions of one prompt, with the reviewed rows and scores they come from."""
        return make_noun(context, platform, plan, "preference_pairs", make_preference_pairs)

    return preference_pairs
