"""Which rows are kept where several are alike: one rule over the pairs that any tier found.

Hand-written: libraries that deduplicate choose survivors by their own order and compare within one set; here rows are
also compared with earlier rounds, every dropped row names the survivor it is like, and the rule can be applied again
to the same pairs with raised thresholds.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from lance_assets.algorithms.similarity.words import normalise_text

TIERS = ("exact", "lexical", "embedding")
"""How a pair can be found, the surest first."""

ROW_PAIRS = pl.Schema({"row_id": pl.String, "other_id": pl.String, "tier": pl.String, "similarity": pl.Float64})
"""Two like rows."""

DROPPED = pl.Schema({"row_id": pl.String, "nearest_id": pl.String, "tier": pl.String, "similarity": pl.Float64})
"""A dropped row with its nearest survivor."""


def find_exact_pairs(row_ids: Sequence[str], texts: Sequence[str]) -> pl.DataFrame:
    """Rows whose texts are equal after `normalise_text`: each with the one of them that has the smallest id.

    Args:
        row_ids: [num_rows].
        texts: [num_rows], of the rows.

    Returns:
        Schema `ROW_PAIRS`, tier "exact", similarity 1, sorted by row_id.

    Raises:
        ValueError: the lengths differ.

    >>> find_exact_pairs(["b", "a", "c"], ["Hi there!", "hi  THERE", "bye"]).rows()
    [('b', 'a', 'exact', 1.0)]
    """
    if len(row_ids) != len(texts):
        raise ValueError(f"each row id needs one text, got {len(row_ids)} row ids and {len(texts)} texts")
    first: dict[str, str] = {}
    found = []
    for row_id, text in sorted(zip(row_ids, map(normalise_text, texts), strict=True)):
        if (smallest := first.setdefault(text, row_id)) != row_id:
            found.append((row_id, smallest, "exact", 1.0))
    return pl.DataFrame(found, schema=ROW_PAIRS, orient="row")


def choose_survivors(row_ids: Sequence[str], pairs: pl.DataFrame, *, thresholds: Mapping[str, float]) -> pl.DataFrame:
    """Which rows are dropped: in the order of their ids, each that is like a row of an earlier round or a kept one.

    Args:
        row_ids: the rows to decide about; all other ids in `pairs` are of earlier rounds, whose rows are kept.
        pairs: at least the columns of `ROW_PAIRS`; either of two rows may be named first.
        thresholds: by tier, the similarity that a pair must be strictly above; pairs of other tiers count for nothing.

    Returns:
        Schema `DROPPED`, sorted by row_id. The nearest survivor is that of the surest tier, then the most similar, then
        the one with the smallest id. The order of `row_ids` and `pairs` does not matter.

    Raises:
        ValueError: a row id twice, an unknown tier, a similarity that is NaN, or a pair of two rows of earlier rounds.

    >>> like = [("a", "b", "embedding", 0.9), ("b", "c", "embedding", 0.95)]
    >>> choose_survivors(["a", "b", "c"], pl.DataFrame(like, schema=ROW_PAIRS, orient="row"),
    ...                  thresholds={"embedding": 0.8}).rows()
    [('b', 'a', 'embedding', 0.9)]
    """
    rows = set(row_ids)
    if len(rows) != len(row_ids):
        raise ValueError(f"row ids must be unique, got {len(row_ids) - len(rows)} more than once")
    if unknown := set(thresholds) - set(TIERS):
        raise ValueError(f"a tier is one of {', '.join(TIERS)}; got {sorted(unknown)[0]!r}")
    if pairs["similarity"].is_nan().any():
        raise ValueError("pairs have a similarity that is NaN: was a zero vector compared?")
    candidates: dict[str, list[tuple[int, float, str]]] = {}
    for row_id, other_id, tier, similarity in pairs.select(ROW_PAIRS.names()).iter_rows():
        if tier not in thresholds or not similarity > thresholds[tier] or row_id == other_id:
            continue
        if row_id not in rows and other_id not in rows:
            raise ValueError(f"a pair must name one of the rows, got {row_id} and {other_id}")
        later, earlier = row_id, other_id
        if row_id not in rows or (other_id in rows and row_id < other_id):
            later, earlier = other_id, row_id
        candidates.setdefault(later, []).append((TIERS.index(tier), -similarity, earlier))
    dropped: dict[str, tuple[str, str, float]] = {}
    for row_id in sorted(candidates):
        survivors = [like for like in candidates[row_id] if like[2] not in dropped]
        if survivors:
            tier_number, negated, nearest_id = min(survivors)
            dropped[row_id] = (nearest_id, TIERS[tier_number], -negated)
    return pl.DataFrame([(row_id, *nearest) for row_id, nearest in dropped.items()], schema=DROPPED, orient="row")
