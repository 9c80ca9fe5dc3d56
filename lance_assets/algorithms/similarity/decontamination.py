"""Find prompts that the evaluation already asks.

Source: the n-gram overlap of GPT-3 (arXiv 2005.14165, appendix C): 13 words in a row in common.

How it differs:

1. A whole prompt is dropped; GPT-3 cuts the overlap out and keeps the rest.
2. Prompts that are equal after normalisation overlap at any length; GPT-3 has no rule below the n-gram.
3. A task's wording counts for nothing (`task_wording`, which names how that differs from GPT-3). A prompt without a run
   of its own is found where all of its words stand in a row.
4. Words are those of `words.tokenize_words`, so that Chinese is compared by 13 characters.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from lance_assets.algorithms.similarity.task_wording import find_shared_wording, find_wording, list_own_runs
from lance_assets.algorithms.similarity.words import list_ngrams, normalise_text, tokenize_words

CONTAMINATION = pl.Schema(
    {
        "row_id": pl.String,
        "prompt": pl.String,
        "evaluation_prompt": pl.String,  # what it matches
        "rule": pl.String,  # "equal", "ngram" or "embedding"
        "similarity": pl.Float64,  # 1 for equal, the share of its n-grams that are shared, or the cosine
        "shared_text": pl.String,  # the first run of words in common; null for embedding
    }
)
"""Rows that match the evaluation."""


@dataclass(frozen=True)
class Match:
    """What a prompt shares with an evaluation prompt."""

    evaluation_prompt: str
    """The one that shares most."""
    rule: str
    """"equal", or "ngram"."""
    similarity: float
    """1 for equal, or the share of the prompt's runs that are shared, in (0, 1]."""
    shared_text: str
    """The first words in common, as many as stand in a row."""


@dataclass(frozen=True)
class EvaluationIndex:
    """The texts and n-grams by which evaluation prompts are recognised."""

    prompts: tuple[str, ...]
    """The evaluation's."""
    normalised: dict[str, int]
    """Every prompt as `normalise_text` gives it, and the place of the first that is so."""
    owners: dict[str, int]
    """Every run of `ngram` words that is a prompt's own, joined by spaces, and the first prompt that has it."""
    wholes: dict[str, list[tuple[str, int]]]
    """Of prompts without such a run: one of their runs, and the words of each prompt that has it, with its place."""
    wording: frozenset[str]
    """The runs that are a task's wording and count for nothing."""
    ngram: int
    """Words in a run."""

    def find(self, prompt: str) -> Match | None:
        """The evaluation prompt that a prompt equals, or shares most words with; None for none."""
        normalised = normalise_text(prompt)
        if normalised in self.normalised:
            return Match(self.prompts[self.normalised[normalised]], "equal", 1.0, normalised)
        words = tokenize_words(prompt)
        runs = list_ngrams(words, self.ngram)
        return self._find_shared(words, runs) or self._find_whole(words, runs)

    def _find_shared(self, words: list[str], runs: list[str]) -> Match | None:
        found = [self.owners[run] for run in runs if run in self.owners]
        if not found:
            return None
        first = next(place for place, run in enumerate(runs) if run in self.owners)
        last = first
        # Runs overlap: neighbours that are both shared are one longer text in common.
        while last + 1 < len(runs) and runs[last + 1] in self.owners:
            last += 1
        counts = Counter(found)
        # Of prompts that share equally many runs the first one is named, so that the result does not depend on hashing.
        owner = min(counts, key=lambda place: (-counts[place], place))
        shared = " ".join(words[first : last + self.ngram])
        return Match(self.prompts[owner], "ngram", len(found) / len(runs), shared)

    def _find_whole(self, words: list[str], runs: list[str]) -> Match | None:
        if not self.wholes:
            return None
        text = f" {' '.join(words)} "
        for run in runs:
            for whole, place in self.wholes.get(run, ()):
                if f" {whole} " in text:
                    share = (len(whole.split(" ")) - self.ngram + 1) / len(runs)
                    return Match(self.prompts[place], "ngram", share, whole)
        return None


