"""How varied a round's texts are, and the floors below which a loop counts as collapsed.

Sources: distinct-n from Li et al. 2016 (arXiv 1510.03055); the Vendi score from Friedman and Dieng 2022
(arXiv 2210.02410), equation 2, with the cosine kernel. Models that train on their own texts lose variety first
(Shumailov et al. 2024, "AI models collapse when trained on recursively generated data"); a share of real data bounds it
(Gerstgrasser et al. 2024, arXiv 2404.01413); reviewers that reward length are the usual way in which a self-rewarding
loop drifts (Yuan et al. 2024, arXiv 2401.10020, section 3). Novelty, evenness and drift are our own plain statistics
over these ideas.

How it differs:

1. The Vendi score takes the eigenvalues of the [dim, dim] covariance instead of the [rows, rows] kernel. Those above
   zero are the same, and the cost is O(rows * dim^2 + dim^3) instead of O(rows^3).
2. Distinct-n counts words of `words.tokenize_words`.
3. The share of texts that a Vendi score is (`vendi_rate`) is that of at most `VENDI_RATE_ROWS` rows. A score is bounded
   by the numbers of a vector, so that its share of all rows would fall with every row more, however varied they are.
4. A measure that cannot be computed is None, and breaks no floor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lance_assets.algorithms.similarity.words import list_ngrams, tokenize_words

VENDI_RATE_ROWS = 1000
"""Rows up to which `vendi_rate` is of all of them; of more it is of so many drawn ones."""
_VENDI_ROWS = 4096
"""Rows whose products are summed in float32 before they are added in float64."""


def _check_embeddings(embeddings: NDArray[np.float32]) -> None:
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must be a 2D array [num_rows, dim], got shape {embeddings.shape}")
    norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    wrong = np.flatnonzero(~(np.abs(norms - 1) < 1e-2))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(f"embeddings must be L2-normalised, row {row} has norm {norms[row]:.4g}: divide rows by norms")


def compute_distinct_n(texts: Sequence[str], n: int) -> float:
    """The share of different n-grams among all n-grams of all texts.

    Args:
        texts: any number of texts.
        n: words in an n-gram, at least 1.

    Returns:
        A fraction in [0, 1]; 0 where no text has n words.

    Raises:
        ValueError: n is below 1.

    >>> compute_distinct_n(["a b a b"], 2)
    0.6666666666666666
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    num_ngrams, distinct = 0, set[str]()
    for words in map(tokenize_words, texts):
        ngrams = list_ngrams(words, n)
        num_ngrams += len(ngrams)
        distinct.update(ngrams)
    return len(distinct) / num_ngrams if num_ngrams else 0.0


def compute_vendi_score(embeddings: NDArray[np.float32]) -> float:
    """The effective number of different rows: exp of the entropy of the eigenvalues of X^T X / num_rows.

    Args:
        embeddings: float32 [num_rows, dim], L2-normalised.

    Returns:
        From 1 (all rows alike) to min(num_rows, dim); 0 where there are no rows.

    Raises:
        ValueError: not two-dimensional, or a row is not normalised.

    >>> round(compute_vendi_score(np.eye(3, dtype=np.float32)), 6)
    3.0
    """
    _check_embeddings(embeddings)
    if not len(embeddings):
        return 0.0
    from scipy.linalg.blas import ssyrk

    rows = np.asarray(embeddings, dtype=np.float32)
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _VENDI_ROWS):
        # rows of a C array are columns of the Fortran one that BLAS wants; only the upper triangle is computed
        covariance += ssyrk(1.0, rows[start : start + _VENDI_ROWS].T)
    eigenvalues = np.linalg.eigvalsh(covariance / len(rows), UPLO="U")
    # Rounding leaves eigenvalues a little below zero, which have no logarithm.
    shares = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def compute_vendi_rate(embeddings: NDArray[np.float32], *, rng_seed: int) -> float | None:
    """The Vendi score over the number of rows, of at most `VENDI_RATE_ROWS` rows.

    So a round of any size is held against the same bar. Up to that number a larger round of equally varied rows still
    has a lower rate, as new rows repeat more of what is there.

    Args:
        embeddings: float32 [num_rows, dim], L2-normalised, in an order of their own, such as by row id.
        rng_seed: draws the rows, where there are more.

    Returns:
        Above 0 up to 1; None where there are no rows.

    Raises:
        ValueError: not two-dimensional, or a row is not normalised.

    >>> compute_vendi_rate(np.float32([[0, 1], [1, 0], [0, 1], [1, 0]]), rng_seed=0)
    0.5
    """
    _check_embeddings(embeddings)
    if not len(embeddings):
        return None
    if len(embeddings) > VENDI_RATE_ROWS:
        drawn = np.random.default_rng(rng_seed).choice(len(embeddings), VENDI_RATE_ROWS, replace=False)
        embeddings = embeddings[np.sort(drawn)]
    return compute_vendi_score(embeddings) / len(embeddings)


