"""The checks of a round. Those that guard training block what comes after them in the same run."""

import math
from collections.abc import Iterator

import dagster as dg
import polars as pl

from lance_assets.algorithms.diversity import compute_distinct_n, compute_nearest_similarity, compute_vendi_score
from lance_assets.assets.outcomes import read_outcomes
from lance_assets.assets.plan import Plan
from lance_assets.assets.platform import Platform
from lance_assets.assets.rounds import Round

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


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


def build_cleaned_set_checks(plan: Plan) -> dg.AssetChecksDefinition:
    """Near-duplicates, within the round and against all before it, and diversity: one scan of the history for both."""
    near = dg.AssetCheckSpec(
        "near_duplicates", asset=plan.key("cleaned_set"), blocking=True, partitions_def=plan.rounds,
        description="No kept text is a near-duplicate of another of this round or of any earlier one.",
    )  # fmt: skip
    diversity = dg.AssetCheckSpec(
        "diversity", asset=plan.key("cleaned_set"), partitions_def=plan.rounds,
        description="The Vendi score of the kept texts over their number stays above the floor.",
    )  # fmt: skip

    @dg.multi_asset_check(specs=[near, diversity], name=f"{plan.name}__cleaned_set_checks")
    def cleaned_set_checks(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        this_round, bars = _open_round(context, plan, platform), plan.settings.checks
        rows, vectors = this_round.platform.history.read_round(plan.name, this_round.key)
        within = compute_nearest_similarity(vectors)
        embedder = platform.open_embedder(plan.settings)
        earlier = this_round.platform.history.find_nearest(
            vectors, experiment=plan.name, before_round=this_round.key, model_hash=embedder.model_hash
        )["similarity"].drop_nulls()
        highest = {
            "within_round": float(max(within, default=0.0)),
            "earlier_rounds": max(earlier.to_list(), default=0.0),
        }
        tolerance = 1e-5
        yield dg.AssetCheckResult(
            asset_key=plan.key("cleaned_set"),
            check_name="near_duplicates",
            passed=max(highest.values()) <= bars.max_history_similarity + tolerance,
            severity=ERROR,
            metadata={"num_rows": len(rows), "bar": bars.max_history_similarity, **highest},
        )
        vendi = float(compute_vendi_score(vectors))
        rate = vendi / len(rows) if len(rows) else 1.0
        yield dg.AssetCheckResult(
            asset_key=plan.key("cleaned_set"),
            check_name="diversity",
            passed=rate >= bars.min_vendi_rate,
            severity=WARN,
            metadata={
                "vendi_score": vendi,
                "vendi_rate": rate,
                "bar": bars.min_vendi_rate,
                "distinct_2": compute_distinct_n(rows["text"].to_list(), 2),
                "mean_novelty": 1.0 - sum(earlier) / max(len(earlier), 1),
            },
        )

    return cleaned_set_checks


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
        reviews_nothing = plan.settings.parameters.reviewer == "none" or not plan.settings.parameters.propose
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
        """No prompt of the SFT set belongs to the evaluation, in any wording."""
        this_round = _open_round(context, plan, platform)
        rows = this_round.read("sft_set")
        leaked = [prompt for prompt in rows["prompt"] if this_round.is_evaluation_prompt(prompt)]
        return dg.AssetCheckResult(
            passed=not leaked,
            severity=ERROR,
            metadata={"num_rows": len(rows), "num_overlapping": len(leaked), "examples": leaked[:3]},
        )

    return no_evaluation_overlap


def build_preference_pairs_check(plan: Plan) -> dg.AssetChecksDefinition:
    """Pairs that teach: different texts, a real gap, and enough of them."""

    @dg.asset_check(asset=plan.key("preference_pairs"), name="pairs_differ", partitions_def=plan.rounds)
    def pairs_differ(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
        """No pair has equal texts or scores or an evaluation prompt, and the round brings enough pairs."""
        this_round = _open_round(context, plan, platform)
        pairs = this_round.read("preference_pairs")
        num_equal = pairs.filter((pl.col("chosen") == pl.col("rejected")) | (pl.col("score_gap") <= 0)).height
        num_new = pairs.filter(pl.col("source_round") == this_round.key).height
        enough = this_round.is_start or num_new >= plan.settings.checks.min_pairs
        num_leaked = sum(map(this_round.is_evaluation_prompt, pairs["prompt"]))
        return dg.AssetCheckResult(
            passed=num_equal == 0 and enough and num_leaked == 0,
            severity=ERROR if num_equal or num_leaked else WARN,
            metadata={
                "num_equal": num_equal,
                "num_new": num_new,
                "min_pairs": plan.settings.checks.min_pairs,
                "num_overlapping_evaluation": num_leaked,
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
        build_cleaned_set_checks,
        build_reviewed_set_check,
        build_sft_set_check,
        build_preference_pairs_check,
        build_checkpoint_check,
        build_eval_report_check,
    )
    return [build(plan) for build in builders]
