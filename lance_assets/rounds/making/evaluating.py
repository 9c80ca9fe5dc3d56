"""eval_report: the round's checkpoint on the same prompts as every round, against the best and the backbone."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND, find_best_round
from lance_assets.recipes.contract import ROUND_MODEL
from lance_assets.records import Sample
from lance_assets.rounds.asking import tabulate_costs
from lance_assets.rounds.judging.asking import complete_prompts
from lance_assets.rounds.judging.evaluation import judge_models
from lance_assets.rounds.judging.report import describe_judging, summarise_judge_items
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.report import Fact, Judged, Made, Markdown, Report, Rows, ScoresByStratum, ScoresOverRounds
from lance_assets.rounds.round import Round, compare_with, read_headline, read_outcomes
from lance_assets.rounds.world_evaluation import evaluate_world, summarise_items
from lance_assets.worlds import draw_problems
from resources.evaluation.evaluator import run_lm_eval


@dataclass(frozen=True)
class Evaluated:
    """What one model gave, before any judge has seen it."""

    report: pl.DataFrame
    """Its scores, schema `EVAL_REPORT`."""
    items: pl.DataFrame
    """Its completions of the world's problems, schema `EVAL_ITEMS`; empty without a world."""
    completions: list[Sample]
    """Its completions of the judge's prompts; empty without a judge."""


def make_eval_report(this_round: Round) -> Made:
    """Evaluate the checkpoint, and in r0000 the raw backbone beside it."""
    models = {"checkpoint": this_round.model_path(this_round.key)}
    if this_round.is_start:
        # Once is enough: the raw model and the prompts are the same in every round.
        models["backbone"] = this_round.start_path()
    evaluated = {model: evaluate(this_round, model, path) for model, path in models.items()}
    judged = this_round.empty("judge_items")
    if this_round.plan.settings.evaluation.judge is not None:
        # The judge is another model, and comes after all completions, so that only one model is held at a time.
        judged = judge_models(this_round, {model: found.completions for model, found in evaluated.items()})
    items = pl.concat([found.items for found in evaluated.values()])
    reports = [found.report for found in evaluated.values()]
    scores = pl.concat([*reports, summarise_judge_items(judged)])
    return Made(scores, others={"eval_items": items, "judge_items": judged})


def evaluate(this_round: Round, model: str, path: Path) -> Evaluated:
    """Ask one model everything the experiment evaluates."""
    plan = this_round.plan
    evaluation, world = plan.settings.evaluation, plan.world
    report, items, completions = this_round.empty("eval_report"), this_round.empty("eval_items"), []
    with this_round.asking("eval_report", path, role=ROUND_MODEL) as ask:
        if world is not None and evaluation.world is not None:
            items = evaluate_world(
                ask,
                world,
                draw_problems(world, evaluation.world.per_stratum),
                model_name=model,
                temperature=evaluation.world.sampled_temperature,
                max_new_tokens=evaluation.world.max_new_tokens,
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
    summaries = [] if world is None else [summarise_items(items, benchmark=world.name)]
    return Evaluated(pl.concat([*summaries, report]), items, completions)


def report_eval_report(this_round: Round) -> Report:
    """The headline, the comparisons, the curves over all rounds so far, and what the round took."""
    scores = this_round.read("eval_report")
    headline = read_headline(scores)
    assert headline is not None, "a written eval_report has a headline"
    outcomes = read_outcomes(this_round, [*this_round.earlier_keys, this_round.key])
    before = {outcome.round_key: outcome.score for outcome in outcomes if outcome.round_key < this_round.key}
    overall = scores.filter(pl.col("stratum").is_null() & (pl.col("task") == "all"))
    columns = ("model", "benchmark", "metric", "score", "ci_low", "ci_high", "num_items")
    facts: Report = {
        **{name: round(headline[name], 4) for name in ("score", "ci_low", "ci_high") if headline[name] is not None},
        "metric": f"{headline['benchmark']} {headline['metric']}",
        "is_regression": outcomes[-1].is_regression,
        "scores": Rows(overall, columns, num_rows=20),
    }
    for name, other in (("previous", max(before, default=None)), ("best", find_best_round(before))):
        if other is not None:
            mean, low, high = compare_with(this_round, other)
            facts[f"against_{name}"] = f"{other}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    facts |= describe_judging(this_round.read("judge_items").filter(model="checkpoint"))
    facts |= collect_history(this_round, [outcome.round_key for outcome in outcomes])
    return facts | {"accounting": account_for_round(this_round)}


def account_for_round(this_round: Round) -> Markdown:
    """What every noun of the round took, and what a new pair and SFT row cost."""
    costs = this_round.read_costs()
    num_pairs = this_round.read("preference_pairs").filter(pl.col("source_round") == this_round.key).height
    ordered = {noun: costs[noun] for noun in NOUNS if noun in costs}
    return tabulate_costs(ordered, num_pairs=num_pairs, num_sft_rows=len(this_round.read_new_sft_rows()))


def collect_history(this_round: Round, keys: list[str]) -> dict[str, Fact]:
    """The scores of all rounds up to this one, overall and by stratum."""
    reports = {key: this_round.read("eval_report", key) for key in keys}
    start = reports[START_ROUND] if START_ROUND in reports else None
    backbone = read_headline(start, model="backbone") if start is not None else None
    overall = (pl.col("model") == "checkpoint") & (pl.col("task") == "all") & pl.col("stratum").is_null()
    points: dict[str, list[tuple[float, float, float]]] = {}
    for scores in reports.values():
        for row in scores.filter(overall).to_dicts():
            name = f"{row['benchmark']} {row['metric']}"
            low, high = (row["score"] if row[end] is None else row[end] for end in ("ci_low", "ci_high"))
            points.setdefault(name, []).append((row["score"], low, high))
    # A score that some rounds lack would be drawn at the wrong rounds.
    points = {name: values for name, values in points.items() if len(values) == len(reports)}
    by_stratum: dict[str, dict[int, float]] = {}
    greedy_strata = (pl.col("metric") == "greedy") & pl.col("stratum").is_not_null()
    for key, scores in reports.items():
        for row in scores.filter(greedy_strata).to_dicts():
            name = key if row["model"] == "checkpoint" else "backbone"
            by_stratum.setdefault(name, {})[row["stratum"]] = row["score"]
    name = this_round.plan.name
    history: dict[str, Fact] = {
        "over_rounds": ScoresOverRounds(
            keys, points, title=f"{name}: scores with 95% intervals", backbone=backbone["score"] if backbone else None
        ),
    }
    if (world := this_round.plan.world) is not None:
        shown = ScoresByStratum(by_stratum, axis=world.axis, title=f"{name}: accuracy by {world.axis}")
        history[f"by_{world.axis.replace(' ', '_')}"] = shown
    return history


def no_regression(this_round: Round) -> Judged:
    """Whether the 95% interval of the difference to the best earlier round does not lie wholly below zero."""
    outcomes = read_outcomes(this_round, [*this_round.earlier_keys, this_round.key])
    scores = {outcome.round_key: outcome.score for outcome in outcomes}
    return Judged(passed=not outcomes[-1].is_regression, is_error=False, facts={"scores": scores})
