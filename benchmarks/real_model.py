"""What a model's review signals are worth, on balanced pairs of real seeds, before any round is built on one.

    python -m benchmarks.real_model [--model NAME] [--seeds FILE] [--data DIR] [--num-pairs N] [--num-reviewed N]
        [--signals NAME ...] [--quick]

Each pair has a better and a worse completion of one prompt (`lance_assets/algorithms/reviews/signal_pairs.py`): a
seed's own against another seed's, against a spoilt and against a truncated one, and a right against a wrong solution.
Each signal (`lance_assets/recipes/steps/signals.py`) scores both. The table has a row a signal: the AUC of each kind,
the AUC and accuracy of all with their 95% intervals, the share that could not be scored, how many scores differ, their
standard deviation, and the correlation with length. Written reviews have two rows each: as they were written, and with
the ending forced where one has no score, as rounds do by default.

| figure | what it is |
| --- | --- |
| `reviewer_auc`, `reviewer_accuracy`, `unscored_rate` | of the sampled review, its ending forced as rounds do |
| `as_written` | the same three of the reviews as they were written |
| `agreement_auc`, `agreement_unscored_rate` | of the likeness to the model's own samples, which needs no review |
| `best_signal`, `best_auc` | the signal with the highest AUC over all pairs |
| `new_prompt_valid_rate` | of the new prompts that were asked for, those that the round's cleaning keeps |
| `degraded_worse_rate` | of the worse completions that were asked for, those the best signal puts below the seed's |
| `tokens_per_second` | tokens that were sampled, a second of sampling |

What was not measured is null. Written reviews take most of the time: `--num-reviewed` bounds the pairs of each kind
that they are asked of. Prompts are asked for and cleaned as rounds of a small model do it (`_proposals`).

Without `--model` it is the packaged small model, on its own seeds. Another model, named as for `lance model`, gets the
seeds of `--data`: human instructions of self-instruct, and GSM8K questions with right and wrong solutions of other
models. `--seeds` names a file of one's own. The last line is one JSON object with everything.
"""

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from benchmarks._models import choose_profile, find_model, tell_model
from benchmarks._proposals import clean, propose
from benchmarks._real_data import find_data
from benchmarks._signal_tables import describe_reviewer, describe_signal, show_number, show_rate, tabulate
from lance_assets.algorithms.measures.signals import SignalMeasures, measure_signal
from lance_assets.algorithms.reviews.review_parsing import Unscored
from lance_assets.algorithms.reviews.signal_pairs import PAIR_KINDS, SignalPair, SignalSeed, build_signal_pairs
from lance_assets.algorithms.similarity.words import count_words
from lance_assets.prompts import PROFILES, Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.recipes.steps.reviewing import build_ending_sampling, build_review_sampling, name_endings
from lance_assets.recipes.steps.rows import (
    Example,
    Generation,
    Seed,
    complete_new_prompts,
)
from lance_assets.recipes.steps.signals import (
    SIGNALS,
    Score,
    SignalModels,
    combine_scores,
    compare_pairs,
    list_rows,
    remember,
    score_comparisons,
)
from lance_assets.records import Ask, Request, Sample, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from resources.readers.row_kinds import SeedFields
from resources.readers.seed_files import read_seed_file

ROOT = Path(__file__).parents[1]
INSTRUCTIONS, SOLUTIONS = "self_instruct_seed_tasks.jsonl", "gsm8k_example_model_solutions.jsonl"
WITHOUT_COMPLETION = "no_completion"
"""Why cleaning drops a new prompt whose completions it drops."""
OWN_SEEDS = ROOT / "lance_assets" / "experiments" / "mini_lance" / "seeds.jsonl"
WRITTEN = ("sampled", "expected")
"""The signals that are written reviews."""
FORCED_ENDING = "{}, ending forced"
"""The row of such a signal where a review without a score is made to end in one."""
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@dataclass
class Meter:
    """What was sampled, and for how long."""

    completion_tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    log: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens a second."""
        return self.completion_tokens / self.seconds if self.seconds else 0.0


def read_instructions(path: Path, *, max_words: int) -> list[SignalSeed]:
    """The seeds of a file that are short enough to be reviewed by a small model, with their gold answers if any."""
    table = read_seed_file(path, fields=SeedFields(answer="answer" if _has_answers(path) else None))
    return [
        SignalSeed(row_id, prompt, completion, answer)
        for row_id, prompt, completion, answer in table.select("row_id", "prompt", "completion", "answer").iter_rows()
        if count_words(prompt) + count_words(completion) <= max_words
    ]


def _has_answers(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        first = json.loads(file.readline()) if path.suffix == ".jsonl" else {}
    return isinstance(first, dict) and "answer" in first


def clean_solution(text: str) -> str:
    r"""A solution without its calculator marks.

    >>> clean_solution("2 + 3 = <<2+3=5>>5\nA: 5")
    '2 + 3 = 5\nA: 5'
    """
    return "".join(part.partition(">>")[2] if number else part for number, part in enumerate(text.split("<<")))


def read_solutions(path: Path, *, max_words: int) -> list[SignalSeed]:
    """Questions with a right and a wrong solution by models, each the first that there is; lengths as above."""
    seeds = []
    with path.open(encoding="utf-8") as file:
        for number, row in enumerate(map(json.loads, file)):
            solutions = [row[solver] for solver in SOLVERS]
            right = [clean_solution(one["solution"]) for one in solutions if one["is_correct"]]
            wrong = [clean_solution(one["solution"]) for one in solutions if not one["is_correct"]]
            if right and wrong and count_words(row["question"]) + count_words(right[0]) <= max_words:
                seeds.append(SignalSeed(f"gsm8k_{number}", row["question"], right[0], wrong=(wrong[0],)))
    return seeds


def read_own_seeds(options: argparse.Namespace) -> list[SignalSeed]:
    """The model's seeds: of `--seeds`, else its own or those of `--data`."""
    file = options.seeds or (OWN_SEEDS if options.model == SMALL_MODEL else options.data / INSTRUCTIONS)
    return read_instructions(file, max_words=options.max_words)


