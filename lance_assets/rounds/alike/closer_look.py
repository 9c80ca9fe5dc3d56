"""Whether two texts that are alike as wholes say the same: what a closer look at a pair reads of either.

The rules are in `comparing`, whose pairs are looked at here.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from lance_assets.algorithms.similarity.contrast import Content, compute_likeness, find_contrast, read_content
from lance_assets.algorithms.similarity.words import normalise_text

EMBEDDED_WORDS = 100
"""Words that an embedding surely reads: the packaged model takes 256 tokens, and code has two or more in a word."""
LONG_LIKENESS = 0.7
"""ROUGE-L above which texts that no embedding reads to their end are alike: LANCE's."""


@dataclass(frozen=True)
class Side:
    """Texts that are compared, with what a closer look at a pair reads of them, each read once."""

    texts: pl.DataFrame
    """Schema `TEXTS`."""

    @cached_property
    def own(self) -> list[str]:
        """What is compared of each row by itself: its completion, or its prompt where that alone is compared."""
        return self.texts.select(pl.coalesce("completion", "text")).to_series().to_list()

    @cached_property
    def completes(self) -> list[bool]:
        """Whether each row is compared by its completion."""
        return self.texts["completion"].is_not_null().to_list()

    @cached_property
    def prompts(self) -> list[str]:
        """The prompt of each row after normalisation."""
        known = {prompt: normalise_text(prompt) for prompt in self.texts["prompt"].unique()}
        return [known[prompt] for prompt in self.texts["prompt"]]

    @cached_property
    def _read(self) -> dict[int, Content]:
        return {}

    def read(self, place: int) -> Content:
        """What decides about a row; only rows that are like another are ever read."""
        if place not in self._read:
            self._read[place] = read_content(self.own[place])
        return self._read[place]


def is_same(left: Side, row: int, right: Side, other: int, *, bar: float | None) -> bool:
    """Whether two rows that are alike as wholes are alike by themselves too.

    Args:
        left: holds the one row.
        row: its place.
        right: holds the other row.
        other: its place.
        bar: ROUGE-L that the texts themselves must be above; None: only where an embedding does not read their end.
    """
    first, second = left.read(row), right.read(other)
    if left.completes[row]:
        # Prompts that differ have other numbers and names, and so have their completions.
        if first.num_negations != second.num_negations:
            return False
        if left.prompts[row] == right.prompts[other] and find_contrast(first, second) is not None:
            return False
    if bar is None:
        if max(len(first.words), len(second.words)) <= EMBEDDED_WORDS:
            return True
        bar = LONG_LIKENESS
    return compute_likeness(first.words, second.words) > bar


def keep_same(found: pl.DataFrame, left: Side, right: Side, *, bar: float | None) -> pl.Series:
    """Which pairs of places (left, right, similarity) are the same by a closer look: a Boolean of each."""
    # Texts of one wording with other numbers have as many pairs as a square, and no pair of them needs a look of its
    # own.
    is_open = ~find_apart(found, left, right)
    pairs = found.filter(pl.Series(is_open)).select("left", "right").iter_rows()
    is_open[is_open] = [is_same(left, row, right, other, bar=bar) for row, other in pairs]
    return pl.Series(is_open, dtype=pl.Boolean)


def find_apart(found: pl.DataFrame, left: Side, right: Side) -> np.ndarray:
    """Which pairs differ in how much they deny or, of one prompt, in their numbers: what `is_same` asks first.

    Returns:
        bool [num_pairs]. Each text is read once, and pairs are compared as arrays.
    """
    rows, others = found["left"].to_numpy(), found["right"].to_numpy()
    codes: dict[object, int] = {}

    def encode(side: Side, places: np.ndarray) -> np.ndarray:
        """The negations, prompt and numbers of each pair's row as whole numbers, int64 [3, num_pairs]."""
        used, of_pairs = np.unique(places, return_inverse=True)
        table = np.empty((3, len(used)), dtype=np.int64)
        for column, place in enumerate(used.tolist()):
            content = side.read(place)
            # A prompt is a text and numbers are a tuple, so that none is taken for the other.
            keys = (side.prompts[place], (content.numbers, content.last_number))
            table[:, column] = (content.num_negations, *(codes.setdefault(key, len(codes)) for key in keys))
        return table[:, of_pairs]

    completes = np.array(left.completes, dtype=bool)[rows]
    (denied, asked, counted), (denied_other, asked_other, counted_other) = encode(left, rows), encode(right, others)
    return completes & ((denied != denied_other) | ((asked == asked_other) & (counted != counted_other)))
