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
from resources.readers.text_files import read_texts

CHARS_PER_TOKEN = 4.0
"""Characters per token of English text with a vocabulary of 150,000 tokens; assumed."""
MARK_TOKENS = 5.0
"""Tokens around one message of a chat: <|im_start|>, role, line break, <|im_end|>, line break."""
MOST_SEEDS = 256
"""The number of seeds that are measured, evenly spaced over the file."""
UNSHOWN = ("completion_a", "completion_b", "mistake", "kept")
"""What a step may show that is no part of a seed; measured as if it were empty."""

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


def measure_lengths(plan: Plan, model: FoundModel | None, *, num_seeds: int | None = None) -> Measured:
    """Measure the seeds in the template of every step.

    Args:
        plan: the experiment.
        model: whose tokenizer counts; None for a server's.
        num_seeds: seeds to reckon with; None for those of the file, or `max_seeds` where that is more.

    Raises:
        SeedFileError: the seed file cannot be used.
    """
    count, how = choose_count(model)
    seeds = read_seeds(plan.settings.seeds, plan.folder)
    eft = read_eft(plan.settings.seeds, plan.folder)
    rows = seeds.select("prompt", "completion").gather_every(max(1, len(seeds) // MOST_SEEDS)).to_dicts()
    texts, num_texts = _read_texts(plan, rows)
    own = plan.templates
    # Evenly spaced rows stand for the others that a round draws for each question.
    parameters = plan.settings.parameters
    num_examples = getattr(parameters, "num_examples", 0) or getattr(parameters, "num_demos", 0)
    examples = rows[:: max(1, len(rows) // max(1, num_examples))][:num_examples]
    empty = {name: "" for name in ("prompt", "completion", "text", *UNSHOWN)}

    def ask(step: PromptStep, **shown: object) -> float:
        forecast = plan.recipe.forecast
        role = forecast.words.get(step.name) if forecast is not None else None
        words = own if role is None else plan.role_templates.get(role, own)
        # What the settings give a step belongs to every question.
        given = {**empty, **shown, "examples": Examples(examples), **step.given}
        wanted = {name: given.get(name, "") for name in (*step.variables, "prompt", "completion", "examples")}
        return count(words.build_messages(words.render(f"{plan.settings.recipe}/{step.name}", **wanted)))

    steps = [step for step in plan.prompt_steps if not set(UNSHOWN[:2]) & set(step.needs)]
    about = {step.name: texts if "text" in step.needs and texts else rows for step in steps}
    asked = {step.name: [ask(step, **row) for row in about[step.name]] for step in steps}
    chat = count(own.build_messages(""))

    def measure(words: Sequence[str]) -> float:
        return fmean(count(own.build_messages(word)) for word in words) - chat if words else 0.0

    lengths = Lengths(
        chat=chat,
        templates={step.name: ask(step) for step in plan.prompt_steps},
        asked={step: fmean(numbers) for step, numbers in asked.items()},
        longest_asked={step: max(numbers) for step, numbers in asked.items()},
        prompt=measure([row["prompt"] for row in rows]),
        completion=measure([row["completion"] for row in rows]),
        text=measure([row["text"] for row in texts]),
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
        num_texts=num_texts,
    )
    return Measured(lengths, pool, how, len(seeds))


def _read_texts(plan: Plan, seeds: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, str]], int]:
    """Some of the experiment's texts, each as what a step is asked about, and how many there are."""
    named = plan.settings.texts
    if named is None:
        return [], 0
    found = read_texts(named.find(plan.folder), field=named.field, limit=named.limit)["text"]
    chosen = found.gather_every(max(1, len(found) // MOST_SEEDS))
    # The prompt that a model names for a text is taken to be like a seed's.
    prompts = [seeds[place % len(seeds)]["prompt"] for place in range(len(chosen))]
    rows = [{"prompt": prompt, "completion": text, "text": text} for prompt, text in zip(prompts, chosen, strict=True)]
    return rows, len(found)


def _count_rows(eft: pl.DataFrame, words: Templates, count: Count) -> float:
    """Tokens of all EFT rows, from an evenly spaced part of them."""
    if not len(eft):
        return 0.0
    rows = eft.select("prompt", "completion").gather_every(max(1, len(eft) // MOST_SEEDS)).to_dicts()
    tokens = [count(words.build_messages(row["prompt"] + row["completion"])) for row in rows]
    return fmean(tokens) * len(eft)