def build_all_pairs(options: argparse.Namespace, own: Sequence[SignalSeed]) -> list[SignalPair]:
    """Balanced pairs of the model's seeds, and right against wrong solutions."""
    draw = {"num_pairs": options.num_pairs, "rng_seed": options.rng_seed}
    pairs = build_signal_pairs(own, **draw).pairs
    has_gold = any(pair.kind == "gold" for pair in pairs)
    if not has_gold and options.seeds is None and options.data is not None and (options.data / SOLUTIONS).exists():
        seeds = read_solutions(options.data / SOLUTIONS, max_words=2 * options.max_words)
        pairs += build_signal_pairs(seeds, **draw, kinds=("gold",)).pairs
    return pairs


def build_ask(options: argparse.Namespace, meter: Meter, settings: LanceSettings) -> Ask:
    """The model as it samples, and as it is read where a reply is forced."""
    from resources.engines.contract import sample_in_order
    from resources.engines.transformers.engine import TransformersEngine

    sampler = TransformersEngine(options.model, batch_size=options.batch_size, dtype=options.dtype)
    forced = TransformersEngine(options.model, batch_size=options.batch_size, dtype=options.reading_dtype)
    of_stage = {
        "review": build_review_sampling(settings.sampling, settings.rubric, score_from="expected"),
        name_endings("review"): build_ending_sampling(settings.rubric),
    }

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        chosen = sampling or of_stage.get(stage, settings.sampling)
        chosen = chosen if sampler.can_constrain() else replace(chosen, grammar=None)
        is_forced = any(request.prefill for request in requests)
        started = time.monotonic()
        samples = sample_in_order(forced if is_forced else sampler, requests, chosen)
        seconds = time.monotonic() - started
        tokens, read = (sum(getattr(s, name) for s in samples) for name in ("completion_tokens", "prompt_tokens"))
        print(f"{stage}: {len(samples)} samples of {tokens} tokens, {read} read, {seconds:.0f} s", flush=True)
        if not is_forced:
            meter.completion_tokens += tokens
            meter.seconds += seconds
        return samples

    return ask


def find_best(measured: dict[str, SignalMeasures]) -> str:
    """The signal of single completions with the highest AUC that leaves at most half unscored."""

    def rank(name: str) -> float:
        own = measured[name]
        return -math.inf if own.overall.auc.value is None or (own.unscored_rate or 0) > 0.5 else own.overall.auc.value

    return max((name for name in measured if name != "pairwise"), key=rank)


def score_by(models: SignalModels, name: str, rows: Sequence[Example]) -> list[Score]:
    """The numbers that a row of the table stands for."""
    forced = {FORCED_ENDING.format(written): written for written in WRITTEN}
    if name in forced:
        return SIGNALS[forced[name]].score(replace(models, force_ending=True), rows)
    return SIGNALS[name].score(models, rows)


@dataclass(frozen=True)
class Proposed:
    """What a proposing step gave for some seeds."""

    rows: list[Generation]
    """Every sample."""
    kept: dict[str, str]
    """By row id, the text of what LANCE's cleaning keeps."""
    drop_reasons: dict[str, int]
    """How many were dropped for what."""


