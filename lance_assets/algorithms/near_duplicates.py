"""Near-duplicates by embedding within one round: keep the first of each cluster, in the order given.

Hand-written: libraries that deduplicate by embedding choose survivors by their own order and do not say which
survivor a dropped row resembles.
"""

import numpy as np

BLOCK_ROWS = 1024


def find_repeats(embeddings: np.ndarray, *, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """For each row, the earlier kept row it repeats, if any.

    Args:
        embeddings: float32 [num_rows, dim], L2-normalised, in the order that decides which of two rows stays.
        threshold: cosine similarity in [0, 1] above which a row repeats an earlier kept one.

    Returns:
        repeats_of: int64 [num_rows], the index of the most similar earlier kept row, -1 for a kept row.
        similarity: float64 [num_rows], to that row; for a kept row to the most similar earlier kept one, 0 where none.

    Raises:
        ValueError: embeddings is not two-dimensional.

    Cost: O(num_rows^2 * dim) time, O(block * num_rows) memory.

    >>> e = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    >>> find_repeats(e, threshold=0.9)[0].tolist()
    [-1, -1, 0]
    """
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must be a 2D array, got shape {embeddings.shape}")
    num_rows = len(embeddings)
    repeats_of = np.full(num_rows, -1, dtype=np.int64)
    similarity = np.zeros(num_rows)
    is_kept = np.zeros(num_rows, dtype=bool)
    for start in range(0, num_rows, BLOCK_ROWS):
        block = embeddings[start : start + BLOCK_ROWS] @ embeddings[: start + BLOCK_ROWS].T
        for offset, row in enumerate(range(start, min(start + BLOCK_ROWS, num_rows))):
            candidates = np.flatnonzero(is_kept[:row])
            if len(candidates):
                best = candidates[np.argmax(block[offset, candidates])]
                similarity[row] = block[offset, best]
                if similarity[row] > threshold:
                    repeats_of[row] = best
            is_kept[row] = repeats_of[row] == -1
    return repeats_of, similarity
