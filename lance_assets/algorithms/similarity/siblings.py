"""The text among earlier ones that a text is most like, by ROUGE-L: of one seed's prompts, or one prompt's completions.

Every earlier text counts, as in LANCE's rule, so the cost grows with the square of a group. rapidfuzz compares a whole
block in C++: a group of 10,000 prompts of 30 words takes 5 s of one core, and one text at a time a minute.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lance_assets.algorithms.similarity.contrast import SHORT_WORDS

_BLOCK = 256


def find_most_like_earlier(words: Sequence[Sequence[str]], *, short_by_f: bool) -> Iterator[tuple[float, int]]:
    """For each text the largest likeness to an earlier one, and the place of the first that has it.

    Args:
        words: of each text, as `tokenize_words` gives them.
        short_by_f: whether short texts are compared by F (`contrast.compute_likeness`), or all by the largest of
            precision, recall and F (`words.compute_similarity`).

    Returns:
        As many pairs as texts; 0.0 and -1 for the first. Texts without words are like none.

    >>> list(find_most_like_earlier([["a", "b"], ["c"], ["b", "a"]], short_by_f=False))
    [(0.0, -1), (0.0, 0), (0.5, 0)]
    """
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    lengths = np.array([len(each) for each in words], dtype=np.int64)
    for start in range(0, len(words), _BLOCK):
        stop = min(start + _BLOCK, len(words))
        common = cdist(words[start:stop], words[:stop], scorer=LCSseq.similarity, dtype=np.int32)
        own, others = lengths[start:stop, None], lengths[None, :stop]
        likeness = _measure(common, own, others, short_by_f=short_by_f)
        # A text is compared with those before it alone.
        likeness[np.arange(start, stop)[:, None] <= np.arange(stop)] = -1.0
        places = likeness.argmax(axis=1)
        highest = likeness[np.arange(stop - start), places]
        for value, place in zip(highest.tolist(), places.tolist(), strict=True):
            yield (value, place) if value >= 0 else (0.0, -1)


def _measure(common: np.ndarray, own: np.ndarray, others: np.ndarray, *, short_by_f: bool) -> np.ndarray:
    """The likenesses of a block, float64, by the same divisions as of one pair."""
    shorter = np.minimum(own, others)
    # Two texts without words have 0 in common, and 0 over 1 is what they are given.
    by_shorter = common / np.maximum(shorter, 1)
    if not short_by_f:
        return by_shorter
    return np.where(shorter < SHORT_WORDS, 2 * common / np.maximum(own + others, 1), by_shorter)
