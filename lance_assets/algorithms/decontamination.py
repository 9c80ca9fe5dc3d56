"""Find prompts that the evaluation already asks.

Source: the n-gram overlap of GPT-3 (arXiv 2005.14165, appendix C): 13 words in a row in common.

How it differs:

1. A whole prompt is dropped; GPT-3 cuts the overlap out and keeps the rest.
2. Prompts that are equal after normalisation overlap at any length; GPT-3 has no rule below the n-gram.
3. n-grams that many documents share are not forgiven. Where an evaluation has a long fixed wording, give its
   prompts without it.
4. Words are those of `rouge_l.tokenize_words`, so that Chinese is compared by 13 characters.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lance_assets.algorithms.rouge_l import tokenize_words

_EDGES = " .,;:!?…\"'`*_“”‘’«»()[]{}。、「」『』"
"""Stripped at both ends. Minus, percent and other signs stay: "-5" is not "5"."""
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class EvaluationIndex:
    """What evaluation prompts are recognised by."""

    normalised: frozenset[str]
    """Every prompt as `normalise_text` gives it."""
    ngrams: frozenset[str]
    """Every run of `ngram` words in any prompt, joined by spaces."""
    ngram: int
    """Words in a run."""


def normalise_text(text: str) -> str:
    r"""A text reduced to what makes it the same text: NFKC, lower case, single spaces, no punctuation at the ends.

    >>> normalise_text('  "What is\n ５ + 3?" ')
    'what is 5 + 3'
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return _SPACES.sub(" ", folded).strip(_EDGES)


def _list_ngrams(text: str, ngram: int) -> Iterable[str]:
    words = tokenize_words(text)
    return (" ".join(words[start : start + ngram]) for start in range(len(words) - ngram + 1))


def build_evaluation_index(prompts: Iterable[str], *, ngram: int = 13) -> EvaluationIndex:
    """Index the evaluation's prompts; empty ones are left out.

    Args:
        prompts: the evaluation's.
        ngram: words in a run, at least 1.

    Raises:
        ValueError: ngram is below 1.

    >>> len(build_evaluation_index(["What is 5 + 3?", "what is 5 + 3"]).normalised)
    1
    """
    if ngram < 1:
        raise ValueError(f"ngram must be at least 1, got {ngram}")
    normalised: set[str] = set()
    ngrams: set[str] = set()
    for prompt in prompts:
        normalised.add(normalise_text(prompt))
        ngrams.update(_list_ngrams(prompt, ngram))
    return EvaluationIndex(frozenset(normalised - {""}), frozenset(ngrams), ngram)


def overlaps_evaluation(prompt: str, index: EvaluationIndex) -> bool:
    """Whether a prompt equals an evaluation prompt after normalisation, or shares `index.ngram` words in a row.

    A prompt with fewer words can only be equal. An empty prompt never overlaps.

    >>> overlaps_evaluation("what is 5 + 3", build_evaluation_index(["What is 5 + 3?"]))
    True
    """
    if normalise_text(prompt) in index.normalised:
        return True
    return any(run in index.ngrams for run in _list_ngrams(prompt, index.ngram))


def find_evaluation_overlap(prompts: Sequence[str], index: EvaluationIndex) -> list[int]:
    """The positions of the prompts that overlap, ascending.

    >>> find_evaluation_overlap(["Sort 3 1 2.", "What is 5 + 3?"], build_evaluation_index(["what is 5 + 3"]))
    [1]
    """
    return [position for position, prompt in enumerate(prompts) if overlaps_evaluation(prompt, index)]
