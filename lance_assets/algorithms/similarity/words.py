r"""Texts as words: tokens, counts, n-grams, what makes two texts the same, and ROUGE-L.

Source of ROUGE-L: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1 (sentence level), as
the rouge-score package computes it with its default tokenizer and no stemming.

Differences from rouge-score:

1. Each Chinese or Japanese character, each letter with its marks of the other scripts without spaces (Thai, Lao, Khmer,
   Burmese), and each run of letters of any other script is a token too; rouge-score drops everything outside a-z and
   0-9. On ASCII text both give the same tokens.
2. The longest common subsequence comes from rapidfuzz, which computes it bit by bit: there is no recursion, and texts
   of 4,000 words take milliseconds.

Differences from the `rouge` 1.0.1 package that LANCE's code calls:

3. ROUGE-L is the plain one on lists of words. The package computes the summary-level variant over sets of unique,
   case-sensitive words, with sentences split on ".".
4. No text raises an error. The package fails with RecursionError on two texts of 520 words without a period, and with
   ValueError on a text of dots alone.

A letter with its marks is what Unicode calls a grapheme cluster (UAX 29). Where words end in Thai or Khmer, Unicode
leaves to dictionaries, which differ between libraries and their versions; a Thai word has three or four such letters.
"""

import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from rapidfuzz.distance import LCSseq

CJK_CHARACTER = re.compile(
    "[\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)
"""A character of a script that is written without spaces: Han and kana."""
_UNSPACED = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf"
    "\u1000-\u102a\u103f\u1050-\u1055\u1780-\u17b3"
)
"""Letters of Thai, Lao, Burmese and Khmer, which are written without spaces too."""
_UNSPACED_LETTER = re.compile(rf"[{_UNSPACED}]")
# Most texts are ASCII, and need no pattern that knows the marks of every script.
_ASCII_TOKEN = re.compile("[a-z0-9]+")
_EDGES = " .,;:!?…\"'`*_“”‘’«»()[]{}。、「」『』"
"""Removed at both ends. Minus, percent and other signs stay: "-5" is not "5"."""
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class RougeL:
    """How much of two texts is a common subsequence of words."""

    precision: float
    """Common subsequence over the candidate's words, 0..1."""
    recall: float
    """Common subsequence over the reference's words, 0..1."""
    f: float
    """Harmonic mean of both, 0..1."""


@cache
def _build_token_pattern() -> re.Pattern[str]:
    """A letter of a script without spaces with its marks, or a run of other letters and digits with theirs."""
    # Every code point is looked at, which takes long; ASCII text never comes here.
    marks = "".join(chr(i) for i in range(sys.maxunicode + 1) if unicodedata.category(chr(i)).startswith("M"))
    cjk = CJK_CHARACTER.pattern
    return re.compile(rf"{cjk}|[{_UNSPACED}][{marks}]*|(?:(?!{cjk}|[{_UNSPACED}])[^\W_][{marks}]*)+")


def tokenize_words(text: str) -> list[str]:
    """Split a text into lowercase words without signs.

    >>> tokenize_words("It's 3.5 km.")
    ['it', 's', '3', '5', 'km']
    >>> tokenize_words("Café 你好")
    ['café', '你', '好']
    """
    lowered = text.lower()
    return (_ASCII_TOKEN if lowered.isascii() else _build_token_pattern()).findall(lowered)


def count_words(text: str) -> int:
    """Count the words between spaces; each character of a script without spaces counts as one, with its marks.

    >>> count_words("What is 5 + 3?"), count_words("五加三 is"), count_words("แม่น้ำ")
    (5, 4, 4)
    """
    if text.isascii():
        return len(text.split())
    spaced = CJK_CHARACTER.sub(r" \g<0> ", text)
    # Before each letter alone, so that its marks stay with it.
    return len(_UNSPACED_LETTER.sub(r" \g<0>", spaced).split())


def list_ngrams(words: Sequence[str], n: int) -> list[str]:
    """Every run of n words, joined by spaces, in order; none where there are fewer words.

    Args:
        words: words without spaces inside, as `tokenize_words` gives them.
        n: words in a run, at least 1.

    Raises:
        ValueError: n is below 1.

    >>> list_ngrams(["a", "b", "a", "b"], 2)
    ['a b', 'b a', 'a b']
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]


def normalise_text(text: str) -> str:
    r"""Reduce a text to what makes it the same text: NFKC, lower case, single spaces, no punctuation at the ends.

    >>> normalise_text('  "What is\n ５ + 3?" ')
    'what is 5 + 3'
    """
    # Lower case can make characters that NFKC folds again, and capitals of full width are folded before it.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return _SPACES.sub(" ", folded).strip(_EDGES)


def compute_rouge_l(candidate: str, reference: str) -> RougeL:
    """ROUGE-L of two texts. A text without words has nothing in common with any: all three are 0.

    Cost: O(words of one * words of the other / 64).

    >>> compute_rouge_l("the cat sat on the mat", "the cat lay on a mat")
    RougeL(precision=0.6666666666666666, recall=0.6666666666666666, f=0.6666666666666666)
    """
    words, reference_words = tokenize_words(candidate), tokenize_words(reference)
    if not words or not reference_words:
        return RougeL(0.0, 0.0, 0.0)
    common = LCSseq.similarity(words, reference_words)
    return RougeL(
        precision=common / len(words),
        recall=common / len(reference_words),
        f=2 * common / (len(words) + len(reference_words)),
    )


def compute_similarity(words: list[str], reference_words: list[str]) -> float:
    """The largest of ROUGE-L's precision, recall and F, for texts already split into words.

    It is the common subsequence over the shorter text, since F lies between the other two. It is 0 where a text has no
    words, so that two texts of signs alone are never near-duplicates.

    >>> compute_similarity(["sort", "the", "list"], ["please", "sort", "the", "list", "now"])
    1.0
    """
    if not words or not reference_words:
        return 0.0
    return LCSseq.similarity(words, reference_words) / min(len(words), len(reference_words))
