"""eval_report: the round's checkpoint on the same prompts as every round, against the best and the backbone."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.algorithms.measures.headline import Headline, ScoreRow, name_score, read_rows
from lance_assets.algorithms.measures.progress import START_ROUND, find_best_outcome
from lance_assets.algorithms.measures.retention import build_retention, describe_fall, find_falls, list_forgotten
from lance_assets.recipes.contract import ROUND_MODEL
from lance_assets.records import EVAL_REPORT, HARNESS_ITEMS, Sample
from lance_assets.rounds.asking import Cost
from lance_assets.rounds.finished.tracking import track_round
from lance_assets.rounds.headline import (
    compare_with,
    compare_with_backbone,
    direct_rows,
    find_headline,
    read_headline,
    read_outcomes,
    read_retained,
    read_retained_items,
    require_headline,
)
from lance_assets.rounds.identity.parts import identify_engine, identify_evaluation
from lance_assets.rounds.judging.asking import complete_prompts
from lance_assets.rounds.judging.evaluation import judge_models
from lance_assets.rounds.judging.report import describe_judging, summarise_judge_items
from lance_assets.rounds.making.known_evaluations import add_taken, describe_taken, find_taken, tabulate_models
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.past.retention import describe_retention, enforce_retention
from lance_assets.rounds.report import (
    SUMMARY,
    Fact,
    Judged,
    Made,
    Markdown,
    Report,
    Retention,
    Rows,
    ScoresByStratum,
    ScoresOverRounds,
)
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.continual import find_continual, find_lost_transfer, require_tasks, tabulate_continual
from lance_assets.rounds.shown.costs import tabulate_costs
from lance_assets.rounds.shown.items import find_turned, show_items, show_turned
from lance_assets.rounds.shown.overhead import split_round
from lance_assets.rounds.shown.seconds import measure_round, say_round
from lance_assets.rounds.shown.sentences import say_difference, say_number
from lance_assets.rounds.world_evaluation import evaluate_world, summarise_items
from lance_assets.settings.evaluation import FloorSettings, LmEvalSettings
from lance_assets.worlds import draw_problems
from resources.engines.contract import Engine
from resources.engines.vllm.engine import VllmEngine
from resources.evaluation.engine_link import EngineLink
from resources.evaluation.evaluator import HarnessResult, HarnessRun, run_lm_eval
from resources.stores.files import read_json_file, write_file_atomically

_KEPT = {"report": EVAL_REPORT, "items": HARNESS_ITEMS}
"""What is kept of the harness, with the schema of each table."""


@dataclass(frozen=True)
class Evaluated:
    """What one model gave, before any judge has seen it."""

    report: pl.DataFrame
    """Its scores, schema `EVAL_REPORT`."""
    items: pl.DataFrame
    """Its completions of the world's problems, schema `EVAL_ITEMS`; empty without a world."""
    harness_items: pl.DataFrame
    """The harness's items, schema `HARNESS_ITEMS`; empty without the harness."""
    completions: list[Sample]
    """Its completions of the judge's prompts; empty without a judge."""


def make_eval_report(this_round: Round) -> Made:
    """Evaluate the checkpoint, and in r0000 the raw backbone beside it.

    Weights that were evaluated in the same way are not asked again (`known_evaluations`).

    Raises:
        ValueError: the scores have no headline, or it is no number; such an eval_report is never written.
    """
    models = {"checkpoint": this_round.model_path(this_round.key)}
    if this_round.is_start:
        # Once is enough: the raw model and the prompts are the same in every round.
        models["backbone"] = this_round.start_path()
    taken = find_taken(this_round, models)
    evaluated = {model: evaluate(this_round, model, path) for model, path in models.items() if model not in taken}
    judged = this_round.empty("judge_items")
    if this_round.plan.settings.evaluation.judge is not None and evaluated:
        # The judge is another model, and comes after all completions, so that only one model is held at a time.
        judged = judge_models(this_round, {model: found.completions for model, found in evaluated.items()})
    made = {
        "eval_report": [*(found.report for found in evaluated.values()), summarise_judge_items(judged)],
        "eval_items": [this_round.empty("eval_items"), *(found.items for found in evaluated.values())],
        "harness_items": [this_round.empty("harness_items"), *(found.harness_items for found in evaluated.values())],
        "judge_items": [judged],
    }
    tables = add_taken(this_round, {name: pl.concat(parts) for name, parts in made.items()}, taken)
    tables = add_set_scores(this_round, tables)
    scores = tables.pop("eval_report")
    if read_headline(scores, evaluation=this_round.plan.settings.evaluation) is None:
        raise ValueError("the evaluation gave no score that rounds can be compared by; name one in evaluation.headline")
    require_tasks(scores, this_round.plan.settings.evaluation.task_order)
    return Made(scores, others=tables | {"evaluated_models": tabulate_models(this_round, models, taken)})


