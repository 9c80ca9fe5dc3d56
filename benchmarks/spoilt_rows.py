"""How many wrong rows of a data set CLEAR's Auto-Filter finds: real rows, of which a known share is spoilt here.

    python -m benchmarks.spoilt_rows [--data DIR] [--rng-seeds N] [--quick] [--model FOLDER] [--rows N] [--samples K]
                                     [--tokens N]

| set | rows by people | a fifth is spoilt: it has | own completions |
| --- | --- | --- | --- |
| GSM8K | test questions, worked answers | another question's answer | four model solutions of the set |
| Self-Instruct | seed tasks, outputs | another task's output | sampled from `--model`, if named |

GSM8K's solutions are those of fine-tuned models of 6 and 175 billion parameters
(`gsm8k_example_model_solutions.jsonl`). Each is also taken by itself, so that a table row says how good the model must
be, and each `rng_seed` spoils other rows of GSM8K: intervals are of the mean over these draws. No reflection is asked
there. Rows below the bar, the median, are left out. "Found" is the share of the spoilt rows
that is left out, and "lost" that of the others; "AUC" is how often a spoilt row has less confidence than another one.
Without the data nothing is measured, and the last
line says so. The last line is one JSON object.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import mannwhitneyu

from benchmarks._real_data import find_data
from lance_assets.algorithms.filters.confidence import ConfidenceRule
from lance_assets.algorithms.measures.statistics import compute_mean_interval
from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.selection.confidence import Confidence, combine_confidence, list_reasons
from lance_assets.records import Request, SamplingSettings, derive_row_id, derive_sampling_seed

SOLUTIONS, TASKS = "gsm8k_example_model_solutions.jsonl", "self_instruct_seed_tasks.jsonl"
SHARE = 0.2
"""Of the rows that are spoilt, as in the paper's noisy sets."""
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
MARK = "A:"
"""What announces the answer of GSM8K's solutions."""


def choose_spoilt(number: int, rng: random.Random) -> set[int]:
    """The places of the rows to spoil."""
    return set(rng.sample(range(number), round(SHARE * number)))


def replace_answers(completions: Sequence[str], spoilt: set[int], rng: random.Random) -> list[str]:
    """The worked answers, of which the spoilt ones end in another row's final answer."""
    rule, written = AnswerRule("number", MARK), list(completions)
    answers = [rule.read(text) or "" for text in completions]
    normal = [rule.normalise(answer) for answer in answers]
    for place in sorted(spoilt):
        other = rng.choice([one for one, read in zip(answers, normal, strict=True) if one and read != normal[place]])
        head = written[place].rpartition(MARK)[0]
        written[place] = f"{head}{MARK} {other}"
    return written


def swap_completions(completions: Sequence[str], spoilt: set[int], rng: random.Random) -> list[str]:
    """The completions, of which the spoilt ones are another row's."""
    written = list(completions)
    for place in sorted(spoilt):
        written[place] = rng.choice([text for text in completions if text.strip() != completions[place].strip()])
    return written


def count_found(rated: dict[str, Confidence], spoilt: set[str]) -> dict[str, float]:
    """How many spoilt rows and others are left out at the median, and the AUC."""
    dropped = set(list_reasons(rated, "median"))
    values = {row_id: one.value for row_id, one in rated.items() if one.value is not None}
    good = [value for row_id, value in values.items() if row_id not in spoilt]
    bad = [value for row_id, value in values.items() if row_id in spoilt]
    auc = float(mannwhitneyu(good, bad).statistic) / (len(good) * len(bad))
    return {
        "rows": len(rated),
        "spoilt": len(spoilt),
        "found": round(len(dropped & spoilt) / len(spoilt), 4),
        "lost": round(len(dropped - spoilt) / (len(rated) - len(spoilt)), 4),
        "auc": round(auc, 4),
        "left_spoilt_rate": round(len(spoilt - dropped) / max(1, len(rated) - len(dropped)), 4),
    }


