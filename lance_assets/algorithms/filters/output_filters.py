r"""Which polished completions to drop: boilerplate, too short, or one piece over and over.

Source: Kun (arXiv 2401.06477), `delete_key_output.py` of the authors' code (Zheng0428/COIG-Kun, commit a9c6df1): five
keywords, 20 characters, a unit six times in a row. It does not run as released; what follows is what it means to do.

Differences from the authors' code:

1. A repetition counts wherever it stands; theirs looks at the beginning alone, so that one after a sentence passes.
2. A run of blanks counts as one blank, and both ends have one: "ha ha\nha ..." repeats "ha ".
3. Six times in a row is a repetition where the unit has a letter and at least two different characters. One character
   over and over and units of digits and signs need a run of `PLAIN_RUN_CHARS` characters, so that "1000000",
   "#ffffff", "哈哈哈哈哈哈" and a short list of zeros pass and "!!!!" up to the token limit does not. Units of blanks
   and of the signs that draw lines (`LINE_SIGNS`, dashes, box drawing) never count: a table's rule passes.
4. Characters are counted without the blanks at either end; theirs leaves those in front.

A table whose cells say the same six times in a row, a refrain and a list of equal words are repetitions too.
"""

import unicodedata
from dataclasses import dataclass

import numpy as np

from lance_assets.algorithms.filters.language_profiles import LanguageProfile, find_keyword

PLAIN_RUN_CHARS = 100
"""From how many characters a run of one character, digits or signs is a repetition. Ours: 64 binary digits pass."""
LINE_SIGNS = frozenset(" -=_*~#.|:+·•…⋯")
"""Signs that draw lines; dashes of all kinds and box drawing count among them."""


@dataclass(frozen=True)
class Repetition:
    """One piece of a text over and over."""

    unit: str
    """The piece, with single blanks; the shortest there is, and of equally short ones the first."""
    num_repeats: int
    """How often it stands there in full, one after the other."""


def _draws_lines(character: str) -> bool:
    return character in LINE_SIGNS or unicodedata.category(character) == "Pd" or "─" <= character <= "╿"


def _is_repetition(unit: str, run_chars: int) -> bool:
    characters = set(unit)
    if all(map(_draws_lines, characters)):
        return False
    return (len(characters) > 1 and any(map(str.isalpha, characters))) or run_chars >= PLAIN_RUN_CHARS


def find_repetition(text: str, *, max_repeats: int = 5) -> Repetition | None:
    r"""Find a unit, of whatever length, that stands more often in a row than it may.

    Cost: n log n for texts that repeat little, as of each unit length only every such character is compared: a run of
    six units holds five such matches one after the other. Lengths that pass compare all characters, in numpy: n * n / 6
    where all of them do, as in a text that is one long line.

    Args:
        text: what to look at.
        max_repeats: times a unit may stand in a row, at least 1; the authors' 5.

    Returns:
        The repetition with the shortest unit, or None; the module says which runs count.

    Raises:
        ValueError: max_repeats below 1.

    >>> find_repetition("Well: no no no no no no")
    Repetition(unit=' no', num_repeats=6)
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
                return Repetition(unit, run_chars // length)
    return None


def _list_runs(matches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the stretches between two mismatches, empty ones among them."""
    ends = np.append(np.flatnonzero(~matches), len(matches))
    starts = np.append(0, ends[:-1] + 1)
    return starts, ends - starts


def filter_output(text: str, profile: LanguageProfile, *, min_chars: int = 20, max_repeats: int = 5) -> str | None:
    """Why a polished completion is dropped; None to keep it.

    Args:
        text: the completion.
        profile: whose keywords to look for.
        min_chars: fewest characters, 0 or more, without the blanks at either end; the authors' 20.
        max_repeats: times a unit may stand in a row, at least 1; the authors' 5.

    Returns:
        The first that applies of "keyword:<word>", "too_short" and "repetition", or None.

    Raises:
        ValueError: min_chars below 0, or max_repeats below 1.

    >>> from lance_assets.algorithms.filters.language_profiles import PROFILES
    >>> filter_output("很抱歉，我无法回答这个问题。", PROFILES["chinese"])
    'keyword:抱歉'
    >>> filter_output("It is seven.", PROFILES["english"])
    'too_short'
    """
    if min_chars < 0:
        raise ValueError(f"min_chars must be 0 or more, got {min_chars}")
    keyword = find_keyword(text, profile.output_keywords, profile)
    if keyword is not None:
        return f"keyword:{keyword}"
    if len(text.strip()) < min_chars:
        return "too_short"
    return "repetition" if find_repetition(text, max_repeats=max_repeats) is not None else None
