"""Pairs of texts that share most of their words in order: ROUGE-L above a threshold.

Source: the near-duplicate rule of LANCE (`rouge_l`): recall, precision or F of ROUGE-L above 0.70, which is the longest
common subsequence over the shorter text. Here for whole sets:

1. `find_rouge_pairs` compares every pair, for thousands of texts: rapidfuzz computes all subsequences in C++, one
   character a word.
2. `find_lexical_pairs` compares candidates by MinHash (Broder 1997; rensa) alone, for more texts than `exact_texts`.

Difference from comparing every pair: MinHash finds texts of like length that share words; a short text that is part of
a long one has a small Jaccard similarity and may be missed above `exact_texts`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from lance_assets.algorithms.similarity.near_duplicates import PAIRS, check_num_pairs
from lance_assets.algorithms.similarity.words import tokenize_words

EXACT_TEXTS = 3000
"""Texts up to which every pair is compared."""
NUM_PERMUTATIONS = 128
"""Hashes of a MinHash signature."""
NUM_BANDS = 32
"""Bands of 4 hashes: texts with a Jaccard similarity of 0.5 meet with probability 0.87, of 0.7 with 0.9999."""
MAX_WORDS = 5000
"""Words of a text that are compared; the rest of a longer one is not read."""
_HASH_SEED = 42
_MAX_CODES = 0x10FFFF - 0x800 - 1
_BLOCK = 512


def encode_words(texts: Sequence[str]) -> list[str]:
    """Each text as a string with one character a word, the same character for the same word in all texts.

    Raises:
        ValueError: more different words than Unicode has characters.

    >>> first, second = encode_words(["sort the list", "sort it"])
    >>> len(first), len(second), first[0] == second[0]
    (3, 2, True)
    """
    codes: dict[str, str] = {}
    encoded = []
    for text in texts:
        for word in (words := tokenize_words(text)[:MAX_WORDS]):
            if word not in codes:
                number = len(codes) + 1
                if number > _MAX_CODES:
                    raise ValueError(f"texts have more than {_MAX_CODES} different words: compare fewer at once")
                # surrogates are no characters of their own
                codes[word] = chr(number if number < 0xD800 else number + 0x800)
        encoded.append("".join(codes[word] for word in words))
    return encoded


def find_rouge_pairs(
    texts: Sequence[str], *, threshold: float, against: Sequence[str] | None = None, max_pairs: int | None = None
) -> pl.DataFrame:
    """Every pair whose ROUGE-L (the largest of precision, recall and F) is strictly above the threshold.

    Cost: O(texts * against) comparisons, each O(words * words / 64), on all cores.

    Args:
        texts: any number.
        threshold: 0..1.
        against: texts that are `right`; None compares texts with each other.
        max_pairs: most pairs that are held; None: `near_duplicates.MAX_PAIRS`.

    Returns:
        Schema `PAIRS`, sorted by left and right; left < right, where a set is compared with itself. Texts without words
        are like none.

    Raises:
        ValueError: the threshold is not in [0, 1], or there are too many different words or pairs
            (`TooManyPairsError`).

    >>> find_rouge_pairs(["Reverse 3 1 2", "reverse 3 1 4", "hi"], threshold=0.7).rows()
    [(0, 1, 0.75)]
    """
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    encoded = encode_words([*texts, *(against or ())])
    # Both sets are encoded together, so that a word has the same character in both.
    left, right = encoded[: len(texts)], encoded if against is None else encoded[len(texts) :]
    lengths = np.array([len(text) for text in right], dtype=np.int64)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    num_pairs = 0
    for start in range(0, len(left), _BLOCK):
        first = start if against is None else 0
        block = left[start : start + _BLOCK]
        common = cdist(block, right[first:], scorer=LCSseq.similarity, dtype=np.int32, workers=-1)
        # A text without words has the length 0 and shares 0 words, and 0 > 0 is false: it is like none.
        shorter = np.minimum(np.array([len(text) for text in block])[:, None], lengths[None, first:])
        rows, others = np.nonzero(common > threshold * shorter)
        if against is None:
            # A block is compared with itself, too, so its pairs are met in both orders.
            rows, others = rows[rows < others], others[rows < others]
        share = common[rows, others] / shorter[rows, others]
        # The product with the threshold may be rounded down, and let in a share that is the threshold itself.
        is_above = share > threshold
        parts.append((rows[is_above] + start, others[is_above] + first, share[is_above]))
        num_pairs += int(is_above.sum())
        check_num_pairs(num_pairs, max_pairs)
    # As arrays a pair takes 24 bytes; as Python's tuples it would take seven times as much.
    if not parts:
        return pl.DataFrame(schema=PAIRS)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return pl.DataFrame(dict(zip(PAIRS, columns, strict=True)), schema=PAIRS)


def _list_bands(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The MinHash signature of each text with words, in bands: of its words as a set."""
    from rensa import RMinHash

    width = NUM_PERMUTATIONS // NUM_BANDS
    bands = []
    for text in texts:
        words = tokenize_words(text)[:MAX_WORDS]
        signature = RMinHash(num_perm=NUM_PERMUTATIONS, seed=_HASH_SEED)
        signature.update(words)
        digest = signature.digest() if words else []
        # The number of the band is hashed with it, so that only equal bands of the same number meet.
        bands.append(tuple(hash((band, *digest[band : band + width])) for band in range(0, len(digest), width)))
    return bands


