"""How much of a batch of texts says the same: clusters by BLEU, and the share of the batch that each one has.

Source: R-Zero (arXiv 2508.05004), section 3.2, and `caller_penalty.py` of the authors' code
(Chengsong-Huang/R-Zero, commit 5699329): the distance of two texts is 1 - BLEU, clusters are agglomerative with average
linkage, and a text is as repetitive as the share of the batch that its cluster has. BLEU is Papineni et al. 2002, up to
four words, with method 1 of Chen and Cherry 2014 where an order has no match.

Differences from the authors' code:

1. A distance is the mean of both directions; theirs takes the one in which the earlier text is the hypothesis, so that
   the clusters depend on the order.
2. Orders longer than the shorter text do not count, so that equal texts have the distance 0. In theirs two equal texts
   of two words are 0.68 apart, above their threshold of 0.5, and so never of one cluster.
3. Words are those of `words.tokenize_words`, which knows scripts without spaces; theirs splits at spaces.
4. A round of more than `MAX_BATCH` texts is taken apart into batches in its order, as their reward is computed a batch
   at a time.

BLEU is written by hand: nltk's `sentence_bleu`, which theirs calls for each pair, is no library of this project, and
takes 380 times as long as these matrices for 2,048 texts of 40 words. On texts of four words and more both give the
same. The clusters are scipy's.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lance_assets.algorithms.similarity.words import list_ngrams, tokenize_words

MAX_ORDER = 4
"""Words of the longest n-gram that BLEU counts."""
MAX_BATCH = 2048
"""Texts that are compared with each other: the authors' 512 prompts with four proposals each."""
_NO_MATCH = 0.1
"""What an order without a match counts as (method 1)."""


def measure_bleu_distances(texts: Sequence[str]) -> np.ndarray:
    """1 - BLEU of each two texts, the mean of both directions.

    Args:
        texts: [num_texts]; one without words is like an equal one alone.

    Returns:
        float64 [num_texts, num_texts], symmetric, 0 on the diagonal, in [0, 1]. Cost: quadratic in time and memory.

    >>> measure_bleu_distances(["Add 2 and 3.", "add 2 and 3", "Name a bird"]).round(2).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    words = [tokenize_words(text) for text in texts]
    lengths = np.array([len(one) for one in words], dtype=np.float64)
    shorter = np.minimum(lengths[:, None], lengths[None, :])
    logs = np.zeros((len(texts), len(texts)))
    has_match = np.zeros_like(logs, dtype=bool)
    for order in range(1, MAX_ORDER + 1):
        matches = _count_matches(words, order)
        counts = shorter >= order
        # Of the hypothesis, which is the row.
        num_grams = np.maximum(lengths - order + 1, 1)[:, None]
        logs += np.where(counts, np.log(np.where(matches > 0, matches, _NO_MATCH) / num_grams), 0.0)
        has_match |= (matches > 0) & (order == 1)
    means = logs / np.maximum(np.minimum(shorter, MAX_ORDER), 1)
    # A hypothesis that is shorter than its reference pays for it.
    brevity = np.minimum(0.0, 1 - lengths[None, :] / np.maximum(lengths, 1)[:, None])
    bleu = np.where(has_match, np.exp(means + brevity), 0.0)
    distances = 1 - (bleu + bleu.T) / 2
    empty = lengths == 0
    distances[np.ix_(empty, empty)] = 0.0
    np.fill_diagonal(distances, 0.0)
    return distances.clip(0.0, 1.0)


def _count_matches(words: Sequence[Sequence[str]], order: int) -> np.ndarray:
    """Clipped matches of each two texts, float64 [num_texts, num_texts]."""
    from scipy.sparse import csr_matrix

    places: dict[tuple[str, int], int] = {}
    rows, columns = list[int](), list[int]()
    for row, own in enumerate(words):
        seen: Counter[str] = Counter()
        for gram in list_ngrams(own, order):
            # The second "the" of a text matches a second one alone: that is the smaller of both counts.
            seen[gram] += 1
            rows.append(row)
            columns.append(places.setdefault((gram, seen[gram]), len(places)))
    shape = (len(words), max(len(places), 1))
    found = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
    return np.asarray((found @ found.T).toarray())


def share_clusters(texts: Sequence[str], *, threshold: float) -> list[float]:
    """Of each text, the share of its batch that its cluster has.

    Args:
        texts: in the order in which batches are taken.
        threshold: clusters are joined while their mean distance is below it; in (0, 1].

    Returns:
        A share in (0, 1] for each text, in order; 1 / num_texts for one that is like no other.

    Raises:
        ValueError: the threshold is not in (0, 1].

    >>> share_clusters(["Add 2 and 3.", "Name a bird.", "Add 2 and 3!", "Who wrote it?"], threshold=0.5)
    [0.5, 0.25, 0.5, 0.25]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    shares: list[float] = []
    for start in range(0, len(texts), MAX_BATCH):
        batch = texts[start : start + MAX_BATCH]
        labels = _cluster(batch, threshold)
        sizes = Counter(labels)
        shares += [sizes[label] / len(batch) for label in labels]
    return shares


def _cluster(texts: Sequence[str], threshold: float) -> list[int]:
    if len(texts) < 2:
        return [0] * len(texts)
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(measure_bleu_distances(texts), checks=False), method="average")
    # scipy joins up to the threshold, and the authors' library below it.
    return [int(label) for label in fcluster(tree, np.nextafter(threshold, 0), criterion="distance")]