def evaluate(this_round: Round, model: str, path: Path) -> Evaluated:
    """Ask one model everything the experiment evaluates."""
    plan = this_round.plan
    evaluation, world = plan.settings.evaluation, plan.world
    report, items, completions = this_round.empty("eval_report"), this_round.empty("eval_items"), []
    harness_items, word = this_round.empty("harness_items"), find_wording(this_round)
    with this_round.asking("eval_report", path, role=ROUND_MODEL) as ask:
        if world is not None and evaluation.world is not None:
            items = evaluate_world(
                ask,
                world,
                draw_problems(world, evaluation.world.per_stratum),
                model_name=model,
                temperature=evaluation.world.sampled_temperature,
                max_new_tokens=evaluation.world.max_new_tokens,
                system_message=plan.templates.system,
                word=word,
            )
        if evaluation.judge is not None:
            completions = complete_prompts(ask, plan, model=model, word=word)
        if evaluation.lm_eval is not None and evaluation.lm_eval.asks_engine(plan.settings.engine):
            # What has answered the world's problems answers the harness too, and is not started again.
            found = run_harness(this_round, model, path, evaluation.lm_eval, lend=ask.lend)
    if evaluation.lm_eval is not None and not evaluation.lm_eval.asks_engine(plan.settings.engine):
        found = run_harness(this_round, model, path, evaluation.lm_eval)
    if evaluation.lm_eval is not None:
        report, harness_items = pl.concat([one.report for one in found]), pl.concat([one.items for one in found])
    summaries = [] if world is None else [summarise_items(items, benchmark=world.name)]
    return Evaluated(pl.concat([*summaries, report]), items, harness_items, completions)


