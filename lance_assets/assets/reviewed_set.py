"""reviewed_set: seeds and kept completions with all their reviews."""

import dagster as dg
import polars as pl

from lance_assets.algorithms.filters.cleaning_rules import count_words
from lance_assets.algorithms.reviews.review_bias import measure_review_bias
from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import count_table, measure_table, plot_histogram, preview_rows, round_measure
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round


def show_bias(table: pl.DataFrame) -> dict[str, object]:
    """What the reviews say of the reviewer, as metadata: length bias, spread, and if the order of sampling matters."""
    bias = measure_review_bias(
        scores=table["review_score"].to_list(),
        reviews=table["scores"].to_list(),
        lengths=[count_words(text) for text in table["completion"]],
        prompts=table["prompt"].to_list(),
    )
    by_number = [
        {
            "review": str(shift.sample_number + 1),
            "rows": str(shift.num_rows),
            "mean score": shift.mean_score,
            "minus the row's others": shift.shift,
            "95% interval": f"{shift.interval[0]:.3f} to {shift.interval[1]:.3f}",
            "exchangeable": "yes" if shift.is_exchangeable else "no",
        }
        for shift in bias.shifts
    ]
    return {
        "bias/length": round_measure(bias.score_length_correlation),
        "bias/length_within_prompts": round_measure(bias.within_prompt_correlation),
        "bias/num_prompts": bias.num_prompts,
        "spread/mean_deviation": round_measure(bias.mean_deviation),
        "spread/max_deviation": round_measure(bias.max_deviation),
        "spread/wide_rate": round_measure(bias.wide_rate),
        "reviews_by_number": measure_table(by_number),
    }


def show_rows(table: pl.DataFrame, *, title: str) -> dict[str, object]:
    """What was scored, what was not and why, what is left out all the same, and some rows, as metadata."""
    reasons = table["unscored_reasons"].explode().drop_nulls()
    scores = {
        str(kind): rows["review_score"].drop_nulls().to_list()
        for (kind,), rows in table.sort("kind").group_by("kind", maintain_order=True)
    }
    spread = table.select((pl.col("scores").list.max() - pl.col("scores").list.min()).mean()).item()
    seeds, dropped = table.filter(kind="seed"), table["drop_reason"].drop_nulls()
    polished = ["raw_completion"] if table["raw_completion"].count() else []
    return {
        "num_reviews": int(table["reviews"].list.len().sum()),
        "num_unscored_rows": table["review_score"].null_count(),
        "unscored_review_reasons": count_table(dict(reasons.value_counts().iter_rows()), of="reason"),
        "drop_reasons": count_table(dict(dropped.value_counts().iter_rows()), of="reason"),
        "mean_spread": round(spread or 0.0, 4),
        "branches": count_table(dict(seeds["branch"].value_counts().iter_rows()), of="branch"),
        "scores": plot_histogram(scores, title=title, x_label="review score (0 to 10)"),
        "preview": preview_rows(
            table.with_columns(review=pl.col("reviews").list.first()),
            ("kind", "prompt", *polished, "completion", "review_score", "review"),
        ),
    }


def make_reviewed_set(this_round: Round) -> Made:
    """Let the round's model review every kept completion; nothing in r0000."""
    plan = this_round.plan
    table = this_round.empty("reviewed_set")
    if not this_round.is_start:
        with this_round.asking("reviewed_set", this_round.start_path()) as ask:
            table = plan.recipe.review(
                this_round.read("cleaned_set"),
                this_round.read("seed_set"),
                this_round.read("raw_generations"),
                settings=plan.settings.parameters,
                identity=this_round.identity,
                ask=ask,
            )
    version = this_round.write("reviewed_set", table)
    this_round.forget_stage("reviewed_set")
    metadata = {"dagster/row_count": len(table)} | show_rows(table, title=f"Review scores, {this_round.key}")
    if plan.settings.parameters.has_reviews:
        metadata |= show_bias(table)
    return Made(version.content_hash, metadata)


def build_reviewed_set(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(
        **plan.asset_arguments(
            "reviewed_set",
            kinds={"transformers", "parquet"},
            uses_model=True,
        )
    )
    def reviewed_set(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Each row with all raw reviews and their parsed scores, or unscored with a reason."""
        return make_noun(context, platform, plan, "reviewed_set", make_reviewed_set)

    return reviewed_set
