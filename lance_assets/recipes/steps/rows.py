"""The rows that a recipe's functions hand to each other, and how recipes propose new ones.

There is a frozen record for each table. A table is read into records with `read_rows` and written from records with
`build_table`; between the two, a recipe handles no dictionaries. The meaning of each field is the column's in
`lance_assets.records`.

The functions at the end ask for new prompts from seeds, and for completions of prompts. They record every sample, also
one that cannot be read.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import polars as pl

from lance_assets.algorithms.reviews.review_parsing import ReviewResult
from lance_assets.conversations import show_prompt
from lance_assets.prompts import Examples
from lance_assets.recipes.asking import (
    RoundIdentity,
    build_requests,
    close_thoughts,
    read_completion,
    read_new_prompt,
    read_proposal,
)
from lance_assets.records import Ask, FinishReason, Request, Sample, derive_row_id

R = TypeVar("R")


class Shown(Protocol):
    """What a model can be shown of a row."""

    @property
    def row_id(self) -> str:
        """Its id, from which the ids of the requests about it derive."""
        ...

    @property
    def prompt(self) -> str:
        """Its prompt."""
        ...

    @property
    def completion(self) -> str:
        """Its completion."""
        ...


@dataclass(frozen=True)
class Example:
    """A prompt with its completion, without anything else."""

    row_id: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class Seed:
    """A row of `SEED_SET`."""

    row_id: str
    prompt: str
    completion: str
    answer: str | None
    source: str | None
    source_round: str | None
    source_id: str | None
    review_score: float | None


@dataclass(frozen=True)
class SftRow:
    """A row of `SFT_SET`."""

    row_id: str
    prompt: str
    completion: str
    source: str
    source_round: str
    source_id: str | None
    review_score: float | None = None


@dataclass(frozen=True)
class Origin:
    """Where a sample comes from, and what was read of it: the part of a `Generation` that its recipe knows."""

    seed_id: str
    parent_id: str
    sample_number: int
    prompt: str | None
    completion: str | None


@dataclass(frozen=True)
class Generation:
    """A row of `RAW_GENERATIONS`."""

    row_id: str
    kind: str
    seed_id: str
    parent_id: str
    sample_number: int
    prompt: str | None
    completion: str | None
    raw_text: str
    finish_reason: FinishReason
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sampling_seed: int | None = None
    expected_score: float | None = None
    unscored_reason: str | None = None
    pool_measure: float | None = None
    is_correct: bool | None = None
    similarity: float | None = None
    agreement: float | None = None
    refused_reason: str | None = None


@dataclass(frozen=True)
class CleanedRow:
    """A row of `CLEANED_SET` that was kept, so that it has both texts."""

    row_id: str
    kind: str
    seed_id: str
    parent_id: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class RowReviews:
    """All reviews of one row."""

    texts: tuple[str, ...]
    """As written."""
    result: ReviewResult
    """As read: a score or a reason for each, and their mean."""


NOT_REVIEWED = RowReviews((), ReviewResult([], [], None))
"""Of a row that nobody reviewed."""


@dataclass(frozen=True)
class ReviewedRow:
    """A row of `REVIEWED_SET`."""

    row_id: str
    kind: str
    seed_id: str
    prompt: str
    completion: str
    answer: str | None
    reviews: tuple[str, ...]
    scores: tuple[float | None, ...]
    unscored_reasons: tuple[str | None, ...]
    review_score: float | None
    raw_completion: str | None = None
    drop_reason: str | None = None


def read_rows(record: type[R], table: pl.DataFrame) -> list[R]:
    """The rows of a table as records, in order.

    Args:
        record: one of the classes here; its fields are columns of the table.
        table: of the record's schema; further columns are ignored.
    """
    names = [one.name for one in fields(record)]  # type: ignore[arg-type]
    return [record(*row) for row in table.select(names).iter_rows()]


def build_table(rows: Sequence[Any], schema: pl.Schema) -> pl.DataFrame:
    """Records as a table, in order.

    Args:
        rows: of the class whose fields are the columns of the schema.
        schema: one of `lance_assets.records`.
    """
    values = [tuple(getattr(row, name) for name in schema) for row in rows]
    return pl.DataFrame(values, schema=schema, orient="row")


def originate(seed: Shown, number: int, *, prompt: str | None, completion: str | None) -> Origin:
    """The origin of a sample that starts from a seed."""
    return Origin(seed.row_id, seed.row_id, number, prompt, completion)


def record_samples(
    kind: str, origins: Sequence[Origin], requests: Sequence[Request], samples: Sequence[Sample]
) -> list[Generation]:
    """A generation for each sample, in order.

    Raises:
        ValueError: the three differ in length.
    """
    return [
        Generation(
            row_id=request.row_id,
            kind=kind,
            seed_id=origin.seed_id,
            parent_id=origin.parent_id,
            sample_number=origin.sample_number,
            prompt=origin.prompt,
            completion=origin.completion,
            raw_text=sample.text,
            finish_reason=sample.finish_reason,
            error=sample.error,
            prompt_tokens=sample.prompt_tokens,
            completion_tokens=sample.completion_tokens,
            sampling_seed=request.sampling_seed,
        )
        for origin, request, sample in zip(origins, requests, samples, strict=True)
    ]


def build_reviewed_row(row: Seed | CleanedRow, reviews: RowReviews = NOT_REVIEWED) -> ReviewedRow:
    """A seed or a kept row with its reviews."""
    if isinstance(row, Seed):
        kind, seed_id, answer = "seed", row.row_id, row.answer
    else:
        kind, seed_id, answer = row.kind, row.seed_id, None
    return ReviewedRow(
        row_id=row.row_id,
        kind=kind,
        seed_id=seed_id,
        prompt=row.prompt,
        completion=row.completion,
        answer=answer,
        reviews=reviews.texts,
        scores=tuple(reviews.result.scores),
        unscored_reasons=tuple(reviews.result.unscored_reasons),
        review_score=reviews.result.review_score,
    )


def read_kept(cleaned: pl.DataFrame, *, kinds: Sequence[str] | None = None) -> list[CleanedRow]:
    """The rows that cleaning kept, in order.

    Args:
        cleaned: schema `CLEANED_SET`.
        kinds: only rows of these kinds; None for all. Rows of other kinds may lack a completion.
    """
    return read_rows(CleanedRow, find_kept(cleaned, kinds=kinds))


def find_kept(cleaned: pl.DataFrame, *, kinds: Sequence[str] | None = None) -> pl.DataFrame:
    """The same as a table, with all columns."""
    kept = cleaned.filter(pl.col("drop_reason").is_null())
    return kept if kinds is None else kept.filter(pl.col("kind").is_in(kinds))


def draw_examples(identity: RoundIdentity, row_id: str, pool: Sequence[Shown], *, number: int) -> list[Shown]:
    """Other rows than this one, which a template shows beside it.

    Args:
        identity: the round, which draws.
        row_id: of the row in question; it has a stream of its own, so that a row more or less changes no other's.
        pool: what is drawn from, in the order of ids (`sort_pool`); the row itself may be among it.
        number: how many, or all where there are fewer.
    """
    rng = random.Random(derive_row_id(identity.rng_seed, identity.round_key, row_id))
    others = [other for other in pool if other.row_id != row_id]
    return rng.sample(others, min(number, len(others)))


def sort_pool(rows: Sequence[Shown]) -> list[Shown]:
    """Rows in the order of their ids, so that a draw does not depend on the order of the table."""
    return sorted(rows, key=lambda row: row.row_id)


def show_examples(rows: Sequence[Shown]) -> Examples:
    """Rows as the variable `examples` of a template."""
    return Examples({"prompt": show_prompt(row.prompt), "completion": row.completion} for row in rows)


def propose_from_seeds(
    identity: RoundIdentity,
    ask: Ask,
    seeds: Sequence[Shown],
    *,
    kind: str,
    step: str,
    num_samples: int,
    pool: Sequence[Shown] = (),
    num_examples: int = 0,
) -> list[Generation]:
    """Ask one proposing step's template about each seed and record every sample.

    The template is shown the whole conversation of a seed that is one, and what it proposes is one user turn.

    Args:
        identity: the round.
        ask: asks the model; the stage is `kind`.
        seeds: what is shown, one seed a prompt.
        kind: of the rows: "new_prompt", or another for completions of the seed's own prompt.
        step: the prompt template, given `prompt`, `completion` and, of other seeds, `examples`.
        num_samples: samples of each seed.
        pool: the seeds that the examples are drawn from (`draw_examples`).
        num_examples: examples of each seed.
    """
    asked, ordered = [], sort_pool(pool)
    for seed in seeds:
        examples = show_examples(draw_examples(identity, seed.row_id, ordered, number=num_examples))
        texts = {"prompt": seed.prompt, "completion": seed.completion, "examples": examples}
        asked.append((seed.row_id, identity.templates.render(step, **texts)))
    requests = build_requests(identity, kind, asked, num_samples)
    samples = close_thoughts(ask(kind, requests))
    origins = []
    for index, sample in enumerate(samples):
        # Requests come seed by seed, each with all its samples, so the place says which seed it was.
        seed, asked_with = seeds[index // num_samples], (identity.templates, step, sample)
        # What was proposed is a prompt without a completion yet, or a completion of the seed's own prompt.
        is_new = kind == "new_prompt"
        prompt = read_new_prompt(*asked_with) if is_new else seed.prompt
        completion = None if is_new else read_proposal(*asked_with)
        origins.append(originate(seed, index % num_samples, prompt=prompt, completion=completion))
    return record_samples(kind, origins, requests, samples)


def word_in_manner_of(
    identity: RoundIdentity, seeds: Sequence[Shown], *, step: str, num_examples: int
) -> list[tuple[str, str]]:
    """What `propose_in_manner_of` asks for each seed: its row id, and the template's words with the examples."""
    asked, ordered = [], sort_pool(seeds)
    for seed in seeds:
        shown = [seed, *draw_examples(identity, seed.row_id, ordered, number=num_examples - 1)]
        texts = {"prompt": seed.prompt, "completion": seed.completion, "examples": show_examples(shown)}
        asked.append((seed.row_id, identity.templates.render(step, **texts)))
    return asked