def add_set_scores(this_round: Round, tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The tables of the models with the scores of what the rounds' rows teach others, where the recipe has such.

    They are those of every model, since none of them has a part in it. What an evaluation of the same weights was taken
    with is that of another round's rows, and is replaced.
    """
    plan, evaluation = this_round.plan, this_round.plan.settings.evaluation
    if plan.recipe.score_set is None or plan.world is None or evaluation.world is None:
        return tables
    keys = [key for key in [*this_round.kept_keys, this_round.key] if key != START_ROUND]
    report, items = plan.recipe.score_set(
        this_round.build_inputs(seeds=this_round.read("seed_set")),
        {key: this_round.read("reviewed_set", key) for key in keys},
        draw_problems(plan.world, evaluation.world.per_stratum),
    )
    others = ~pl.col("benchmark").is_in(sorted(plan.recipe.set_benchmarks))
    # The raw backbone stands beside r0000 with the same set, so that both are compared by the same scores.
    models = tables["eval_report"]["model"].unique(maintain_order=True)
    return tables | {
        name: pl.concat([tables[name].filter(others), *(rows.with_columns(model=pl.lit(model)) for model in models)])
        for name, rows in (("eval_report", report), ("harness_items", items))
    }


def find_wording(this_round: Round) -> Callable[[str], str] | None:
    """What gives the words that a checkpoint was trained with; None where prompts are asked as they are."""
    word = this_round.plan.recipe.word_prompt
    return None if word is None else partial(word, this_round.build_inputs(seeds=this_round.read("seed_set")))


def run_harness(
    this_round: Round, model: str, path: Path, lm_eval: LmEvalSettings, *, lend: Callable[[], Engine] | None = None
) -> list[HarnessResult]:
    """What the harness finds of a model, for each way in which its tasks are asked.

    It is kept until eval_report is written, so that a judge who fails costs no more. So is each batch of requests as it
    ends, so that a try that was killed goes on from there.

    Args:
        this_round: the round.
        model: what the model is called in the tables.
        path: its folder.
        lm_eval: what is asked.
        lend: gives the round's own engine on the model, where that answers; None: the harness loads the model itself.
    """
    plan, parts = this_round.plan, lm_eval.split()
    kept = [_name_kept(this_round, model, path, part) for part in parts]
    missing = [place for place, file in enumerate(kept) if not file.exists()]
    if len(missing) < len(parts):
        this_round.log(f"{model}: the harness's scores of an earlier try are taken up")
    if missing:
        kept[0].parent.mkdir(parents=True, exist_ok=True)
        # One process asks them all: it imports the harness and loads the model once.
        with ExitStack() as stack:
            link = None if lend is None else stack.enter_context(linked(lend(), this_round.cost))
            results = run_lm_eval(
                path,
                [
                    HarnessRun(tuple(part.tasks), part.num_fewshot, part.limit, kept=file.with_suffix(""))
                    for part, file in ((parts[place], kept[place]) for place in missing)
                ],
                model_name=model,
                log=this_round.log,
                include_path=plan.folder / lm_eval.include_path if lm_eval.include_path else None,
                allow_task_code=plan.settings.evaluation.allow_task_code,
                backend="hf" if lm_eval.backend == "hf" else "batched",
                link=link,
                batch_size=lm_eval.batch_size,
                apply_chat_template=lm_eval.apply_chat_template,
                fewshot_as_multiturn=lm_eval.fewshot_as_multiturn,
                system_message=plan.templates.system,
                rng_seed=plan.settings.rng_seed,
            )
        for place, found in zip(missing, results, strict=True):
            this_round.cost.note_model_seconds(found.seconds)
            text = json.dumps({"report": found.report.to_dicts(), "items": found.items.to_dicts()})
            write_file_atomically(kept[place], text.encode())
    return [_read_kept(file) for file in kept]


@contextmanager
def linked(engine: Engine, cost: Cost) -> Iterator[EngineLink]:
    """The round's own engine, as the harness's process reaches it; the memory of its processes is counted."""
    assert isinstance(engine, VllmEngine), "the settings were checked"
    with closing(EngineLink(engine)) as link:
        yield link
    cost.raise_peak(engine.measure_peak())


def _name_kept(this_round: Round, model: str, path: Path, part: LmEvalSettings) -> Path:
    """Where the scores of one way of asking are kept.

    They belong to the model, the harness's settings and files, and the system message; not to the judge's.
    """
    plan = this_round.plan
    made_with = {
        "model": this_round.platform.checkpoints.hash_checkpoint(path),
        "name": model,
        "lm_eval": part.model_dump() | {"backend": part.choose_backend(plan.settings.engine)},
        **({"engine": identify_engine(plan.settings.engine)} if part.asks_engine(plan.settings.engine) else {}),
        "task_files": identify_evaluation(plan)["task_files"],
        "system_message": plan.templates.system,
        "rng_seed": plan.settings.rng_seed,
    }
    stem = hashlib.sha256(json.dumps(made_with, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return this_round.stage_folder("eval_report") / f"harness-{stem}.json"


def _read_kept(file: Path) -> HarnessResult:
    rows = read_json_file(file, remedy="remove it, and the harness is run again")
    report, items = (pl.DataFrame(rows[name], schema=schema) for name, schema in _KEPT.items())
    return HarnessResult(report, items)


def finish_eval_report(this_round: Round) -> Report:
    """The round is finished: it is written to the trackers, and what retention does not keep is removed."""
    return track_round(this_round) | describe_retention(this_round, enforce_retention(this_round))


def report_eval_report(this_round: Round) -> Report:
    """The headline, the comparisons, the curves over all rounds so far, and what the round took."""
    scores, headline = this_round.read("eval_report"), require_headline(this_round)
    outcomes = read_outcomes(this_round, [*this_round.earlier_keys, this_round.key])
    before = [outcome for outcome in outcomes if outcome.round_key < this_round.key]
    overall = scores.filter(pl.col("stratum").is_null() & (pl.col("task") == "all"))
    columns = ("model", "benchmark", "metric", "score", "ci_low", "ci_high", "num_items", "part_of")
    ends = {"score": headline["score"], "ci_low": headline["ci_low"], "ci_high": headline["ci_high"]}
    facts: Report = {
        SUMMARY: say_evaluated(this_round, headline, [outcome.round_key for outcome in before]),
        **describe_no_news(this_round),
        **{name: round(value, 4) for name, value in ends.items() if value is not None},
        "metric": f"{headline['benchmark']} {headline['metric']}",
        "higher_is_better": headline["higher_is_better"],
        "is_regression": outcomes[-1].is_regression,
        **({"broken_floors": list(broken)} if (broken := outcomes[-1].broken_floors) else {}),
        **this_round.describe_overrides(),
        **describe_taken(this_round),
        "scores": Rows(overall, columns, num_rows=20),
    }
    for name, other in (("previous", before[-1].round_key if before else None), ("best", find_best_outcome(before))):
        if other is not None:
            mean, low, high = compare_with(this_round, other)
            facts[f"against_{name}"] = f"{other}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    facts |= show_world_items(this_round, before[-1].round_key if before else None)
    facts |= describe_judging(this_round.read("judge_items").filter(model="checkpoint"))
    facts |= collect_history(this_round, [outcome.round_key for outcome in outcomes])
    split = split_round(this_round.read_costs())
    overhead = {"overhead": split.describe()} if split.overhead_ratio is not None else {}
    return facts | overhead | {"accounting": account_for_round(this_round)}


def say_evaluated(this_round: Round, headline: Headline, earlier: list[str]) -> str:
    """What the round is worth, what it trained on and how long it took.

    Args:
        this_round: the round.
        headline: its own.
        earlier: the finished rounds before it, in order.
    """
    other = earlier[-1] if earlier else "the raw backbone"
    difference = compare_with(this_round, other) if earlier else compare_with_backbone(this_round)
    told = f"{headline['score']:.3f}"
    if difference is not None:
        told += f", {say_difference(difference)} on {other}"
    told += "" if headline["higher_is_better"] else " (lower is better)"
    row = this_round.read("checkpoint").row(0, named=True)
    new = "" if this_round.is_start else "new "
    num_pairs = this_round.read("preference_pairs").filter(pl.col("source_round") == this_round.key).height
    num_rows = row["num_sft_rows"] if this_round.is_start else len(this_round.read_new_sft_rows())
    brought = f"{say_number(num_rows, f'{new}SFT row')}, {say_number(num_pairs, f'{new}pair')}"
    trained = brought if row["is_trained"] else "nothing trained"
    costs = this_round.read_costs()
    return "; ".join([told, trained, *([say_round(measure_round(costs))] if costs else [])])


def show_world_items(this_round: Round, before: str | None) -> Report:
    """Some items, right and wrong, and those that turned since the round before; nothing without a world.

    Args:
        this_round: the round.
        before: the last finished round before it; None where there is none.
    """
    items = this_round.read("eval_items")
    if items.is_empty():
        return {}
    shown: Report = {"items": show_items(items, salt=this_round.experiment.name)}
    if before is None:
        return shown
    return shown | {"turned": show_turned(find_turned(items, this_round.read("eval_items", before)), key=before)}


def describe_no_news(this_round: Round) -> dict[str, str]:
    """That a round brought nothing to train on, to be shown first; nothing where it brought something."""
    said = this_round.explain_no_news()
    return {"nothing_new": said} if said else {}


def account_for_round(this_round: Round) -> Markdown:
    """What every noun of the round took, and what a new pair and SFT row cost."""
    costs = this_round.read_costs()
    num_pairs = this_round.read("preference_pairs").filter(pl.col("source_round") == this_round.key).height
    ordered = {noun: costs[noun] for noun in NOUNS if noun in costs}
    return tabulate_costs(ordered, num_pairs=num_pairs, num_sft_rows=len(this_round.read_new_sft_rows()))


def collect_history(this_round: Round, keys: list[str]) -> dict[str, Fact]:
    """The scores of all rounds up to this one, overall and by stratum, and what is retained of each round's best."""
    reports = {key: this_round.read("eval_report", key) for key in keys}
    backbone = find_headline(this_round.at(START_ROUND), model=BACKBONE) if START_ROUND in reports else None
    points: dict[str, list[tuple[float, float, float]]] = {}
    for key, scores in reports.items():
        headline = require_headline(this_round.at(key))
        rows = direct_rows(
            read_rows(scores.filter(model="checkpoint", task="all")), this_round.plan.settings.evaluation
        )
        # The subtasks of a group would be dozens of lines; their group has one.
        whole = [row for row in rows if row["stratum"] is None and row["part_of"] is None]
        # A mean is named by the number of its scores: all their names would fill the picture.
        lines: list[tuple[str, ScoreRow | Headline]] = [(f"{row['benchmark']} {row['metric']}", row) for row in whole]
        lines = [(headline["benchmark"], headline), *lines] if len(headline["parts"]) > 1 else lines
        for name, line in lines:
            low, high = (line["score"] if end is None else end for end in (line["ci_low"], line["ci_high"]))
            direction = "" if line["higher_is_better"] else " (lower is better)"
            points.setdefault(name + direction, []).append((line["score"], low, high))
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
        mine = reports[this_round.key].filter(greedy_strata, model="checkpoint").drop_nulls(["ci_low", "ci_high"])
        intervals = {row["stratum"]: (row["ci_low"], row["ci_high"]) for row in mine.to_dicts()}
        title = f"{name}: accuracy by {world.axis}"
        shown = ScoresByStratum(by_stratum, axis=world.axis, title=title, intervals=intervals)
        history[f"by_{world.axis.replace(' ', '_')}"] = shown
    history["retention"] = Retention(
        build_retention(read_retained(this_round, keys)), title=f"{name}: what is left of each score's best round"
    )
    return history | tabulate_continual(find_continual(this_round, keys))


def no_regression(this_round: Round) -> Judged:
    """Whether the 95% interval of the difference to the best earlier round does not lie wholly on the worse side."""
    outcomes = read_outcomes(this_round, [*this_round.earlier_keys, this_round.key])
    scores = {outcome.round_key: outcome.score for outcome in outcomes}
    best = find_best_outcome(outcomes[:-1])
    found = f"{scores[this_round.key]:.3f}; there is no earlier round to be held against."
    if best is not None:
        found = (
            f"{scores[this_round.key]:.3f} is {say_difference(compare_with(this_round, best))} on the best round "
            f"before, {best}; the whole interval may not lie on the worse side."
        )
    return Judged(passed=not outcomes[-1].is_regression, is_error=False, facts={"scores": scores}, found=found)


def floors(this_round: Round) -> Judged:
    """Whether the round keeps every floor of a single score."""
    broken = read_outcomes(this_round, [*this_round.earlier_keys, this_round.key])[-1].broken_floors
    kept = this_round.plan.settings.evaluation.floors
    num_floors = len(kept)
    return Judged(
        passed=not broken,
        description="; ".join(broken) or (None if num_floors else "This experiment sets no floors."),
        found="; ".join(f"{name_score(floor.wanted)} keeps its floor ({describe_floor(floor)})" for floor in kept)
        + ".",
        facts={"num_floors": num_floors, "broken": list(broken)},
    )


def describe_floor(floor: FloorSettings) -> str:
    """A floor in words."""
    worst = [] if floor.worst is None else [f"no worse than {floor.worst:g}"]
    fall = [] if floor.max_fall is None else [f"no further than {floor.max_fall:g} from its best"]
    return ", ".join(worst + fall)


def no_forgetting(this_round: Round) -> Judged:
    """Whether no task or stratum fell from the best it ever had, beyond the bar and beyond the noise."""
    bar = this_round.plan.settings.checks.max_forgetting
    rounds = read_retained(this_round, [*this_round.earlier_keys, this_round.key])
    falls = find_falls(rounds, lambda key, row: read_retained_items(this_round, key, row))
    forgotten = [] if bar is None else list_forgotten(falls, bar=bar)
    names = ("name", "best_round", "before", "after", "fall", "low", "high")
    largest = pl.DataFrame(
        [{name: getattr(fall, name) for name in names} for fall in sorted(falls, key=lambda fall: -fall.low)],
        schema={name: pl.String if name in ("name", "best_round") else pl.Float64 for name in names},
    )
    facts: Report = {
        "num_compared": len(falls),
        "num_forgotten": len(forgotten),
        **({} if bar is None else {"max_forgetting": bar}),
        "falls": Rows(largest, names, num_rows=20),
    }
    lost, lost_bar = find_lost_transfer(this_round)
    facts |= lost
    told = "; ".join([*(describe_fall(fall, this_round.key) for fall in forgotten), *lost_bar])
    worst = max(falls, key=lambda fall: fall.low, default=None)
    found = "No earlier round has a score to be held against."
    if worst is not None:
        found = (
            f"{len(forgotten)} of {say_number(len(falls), 'score')} fell from their best beyond the noise; nearest to "
            f"it is {worst.name}, {worst.before:.3g} in {worst.best_round} and {worst.after:.3g} now."
        )
    passed = not forgotten and not lost_bar
    return Judged(passed=passed, is_error=False, description=told or None, facts=facts, found=found)
