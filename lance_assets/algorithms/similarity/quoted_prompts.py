"""Find evaluation prompts that stand inside longer texts, such as a completion that quotes one.

Source: as `decontamination`, the n-gram overlap of GPT-3 (arXiv 2005.14165, appendix C). How it differs:

1. A prompt of fewer words than an n-gram is found where all of its words stand in a row, from `MIN_WORDS` words on. In
   `decontamination` it is found only where a text is it and nothing else.
2. A prompt whose wording many texts share, such as a world's, is found only where all of its words stand in a row; of
   other prompts a run with words of a wording that many share counts for nothing (`task_wording`).

Cost: linear in the words of the texts; a run is looked up by its first words, and compared where they are the same.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from lance_assets.algorithms.similarity.task_wording import find_wording, list_own_runs
from lance_assets.algorithms.similarity.words import tokenize_words

MIN_WORDS = 4
"""Fewest words of a prompt that is looked for: three words in a row, as "name a fruit", stand in texts by chance."""


@dataclass(frozen=True)
class QuoteIndex:
    """The runs of words by which quoted prompts are recognised."""

    runs: dict[tuple[str, ...], list[tuple[tuple[str, ...], str]]]
    """By the first `MIN_WORDS` words of a run: the whole run, and the prompt it is of."""


def build_quote_index(
    prompts: Iterable[str] = (), *, whole: Iterable[str] = (), seed_prompts: Iterable[str] = (), ngram: int = 13
) -> QuoteIndex:
    """Index prompts; those of fewer than `MIN_WORDS` words are left out.

    Args:
        prompts: any run of `ngram` words of these counts, and all words where there are fewer.
        whole: of these only all words in a row count.
        seed_prompts: what people gave to train on, by which a task's wording is told from a prompt's own words.
        ngram: words in a run, at least 1.

    Raises:
        ValueError: ngram is below 1.
    """
    if ngram < 1:
        raise ValueError(f"ngram must be at least 1, got {ngram}")
    size = max(ngram, MIN_WORDS)
    runs: dict[tuple[str, ...], list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    prompts = list(prompts)
    read = [tuple(tokenize_words(prompt)) for prompt in prompts]
    wording = find_wording(read, seed_prompts=seed_prompts, ngram=size)
    for prompt, words in zip(prompts, read, strict=True):
        own = [words[place : place + size] for place, _ in list_own_runs(words, wording, ngram=size)]
        for run in own or [words]:
            _add(runs, run, prompt)
    for prompt in whole:
        _add(runs, tuple(tokenize_words(prompt)), prompt)
    return QuoteIndex(dict(runs))


def _add(runs: dict[tuple[str, ...], list[tuple[tuple[str, ...], str]]], run: tuple[str, ...], prompt: str) -> None:
    if len(run) >= MIN_WORDS:
        runs[run[:MIN_WORDS]].append((run, prompt))


def find_quote(text: str, index: QuoteIndex) -> tuple[str, str] | None:
    """The first evaluation prompt that a text quotes, and the words in common; None where it quotes none.

    >>> index = build_quote_index(["What is 5 + 3?"])
    >>> find_quote("Q: what is 5 + 3? A: It is 8.", index), find_quote("What is 5 + 4?", index)
    (('What is 5 + 3?', 'what is 5 3'), None)
    """
    words = tokenize_words(text)
    for start in range(len(words) - MIN_WORDS + 1):
        for run, prompt in index.runs.get(tuple(words[start : start + MIN_WORDS]), ()):
            if tuple(words[start : start + len(run)]) == run:
                return prompt, " ".join(run)
    return None