@dataclass(frozen=True)
class DiversityReport:
    """The measures of one round."""

    num_rows: int
    """Texts that cleaning kept."""
    novelty: float | None
    """Mean of 1 - cosine to the nearest text of an earlier round, 0..2; None without earlier texts."""
    vendi_score: float | None
    """Effective number of different texts, 1..num_rows; None without texts, as the following."""
    vendi_rate: float | None
    """The Vendi score of at most `VENDI_RATE_ROWS` of the texts over their number, 0..1."""
    distinct_1: float | None
    """Share of different words among all words, 0..1."""
    distinct_2: float | None
    """Share of different word pairs among all word pairs, 0..1."""
    cluster_entropy: float | None
    """Evenness of the texts over clusters: 0 when all are in one, 1 when each holds as many."""
    length_drift: float | None
    """Log of the median completion length over the seeds' median; 0 for no drift, 0.69 for twice as long."""
    score_length_correlation: float | None
    """Spearman's correlation of review score and completion length, -1..1."""
    seed_share: float | None
    """Share of the SFT set that people wrote: seeds and EFT rows, 0..1."""
    human_likeness: float | None = None
    """Chance that a generated text looks more like the seeds than a seed does, 0..1; 0.5: they cannot be told apart."""


@dataclass(frozen=True)
class DiversityFloors:
    """Bounds of a round's measures; None sets no bound."""

    min_novelty: float | None = None
    """Of `novelty`."""
    min_vendi_rate: float | None = None
    """Of `vendi_rate`."""
    min_distinct_2: float | None = None
    """Of `distinct_2`."""
    min_cluster_entropy: float | None = None
    """Of `cluster_entropy`."""
    max_length_drift: float | None = None
    """Of `length_drift` without its sign."""
    max_score_length_correlation: float | None = None
    """Of `score_length_correlation` without its sign."""
    min_seed_share: float | None = None
    """Of `seed_share`."""
    min_human_likeness: float | None = None
    """Of `human_likeness`."""


def find_collapse(report: DiversityReport, floors: DiversityFloors) -> list[str]:
    """One sentence for each bound that a round breaks, in the order of the bounds.

    >>> report = DiversityReport(9, None, 2.0, 0.2, 0.5, 0.5, 0.5, -0.9, None, 0.5)
    >>> find_collapse(report, DiversityFloors(min_novelty=0.1, min_vendi_rate=0.3, max_length_drift=0.5))
    ['vendi_rate is 0.2, below the floor 0.3', 'length_drift is -0.9, beyond the bound 0.5 either way']
    """
    breached = []
    for field in fields(floors):
        bound, name = getattr(floors, field.name), field.name[4:]
        value = getattr(report, name)
        # What cannot be measured breaks no floor: r0000 has no earlier round to be new against.
        if bound is None or value is None:
            continue
        if field.name.startswith("min_") and value < bound:
            breached.append(f"{name} is {value:.4g}, below the floor {bound}")
        elif field.name.startswith("max_") and abs(value) > bound:
            breached.append(f"{name} is {value:.4g}, beyond the bound {bound} either way")
    return breached


