"""How well the packaged small model does each job, on held-out problems of every task and rung.

    python -m benchmarks.small_model [--quick] [--model PATH]

| figure | what is counted |
| --- | --- |
| `greedy`, `sampled` | right answers, at temperature 0 and at 0.7 |
| `reviewer_accuracy` | right verdicts of the mean of 3 reviews at 0.7, one right and one wrong completion a problem |
| `reviewer_accuracy_greedy` | the same with one greedy review |
| `new_prompt_valid_rate` | new prompts that are well-formed problems, and not the given problem in other words |
| `degraded_wrong_rate` | degraded completions that name an answer, and a wrong one |
| `weights_mib` | size of the safetensors files |

A verdict is `right` when the completion's part of the score is 3 of 5 or more, `wrong` when it is less, and neither
when no review could be read, which counts as a mistake. Half of the wrong completions are made by rule
(`complete_wrongly`) and half are the model's own mistakes at temperature 1, as far as it made any. A sample that could
not be read counts against its rate. The last line is one JSON object with everything, also by task and rung.
"""

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lance_assets.algorithms.reviews.review_parsing import combine_reviews, parse_review
from lance_assets.prompts import build_messages
from lance_assets.recipes.asking import read_final
from lance_assets.records import Request, Sample, SamplingSettings, derive_row_id, derive_sampling_seed
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.jobs import COMPACT, PROMPT_POINTS, SCALE, complete_wrongly
from lance_assets.small_world.tasks import (
    Problem,
    complete,
    draw_held_out_prompts,
    extract_answer,
    is_correct,
    parse_prompt,
)

GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=200)
SAMPLED = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=200)
OWN_MISTAKES = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=200)
NUM_REVIEWS = 3
RIGHT_FROM = 3

Generate = Callable[[str, Sequence[str], SamplingSettings], list[Sample]]
"""(stage, prompts, sampling) to samples in their order."""


@dataclass(frozen=True)
class Item:
    """A held-out problem in one wording."""

    prompt: str
    """The wording."""
    problem: Problem
    """The problem."""


@dataclass(frozen=True)
class Outcome:
    """Whether one thing the model did was good."""

    metric: str
    """The figure it counts for."""
    task: str
    """The problem's task."""
    rung: int
    """The problem's rung."""
    is_good: bool
    """Right, valid or, for a degraded completion, wrong."""


@dataclass(frozen=True)
class Review:
    """A completion to review, whose truth is known."""

    item: Item
    """The problem."""
    completion: str
    """The completion under review."""
    is_right: bool
    """The truth, by rule."""
    origin: str
    """`right`, `by_rule` or `own`."""


def build_generate(model: Path, *, batch_size: int) -> Generate:
    """Load the model and return a function that samples from it; each sample has its own sampling seed."""
    from resources.engines.contract import sample_in_order
    from resources.engines.transformers.engine import TransformersEngine

    engine = TransformersEngine(model_path=model, batch_size=batch_size)

    def generate(stage: str, prompts: Sequence[str], sampling: SamplingSettings) -> list[Sample]:
        started = time.monotonic()
        requests = [
            Request(
                row_id=derive_row_id("small_model", stage, number),
                messages=tuple(build_messages("", prompt)),
                sampling_seed=derive_sampling_seed(0, "small_model", stage, number),
            )
            for number, prompt in enumerate(prompts)
        ]
        samples = sample_in_order(engine, requests, sampling)
        tokens, seconds = sum(sample.completion_tokens for sample in samples), time.monotonic() - started
        print(f"{stage}: {len(samples)} samples, {tokens} tokens, {seconds:.0f} s", flush=True)
        return samples

    return generate


def draw_items(per_rung: int) -> list[Item]:
    """Held-out problems of every task and rung."""
    rows = draw_held_out_prompts(per_rung=per_rung)
    return [Item(row["prompt"], problem) for row in rows if (problem := parse_prompt(row["prompt"])) is not None]


def ask_about(step: str, item: Item, completion: str) -> str:
    """The message that asks a step about a completion of an item's prompt."""
    return COMPACT.render(f"lance/{step}", prompt=item.prompt, completion=completion, **SCALE)


