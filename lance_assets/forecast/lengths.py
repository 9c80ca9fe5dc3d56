"""Measure the length of an experiment's seeds in tokens: by its model's tokenizer, or else by their characters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import polars as pl

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool
from lance_assets.prompts import Examples, PromptStep, Templates
from lance_assets.rounds.plan import Plan
from resources.models.chat_format import encode_messages
from resources.models.model_shapes import FoundModel, find_tokenizer
from resources.readers.seed_files import read_eft, read_seeds

CHARS_PER_TOKEN = 4.0
"""Characters per token of English text with a vocabulary of 150,000 tokens; assumed."""
MARK_TOKENS = 5.0
"""Tokens around one message of a chat: <|im_start|>, role, line break, <|im_end|>, line break."""
MOST_SEEDS = 256
"""The number of seeds that are measured, evenly spaced over the file."""
REVIEWING = ("review", "judge_pair")
"""The steps that a second model may be asked, in words of its own."""

Count = Callable[[Sequence[Mapping[str, str]]], float]
"""Counts the tokens of a chat's messages."""


@dataclass(frozen=True)
class Measured:
    """The seeds of an experiment, measured."""

    lengths: Lengths
    """Their lengths in tokens."""
    pool: Pool
    """The number of seeds and of EFT rows."""
    how: str
    """How tokens were counted, in words."""
    num_in_file: int
    """The number of seeds in the experiment's file."""

    def describe(self) -> str:
        """The number of seeds that the plan counts with, in words."""
        if self.pool.num_seeds == self.num_in_file:
            return f"{self.num_in_file} in the file"
        return f"{self.pool.num_seeds}, assumed to be like the {self.num_in_file} in the file"


def choose_count(model: FoundModel | None) -> tuple[Count, str]:
    """What counts a chat's tokens, and how it does so in words."""
    tokenizer = find_tokenizer(model.folder) if model is not None else None
    if tokenizer is None:
        how = (
            f"estimated as characters / {CHARS_PER_TOKEN:g} and {MARK_TOKENS:g} per message: the tokenizer is not here"
        )
        return (lambda chat: sum(MARK_TOKENS + len(message["content"]) / CHARS_PER_TOKEN for message in chat)), how

    def count(chat: Sequence[Mapping[str, str]]) -> float:
        return float(len(encode_messages(tokenizer, chat)))

    return count, "counted by the model's tokenizer"


def measure_lengths(
    plan: Plan, model: FoundModel | None, *, reviewer: Templates, num_seeds: int | None = None
) -> Measured:
    """Measure the seeds in the template of every step.

    Args:
        plan: the experiment.
        model: whose tokenizer counts; None for a server's.
        reviewer: the words of the reviewing steps, which a second model may be asked.
        num_seeds: seeds to reckon with; None for those of the file, or `max_seeds` where that is more.

    Raises:
        SeedFileError: the seed file cannot be used.
    """
    count, how = choose_count(model)
    seeds = read_seeds(plan.settings.seeds, plan.folder)
    eft = read_eft(plan.settings.seeds, plan.folder)
    rows = seeds.select("prompt", "completion").gather_every(max(1, len(seeds) // MOST_SEEDS)).to_dicts()
    own, recipe = plan.templates, plan.settings.recipe
    # Evenly spaced rows stand for the others that a round draws for each question.
    parameters = plan.settings.parameters
    num_examples = getattr(parameters, "num_examples", 0) or getattr(parameters, "num_demos", 0)
    examples = rows[:: max(1, len(rows) // max(1, num_examples))][:num_examples]
    steps = {step.name: step for step in plan.prompt_steps}

    def ask(step: PromptStep, row: Mapping[str, str]) -> float:
        words = reviewer if step.name in REVIEWING else own
        texts: dict[str, object] = {name: row.get(name, "") for name in (*step.needs, *step.may)}
        # What the settings give a step belongs to every question.
        question = words.render(f"{recipe}/{step.name}", **{**texts, "examples": Examples(examples), **step.given})
        return count(words.build_messages(question))

    # A comparison is about more than a seed has.
    of_seeds = {name: step for name, step in steps.items() if set(step.needs) <= {"prompt", "completion"}}
    asked = {name: [ask(step, row) for row in rows] for name, step in of_seeds.items()}
    chat = count(own.build_messages(""))
    lengths = Lengths(
        chat=chat,
        templates={name: ask(step, {}) for name, step in steps.items()},
        asked={step: fmean(numbers) for step, numbers in asked.items()},
        longest_asked={step: max(numbers) for step, numbers in asked.items()},
        prompt=fmean(count(own.build_messages(row["prompt"])) for row in rows) - chat,
        completion=fmean(count(own.build_messages(row["completion"])) for row in rows) - chat,
    )
    if num_seeds is None:
        num_seeds = max(len(seeds), getattr(plan.settings.parameters, "max_seeds", None) or 0)
    is_measured = plan.recipe.score_rows is not None and plan.settings.parameters.has_reviews
    pool = Pool(
        num_seeds,
        len(eft),
        _count_rows(eft, own, count),
        num_signal_pairs=plan.settings.num_signal_pairs if is_measured else 0,
        has_answers=bool(plan.settings.seeds.answer_field or plan.settings.seeds.answer_after),
    )
    return Measured(lengths, pool, how, len(seeds))


def _count_rows(eft: pl.DataFrame, words: Templates, count: Count) -> float:
    """Tokens of all EFT rows, from an evenly spaced part of them."""
    if not len(eft):
        return 0.0
    rows = eft.select("prompt", "completion").gather_every(max(1, len(eft) // MOST_SEEDS)).to_dicts()
    tokens = [count(words.build_messages(row["prompt"] + row["completion"])) for row in rows]
    return fmean(tokens) * len(eft)
