"""What a filter is, and how a list of filters is applied to the rows of a round.

A filter is a small class with its settings as fields. It keeps a row, or drops it with a reason. Filters are applied in
the order of their list, and each one decides about the rows that are still kept. So the first reason that applies is
the reason of the row.

A rule that looks at one row is a `RowFilter`: it returns the reason, or None to keep the row. A rule that compares rows
is a `Filter`: it sets `drop_reason` on the rows it drops. A recipe lists its own filters (`rules.list_word_filters`);
an experiment adds more in its file (`lance_assets.settings.filters`).

Hand-written: libraries that filter texts (datatrove, whose rule of "keep, or drop with a reason" this is) decide about
one document at a time, and know no prompt whose completions fall with it.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from lance_assets.records import CLEANED_SET

_READ = (
    *("row_id", "kind", "seed_id", "parent_id", "prompt", "completion"),
    *("sample_number", "finish_reason", "refused_reason"),
)
"""What a candidate has from its sample."""


@dataclass(slots=True)
class Candidate:
    """One row on its way through the filters."""

    row_id: str
    """The raw_generations row."""
    kind: str
    """"new_prompt", "completion", "degraded_completion" or a recipe's own."""
    seed_id: str
    """The seed, or the text, that it started from."""
    parent_id: str
    """A completion's new prompt; otherwise the seed."""
    prompt: str | None
    """The prompt; None where it could not be read."""
    completion: str | None
    """The completion; None for new prompts, and where it could not be read."""
    drop_reason: str | None = None
    """Why it is dropped; None while it is kept."""
    nearest_id: str | None = None
    """For a near-duplicate, the row or seed that it is too like."""
    tier: str | None = None
    """How the nearest was found: "exact", "lexical" or "embedding"."""
    similarity: float | None = None
    """To the nearest, 0..1; None where nothing was compared."""
    sample_number: int = 0
    """From 0, among the samples of one request."""
    finish_reason: str = "stop"
    """How the sample ended: "stop", "length" or "error"."""
    refused_reason: str | None = None
    """Why the recipe refused it as soon as it was read."""

    @property
    def is_kept(self) -> bool:
        """Whether no filter has dropped it."""
        return self.drop_reason is None

    @property
    def text(self) -> str | None:
        """What the model wrote: the prompt of a new prompt, otherwise the completion."""
        return self.prompt if self.kind == "new_prompt" else self.completion


_WRITTEN = {
    **{"new_prompt": ("prompt",), "named_prompt": ("prompt",), "lesson": ("prompt", "completion")},
    "pool_row": (),
}
"""Which texts of a row a model wrote, by its kind; of every other kind it is the completion."""


def list_written(row: Candidate) -> list[str]:
    """The texts of a row that a model wrote: a rule about what models do has no say about what people wrote.

    >>> list_written(Candidate("r", "new_prompt", "s", "s", "Name a bird.", None))
    ['Name a bird.']
    """
    fields = _WRITTEN.get(row.kind, ("completion",))
    return [text for name in fields if (text := getattr(row, name)) is not None]


def list_written_prompts(row: Candidate) -> list[str]:
    """The prompt of a row where a model wrote it, and nothing otherwise."""
    return [row.prompt] if "prompt" in _WRITTEN.get(row.kind, ()) and row.prompt is not None else []


def _recognise_nothing(prompt: str) -> bool:
    # An answer of False could let an evaluation prompt into the training data.
    raise RuntimeError(f"nothing was given that recognises evaluation prompts, but a filter asked about {prompt!r}")