def propose_in_manner_of(
    identity: RoundIdentity, ask: Ask, seeds: Sequence[Shown], *, step: str, num_examples: int, num_samples: int
) -> list[Generation]:
    """Ask for new prompts with some seeds shown as examples, and record every sample.

    Each seed is the first example once. The round draws the others, the same ones whatever the order of the seeds. The
    template is given `examples`, numbered, and the first one's `prompt` and `completion`.
    """
    asked = word_in_manner_of(identity, seeds, step=step, num_examples=num_examples)
    requests = build_requests(identity, "new_prompt", asked, num_samples)
    samples = close_thoughts(ask("new_prompt", requests))
    origins = [
        originate(
            seeds[index // num_samples],
            index % num_samples,
            prompt=read_new_prompt(identity.templates, step, sample),
            completion=None,
        )
        for index, sample in enumerate(samples)
    ]
    return record_samples("new_prompt", origins, requests, samples)


def complete_new_prompts(
    identity: RoundIdentity, ask: Ask, new_prompts: Sequence[Generation], num_samples: int
) -> list[Generation]:
    """Sample completions of every new prompt that was read and not cut, by the stage `completion`."""
    # A prompt that was cut asks for something else than it was going to.
    readable = [(row, row.prompt) for row in new_prompts if row.prompt is not None and row.finish_reason == "stop"]
    requests = build_requests(identity, "completion", [(row.row_id, prompt) for row, prompt in readable], num_samples)
    samples = close_thoughts(ask("completion", requests))
    origins = []
    for index, sample in enumerate(samples):
        row, prompt = readable[index // num_samples]
        completion = read_completion(identity, sample)
        origins.append(Origin(row.seed_id, row.row_id, index % num_samples, prompt, completion))
    return record_samples("completion", origins, requests, samples)


def complete_prompts(identity: RoundIdentity, ask: Ask, rows: Sequence[Shown], *, stage: str) -> list[Generation]:
    """One completion of each row's own prompt, asked as it is and recorded as the kind `stage`."""
    requests = build_requests(identity, stage, [(row.row_id, row.prompt) for row in rows], 1)
    samples = close_thoughts(ask(stage, requests))
    origins = [
        originate(row, 0, prompt=row.prompt, completion=read_completion(identity, sample))
        for row, sample in zip(rows, samples, strict=True)
    ]
    return record_samples(stage, origins, requests, samples)
