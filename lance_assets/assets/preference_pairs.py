"""preference_pairs: what preference training trains on, and what the reviewer says of pairs in both orders."""

import dagster as dg
import polars as pl

from lance_assets.algorithms.reviews.pairwise import summarise_verdicts
from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import count_table, plot_histogram, preview_rows, round_measure
from lance_assets.recipes.judging import drop_judged_pairs
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round

NOT_JUDGED = "not judged"
"""Shown where no pair was judged."""


def judge_new_pairs(this_round: Round, new: pl.DataFrame) -> pl.DataFrame:
    """The verdicts on the round's new pairs; the model is opened only where there is something to judge."""
    plan = this_round.plan
    if not plan.settings.parameters.judges_pairs or new.is_empty():
        return this_round.empty("pair_judgements")
    with this_round.asking("preference_pairs", this_round.start_path()) as ask:
        judgements: pl.DataFrame = plan.recipe.judge_pairs(
            new, settings=plan.settings.parameters, identity=this_round.identity, ask=ask
        )
    return judgements


def show_judgements(judgements: pl.DataFrame) -> dict[str, object]:
    """Flip rate, position bias and agreement with the review scores, as metadata."""
    if judgements.is_empty():
        names = ("flip_rate", "first_shown_rate", "agreement")
        return {"num_judged": 0} | {f"judging/{name}": NOT_JUDGED for name in names}
    report = summarise_verdicts(judgements.select("chosen_first_verdict", "rejected_first_verdict").rows())
    first, agreement = report.first_interval, report.agreement_interval
    return {
        "num_judged": report.num_pairs,
        "judging/flip_rate": round_measure(report.flip_rate),
        "judging/first_shown_rate": round_measure(report.first_rate),
        "judging/first_shown_interval": f"{first[0]:.4f} to {first[1]:.4f}",
        "judging/agreement": round_measure(report.agreement),
        "judging/agreement_interval": f"{agreement[0]:.4f} to {agreement[1]:.4f}",
        "judging/num_left_out": judgements["drop_reason"].count(),
        "judging/outcomes": count_table(dict(judgements["outcome"].value_counts().iter_rows()), of="outcome"),
    }


def make_preference_pairs(this_round: Round) -> Made:
    """Pair the reviewed completions of each high seed, and have some pairs judged; nothing in r0000."""
    plan = this_round.plan
    table, judgements = this_round.empty("preference_pairs"), this_round.empty("pair_judgements")
    is_new = pl.col("source_round") == this_round.key
    if not this_round.is_start:
        built = plan.recipe.build_pairs(
            this_round.read("reviewed_set"),
            this_round.read("preference_pairs", this_round.earlier_keys[-1]),
            settings=plan.settings.parameters,
            round_key=this_round.key,
        )
        judgements = judge_new_pairs(this_round, built.filter(is_new))
        table = drop_judged_pairs(built, judgements)
    this_round.write("pair_judgements", judgements)
    version = this_round.write("preference_pairs", table)
    this_round.forget_stage("preference_pairs")
    new = table.filter(is_new)
    metadata = {
        "dagster/row_count": len(table),
        "num_new": len(new),
        "rounds": count_table(dict(table["source_round"].value_counts().iter_rows()), of="round"),
        "gaps": plot_histogram(
            {"pairs": table["score_gap"].drop_nulls().to_list()}, title="Score gaps", x_label="chosen minus rejected"
        ),
        "preview": preview_rows(new, ("prompt", "chosen", "chosen_score", "rejected", "rejected_score")),
    }
    return Made(version.content_hash, metadata | show_judgements(judgements))


def build_preference_pairs(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""
    judges = plan.settings.parameters.judges_pairs
    kinds = {"transformers", "parquet"} if judges else {"polars", "parquet"}

    @dg.asset(**plan.asset_arguments("preference_pairs", kinds=kinds, uses_model=judges))
    def preference_pairs(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Chosen and rejected completions of one prompt, with the reviewed rows and scores they come from."""
        return make_noun(context, platform, plan, "preference_pairs", make_preference_pairs)

    return preference_pairs