def build_evaluation_index(
    prompts: Iterable[str], *, seed_prompts: Iterable[str] = (), ngram: int = 13
) -> EvaluationIndex:
    """Index the evaluation's prompts; empty ones are left out.

    Args:
        prompts: the evaluation's.
        seed_prompts: what people gave to train on, by which a task's wording is told from a prompt's own words.
        ngram: words in a run, at least 1.

    Raises:
        ValueError: ngram is below 1.

    >>> len(build_evaluation_index(["What is 5 + 3?", "what is 5 + 3"]).normalised)
    1
    """
    if ngram < 1:
        raise ValueError(f"ngram must be at least 1, got {ngram}")
    prompts = tuple(prompts)
    words = [tokenize_words(prompt) for prompt in prompts]
    wording = find_wording(words, seed_prompts=seed_prompts, ngram=ngram)
    equal: dict[str, int] = {}
    owners: dict[str, int] = {}
    wholes: dict[str, list[tuple[str, int]]] = {}
    for place, prompt in enumerate(prompts):
        equal.setdefault(normalise_text(prompt), place)
        own = list_own_runs(words[place], wording, ngram=ngram)
        for _, run in own:
            owners.setdefault(run, place)
        if not own and (runs := list_ngrams(words[place], ngram)):
            # The rarest that is known at no cost: few prompts share a run that is no wording.
            anchor = next((run for run in reversed(runs) if run not in wording), runs[-1])
            wholes.setdefault(anchor, []).append((" ".join(words[place]), place))
    # Prompts of signs alone are normalised to nothing; they would match each other, and mean nothing.
    equal.pop("", None)
    return EvaluationIndex(prompts, equal, owners, wholes, wording, ngram)


def count_wording(prompts: Iterable[str], index: EvaluationIndex) -> Counter[str]:
    """The wording that prompts share with an evaluation and that counts for nothing: by text, in how many prompts.

    >>> asked = [f"Name a {kind}" for kind in "abcdefghijk"]
    >>> count_wording(["Name a bird", "Hi"], build_evaluation_index(asked, ngram=2))
    Counter({'name a': 1})
    """
    found = (find_shared_wording(tokenize_words(prompt), index.wording, ngram=index.ngram) for prompt in prompts)
    return Counter(text for text in found if text is not None)


def overlaps_evaluation(prompt: str, index: EvaluationIndex) -> bool:
    """Whether a prompt equals an evaluation prompt after normalisation, or shares `index.ngram` words in a row.

    A prompt with fewer words can only be equal. An empty prompt never overlaps.

    >>> overlaps_evaluation("what is 5 + 3", build_evaluation_index(["What is 5 + 3?"]))
    True
    """
    return index.find(prompt) is not None


