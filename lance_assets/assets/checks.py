"""The checks of a round. Those that guard training block what comes after them in the same run."""

import math
from dataclasses import fields

import dagster as dg
import polars as pl

from lance_assets.algorithms.measures.collapse import DiversityFloors, DiversityReport, find_collapse
from lance_assets.algorithms.similarity.near_duplicates import choose_survivors
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import preview_rows
from lance_assets.rounds.contamination import describe_contamination, find_contaminated
from lance_assets.rounds.near_duplicates import COMPARED_TOGETHER, compare_kept, read_thresholds
from lance_assets.rounds.outcomes import read_outcomes
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
TOLERANCE = 1e-5
"""By how much a cosine may move between two ways of computing it."""
FLOORS = tuple(field.name for field in fields(DiversityFloors))
"""The settings of `checks` that are floors of the diversity report."""


def _open_round(context: dg.AssetCheckExecutionContext, plan: Plan, platform: Platform) -> Round:
    return Round(plan, platform, context.partition_key, context.log.info)


def build_start_checkpoint_check(plan: Plan) -> dg.AssetChecksDefinition:
    """start_checkpoint is still the newest checkpoint of its parent: what the cut edge between rounds hides."""

    @dg.asset_check(asset=plan.key("start_checkpoint"), name="is_newest", partitions_def=plan.rounds)
    def is_newest(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """Whether the parent's checkpoint has been trained again since this round began."""
        this_round = _open_round(context, plan, platform)
        start = this_round.read("start_checkpoint").row(0, named=True)
        parent = start["parent_round"]
        newest = this_round.platform.checkpoints.hash_checkpoint(this_round.model_path(parent))
        return dg.AssetCheckResult(
            passed=newest == start["content_hash"],
            severity=WARN,
            metadata={
                "parent_round": parent or "none: the base model",
                "started_from": start["content_hash"],
                "newest": newest,
            },
        )

    return is_newest


def build_cleaned_set_check(plan: Plan) -> dg.AssetChecksDefinition:
    """Near-duplicates, within the round and against all before it."""

    @dg.asset_check(asset=plan.key("cleaned_set"), name="near_duplicates", blocking=True, partitions_def=plan.rounds)
    def near_duplicates(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """No kept text is a near-duplicate of another of this round or of any earlier one."""
        this_round = _open_round(context, plan, platform)
        settings, kept = plan.settings.near_duplicates, this_round.read("cleaned_set")
        kept = kept.filter(pl.col("drop_reason").is_null())
        compared = [kept.filter(pl.col("kind").is_in(kinds)) for kinds in COMPARED_TOGETHER]
        found = pl.concat(compare_kept(this_round, rows) for rows in compared)
        num_compared = sum(map(len, compared))
        left = choose_survivors(kept["row_id"].to_list(), found, thresholds=read_thresholds(settings, TOLERANCE))
        return dg.AssetCheckResult(
            passed=left.is_empty(),
            severity=ERROR,
            description=None if num_compared else "This round has no rows of a kind that is compared.",
            metadata={
                "num_rows": len(kept),
                "num_compared": num_compared,
                "num_left": len(left),
                "bars": str(read_thresholds(settings)),
                "examples": preview_rows(found.filter(pl.col("row_id").is_in(left["row_id"].implode())), found.columns),
            },
        )

    return near_duplicates


def build_diversity_report_check(plan: Plan) -> dg.AssetChecksDefinition:
    """The floors below which a round's data counts as collapsed."""

    @dg.asset_check(asset=plan.key("diversity_report"), name="no_collapse", blocking=True, partitions_def=plan.rounds)
    def no_collapse(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """Every measure keeps the floor that the experiment sets for it."""
        row = _open_round(context, plan, platform).read("diversity_report").drop("round").row(0, named=True)
        floors = DiversityFloors(**{field: getattr(plan.settings.checks, field) for field in FLOORS})
        breached = find_collapse(DiversityReport(**row), floors)
        set_floors = {field: getattr(floors, field) for field in FLOORS if getattr(floors, field) is not None}
        not_measurable = [field for field in set_floors if row[field[4:]] is None]
        return dg.AssetCheckResult(
            passed=not breached,
            severity=ERROR,
            description="; ".join(breached) or None,
            metadata={"breached": breached, "not_measurable": not_measurable, **set_floors},
        )

    return no_collapse


def build_reviewed_set_check(plan: Plan) -> dg.AssetChecksDefinition:
    """The share of rows that no review scored."""

    @dg.asset_check(asset=plan.key("reviewed_set"), name="unscored_rate", blocking=True, partitions_def=plan.rounds)
    def unscored_rate(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """The share of reviews that could not be read, and of rows without any score, stay below the bar."""
        table, bar = _open_round(context, plan, platform).read("reviewed_set"), plan.settings.checks.max_unscored_rate
        scores = table["scores"].explode(empty_as_null=False)
        rates = {
            "unscored_rate": scores.null_count() / len(scores) if len(scores) else 0.0,
            "unscored_row_rate": table["review_score"].null_count() / len(table) if len(table) else 0.0,
        }
        reviews_nothing = not plan.settings.parameters.has_reviews
        return dg.AssetCheckResult(
            passed=reviews_nothing or max(rates.values()) <= bar,
            severity=ERROR,
            description="This experiment reviews nothing, by its parameters." if reviews_nothing else None,
            metadata={**rates, "bar": bar, "num_reviews": len(scores), "num_rows": len(table)},
        )

    return unscored_rate


def build_sft_set_check(plan: Plan) -> dg.AssetChecksDefinition:
    """No training row is an evaluation prompt."""

    @dg.asset_check(asset=plan.key("sft_set"), name="no_evaluation_overlap", blocking=True, partitions_def=plan.rounds)
    def no_evaluation_overlap(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """No prompt of the SFT set belongs to the evaluation: by the world's rule, by n-grams, by embedding."""
        this_round = _open_round(context, plan, platform)
        rows = this_round.read("sft_set")
        leaked = find_contaminated(this_round, rows["row_id"].to_list(), rows["prompt"].to_list())
        return dg.AssetCheckResult(
            passed=leaked.is_empty(),
            severity=ERROR,
            metadata={"num_rows": len(rows), **describe_contamination(this_round, leaked, rows["prompt"].to_list())},
        )

    return no_evaluation_overlap


def build_preference_pairs_check(plan: Plan) -> dg.AssetChecksDefinition:
    """Pairs that teach: different texts, a real gap, and enough of them."""

    @dg.asset_check(asset=plan.key("preference_pairs"), name="pairs_differ", blocking=True, partitions_def=plan.rounds)
    def pairs_differ(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """No pair has equal texts or scores or an evaluation prompt, and the round brings enough pairs."""
        this_round = _open_round(context, plan, platform)
        pairs = this_round.read("preference_pairs")
        num_equal = pairs.filter((pl.col("chosen") == pl.col("rejected")) | (pl.col("score_gap") <= 0)).height
        num_new = pairs.filter(pl.col("source_round") == this_round.key).height
        builds_none = not plan.settings.parameters.builds_pairs
        enough = builds_none or this_round.is_start or num_new >= plan.settings.checks.min_pairs
        leaked = find_contaminated(this_round, pairs["row_id"].to_list(), pairs["prompt"].to_list())
        num_leaked = leaked["row_id"].n_unique()
        return dg.AssetCheckResult(
            passed=num_equal == 0 and enough and num_leaked == 0,
            severity=ERROR if num_equal or num_leaked else WARN,
            description="This experiment builds no pairs, by its parameters." if builds_none else None,
            metadata={
                "num_equal": num_equal,
                "num_new": num_new,
                "min_pairs": plan.settings.checks.min_pairs,
                "num_overlapping_evaluation": num_leaked,
                "matches": preview_rows(leaked, ("rule", "similarity", "prompt", "evaluation_prompt")),
            },
        )

    return pairs_differ


def build_checkpoint_check(plan: Plan) -> dg.AssetChecksDefinition:
    """Training did something, and nothing that cannot be."""

    @dg.asset_check(asset=plan.key("checkpoint"), name="loss_moved", partitions_def=plan.rounds)
    def loss_moved(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """Losses are finite, none is constant over its steps, and the weights moved, unless nothing was trained."""
        row = _open_round(context, plan, platform).read("checkpoint").row(0, named=True)
        losses = row["sft_losses"] + row["dpo_losses"]
        is_finite = all(math.isfinite(loss) for loss in losses)
        stages = [stage for stage in (row["sft_losses"], row["dpo_losses"]) if len(stage) > 1]
        moved = all(len(set(stage)) > 1 for stage in stages) and row["content_hash"] != row["parent_hash"]
        passed = is_finite and moved if row["is_trained"] else row["content_hash"] == row["parent_hash"]
        return dg.AssetCheckResult(
            passed=passed,
            severity=ERROR,
            metadata={"is_trained": row["is_trained"], "is_finite": is_finite, "num_losses": len(losses)},
        )

    return loss_moved


def build_eval_report_check(plan: Plan) -> dg.AssetChecksDefinition:
    """The round against the best before it."""

    @dg.asset_check(asset=plan.key("eval_report"), name="no_regression", partitions_def=plan.rounds)
    def no_regression(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """The whole 95% interval of the difference to the best earlier round does not lie below zero."""
        this_round = _open_round(context, plan, platform)
        outcomes = read_outcomes(this_round, [*this_round.earlier_keys, this_round.key])
        scores = {outcome.round_key: outcome.score for outcome in outcomes}
        return dg.AssetCheckResult(passed=not outcomes[-1].is_regression, severity=WARN, metadata={"scores": scores})

    return no_regression


def build_checks(plan: Plan) -> list[dg.AssetChecksDefinition]:
    """Every check of an experiment."""
    builders = (
        build_start_checkpoint_check,
        build_cleaned_set_check,
        build_reviewed_set_check,
        build_sft_set_check,
        build_preference_pairs_check,
        build_diversity_report_check,
        build_checkpoint_check,
        build_eval_report_check,
    )
    return [build(plan) for build in builders]