def judge(metric: str, item: Item, is_good: bool) -> Outcome:
    """The outcome of an item."""
    return Outcome(metric, item.problem.task, item.problem.rung, is_good)


def measure_answers(items: Sequence[Item], generate: Generate) -> list[Outcome]:
    """Greedy and sampled accuracy."""
    outcomes = []
    for metric, sampling in (("greedy", GREEDY), ("sampled", SAMPLED)):
        samples = generate(metric, [item.prompt for item in items], sampling)
        outcomes += [judge(metric, i, is_correct(i.problem, s.text)) for i, s in zip(items, samples, strict=True)]
    return outcomes


def collect_own_mistakes(items: Sequence[Item], generate: Generate, *, num_samples: int) -> dict[str, str]:
    """The model's first finished wrong completion of each problem that has one, by problem key."""
    asked = [item for item in items for _ in range(num_samples)]
    mistakes: dict[str, str] = {}
    for item, sample in zip(asked, generate("own_mistakes", [i.prompt for i in asked], OWN_MISTAKES), strict=True):
        names_answer = extract_answer(sample.text) is not None
        if sample.finish_reason == "stop" and names_answer and not is_correct(item.problem, sample.text):
            mistakes.setdefault(item.problem.key, sample.text)
    return mistakes


def build_reviews(items: Sequence[Item], mistakes: dict[str, str], rng: random.Random) -> list[Review]:
    """One right and one wrong completion of every problem; up to half of a task's rung are own mistakes."""
    by_rung: defaultdict[tuple[str, int], list[Item]] = defaultdict(list)
    for item in items:
        by_rung[item.problem.task, item.problem.rung].append(item)
    reviews = []
    for group in by_rung.values():
        own = [item.problem.key for item in group if item.problem.key in mistakes][: (len(group) + 1) // 2]
        for item in group:
            is_own = item.problem.key in own
            wrong = mistakes[item.problem.key] if is_own else complete_wrongly(item.problem, rng)
            reviews.append(Review(item, complete(item.problem), True, "right"))
            reviews.append(Review(item, wrong, False, "own" if is_own else "by_rule"))
    return reviews


def read_verdict(problem: Problem, samples: Sequence[Sample]) -> bool | None:
    """Whether the reviews call the completion right; None when none of them could be read."""
    score = combine_reviews([parse_review(s.text, finish_reason=s.finish_reason) for s in samples]).review_score
    return None if score is None else score - PROMPT_POINTS.get(problem.rung, 5) >= RIGHT_FROM


def measure_reviewer(reviews: Sequence[Review], generate: Generate) -> tuple[list[Outcome], dict[str, object]]:
    """Verdicts of the mean of sampled reviews and of one greedy review, and what they were about."""
    outcomes: list[Outcome] = []
    details: dict[str, object] = {"num_by_origin": dict(Counter(review.origin for review in reviews))}
    for metric, sampling, number in (
        ("reviewer_accuracy", SAMPLED, NUM_REVIEWS),
        ("reviewer_accuracy_greedy", GREEDY, 1),
    ):
        asked = [ask_about("review", r.item, r.completion) for r in reviews for _ in range(number)]
        samples = generate(metric, asked, sampling)
        groups = [samples[place : place + number] for place in range(0, len(samples), number)]
        verdicts = [read_verdict(r.item.problem, group) for r, group in zip(reviews, groups, strict=True)]
        good = [verdict is review.is_right for review, verdict in zip(reviews, verdicts, strict=True)]
        outcomes += [judge(metric, r.item, is_good) for r, is_good in zip(reviews, good, strict=True)]
        by_origin: defaultdict[str, list[bool]] = defaultdict(list)
        for review, is_good in zip(reviews, good, strict=True):
            by_origin[review.origin].append(is_good)
        details[f"{metric}_by_origin"] = {origin: mean(hits) for origin, hits in by_origin.items()}
        details[f"{metric}_unread_rate"] = mean([verdict is None for verdict in verdicts])
    return outcomes, details


def measure_new_prompts(items: Sequence[Item], generate: Generate) -> tuple[list[Outcome], dict[str, object]]:
    """Well-formed new prompts that are not copies, and by how many rungs they differ from the given ones."""
    asked = [ask_about("new_prompt", item, complete(item.problem)) for item in items]
    outcomes, changes, num_copies, num_same_task = [], Counter[int](), 0, 0
    for item, sample in zip(items, generate("new_prompt", asked, SAMPLED), strict=True):
        final = read_final(sample) if sample.finish_reason == "stop" else None
        new = parse_prompt(final) if final is not None else None
        is_copy = new is not None and new.key == item.problem.key
        num_copies += is_copy
        outcomes.append(judge("new_prompt_valid_rate", item, new is not None and not is_copy))
        if new is not None and not is_copy:
            changes[new.rung - item.problem.rung] += 1
            num_same_task += new.task == item.problem.task
    num_valid = changes.total()
    return outcomes, {
        "new_prompt_copy_rate": round(num_copies / len(items), 4),
        "new_prompt_same_task_rate": round(num_same_task / num_valid, 4) if num_valid else None,
        "new_prompt_rung_changes": {f"{c:+d}": round(n / num_valid, 4) for c, n in sorted(changes.items())},
    }


def measure_degraded(items: Sequence[Item], generate: Generate) -> list[Outcome]:
    """Degraded completions that name a wrong answer."""
    asked = [ask_about("degrade", item, complete(item.problem)) for item in items]
    outcomes = []
    for item, sample in zip(items, generate("degrade", asked, SAMPLED), strict=True):
        answer = extract_answer(read_final(sample) or "") if sample.finish_reason == "stop" else None
        outcomes.append(judge("degraded_wrong_rate", item, answer is not None and answer != item.problem.answer))
    return outcomes


def mean(hits: Sequence[bool]) -> float:
    """The share of hits, with four digits."""
    return round(sum(hits) / len(hits), 4)


def group_rates(outcomes: Sequence[Outcome], label: Callable[[Outcome], str]) -> dict[str, dict[str, float]]:
    """The rate of good outcomes by metric and label."""
    hits: defaultdict[str, defaultdict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        hits[outcome.metric][label(outcome)].append(outcome.is_good)
    return {metric: {group: mean(of) for group, of in groups.items()} for metric, groups in hits.items()}


def print_rates(title: str, rates: dict[str, dict[str, float]]) -> None:
    """Print one line for each metric and one column for each group."""
    print(f"\n{title:26}" + "".join(f"{group:>9}" for group in next(iter(rates.values()))))
    for metric, groups in rates.items():
        print(f"{metric:26}" + "".join(f"{100 * rate:8.1f}%" for rate in groups.values()))


def measure_weights_mib(model: Path) -> float:
    """The size of the model's safetensors files in MiB."""
    return round(sum(path.stat().st_size for path in model.glob("*.safetensors")) / 2**20, 3)


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SMALL_MODEL, help="the folder of the model")
    parser.add_argument("--quick", action="store_true", help="a minute's worth")
    parser.add_argument("--batch-size", type=int, default=128, help="rows decoded together")
    options = parser.parse_args()
    started = time.monotonic()
    generate = build_generate(options.model, batch_size=options.batch_size)
    answered, asked = draw_items(2 if options.quick else 15), draw_items(2 if options.quick else 6)
    outcomes = measure_answers(answered, generate)
    mistakes = collect_own_mistakes(asked, generate, num_samples=2 if options.quick else 4)
    reviewed, review_details = measure_reviewer(build_reviews(asked, mistakes, random.Random(0)), generate)
    proposed, prompt_details = measure_new_prompts(asked, generate)
    outcomes += reviewed + proposed + measure_degraded(asked, generate)
    by_task, by_rung = group_rates(outcomes, lambda o: o.task), group_rates(outcomes, lambda o: str(o.rung))
    print_rates("by task", by_task)
    print_rates("by rung", by_rung)
    figures = {metric: groups["all"] for metric, groups in group_rates(outcomes, lambda o: "all").items()}
    figures |= {"weights_mib": measure_weights_mib(options.model), "seconds": round(time.monotonic() - started, 1)}
    by_task_and_rung = {
        task: group_rates([o for o in outcomes if o.task == task], lambda o: str(o.rung)) for task in by_task["greedy"]
    }
    nested = {"by_task": by_task, "by_rung": by_rung, "by_task_and_rung": by_task_and_rung}
    print(json.dumps(figures | review_details | prompt_details | nested))


if __name__ == "__main__":
    main()
