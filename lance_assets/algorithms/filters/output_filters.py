r"""Completions that are too short in characters, or that say one piece over and over.

Source: Kun (arXiv 2401.06477), `delete_key_output.py` of the authors' code (Zheng0428/COIG-Kun, commit a9c6df1): five
keywords (`keywords`), 20 characters, a unit six times in a row. It does not run as released; the rules here are what it
means to do.

Differences from the authors' code:

1. A repetition counts anywhere; the authors' code looks at the beginning alone, so that one after a sentence passes.
2. A run of blanks counts as one blank, and both ends have one: "ha ha\nha ..." repeats "ha ".
3. Six times in a row is a repetition where the unit has a letter and at least two different characters. One character
   over and over and units of digits and signs need a run of `PLAIN_RUN_CHARS` characters, so that "1000000",
   "#ffffff", "哈哈哈哈哈哈" and a short list of zeros pass and "!!!!" up to the token limit does not. Units of blanks
   and of the signs that draw lines (`LINE_SIGNS`, dashes, box drawing) never count: a table's rule passes.
4. Characters are counted without the blanks at either end; the authors' code counts those in front.

A table with six equal cells in a row, a refrain and a list of equal words are repetitions too.
"""

import unicodedata
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from lance_assets.algorithms.filters.contract import Candidate, RowFilter

PLAIN_RUN_CHARS = 100
"""Characters from which a run of one character, digits or signs is a repetition. The number is ours: 64 bits pass."""
LINE_SIGNS = frozenset(" -=_*~#.|:+·•…⋯")
"""Signs that draw lines; dashes of all kinds and box drawing count among them."""


@dataclass(frozen=True)
class RepeatedPiece:
    """One piece of a text over and over."""

    unit: str
    """The piece, with single blanks; the shortest there is, and of equally short ones the first."""
    num_repeats: int
    """How often it occurs in full, one after the other."""


def _draws_lines(character: str) -> bool:
    return character in LINE_SIGNS or unicodedata.category(character) == "Pd" or "─" <= character <= "╿"


def _is_repetition(unit: str, run_chars: int) -> bool:
    characters = set(unit)
    if all(map(_draws_lines, characters)):
        return False
    return (len(characters) > 1 and any(map(str.isalpha, characters))) or run_chars >= PLAIN_RUN_CHARS


def find_repetition(text: str, *, max_repeats: int = 5) -> RepeatedPiece | None:
    r"""Find a unit, of any length, that occurs more often in a row than it may.

    Cost: n log n for texts that repeat little, as of each unit length only every such character is compared: a run of
    six units holds five such matches one after the other. Lengths that pass compare all characters, in numpy: n * n / 6
    where all of them do, as in a text that is one long line.

    Args:
        text: what to look at.
        max_repeats: times a unit may occur in a row, at least 1; the authors' 5.

    Returns:
        The repetition with the shortest unit, or None; the module says which runs count.

    Raises:
        ValueError: max_repeats below 1.

    >>> find_repetition("Well: no no no no no no")
    RepeatedPiece(unit=' no', num_repeats=6)
    >>> find_repetition("| a | b |\n|------------|------------|")
    """
    if max_repeats < 1:
        raise ValueError(f"max_repeats must be at least 1, got {max_repeats}")
    plain = f" {' '.join(text.split())} "
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    for length in range(1, len(codes) // (max_repeats + 1) + 1):
        marks = codes[length::length] == codes[:-length:length]
        if np.count_nonzero(marks) < max_repeats or _list_runs(marks)[1].max() < max_repeats:
            continue
        starts, run_lengths = _list_runs(codes[length:] == codes[:-length])
        for place in np.flatnonzero(run_lengths >= max_repeats * length):
            start, run_chars = int(starts[place]), int(run_lengths[place]) + length
            unit = plain[start : start + length]
            if _is_repetition(unit, run_chars):
                return RepeatedPiece(unit, run_chars // length)
    return None


def _list_runs(matches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the stretches between two mismatches, empty ones among them."""
    ends = np.append(np.flatnonzero(~matches), len(matches))
    starts = np.append(0, ends[:-1] + 1)
    return starts, ends - starts


class CompletionChars(RowFilter):
    """Drops rows whose completion has too few characters: "too_short"."""

    min_chars: int = Field(20, ge=0, description="Fewest characters, without the blanks at either end.")

    def find_reason(self, row: Candidate) -> str | None:
        """Count the characters; None for a row without a completion."""
        return "too_short" if row.completion is not None and len(row.completion.strip()) < self.min_chars else None


class Repetition(RowFilter):
    """Drops rows whose completion says one piece over and over: "repetition"."""

    max_repeats: int = Field(5, ge=1, description="Times a piece of a completion may occur in a row.")

    def find_reason(self, row: Candidate) -> str | None:
        """Look for a repetition; None for a row without a completion."""
        found = None if row.completion is None else find_repetition(row.completion, max_repeats=self.max_repeats)
        return None if found is None else "repetition"