def _list_candidates(bands: list[tuple[int, ...]], num_texts: int, *, is_self: bool) -> Iterator[tuple[int, int]]:
    """Pairs of texts with a band in common, in order."""
    places: dict[int, list[int]] = {}
    for place in range(0 if is_self else num_texts, len(bands)):
        for band in bands[place]:
            places.setdefault(band, []).append(place)
    for left in range(num_texts):
        met = {right for band in bands[left] for right in places.get(band, ())}
        yield from ((left, right) for right in sorted(met) if not is_self or left < right)


def find_lexical_pairs(
    texts: Sequence[str],
    *,
    threshold: float,
    against: Sequence[str] | None = None,
    exact_texts: int = EXACT_TEXTS,
    max_pairs: int | None = None,
) -> pl.DataFrame:
    """Pairs whose ROUGE-L is strictly above the threshold: of all pairs, or of MinHash candidates among many texts.

    Args:
        texts: any number.
        threshold: 0..1.
        against: texts that are `right`; None compares texts with each other.
        exact_texts: texts (the geometric mean of both sets' numbers) up to which every pair is compared.
        max_pairs: most pairs that are held; None: `near_duplicates.MAX_PAIRS`.

    Returns:
        Schema `PAIRS`, as `find_rouge_pairs`.

    Raises:
        ValueError: as `find_rouge_pairs`.

    >>> find_lexical_pairs(["Reverse 3 1 2", "hi", "reverse 3 1 2 4"], threshold=0.7, exact_texts=0).rows()
    [(0, 2, 1.0)]
    """
    num_others = len(texts) if against is None else len(against)
    if (len(texts) * num_others) ** 0.5 <= exact_texts:
        return find_rouge_pairs(texts, threshold=threshold, against=against, max_pairs=max_pairs)
    from rapidfuzz.distance import LCSseq

    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    every = [*texts, *(against or ())]
    encoded, offset = encode_words(every), 0 if against is None else len(texts)
    found = []
    for left, right in _list_candidates(_list_bands(every), len(texts), is_self=against is None):
        shorter = min(len(encoded[left]), len(encoded[right]))
        # rapidfuzz stops early where the cutoff cannot be reached.
        common = LCSseq.similarity(encoded[left], encoded[right], score_cutoff=int(threshold * shorter))
        if common / shorter > threshold:
            found.append((left, right - offset, common / shorter))
            check_num_pairs(len(found), max_pairs)
    return pl.DataFrame(found, schema=PAIRS, orient="row")
