"""eval_report: the round's checkpoint on the same prompts as every round, against the best and the backbone."""

import time
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND, find_best_round
from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import plot_rounds, plot_rungs, preview_rows
from lance_assets.records import Sample
from lance_assets.rounds.costs import tabulate_costs
from lance_assets.rounds.judging.asking import complete_prompts
from lance_assets.rounds.judging.evaluation import judge_models
from lance_assets.rounds.judging.report import describe_judging, summarise_judge_items
from lance_assets.rounds.outcomes import compare_with, read_headline, read_outcomes
from lance_assets.rounds.plan import NOUNS, Plan
from lance_assets.rounds.round import Made, Round
from resources.evaluation.evaluator import evaluate_small_world, run_lm_eval, summarise_items


@dataclass(frozen=True)
class Evaluated:
    """What one model gave, before any judge has seen it."""

    report: pl.DataFrame
    """Schema `EVAL_REPORT`."""
    items: pl.DataFrame
    """Of the small world, schema `EVAL_ITEMS`."""
    completions: list[Sample]
    """Of the judge's prompts; empty without a judge."""


def evaluate(this_round: Round, model: str, path: Path) -> Evaluated:
    """Ask one model everything the experiment evaluates."""
    plan = this_round.plan
    evaluation = plan.settings.evaluation
    report, items, completions = this_round.empty("eval_report"), this_round.empty("eval_items"), []
    with this_round.asking("eval_report", path) as ask:
        if evaluation.small_world is not None:
            items = evaluate_small_world(
                ask,
                model_name=model,
                per_rung=evaluation.small_world.per_rung,
                temperature=evaluation.small_world.sampled_temperature,
                max_new_tokens=evaluation.small_world.max_new_tokens,
                prompt_profile=plan.settings.prompt_profile,
            )
        if evaluation.judge is not None:
            completions = complete_prompts(ask, plan, model=model)
    if (lm_eval := evaluation.lm_eval) is not None:
        report = run_lm_eval(
            path,
            lm_eval.tasks,
            model_name=model,
            log=this_round.log,
            include_path=plan.folder / lm_eval.include_path if lm_eval.include_path else None,
            num_fewshot=lm_eval.num_fewshot,
            limit=lm_eval.limit,
            batch_size=lm_eval.batch_size,
            apply_chat_template=lm_eval.apply_chat_template,
            rng_seed=plan.settings.rng_seed,
        )
    return Evaluated(pl.concat([summarise_items(items), report]), items, completions)


def make_eval_report(this_round: Round) -> Made:
    """Evaluate the checkpoint, and in r0000 the raw backbone beside it."""
    started = time.monotonic()
    models = {"checkpoint": this_round.model_path(this_round.key)}
    if this_round.is_start:
        models["backbone"] = this_round.start_path()
    evaluated = {model: evaluate(this_round, model, path) for model, path in models.items()}
    judged = this_round.empty("judge_items")
    if this_round.plan.settings.evaluation.judge is not None:
        judged = judge_models(this_round, {model: found.completions for model, found in evaluated.items()})
    this_round.write("eval_items", pl.concat([found.items for found in evaluated.values()]))
    this_round.write("judge_items", judged)
    reports = [found.report for found in evaluated.values()]
    version = this_round.write("eval_report", pl.concat([*reports, summarise_judge_items(judged)]))
    this_round.forget_stage("eval_report")
    this_round.cost.seconds = time.monotonic() - started
    return Made(version.content_hash, describe_scores(this_round) | {"accounting": account_for_round(this_round)})


def account_for_round(this_round: Round) -> dg.MetadataValue:
    """What every noun of the round took, eval_report included, and what a new pair and SFT row cost."""
    costs = this_round.read_costs()
    ordered = {noun: costs[noun] for noun in NOUNS if noun in costs and noun != "eval_report"}
    is_new = pl.col("source_round") == this_round.key
    num_pairs = this_round.read("preference_pairs").filter(is_new).height
    ordered["eval_report"] = this_round.cost
    return tabulate_costs(ordered, num_pairs=num_pairs, num_sft_rows=len(this_round.read_new_sft_rows()))


def describe_scores(this_round: Round) -> dict[str, object]:
    """The headline, the comparisons and the pictures over all rounds so far."""
    report = this_round.read("eval_report")
    headline = read_headline(report)
    assert headline is not None, "a written eval_report has a headline"
    outcomes = read_outcomes(this_round, [*this_round.earlier_keys, this_round.key])
    before = {outcome.round_key: outcome.score for outcome in outcomes if outcome.round_key < this_round.key}
    metadata: dict[str, object] = {
        **{name: round(headline[name], 4) for name in ("score", "ci_low", "ci_high") if headline[name] is not None},
        "metric": f"{headline['benchmark']} {headline['metric']}",
        "is_regression": outcomes[-1].is_regression,
        "scores": preview_rows(
            report.filter(pl.col("rung").is_null() & (pl.col("task") == "all")),
            ("model", "benchmark", "metric", "score", "ci_low", "ci_high", "num_items"),
            num_rows=20,
        ),
    }
    for name, other in (("previous", max(before, default=None)), ("best", find_best_round(before))):
        if other is not None:
            mean, low, high = compare_with(this_round, other)
            metadata[f"against_{name}"] = f"{other}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    metadata |= describe_judging(this_round.read("judge_items").filter(model="checkpoint"))
    return metadata | draw_history(this_round, [outcome.round_key for outcome in outcomes])


def draw_history(this_round: Round, keys: list[str]) -> dict[str, dg.MetadataValue]:
    """Pictures of the scores over all rounds up to this one."""
    reports = {key: this_round.read("eval_report", key) for key in keys}
    start = reports[START_ROUND] if START_ROUND in reports else None
    backbone = read_headline(start, model="backbone") if start is not None else None
    overall = (pl.col("model") == "checkpoint") & (pl.col("task") == "all") & pl.col("rung").is_null()
    points: dict[str, list[tuple[float, float, float]]] = {}
    for report in reports.values():
        for row in report.filter(overall).to_dicts():
            name = f"{row['benchmark']} {row['metric']}"
            low, high = (row["score"] if row[end] is None else row[end] for end in ("ci_low", "ci_high"))
            points.setdefault(name, []).append((row["score"], low, high))
    points = {name: values for name, values in points.items() if len(values) == len(reports)}
    by_rung: dict[str, dict[int, float]] = {}
    greedy_rungs = (pl.col("metric") == "greedy") & pl.col("rung").is_not_null()
    for key, report in reports.items():
        for row in report.filter(greedy_rungs).to_dicts():
            name = key if row["model"] == "checkpoint" else "backbone"
            by_rung.setdefault(name, {})[row["rung"]] = row["score"]
    return {
        "over_rounds": plot_rounds(
            keys,
            points,
            title=f"{this_round.plan.name}: scores with 95% intervals",
            backbone=backbone["score"] if backbone else None,
        ),
        "by_rung": plot_rungs(by_rung, title=f"{this_round.plan.name}: accuracy by rung"),
    }


def build_eval_report(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(**plan.asset_arguments("eval_report", kinds={"parquet"}, uses_model=True))
    def eval_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Scores with 95% intervals, by rule or by a judge, against the round before, the best and the backbone."""
        return make_noun(context, platform, plan, "eval_report", make_eval_report)

    return eval_report
