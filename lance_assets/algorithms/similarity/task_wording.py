"""Tell a task's wording from the words that a prompt has for itself.

A classification asks every request in the same words, and a template of a collection of tasks returns in hundreds of
rows. Prompts that share nothing else are not copies of each other.

Source: GPT-3 (arXiv 2005.14165, appendix C) forgives an n-gram that more than ten of the training documents share. How
it differs:

1. The prompts of the evaluation count too: what more than `MAX_SHARED` of them share is wording as well.
2. Prompts of equal words count once.
3. An n-gram with one word of the wording in it counts for nothing: the end of an instruction and the first words of
   what it is about are shared by chance. A prompt with few words of its own has other n-grams: those that hold all of
   these words, with a word of the wording on each side.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from lance_assets.algorithms.similarity.words import list_ngrams, tokenize_words

MAX_SHARED = 10
"""The most prompts that a run of words may be in and still be a prompt's own."""


def find_wording(
    evaluation_words: Sequence[Sequence[str]], *, seed_prompts: Iterable[str] = (), ngram: int = 13
) -> frozenset[str]:
    """The runs of words of an evaluation's prompts that are wording.

    Cost: linear in the words of all prompts; of the seeds only runs that the evaluation has are kept.

    Args:
        evaluation_words: the words of each evaluation prompt.
        seed_prompts: what people gave to train on.
        ngram: words in a run, at least 1.

    Returns:
        Runs, joined by spaces, that more than `MAX_SHARED` evaluation prompts share, or more than `MAX_SHARED` seeds.

    >>> asked = [["name", "a", word] for word in ("bird", "fish")]
    >>> sorted(find_wording(asked, seed_prompts=[f"name a {place}" for place in range(11)], ngram=2))
    ['name a']
    """
    asked = _count_runs(map(tuple, evaluation_words), ngram)
    if not asked:
        return frozenset()
    seeds = _count_runs((tuple(tokenize_words(prompt)) for prompt in seed_prompts), ngram, among=asked)
    return frozenset(run for run, count in asked.items() if count > MAX_SHARED or seeds[run] > MAX_SHARED)


def _count_runs(texts: Iterable[tuple[str, ...]], ngram: int, among: Counter[str] | None = None) -> Counter[str]:
    counts: Counter[str] = Counter()
    seen: set[tuple[str, ...]] = set()
    for words in texts:
        runs = {run for run in list_ngrams(words, ngram) if among is None or run in among}
        # A text without a run that counts need not be remembered.
        if runs and words not in seen:
            seen.add(words)
            counts.update(runs)
    return counts


def list_own_runs(words: Sequence[str], wording: frozenset[str], *, ngram: int = 13) -> list[tuple[int, str]]:
    """The runs by which a prompt is known: without a word of the wording, or around all words that are its own.

    Args:
        words: the prompt's.
        wording: what `find_wording` gave, with the same `ngram`.
        ngram: words in a run, at least 1.

    Returns:
        The place of each run's first word, and the run, joined by spaces. None for a prompt that is all wording, or
        whose own words are scattered.

    >>> list_own_runs(["name", "a", "big", "red", "bird"], frozenset({"name a"}), ngram=2)
    [(2, 'big red'), (3, 'red bird')]
    >>> list_own_runs("is it a bird as you see".split(), frozenset({"is it a", "as you see"}), ngram=3)
    [(2, 'a bird as')]
    """
    runs = list_ngrams(words, ngram)
    shared = [place for place, run in enumerate(runs) if run in wording]
    taken = {place for start in shared for place in range(start - ngram + 1, start + ngram)}
    if pure := [(place, run) for place, run in enumerate(runs) if place not in taken]:
        return pure
    covered = {place for start in shared for place in range(start, start + ngram)}
    own = [place for place in range(len(words)) if place not in covered]
    if not own:
        return []
    first, last = max(own[0] - 1, 0), min(own[-1] + 1, len(words) - 1)
    return [(place, run) for place, run in enumerate(runs) if place <= first and last < place + ngram]


def find_shared_wording(words: Sequence[str], wording: frozenset[str], *, ngram: int = 13) -> str | None:
    """The first stretch of a prompt that is wording; None where it has none.

    >>> find_shared_wording(["please", "name", "a", "bird"], frozenset({"name a"}), ngram=2)
    'name a'
    """
    runs = list_ngrams(words, ngram)
    first = next((place for place, run in enumerate(runs) if run in wording), None)
    if first is None:
        return None
    last = next((place for place in range(first, len(runs)) if runs[place] not in wording), len(runs)) - 1
    return " ".join(words[first : last + ngram])
