"""How varied a set of texts is: distinct n-grams and the Vendi score.

Sources: distinct-n from Li et al. 2016 (arXiv 1510.03055); the Vendi score from Friedman and Dieng 2022
(arXiv 2210.02410), equation 2, with the cosine kernel.

How it differs:

1. The Vendi score takes the eigenvalues of the [dim, dim] covariance instead of the [rows, rows] kernel. Those above
   zero are the same, and the cost is O(rows * dim^2 + dim^3) instead of O(rows^3).
2. Distinct-n counts words of `words.tokenize_words`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lance_assets.algorithms.similarity.words import list_ngrams, tokenize_words

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
    shares = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-np.sum(shares * np.log(shares))))
