"""Pairs of texts that share most of their words in order: ROUGE-L above a threshold.

Source: the near-duplicate rule of LANCE (`rouge_l`): recall, precision or F of ROUGE-L above 0.70, which is the longest
common subsequence over the shorter text. Here for whole sets:

1. `find_rouge_pairs` compares every pair, for thousands of texts: rapidfuzz computes all subsequences in C++, one
   character a word.
2. `find_lexical_pairs` compares, for more texts than `exact_texts`, those alone that share a rare word
   (`rare_words`). It finds the same pairs.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from lance_assets.algorithms.similarity.near_duplicates import PAIRS, check_num_pairs
from lance_assets.algorithms.similarity.rare_words import WordIndex
from lance_assets.algorithms.similarity.words import tokenize_words

EXACT_TEXTS = 3000
"""Texts up to which every pair is compared."""
MAX_WORDS = 5000
"""Words of a text that are compared; the rest of a longer one is not read."""
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


def find_lexical_pairs(
    texts: Sequence[str],
    *,
    threshold: float,
    against: Sequence[str] | None = None,
    exact_texts: int = EXACT_TEXTS,
    max_pairs: int | None = None,
) -> pl.DataFrame:
    """Every pair whose ROUGE-L is strictly above the threshold; among many texts those without a chance are left out.

    Cost above `exact_texts`: for each text the comparisons with those that share one of its rarest words.

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
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    encoded = encode_words([*texts, *(against or ())])
    left, right = encoded[: len(texts)], encoded if against is None else encoded[len(texts) :]
    # The shorter text of a pair finds the longer one, so two sets look each other up.
    found = _find_longer(left, right, threshold, is_self=against is None, max_pairs=max_pairs)
    if against is not None:
        turned = _find_longer(right, left, threshold, is_self=False, max_pairs=max_pairs)
        turned = turned.select(left="right", right="left", similarity="similarity")
        # Texts of one length find each other from both sides.
        found = pl.concat([found, turned]).unique(["left", "right"])
        check_num_pairs(len(found), max_pairs)
    return found.sort("left", "right")


def _find_longer(
    texts: list[str], others: list[str], threshold: float, *, is_self: bool, max_pairs: int | None
) -> pl.DataFrame:
    """Pairs of a text with one that is as long or longer, schema `PAIRS`; of one set each pair once."""
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    index, lengths = WordIndex(others), np.array([len(other) for other in others], dtype=np.int64)
    parts: list[pl.DataFrame] = []
    num_pairs = 0
    for place, text in enumerate(texts):
        fewest = int(threshold * len(text))
        candidates = index.find_candidates(text, fewest)
        candidates = candidates[lengths[candidates] >= len(text)]
        if is_self:
            # Of two texts of one length the later one is looked for.
            candidates = candidates[(lengths[candidates] > len(text)) | (candidates > place)]
        if not len(candidates):
            continue
        chosen = [others[other] for other in candidates.tolist()]
        share = cdist([text], chosen, scorer=LCSseq.similarity, dtype=np.int32)[0] / len(text)
        candidates, share = candidates[share > threshold], share[share > threshold]
        if not len(candidates):
            continue
        own = np.full(len(candidates), place)
        first, second = (np.minimum(own, candidates), np.maximum(own, candidates)) if is_self else (own, candidates)
        parts.append(pl.DataFrame(dict(zip(PAIRS, (first, second, share), strict=True)), schema=PAIRS))
        num_pairs += len(candidates)
        check_num_pairs(num_pairs, max_pairs)
    return pl.concat([pl.DataFrame(schema=PAIRS), *parts])