def compute_novelty(similarities: Sequence[float] | NDArray[np.float64]) -> float | None:
    """The mean of 1 - similarity.

    Args:
        similarities: cosine of each text to its nearest earlier one, -1..1.

    Returns:
        0..2, or None where there are none.

    Raises:
        ValueError: a similarity is NaN.

    >>> compute_novelty([1.0, 0.5])
    0.25
    """
    values = np.asarray(similarities, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError(f"similarities must be numbers, row {int(np.flatnonzero(np.isnan(values))[0])} is NaN")
    return float(np.mean(1.0 - values)) if len(values) else None


def compute_cluster_entropy(embeddings: NDArray[np.float32], *, num_clusters: int, rng_seed: int) -> float | None:
    """How evenly rows spread over clusters of k-means (SciPy's), as a share of the largest possible entropy.

    Rows are sorted first, so that their order does not matter. Fewer rows than clusters make as many clusters as there
    are rows.

    Args:
        embeddings: float32 [num_rows, dim].
        num_clusters: at least 2.
        rng_seed: of the first centres.

    Returns:
        0..1; 0 where all rows are equal; None for fewer than two rows, which cannot be uneven.

    Raises:
        ValueError: not two-dimensional, not finite, or num_clusters below 2.

    >>> compute_cluster_entropy(np.float32([[0, 1], [1, 0], [0, 1], [1, 0]]), num_clusters=2, rng_seed=0)
    1.0
    """
    from scipy.cluster.vq import kmeans2

    if num_clusters < 2:
        raise ValueError(f"num_clusters must be at least 2, got {num_clusters}")
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must be a 2D array [num_rows, dim], got shape {embeddings.shape}")
    if not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings must be finite, row {int(np.argwhere(~np.isfinite(embeddings))[0][0])} is not")
    if len(embeddings) < 2:
        return None
    # k-means depends on the order of the rows to rounding; sorted rows give one result.
    rows = embeddings[np.lexsort(embeddings.T)].astype(np.float64)
    # Centres are drawn from different rows, or two of them would be the same cluster.
    different = np.unique(rows, axis=0)
    k = min(num_clusters, len(different))
    if k == 1:
        return 0.0
    starts = np.random.default_rng(rng_seed).choice(len(different), k, replace=False)
    _, labels = kmeans2(rows, different[np.sort(starts)], minit="matrix", missing="warn", iter=20)
    shares = np.bincount(labels, minlength=k) / len(rows)
    shares = shares[shares > 0]
    return float(-np.sum(shares * np.log(shares)) / math.log(min(num_clusters, len(rows))))


def compute_length_drift(lengths: Sequence[int], reference_lengths: Sequence[int]) -> float | None:
    """The log ratio of median lengths; None where either has no rows or a median of 0.

    >>> round(compute_length_drift([20, 20], [10]), 3)
    0.693
    """
    if not len(lengths) or not len(reference_lengths):
        return None
    now, before = float(np.median(lengths)), float(np.median(reference_lengths))
    return math.log(now / before) if now > 0 and before > 0 else None


def compute_score_length_correlation(scores: Sequence[float | None], lengths: Sequence[int]) -> float | None:
    """Spearman's rank correlation (SciPy's); unscored rows are left out.

    Args:
        scores: review scores, null where unscored.
        lengths: of the completions, as many.

    Returns:
        -1..1; None for fewer than three scored rows, or where either is constant.

    Raises:
        ValueError: as many scores as lengths are needed.

    >>> compute_score_length_correlation([1.0, 2.0, None, 3.0], [10, 20, 5, 30])
    1.0
    """
    from scipy.stats import spearmanr

    if len(scores) != len(lengths):
        raise ValueError(f"scores and lengths must be as many, got {len(scores)} and {len(lengths)}")
    pairs = [(score, length) for score, length in zip(scores, lengths, strict=True) if score is not None]
    if len(pairs) < 3 or len({score for score, _ in pairs}) == 1 or len({length for _, length in pairs}) == 1:
        return None
    # The last digits of the correlation depend on the order of the rows.
    return round(float(spearmanr(*zip(*pairs, strict=True)).statistic), 12)


def compute_seed_share(sources: Sequence[str]) -> float | None:
    """The share of rows that people wrote: sources "seed" and "eft"; None where there are no rows.

    >>> compute_seed_share(["seed", "eft", "generated", "generated"])
    0.5
    """
    return sum(source in ("seed", "eft") for source in sources) / len(sources) if len(sources) else None