def _classify_nothing(model: str, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
    raise RuntimeError(f"nothing was given that classifies texts, but a filter asked {model}")


def _score_nothing(asks: str, asked: Sequence[tuple[str, str]], max_new_tokens: int) -> Sequence[float | None]:
    raise RuntimeError(f"nothing was given that scores texts, but a filter asked the {asks}")


def _sample_nothing(
    asks: str,
    stage: str,
    asked: Sequence[tuple[str, str]],
    *,
    num_samples: int,
    temperature: float,
    max_new_tokens: int,
) -> Sequence[Sequence[str | None]]:
    raise RuntimeError(f"nothing was given that samples texts, but a filter asked the {asks}")


@dataclass(frozen=True)
class Known:
    """What filters may look up beside the rows that they decide about."""

    rows: Sequence[Candidate]
    """All candidates of the round, the dropped ones too."""
    seeds: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Prompt and completion of each seed, by its row id."""
    shown: Sequence[str] = ()
    """What the templates themselves showed the models that wrote: their words and few-shot examples."""
    is_evaluation_prompt: Callable[[str], bool] = _recognise_nothing
    """Whether a prompt belongs to the evaluation; asking is an error where nothing recognises them."""
    keeps_contrast: bool = False
    """Whether like completions are kept where they say something else."""
    licences: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The licences of each seed by its row id; a seed of unknown licence has none."""
    classify: Callable[[str, Sequence[str]], Sequence[Mapping[str, float]]] = _classify_nothing
    """(a model's folder, texts) to the probability of each label, 0..1, of each text."""
    score: Callable[[str, Sequence[tuple[str, str]], int], Sequence[float | None]] = _score_nothing
    """("model" or "judge", (row id, question) of each text, most tokens of an answer) to the score of each answer,
    0..10; None where none can be read."""

    sample: Callable[..., Sequence[Sequence[str | None]]] = _sample_nothing
    """Several samples of each prompt, by `confidence.AskSamples`."""

    def find_seed(self, row: Candidate) -> tuple[str, str]:
        """The prompt and completion of the seed that a row started from.

        Raises:
            ValueError: the seed is not among the round's.
        """
        if row.seed_id not in self.seeds:
            raise ValueError(
                f"generation {row.row_id} names seed {row.seed_id}, which is not among the {len(self.seeds)} seeds"
            )
        return self.seeds[row.seed_id]


class Filter(BaseModel, ABC):
    """A rule over the rows of a round; its fields are its settings, each with a range and a description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    libraries: ClassVar[tuple[str, ...]] = ()
    """The packages whose version decides what it drops."""

    name: str = Field("", description="What an experiment's file calls it; empty where a recipe lists it.")
    kinds: tuple[str, ...] | None = Field(
        None, description="Kinds of rows that it decides about, such as new_prompt; none: all kinds."
    )

    @abstractmethod
    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Set `drop_reason` on the rows that are dropped.

        Args:
            rows: the kept rows of the filter's `kinds`, in the order of the table.
            known: what else there is in the round.
        """


class RowFilter(Filter):
    """A rule over one row alone."""

    @abstractmethod
    def find_reason(self, row: Candidate) -> str | None:
        """Why the row is dropped, as one or two words joined by underscores; None to keep it."""

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Set the reason of each row that has one."""
        for row in rows:
            # Only kept rows come here, so no earlier reason is overwritten.
            row.drop_reason = self.find_reason(row)


class Orphans(Filter):
    """Drops completions of a dropped prompt, "prompt_dropped", and new prompts without completions, "no_completion"."""

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Follow each completion to its prompt and back."""
        # Dropped prompts are no longer among `rows`, so they are looked for among all.
        dropped = {row.row_id for row in known.rows if row.kind == "new_prompt" and not row.is_kept}
        completions = [row for row in rows if row.kind == "completion"]
        for row in completions:
            if row.parent_id in dropped:
                row.drop_reason = "prompt_dropped"
        with_completion = {row.parent_id for row in completions if row.is_kept}
        for row in rows:
            if row.kind == "new_prompt" and row.row_id not in with_completion:
                row.drop_reason = "no_completion"


def find_first_reason(row: Candidate, filters: Iterable[RowFilter]) -> str | None:
    """The reason of the first filter that drops a row; None where all keep it."""
    return next((reason for one in filters if (reason := one.find_reason(row)) is not None), None)


def apply_filters(known: Known, filters: Iterable[Filter]) -> None:
    """Let each filter in turn decide about the candidates that are still kept."""
    for one in filters:
        one.mark([row for row in known.rows if row.is_kept and (one.kinds is None or row.kind in one.kinds)], known)


def write_cleaned(rows: Sequence[Candidate]) -> pl.DataFrame:
    """The candidates as a table, schema `CLEANED_SET`."""
    return pl.DataFrame([[getattr(row, name) for name in CLEANED_SET] for row in rows], CLEANED_SET, orient="row")


def filter_generations(
    generations: pl.DataFrame,
    seeds: pl.DataFrame,
    *,
    filters: Iterable[Filter],
    added: Iterable[Filter] = (),
    shown: Sequence[str] = (),
    is_evaluation_prompt: Callable[[str], bool],
    keeps_contrast: bool = False,
    look_up: Mapping[str, Any] = MappingProxyType({}),
) -> pl.DataFrame:
    """Decide about every candidate of a round.

    Args:
        generations: the candidates, schema `RAW_GENERATIONS`.
        seeds: schema `SEED_SET`, every seed that a filter looks up.
        filters: in the order in which they are applied.
        added: further filters, applied after these, each with `Orphans` after it.
        shown: what the templates showed the models that wrote.
        is_evaluation_prompt: whether a prompt belongs to the evaluation; asked once for each different prompt.
        keeps_contrast: whether like completions are kept where they say something else.
        look_up: further fields of `Known` that the added filters may need.

    Returns:
        Schema `CLEANED_SET`: one row for each candidate, in the order of the input.

    Raises:
        ValueError: a completion names a new prompt that is not there, or a row a seed that a filter looks up.
    """
    rows = [Candidate(**row) for row in generations.select(_READ).iter_rows(named=True)]
    prompt_ids = {row.row_id for row in rows if row.kind == "new_prompt"}
    for row in rows:
        if row.kind == "completion" and row.parent_id not in prompt_ids:
            raise ValueError(
                f"completion {row.row_id} names new prompt {row.parent_id}, which is not among the generations"
            )
    columns = seeds.select("row_id", "prompt", "completion").iter_rows()
    texts = {row_id: (prompt, completion) for row_id, prompt, completion in columns}
    # A completion must not outlive its prompt, and the next filter must not compare with it.
    followed = [one for further in added for one in (further, Orphans())]
    # Many completions share a prompt, and asking the guard takes long.
    known = Known(rows, texts, shown, cache(is_evaluation_prompt), keeps_contrast, **look_up)
    apply_filters(known, [*filters, *followed])
    return write_cleaned(rows)


def count_drop_reasons(cleaned: pl.DataFrame) -> dict[str, int]:
    """How many rows are "kept" and how many are dropped for each reason, the most frequent first.

    The counts add up to the rows; of equally frequent reasons the first by name comes first.

    >>> count_drop_reasons(pl.DataFrame({"drop_reason": [None, "cut_off", None]}))
    {'kept': 2, 'cut_off': 1}
    """
    counts = Counter(cleaned["drop_reason"].to_list())
    num_kept = counts.pop(None, 0)
    return {"kept": num_kept} | dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
