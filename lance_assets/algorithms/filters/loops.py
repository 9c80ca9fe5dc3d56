r"""Texts that go round in a loop: the same sentences, lines or phrases again, perhaps with small changes.

`output_filters.Repetition` finds one piece several times in a row. A small model also loops with another word in each
turn, or over a whole paragraph, and then two measures see it that need no word list and no language:

1. Compression. A text that zlib shrinks to less than 1 / `max_compression` of its bytes holds little beside
   repetitions. Whisper (arXiv 2212.04356, section 4.5) decodes again above 2.4 for the same reason.
2. Repeated words. The share of a text's words that lie in a run of `RUN_WORDS` words which occurred before, as the
   duplicate n-grams of Gopher (arXiv 2112.11446, table A1) count characters.

Either alone has false finds: compression in tables and code, which repeat their signs, and repeated words in dialogues.
So a text is a loop where both agree, or where one of them is beyond doubt (`CERTAIN`). Of 9,350 prompts and completions
by people (Self-Instruct, T0, GSM8K) none is one; of 1,400 solutions that models wrote for GSM8K 8 are, and go round.

Written by hand: datatrove's `GopherRepetitionFilter`, from which the second measure is, brings a tokenizer and a
pipeline for what is twenty lines here.
"""

import zlib
from dataclasses import dataclass

from pydantic import Field

from lance_assets.algorithms.filters.contract import Candidate, RowFilter, list_written
from lance_assets.algorithms.similarity.words import list_ngrams, tokenize_words

MIN_BYTES = 100
"""Shorter texts are not measured: zlib's table of symbols alone takes some tens of bytes."""
RUN_WORDS = 4
"""Words of a run that counts as said again."""
CERTAIN = 1.6
"""By this factor one measure has to exceed its bound where the other one does not."""


@dataclass(frozen=True)
class LoopMeasures:
    """How much of a text is said again."""

    compression: float
    """Bytes of UTF-8 over bytes after zlib; 1 for a text that is too short to measure."""
    repeated_rate: float
    """Share of the words, 0..1, that lie in a run of words which occurred before."""


def measure_loops(text: str) -> LoopMeasures:
    """Measure how much of a text is said again. Cost: linear.

    >>> measure_loops("The score is low. It is low because it is low. " * 8).compression > 5
    True
    >>> measure_loops("We walk to the sea.").repeated_rate
    0.0
    """
    plain = " ".join(text.split()).encode("utf-8", "surrogatepass")
    compression = len(plain) / len(zlib.compress(plain, 9)) if len(plain) >= MIN_BYTES else 1.0
    words = tokenize_words(text)
    seen: set[str] = set()
    is_again = [False] * len(words)
    for place, run in enumerate(list_ngrams(words, RUN_WORDS)):
        if run in seen:
            is_again[place : place + RUN_WORDS] = [True] * RUN_WORDS
        seen.add(run)
    return LoopMeasures(compression, sum(is_again) / len(words) if words else 0.0)


class Loop(RowFilter):
    """Drops rows of which a written text goes round in a loop: "loop"."""

    max_compression: float = Field(2.4, gt=1, description="Bytes over bytes after zlib that a text may have.")
    max_repeated_rate: float = Field(
        0.5, gt=0, le=1, description="Share of a text's words that may lie in a run of four words said before."
    )

    def find_reason(self, row: Candidate) -> str | None:
        """Measure what was written in the row."""
        return "loop" if any(map(self.is_loop, list_written(row))) else None

    def is_loop(self, text: str) -> bool:
        """Whether both measures are above their bounds, or one of them far above."""
        found = measure_loops(text)
        shares = (found.compression / self.max_compression, found.repeated_rate / self.max_repeated_rate)
        return min(shares) > 1 or max(shares) > CERTAIN