def propose_and_clean(
    models: SignalModels, settings: LanceSettings, seeds: Sequence[Seed], kind: str, step: str
) -> Proposed:
    """One new prompt or worse completion of each seed, and what cleaning keeps of them."""
    rows = propose(models.identity, models.ask, settings, seeds, kind=kind, step=step)
    completions = complete_new_prompts(models.identity, models.ask, rows, 1) if kind == "new_prompt" else []
    cleaned = clean(models.identity, settings, rows + completions, seeds, kind=kind, step=step)
    dropped = cleaned["drop_reason"].drop_nulls().value_counts().iter_rows()
    text = "prompt" if kind == "new_prompt" else "completion"
    # Of such a prompt its completion alone was at fault.
    kept = cleaned.filter(pl.col("drop_reason").is_null() | (pl.col("drop_reason") == WITHOUT_COMPLETION))
    reasons = {reason: number for reason, number in dropped if reason != WITHOUT_COMPLETION}
    return Proposed(rows, dict(kept.select("row_id", text).iter_rows()), reasons)


def draw_seeds(own: Sequence[SignalSeed], number: int, rng_seed: int) -> list[Seed]:
    """Some seeds, of which new prompts and worse completions are asked."""
    chosen = random.Random(rng_seed).sample(list(own), min(number, len(own)))
    return [Seed(one.row_id, one.prompt, one.completion, one.answer, "seed", None, None, None) for one in chosen]


