"""How well Kun's small model does Kun's jobs, on held-out problems of every task and rung.

    python -m benchmarks.kun_model [--quick] [--model PATH]

| figure | what is counted |
| --- | --- |
| `verdict_accuracy` | verdicts that are read and right, half of them on unclear prompts |
| `named_rate` | texts for which the model wrote a well-formed prompt with the text's task and answer |
| `polished_rate` | right completions of prompts with a text that works them out |
| `answered_rate` | right completions of the same prompts without a text, greedily |

All but the last are sampled as in Kun, at temperature 0.5 and a nucleus of 0.95. The last line is one JSON object with
everything, named prompts also by task.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from lance_assets.algorithms.filters.keywords import PROFILES
from lance_assets.algorithms.reviews.verdicts import read_verdict
from lance_assets.prompts import build_messages
from lance_assets.records import Request, Sample, SamplingSettings, derive_sampling_seed
from lance_assets.small_world import KUN_MODEL
from lance_assets.small_world.jobs import MAX_RUNG, draw_label, draw_polish, draw_verdict
from lance_assets.small_world.tasks import TASKS, Problem, draw_problem, is_correct, parse_prompt, phrase_prompt
from resources.engines.contract import Engine
from resources.engines.transformers.engine import TransformersEngine

SAMPLED = SamplingSettings(0.5, 0.95, 160)
GREEDY = SamplingSettings(0.0, 1.0, 160)


def draw_problems(rng: random.Random, *, per_rung: int) -> list[Problem]:
    """Held-out problems, as many of each task and rung."""
    return [
        draw_problem(rng, task=task, rung=rung, held_out=True)
        for task in TASKS
        for rung in range(1, MAX_RUNG + 1)
        for _ in range(per_rung)
    ]


def ask(engine: Engine, stage: str, prompts: Sequence[str], sampling: SamplingSettings) -> list[Sample]:
    """One sample for each prompt, in order."""
    requests = [
        Request(str(place), tuple(build_messages("", prompt)), derive_sampling_seed(stage, place))
        for place, prompt in enumerate(prompts)
    ]
    samples = {sample.row_id: sample for group in engine.generate(requests, sampling) for sample in group}
    return [samples[request.row_id] for request in requests]


def is_named(problem: Problem, text: str) -> bool:
    """Whether a named prompt asks for what the text works out."""
    named = parse_prompt(text)
    return named is not None and (named.task, named.answer) == (problem.task, problem.answer)


def measure_kun_model(engine: Engine, *, per_rung: int, rng_seed: int = 0) -> dict[str, object]:
    """The figures of the module's table, fractions in [0, 1]."""
    rng = random.Random(rng_seed)
    problems = draw_problems(rng, per_rung=per_rung)
    profile = PROFILES["english"]
    verdicts = [draw_verdict(rng, problem) for problem in problems]
    said = ask(engine, "verdict", [example.prompt for example in verdicts], SAMPLED)
    right = [
        read_verdict(sample.text, profile, sample.finish_reason)
        == ("good" if example.completion.endswith(profile.good_tag) else "bad")
        for sample, example in zip(said, verdicts, strict=True)
    ]
    said = ask(engine, "label", [draw_label(rng, problem).prompt for problem in problems], SAMPLED)
    named = [is_named(problem, sample.text) for problem, sample in zip(problems, said, strict=True)]
    rates = {"verdict_accuracy": sum(right) / len(problems), "named_rate": sum(named) / len(problems)}
    prompts = {
        "polished_rate": ([draw_polish(rng, problem).prompt for problem in problems], SAMPLED),
        "answered_rate": ([phrase_prompt(problem, rng) for problem in problems], GREEDY),
    }
    for figure, (asked, sampling) in prompts.items():
        said = ask(engine, figure, asked, sampling)
        correct = [is_correct(problem, sample.text) for problem, sample in zip(problems, said, strict=True)]
        rates[figure] = sum(correct) / len(problems)
    by_task = {
        task: sum(one for one, problem in zip(named, problems, strict=True) if problem.task == task)
        / (len(problems) / len(TASKS))
        for task in TASKS
    }
    return rates | {"named_by_task": by_task, "num_problems": len(problems)}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=KUN_MODEL, help="the model's folder")
    parser.add_argument("--quick", action="store_true", help="one problem of each task and rung")
    options = parser.parse_args()
    figures = measure_kun_model(TransformersEngine(options.model), per_rung=1 if options.quick else 5)
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