def average_draws(draws: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """The mean of each figure over several draws of spoilt rows, with the 95% intervals of those that vary.

    >>> average_draws([{"a": {"rows": 5, "found": 0.5}}, {"a": {"rows": 5, "found": 0.7}}])["a"]["found"]
    0.6
    """
    found: dict[str, dict[str, Any]] = {}
    for name, first in draws[0].items():
        means = {figure: compute_mean_interval([own[name][figure] for own in draws]) for figure in first}
        found[name] = {figure: round(mean, 4) for figure, (mean, _, _) in means.items()}
        if len(draws) > 1:
            varying = {figure: ends for figure, (_, *ends) in means.items() if figure not in ("rows", "spoilt")}
            found[name]["intervals"] = {figure: [round(end, 4) for end in ends] for figure, ends in varying.items()}
    return found


def measure_gsm8k(data: Path, number: int | None, rng_seed: int) -> dict[str, dict[str, float]]:
    """GSM8K by the solutions of all models together, and of each by itself, with a draw of spoilt rows."""
    lines = (data / SOLUTIONS).read_text(encoding="utf-8").splitlines()[:number]
    rows, rng = [json.loads(line) for line in lines], random.Random(rng_seed)
    spoilt = choose_spoilt(len(rows), rng)
    completions = replace_answers([row["ground_truth"] for row in rows], spoilt, rng)
    rule = ConfidenceRule(agreement="answer", answer_mark=MARK, num_reflections=0)
    ids = {str(place) for place in spoilt}
    found = {}
    for name, solvers in {"all four": SOLVERS, **{solver: (solver,) for solver in SOLVERS}}.items():
        rated = {}
        for place, (row, completion) in enumerate(zip(rows, completions, strict=True)):
            own = [row[solver]["solution"] for solver in solvers]
            rated[str(place)] = combine_confidence(rule.hold_against(completion, own), [])
        found[f"GSM8K, {name}"] = count_found(rated, ids)
    return found


class Sampler:
    """Asks a model on this machine, by `confidence.AskSamples`."""

    def __init__(self, model: Path, batch_size: int) -> None:
        from resources.engines.transformers.engine import TransformersEngine

        self.engine = TransformersEngine(model, batch_size=batch_size, num_threads=1)

    def __call__(
        self,
        asks: str,
        stage: str,
        asked: Sequence[tuple[str, str]],
        *,
        num_samples: int,
        temperature: float,
        max_new_tokens: int,
    ) -> list[list[str | None]]:
        """The texts of each prompt; one that was cut is taken as far as it goes, since tokens are few here."""
        requests = [
            Request(
                derive_row_id(stage, row_id, number),
                ({"role": "user", "content": prompt},),
                derive_sampling_seed(0, stage, row_id, number),
            )
            for row_id, prompt in asked
            for number in range(num_samples)
        ]
        samples: dict[str, str | None] = {}
        for group in self.engine.generate(requests, SamplingSettings(temperature, 1.0, max_new_tokens)):
            samples |= {one.row_id: None if one.finish_reason == "error" else one.text for one in group}
        texts = [samples[request.row_id] for request in requests]
        return [texts[place * num_samples : (place + 1) * num_samples] for place in range(len(asked))]


def measure_instructions(data: Path, sampler: Sampler, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Self-Instruct by a model's own completions, its reflections, and both."""
    lines = (data / TASKS).read_text(encoding="utf-8").splitlines()
    tasks, rng = [json.loads(line) for line in lines], random.Random(0)
    firsts = [(task["instruction"], task["instances"][0]) for task in tasks]
    texts = [(f"{told}\n\n{one['input']}".strip(), one["output"]) for told, one in firsts if len(one["input"]) < 600][
        : options.rows
    ]
    spoilt = choose_spoilt(len(texts), rng)
    completions = swap_completions([completion for _, completion in texts], spoilt, rng)
    rows = [(str(place), texts[place][0], completion) for place, completion in enumerate(completions)]
    rule = ConfidenceRule(
        num_samples=options.samples, max_new_tokens=options.tokens, max_reflection_tokens=options.tokens
    )
    rated, ids = rule.measure(rows, sampler), {str(place) for place in spoilt}
    parts = {
        "own completions": {key: combine_confidence(one.consistency, []) for key, one in rated.items()},
        "reflections": {key: combine_confidence(None, [one.reflection]) for key, one in rated.items()},
        "both": rated,
    }
    found = {}
    for name, one in parts.items():
        values = {key for key, value in one.items() if value.value is not None}
        # Without a confidence on both sides nothing can be compared.
        if values & ids and values - ids:
            found[f"Self-Instruct, {name}"] = count_found(one, ids) | {"read": len(values)}
    return found


def main() -> None:
    """Read the arguments, measure, and print the figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="the folder of real data sets")
    parser.add_argument("--rng-seeds", type=int, default=5, help="draws of the spoilt rows of GSM8K")
    parser.add_argument("--quick", action="store_true", help="100 rows of GSM8K")
    parser.add_argument("--model", type=Path, help="a chat model's folder, for Self-Instruct")
    parser.add_argument("--rows", type=int, default=120, help="rows of Self-Instruct")
    parser.add_argument("--samples", type=int, default=5, help="own completions of each prompt")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of an own completion")
    parser.add_argument("--batch-size", type=int, default=32, help="rows decoded together")
    options = parser.parse_args()
    data = find_data(parser, options.data, [SOLUTIONS] if options.model is None else [SOLUTIONS, TASKS])
    began = time.perf_counter()
    number = 100 if options.quick else None
    found = average_draws([measure_gsm8k(data, number, rng_seed) for rng_seed in range(options.rng_seeds)])
    if options.model is not None:
        found |= measure_instructions(data, Sampler(options.model, options.batch_size), options)
    names = ("rows", "spoilt", "found", "lost", "left_spoilt_rate", "auc")
    print("| set and own completions | rows | spoilt | found | lost | spoilt among the kept | AUC |")
    print("| --- |" + " ---: |" * len(names))
    for name, own in found.items():
        ends = {figure: " [{:g}, {:g}]".format(*pair) for figure, pair in own.get("intervals", {}).items()}
        print(f"| {name} | " + " | ".join(f"{own[each]:g}{ends.get(each, '')}" for each in names) + " |")
    print(json.dumps(found | {"seconds": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    main()