def _mend(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _check_pairs(vectors: np.ndarray, num_rows: int, name: str) -> None:
    if vectors.ndim != 2 or len(vectors) != num_rows:
        raise ValueError(f"{name} must be [num_rows={num_rows}, dim], got shape {vectors.shape}")
    norms = np.linalg.norm(vectors, axis=1)
    # The comparison is negated, so that a norm that is NaN is wrong as well.
    wrong = np.flatnonzero(~(np.abs(norms - 1) < 1e-2))
    if wrong.size:
        raise ValueError(f"{name} must be L2-normalised, row {wrong[0]} has norm {norms[wrong[0]]:.4g}")


def find_nearest_evaluation(vectors: np.ndarray, evaluation_vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's nearest evaluation prompt by cosine.

    Cost: O(rows * evaluation prompts * dim), in blocks of 1,024 rows.

    Args:
        vectors: float32 [num_rows, dim], L2-normalised.
        evaluation_vectors: float32 [num_evaluation, dim], L2-normalised, at least one.

    Returns:
        positions int64 [num_rows], the first of equally near ones, and similarities float64 [num_rows], -1..1.

    Raises:
        ValueError: not normalised or not of these shapes, or no evaluation vectors.

    >>> places, similarities = find_nearest_evaluation(np.float32([[0, 1]]), np.float32([[1, 0], [0, 1]]))
    >>> places.tolist(), similarities.tolist()
    ([1], [1.0])
    """
    _check_pairs(vectors, len(vectors), "vectors")
    _check_pairs(evaluation_vectors, len(evaluation_vectors), "evaluation_vectors")
    if not len(evaluation_vectors):
        raise ValueError("evaluation_vectors must have at least one row, got none")
    places, similarities = np.zeros(len(vectors), dtype=np.int64), np.zeros(len(vectors))
    for start in range(0, len(vectors), 1024):
        block = vectors[start : start + 1024] @ evaluation_vectors.T
        places[start : start + 1024] = block.argmax(axis=1)
        similarities[start : start + 1024] = block.max(axis=1)
    return places, similarities.clip(-1, 1)


def find_contamination(
    row_ids: Sequence[str],
    prompts: Sequence[str],
    evaluation_prompts: Sequence[str],
    *,
    seed_prompts: Iterable[str] = (),
    ngram: int = 13,
    vectors: np.ndarray | None = None,
    evaluation_vectors: np.ndarray | None = None,
    max_similarity: float | None = None,
) -> pl.DataFrame:
    """Rows whose prompt the evaluation already asks, with what they match: n-grams first, then embedding neighbours.

    Args:
        row_ids: [num_rows].
        prompts: [num_rows], of the rows.
        evaluation_prompts: the prompts that no row may match; empty ones match nothing.
        seed_prompts: what people gave to train on, by which a task's wording is told from a prompt's own words.
        ngram: words in a run, at least 1.
        vectors: float32 [num_rows, dim], L2-normalised, of the prompts; needed with `max_similarity`.
        evaluation_vectors: of the evaluation's prompts, in the same way.
        max_similarity: cosine above which a prompt is a neighbour; None compares no embeddings.

    Returns:
        Schema `CONTAMINATION`, sorted by row_id and rule: for each row at most one match by words ("equal" or "ngram")
        and one by "embedding".

    Raises:
        ValueError: lengths differ, ngram below 1, vectors missing or not normalised.

    >>> find_contamination(["a"], ["say: what is 5 + 3"], ["What is 5 + 3?"], ngram=4)["shared_text"].to_list()
    ['what is 5 3']
    """
    if len(row_ids) != len(prompts):
        raise ValueError(f"each row id needs one prompt, got {len(row_ids)} row ids and {len(prompts)} prompts")
    index = build_evaluation_index(evaluation_prompts, seed_prompts=seed_prompts, ngram=ngram)
    rows: list[tuple[str, str, str, str, float, str | None]] = [
        (row_id, prompt, match.evaluation_prompt, match.rule, match.similarity, match.shared_text)
        for row_id, prompt in zip(row_ids, prompts, strict=True)
        if (match := index.find(prompt)) is not None
    ]
    if max_similarity is not None and len(prompts) and len(evaluation_prompts):
        if vectors is None or evaluation_vectors is None:
            raise ValueError("max_similarity needs vectors and evaluation_vectors, got none")
        _check_pairs(vectors, len(prompts), "vectors")
        _check_pairs(evaluation_vectors, len(evaluation_prompts), "evaluation_vectors")
        # The nearest prompt is enough: a row is dropped once, however many it is near to.
        places, similarities = find_nearest_evaluation(vectors, evaluation_vectors)
        rows += [
            (row_ids[row], prompts[row], evaluation_prompts[places[row]], "embedding", float(similarities[row]), None)
            for row in np.flatnonzero(similarities > max_similarity)
        ]
    # a table holds no unpaired surrogates
    shown = [tuple(_mend(cell) if isinstance(cell, str) else cell for cell in row) for row in rows]
    return pl.DataFrame(shown, schema=CONTAMINATION, orient="row").sort("row_id", "rule")
