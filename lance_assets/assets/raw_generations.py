"""raw_generations: everything the round's model was asked while proposing, as it wrote it."""

import dagster as dg

from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import count_table, preview_rows
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round


def make_raw_generations(this_round: Round) -> Made:
    """Ask the round's model what the recipe proposes; nothing in r0000."""
    plan = this_round.plan
    table = this_round.empty("raw_generations")
    if not this_round.is_start:
        with this_round.asking("raw_generations", this_round.start_path()) as ask:
            table = plan.recipe.generate(
                this_round.read("seed_set"),
                settings=plan.settings.parameters,
                identity=this_round.identity,
                ask=ask,
                trained=this_round.read("sft_set", this_round.earlier_keys[-1]),
                texts=this_round.texts,
                read_states=this_round.read_states,
            )
    version = this_round.write("raw_generations", table)
    this_round.forget_stage("raw_generations")
    metadata = {
        "dagster/row_count": len(table),
        "kinds": count_table(dict(table["kind"].value_counts().iter_rows()), of="kind"),
        "finish_reasons": count_table(dict(table["finish_reason"].value_counts().iter_rows()), of="finish reason"),
        "preview": preview_rows(
            table.unique("kind", maintain_order=True), ("kind", "prompt", "raw_text", "finish_reason")
        ),
    }
    describe = getattr(plan.recipe, "describe_generations", None)
    return Made(version.content_hash, metadata | (describe(table) if describe else {}))


def build_raw_generations(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(
        **plan.asset_arguments(
            "raw_generations",
            kinds={plan.settings.engine.kind, "parquet"},
            uses_model=True,
        )
    )
    def raw_generations(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Every sampled prompt and completion with its raw text, finish reason, token counts and sampling seed."""
        return make_noun(context, platform, plan, "raw_generations", make_raw_generations)

    return raw_generations
