"""Find prompts that the evaluation already asks.

Source: the n-gram overlap of GPT-3 (arXiv 2005.14165, appendix C): 13 words in a row in common.

How it differs:

1. A whole prompt is dropped; GPT-3 cuts the overlap out and keeps the rest.
2. Prompts that are equal after normalisation overlap at any length; GPT-3 has no rule below the n-gram.
3. An n-gram that more than `WORDING_PROMPTS` evaluation prompts share is the task's wording and counts for nothing;
   GPT-3 forgives those that more than ten of the training documents share. Otherwise every seed of a task with a long
   fixed wording, such as a classification, would count as one of its evaluation prompts.
4. Words are those of `words.tokenize_words`, so that Chinese is compared by 13 characters.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

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


WORDING_PROMPTS = 10
"""The most evaluation prompts that an n-gram may be in and still count."""


@dataclass(frozen=True)
class EvaluationIndex:
    """The texts and n-grams by which evaluation prompts are recognised."""

    normalised: frozenset[str]
    """Every prompt as `normalise_text` gives it."""
    ngrams: frozenset[str]
    """Every run of `ngram` words in at most `WORDING_PROMPTS` prompts, joined by spaces."""
    ngram: int
    """Words in a run."""


def _list_runs(text: str, ngram: int) -> list[str]:
    return list_ngrams(tokenize_words(text), ngram)


def list_wording(prompts: Iterable[str], ngram: int) -> set[str]:
    """The runs of words that more than `WORDING_PROMPTS` of the prompts share, equal prompts counted once."""
    return _pick_wording([_list_runs(prompt, ngram) for prompt in prompts])


def _pick_wording(runs: Iterable[Sequence[str]]) -> set[str]:
    """The same of the runs of each prompt, by which prompts of other words differ."""
    counts: Counter[str] = Counter()
    for own in set(map(tuple, runs)):
        counts.update(set(own))
    return {run for run, count in counts.items() if count > WORDING_PROMPTS}


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
    prompts = list(prompts)
    normalised = {normalise_text(prompt) for prompt in prompts}
    runs = [_list_runs(prompt, ngram) for prompt in prompts]
    ngrams = {run for own in runs for run in own} - _pick_wording(runs)
    # A prompt of signs alone is normalised to nothing, and would match every other such prompt.
    return EvaluationIndex(frozenset(normalised - {""}), frozenset(ngrams), ngram)


def overlaps_evaluation(prompt: str, index: EvaluationIndex) -> bool:
    """Whether a prompt equals an evaluation prompt after normalisation, or shares `index.ngram` words in a row.

    A prompt with fewer words can only be equal. An empty prompt never overlaps.

    >>> overlaps_evaluation("what is 5 + 3", build_evaluation_index(["What is 5 + 3?"]))
    True
    """
    if normalise_text(prompt) in index.normalised:
        return True
    return any(run in index.ngrams for run in _list_runs(prompt, index.ngram))


def _find_shared_run(words: list[str], ngram: int, owners: dict[str, int]) -> tuple[int, str, float] | None:
    """The evaluation prompt that shares most n-grams, the first shared run in full, and the share of shared n-grams."""
    runs = list_ngrams(words, ngram)
    found = [owners[run] for run in runs if run in owners]
    if not found:
        return None
    first = next(place for place, run in enumerate(runs) if run in owners)
    last = first
    # Runs overlap: neighbours that are both shared are one longer text in common.
    while last + 1 < len(runs) and runs[last + 1] in owners:
        last += 1
    counts = Counter(found)
    # Of prompts that share equally many runs the first one is named, so that the result does not depend on hashing.
    owner = min(counts, key=lambda place: (-counts[place], place))
    return owner, " ".join(words[first : last + ngram]), len(found) / len(runs)


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


def _match_words(
    prompts: Iterable[str], evaluation_prompts: Sequence[str], *, ngram: int
) -> Iterator[tuple[str, str, float, str | None] | None]:
    """Of each prompt the evaluation prompt that it matches by its words, with rule, similarity and shared text."""
    equal: dict[str, int] = {}
    owners: dict[str, int] = {}
    runs = [_list_runs(asked, ngram) for asked in evaluation_prompts]
    wording = _pick_wording(runs)
    for place, asked in enumerate(evaluation_prompts):
        equal.setdefault(normalise_text(asked), place)
        for run in runs[place]:
            if run not in wording:
                owners.setdefault(run, place)
    # Prompts without words equal each other and mean nothing.
    equal.pop("", None)
    for prompt in prompts:
        normalised = normalise_text(prompt)
        if normalised in equal:
            yield evaluation_prompts[equal[normalised]], "equal", 1.0, normalised
        elif (shared := _find_shared_run(tokenize_words(prompt), ngram, owners)) is not None:
            yield evaluation_prompts[shared[0]], "ngram", shared[2], shared[1]
        else:
            yield None


def find_contamination(
    row_ids: Sequence[str],
    prompts: Sequence[str],
    evaluation_prompts: Sequence[str],
    *,
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
    if ngram < 1:
        raise ValueError(f"ngram must be at least 1, got {ngram}")
    rows = [
        (row_id, prompt, *match)
        for row_id, prompt, match in zip(
            row_ids, prompts, _match_words(prompts, evaluation_prompts, ngram=ngram), strict=True
        )
        if match is not None
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
