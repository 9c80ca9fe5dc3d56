"""Evaluation on a world's held-out problems: a model completes them, and the world's rule judges the completions.

Each problem is asked greedily and, where the experiment wants it, sampled, once each. The problems are the same in
every round, so that rounds compare problem by problem.
"""

from collections.abc import Callable, Sequence

import polars as pl

from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.prompts import build_messages
from lance_assets.records import (
    EVAL_ITEMS,
    EVAL_REPORT,
    Ask,
    Request,
    Sample,
    SamplingSettings,
    derive_row_id,
    derive_sampling_seed,
)
from lance_assets.worlds import ALL_TASKS, Problem, World
from resources.evaluation.harness_report import EvaluationError

SAMPLED_TEMPERATURE = 0.7
"""The temperature of LANCE's decoding."""
SAMPLED_TOP_P = 0.9
"""The nucleus mass of LANCE's decoding."""
RNG_SEED = 7
"""Of the sampled completions; the same in every experiment and round."""


def evaluate_world(
    ask: Ask,
    world: World,
    problems: Sequence[Problem],
    *,
    model_name: str,
    temperature: float | None = SAMPLED_TEMPERATURE,
    top_p: float = SAMPLED_TOP_P,
    max_new_tokens: int = 160,
    rng_seed: int = RNG_SEED,
    system_message: str = "",
    word: Callable[[str], str] | None = None,
) -> pl.DataFrame:
    """Ask the problems, greedily and, where wanted, sampled once each, and judge the completions by the world's rule.

    Args:
        ask: asks the model under evaluation; the stages are "<model_name>_greedy" and "<model_name>_sampled".
        world: whose rule judges. Row ids and sampling seeds derive from its name.
        problems: as `worlds.draw_problems` gives them.
        model_name: "checkpoint" or "backbone", the `model` column.
        temperature: of the sampled completions, above 0; None: nothing is sampled.
        top_p: of the sampled completions.
        max_new_tokens: tokens after which a completion is cut, and most likely wrong.
        rng_seed: of the sampled completions.
        system_message: what comes before each prompt; empty for no message.
        word: gives what is asked for a problem's prompt (`Recipe.word_prompt`); None: the prompt as it is.

    Returns:
        EVAL_ITEMS, one row for each metric and problem, in the order of the problems.

    Raises:
        EvaluationError: the engine failed on a prompt. A failed row does not count as a wrong answer.
    """
    rows: list[dict] = []
    for metric, heat in (("greedy", 0.0), *(() if temperature is None else (("sampled", temperature),))):
        requests = [
            Request(
                row_id=derive_row_id(world.name, metric, problem.key),
                messages=tuple(build_messages(system_message, word(problem.prompt) if word else problem.prompt)),
                # Without the round in it: every checkpoint is asked with the same draws, so that rounds are paired.
                sampling_seed=derive_sampling_seed(rng_seed, world.name, metric, problem.key),
            )
            for problem in problems
        ]
        sampling = SamplingSettings(temperature=heat, top_p=top_p, max_new_tokens=max_new_tokens)
        samples = ask(f"{model_name}_{metric}", requests, sampling)
        for problem, sample in zip(problems, samples, strict=True):
            rows.append({"model": model_name, "metric": metric} | _judge(world, problem, sample))
    return pl.DataFrame(rows, schema=EVAL_ITEMS)


def _judge(world: World, problem: Problem, sample: Sample) -> dict:
    # A failure of the engine must not lower the model's score.
    if sample.finish_reason == "error":
        raise EvaluationError(f"the engine failed on the held-out prompt {problem.prompt!r}: {sample.error}")
    return {
        "task": problem.task,
        "stratum": problem.stratum,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "completion": sample.text,
        "finish_reason": sample.finish_reason,
        "is_correct": world.is_right(problem, strip_thinking(sample.text)),
    }


def summarise_items(items: pl.DataFrame, *, benchmark: str) -> pl.DataFrame:
    """Scores with 95% Wilson intervals: over all, by task, and by stratum.

    Args:
        items: EVAL_ITEMS.
        benchmark: the world's name.

    Returns:
        EVAL_REPORT: for each model and metric, in the order they appear, first task "all", then each task, then each
        stratum (task "all"). No rows for no items.
    """
    whole = pl.lit(ALL_TASKS).alias("task")
    no_stratum = pl.lit(None, dtype=pl.Int64).alias("stratum")
    counted = [
        pl.col("is_correct").sum().cast(pl.Int64).alias("num_correct"),
        pl.len().cast(pl.Int64).alias("num_items"),
    ]
    rows: list[dict] = []
    for (model, metric), group in items.group_by("model", "metric", maintain_order=True):
        by_stratum = group.group_by(whole, "stratum").agg(counted).sort("stratum")
        by_task = group.group_by("task", no_stratum, maintain_order=True).agg(counted)
        for counts in [
            *group.group_by(whole, no_stratum).agg(counted).to_dicts(),
            *by_task.to_dicts(),
            *by_stratum.to_dicts(),
        ]:
            num_correct, num_items = counts.pop("num_correct"), counts["num_items"]
            low, high = compute_wilson_interval(num_correct, num_items)
            names = {"model": model, "benchmark": benchmark, "metric": metric}
            score = {"score": num_correct / num_items, "ci_low": low, "ci_high": high, "higher_is_better": True}
            rows.append(names | counts | score)
    return pl.DataFrame(rows, schema=EVAL_REPORT)