def measure_proposals(
    models: SignalModels, settings: LanceSettings, seeds: Sequence[Seed], best: str | None
) -> dict[str, object]:
    """How many new prompts are kept, and how many worse completions are worse by the best signal, if there is one."""
    new = propose_and_clean(models, settings, seeds, "new_prompt", "lance/new_prompt")
    worse = propose_and_clean(models, settings, seeds, "degraded_completion", "lance/degrade")
    by_id = {row.row_id: row for row in worse.rows}
    seed_of = {seed.row_id: seed for seed in seeds}
    shown = [Example(row_id, seed_of[by_id[row_id].seed_id].prompt, text) for row_id, text in worse.kept.items()]
    own = [Example(f"{row.row_id}:seed", row.prompt, seed_of[by_id[row.row_id].seed_id].completion) for row in shown]
    scores = score_by(models, best, [*shown, *own]) if best else []
    below = [
        not isinstance(one, Unscored) and not isinstance(other, Unscored) and one < other
        for one, other in zip(scores[: len(scores) // 2], scores[len(scores) // 2 :], strict=True)
    ]
    return {
        "new_prompt_valid_rate": len(new.kept) / len(seeds) if seeds else None,
        "new_prompt_drop_reasons": new.drop_reasons,
        "degraded_worse_rate": sum(below) / len(seeds) if seeds and best else None,
        "degraded_kept_rate": len(worse.kept) / len(seeds) if seeds else None,
        "degraded_drop_reasons": worse.drop_reasons,
    }


def bound_pairs(pairs: Sequence[SignalPair], number: int | None) -> list[SignalPair]:
    """The first pairs of each kind, all of them without a number."""
    taken: Counter[str] = Counter()
    kept = []
    for pair in pairs:
        taken[pair.kind] += 1
        if number is None or taken[pair.kind] <= number:
            kept.append(pair)
    return kept


def measure_all(
    models: SignalModels, pairs: Sequence[SignalPair], names: Sequence[str], *, num_reviewed: int | None = None
) -> tuple[dict[str, SignalMeasures], float | None]:
    """Every signal on the pairs, and the share of comparisons for the completion shown first.

    Args:
        models: the model under measure.
        pairs: of all kinds.
        names: of the signals.
        num_reviewed: pairs of each kind that written reviews are asked of; None for all.
    """
    measured: dict[str, SignalMeasures] = {}
    first_rate, reviewed = None, bound_pairs(pairs, num_reviewed)
    rows = [
        (row, name) for name in names for row in ((name, FORCED_ENDING.format(name)) if name in WRITTEN else (name,))
    ]
    # What is only read comes first, since it takes seconds, then the samples, and then the written reviews.
    for row, name in sorted(rows, key=lambda one: (one[1] in WRITTEN, one[1] == "agreement")):
        started = time.monotonic()
        if name == "pairwise":
            compared = compare_pairs(models, pairs)
            measured[row] = measure_signal(score_comparisons(pairs, compared), is_comparison=True)
            first = [value > 0.5 for one in compared for value in one.first_shown]
            first_rate = sum(first) / len(first) if first else None
        else:
            own = reviewed if name in WRITTEN else pairs
            texts = list_rows(own)
            scores = dict(zip(texts, score_by(models, row, list(texts.values())), strict=True))
            measured[row] = measure_signal(combine_scores(own, scores))
        kinds = ", ".join(f"{kind} {show_number(own.auc.value)}" for kind, own in measured[row].by_kind.items())
        seconds = time.monotonic() - started
        print(f"{row}: {show_rate(measured[row].overall.auc)} ({kinds}), {seconds:.0f} s", flush=True)
    return {row: measured[row] for row, _ in rows}, first_rate


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SIGNALS, "pairwise"]
    parser.add_argument("--model", default="small", help="folder, GGUF file or hub id; the packaged one")
    parser.add_argument("--seeds", type=Path, help="file of seeds, in place of those of --data")
    parser.add_argument("--data", type=Path, help="folder of real data")
    parser.add_argument("--num-pairs", type=int, default=None, help="pairs of each kind; 30, or 8 with --quick")
    parser.add_argument("--max-words", type=int, default=80, help="longest prompt and completion together, in words")
    parser.add_argument("--max-new-tokens", type=int, default=None, help="of a review; 160, or 96 with --quick")
    parser.add_argument("--num-reviewed", type=int, help="pairs of each kind that written reviews are asked of; all")
    parser.add_argument("--profile", choices=PROFILES, help="prompt profile; by default that of the model's size")
    parser.add_argument("--signals", nargs="+", choices=names, default=names, help="which signals; all")
    parser.add_argument("--rng-seed", type=int, default=0, help="of the pairs and samples")
    parser.add_argument("--batch-size", type=int, default=32, help="rows decoded together")
    parser.add_argument("--dtype", default="auto", help="of sampling")
    parser.add_argument("--reading-dtype", default="auto", help="of what is read and not sampled")
    parser.add_argument("--quick", action="store_true", help="a minute's worth for the packaged model")
    options = parser.parse_args()
    options.num_pairs = options.num_pairs or (8 if options.quick else 30)
    options.max_new_tokens = options.max_new_tokens or (96 if options.quick else 160)
    if options.num_reviewed is not None and options.num_reviewed < 0:
        parser.error(f"--num-reviewed must be 0 or more, got {options.num_reviewed}")
    if options.model not in ("small", str(SMALL_MODEL)) and options.seeds is None:
        options.data = find_data(parser, options.data, [INSTRUCTIONS])
    options.name, options.model = options.model, find_model(options.model, parser)
    options.profile = options.profile or choose_profile(options.model)
    return options


def main() -> None:
    """Measure everything and print it."""
    from resources.engines.transformers.model_states import ModelReader

    options, started, meter = read_options(), time.monotonic(), Meter()
    settings = LanceSettings(max_new_tokens=options.max_new_tokens)
    own = read_own_seeds(options)
    pairs = build_all_pairs(options, own)
    counts = {kind: sum(pair.kind == kind for pair in pairs) for kind in PAIR_KINDS}
    print(f"pairs: {', '.join(f'{number} {kind}' for kind, number in counts.items())}", flush=True)
    reader = ModelReader(options.model, batch_size=options.batch_size, max_length=2048, dtype=options.reading_dtype)
    models = SignalModels(
        identity=RoundIdentity("real_model", "r0001", options.rng_seed, Templates(options.profile, "lance")),
        ask=remember(build_ask(options, meter, settings)),
        reader=reader,
        rubric=settings.rubric,
        sampling=replace(settings.sampling, max_new_tokens=min(96, options.max_new_tokens)),
        num_samples=2 if options.quick else 4,
    )
    measured, first_rate = measure_all(models, pairs, options.signals, num_reviewed=options.num_reviewed)
    print("\n" + tabulate(measured) + "\n", flush=True)
    if first_rate is not None:
        print(f"pairwise: {first_rate:.2f} of the verdicts are for the completion shown first\n", flush=True)
    agreement = measured.get("agreement")
    figures: dict[str, object] = {"model": tell_model(options.name), "profile": options.profile}
    figures |= describe_reviewer(measured.get(FORCED_ENDING.format("sampled")))
    figures |= {"as_written": describe_reviewer(measured.get("sampled"))}
    figures |= {"num_reviewed_pairs": len(bound_pairs(pairs, options.num_reviewed)) if "sampled" in measured else 0}
    figures |= {"pairwise_first_shown_rate": first_rate}
    figures |= {
        "agreement_auc": agreement.overall.auc.value if agreement else None,
        "agreement_unscored_rate": agreement.unscored_rate if agreement else None,
    }
    single = {name: own for name, own in measured.items() if name != "pairwise"}
    best = find_best(single) if single else None
    figures |= {"best_signal": best, "best_auc": single[best].overall.auc.value if best else None}
    figures |= measure_proposals(models, settings, draw_seeds(own, 8 if options.quick else 16, options.rng_seed), best)
    minutes = (time.monotonic() - started) / 60
    figures |= {"tokens_per_second": meter.tokens_per_second, "minutes": minutes, "pairs": counts}
    signals = {name: describe_signal(own) for name, own in measured.items()}
    print(json.dumps(_round(figures | {"signals": signals})))


def _round(value: object) -> object:
    """Every number to four places."""
    if isinstance(value, float):
        return round(value, 4)
    return {key: _round(one) for key, one in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    main()
