"""Near-duplicates: pairs of rows that are alike, and one rule for which rows are kept.

Exact pairs are equal after `normalise_text`. Similar pairs have embeddings that are nearer than a threshold: they are
found exactly for thousands of rows, and by buckets for millions.

The rule is hand-written: libraries that deduplicate choose survivors by their own order and compare within one set.
Here rows are also compared with earlier rounds, every dropped row names the survivor it is like, and the rule can be
applied again to the same pairs with raised thresholds.

The search is hand-written, by measurement. `range_search` of faiss-cpu 1.15.1 returns all pairs above a threshold too.
On 20,000 rows it found the same pairs as this module, on 60,000 as many, and it took longer (384 dimensions, float32,
2 threads; CPU seconds on 2 cores that others used too, three runs of the first line and one of the second):

| rows | pairs | threshold | here | faiss |
|---|---|---|---|---|
| 20,000, all compared | 2,000 | 0.98 | 3.0 to 3.3 s, 81 MiB | IndexFlatIP: 15.5 to 16.4 s, 75 MiB |
| 60,000, in buckets | 5,423 | 0.9 | 4.6 s | IndexIVFFlat, 2 probes: 10.3 s |

Rows compared with each other need half of the products here, and faiss looks up both halves. faiss-cpu would also add
65 MiB to an installation. Libraries that build a graph of neighbours (`benchmarks/dedup.py` measures SemHash) return
the k nearest rows, not all above a threshold.

1. Up to `exact_rows` every pair is computed, in blocks.
2. Above, rows are assigned to the nearest of about sqrt(rows) centres (k-means on a sample, by cosine). A row is
   compared with the rows of its `num_probes` nearest centres, one matrix product a bucket.
3. `num_probes` is doubled until rows of a sample, compared with all rows, show the wanted recall.

Found similarities are computed again in float64, pair by pair, so that they do not depend on the block they were found
in: what is computed exactly is the same in every order of the rows. Samples are taken evenly over the order given, so
with buckets a caller brings the rows into an order of their own first, as the platform does by row id.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import polars as pl

from lance_assets.algorithms.similarity.dividing import RunParts, run_here
from lance_assets.algorithms.similarity.words import normalise_text

TIERS = ("exact", "lexical", "embedding")
"""How a pair can be found, the surest first."""

ROW_PAIRS = pl.Schema({"row_id": pl.String, "other_id": pl.String, "tier": pl.String, "similarity": pl.Float64})
"""Two like rows."""

DROPPED = pl.Schema({"row_id": pl.String, "nearest_id": pl.String, "tier": pl.String, "similarity": pl.Float64})
"""A dropped row with its nearest survivor."""

PAIRS = pl.Schema({"left": pl.Int64, "right": pl.Int64, "similarity": pl.Float64})
"""Positions of two like rows, and their cosine."""
MAX_PAIRS = 50_000_000
"""Pairs that are kept in memory: 1.2 GiB."""
EXACT_ROWS = 20_000
"""Rows up to which every pair is computed."""
_BLOCK_VALUES = 1 << 24
_SLACK = 1e-5
"""By how much a float32 product may lie below the float64 one."""
_PART_BLOCKS = 16
"""Blocks of rows whose nearest centres are found together."""
_PART_PRODUCTS = 1 << 27
"""Cosines of a part: a second of a core, or a little more."""
_SAMPLED_ROWS = 1000
_TRAINING_ROWS_A_CENTRE = 40
_LLOYD_STEPS = 6

Found = tuple[np.ndarray, np.ndarray]


class TooManyPairsError(ValueError):
    """More pairs are above the threshold than were asked for."""


def check_num_pairs(num_pairs: int, max_pairs: int | None = None) -> None:
    """Raise TooManyPairsError where there are more pairs than `max_pairs`; None: than `MAX_PAIRS`, which fit."""
    allowed = MAX_PAIRS if max_pairs is None else max_pairs
    if num_pairs > allowed:
        raise TooManyPairsError(
            f"at least {num_pairs} pairs are above the threshold, more than {allowed} fit: raise the threshold, or "
            "drop equal texts first"
        )


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


def choose_survivors(
    row_ids: Sequence[str], pairs: pl.DataFrame, *, thresholds: Mapping[str, float], round_key: str | None = None
) -> pl.DataFrame:
    """Which rows are dropped: in the order of their ids, each that is like a row of an earlier round or a kept one.

    Args:
        row_ids: the rows to decide about; all other ids in `pairs` are of earlier rounds, whose rows are kept. A pair
            of one id is that of a row which was copied from an earlier round with its id.
        pairs: at least the columns of `ROW_PAIRS`; either of two rows may be named first.
        thresholds: by tier, the similarity that a pair must be strictly above; pairs of other tiers count for nothing.
        round_key: the round of the rows, where `pairs` has the column `other_round`: the other row of a pair is then of
            an earlier round where that is another one, whatever its id.

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
    is_copy = pl.col("row_id") == pl.col("other_id")
    is_earlier = is_copy if round_key is None else is_copy | (pl.col("other_round") != round_key)
    candidates: dict[str, list[tuple[int, float, str, bool]]] = {}
    named = pairs.select(*ROW_PAIRS.names(), is_earlier=is_earlier)
    for row_id, other_id, tier, similarity, of_earlier in named.iter_rows():
        if tier not in thresholds or not similarity > thresholds[tier]:
            continue
        if row_id not in rows and other_id not in rows:
            raise ValueError(f"a pair must name one of the rows, got {row_id} and {other_id}")
        # A row of this round can only be dropped for one that is decided before it: an earlier round's, or one with a
        # smaller id.
        later, earlier = row_id, other_id
        if not of_earlier and (row_id not in rows or (other_id in rows and row_id < other_id)):
            later, earlier = other_id, row_id
        stays = of_earlier or earlier not in rows
        candidates.setdefault(later, []).append((TIERS.index(tier), -similarity, earlier, stays))
    dropped: dict[str, tuple[str, str, float]] = {}
    for row_id in sorted(candidates):
        # A row that was dropped drops no other: else a chain of small steps would empty the round.
        survivors = [like[:3] for like in candidates[row_id] if like[3] or like[2] not in dropped]
        if survivors:
            tier_number, negated, nearest_id = min(survivors)
            dropped[row_id] = (nearest_id, TIERS[tier_number], -negated)
    return pl.DataFrame([(row_id, *nearest) for row_id, nearest in dropped.items()], schema=DROPPED, orient="row")


def check_normalised(embeddings: np.ndarray, name: str = "embeddings") -> None:
    """Raise ValueError unless float rows [num_rows, dim] are finite and of length 1, naming the first that is not."""
    if embeddings.ndim != 2:
        raise ValueError(f"{name} must be a 2D array [num_rows, dim], got shape {embeddings.shape}")
    # einsum needs no copy of the matrix, as squaring it would.
    norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    wrong = np.flatnonzero(~(np.abs(norms - 1) < 1e-2))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(f"{name} must be L2-normalised, row {row} has norm {norms[row]:.4g}: divide rows by norms")


def find_similar_pairs(
    embeddings: np.ndarray,
    *,
    threshold: float,
    against: np.ndarray | None = None,
    exact_rows: int = EXACT_ROWS,
    target_recall: float = 0.995,
    max_pairs: int | None = None,
    run: RunParts = run_here,
) -> pl.DataFrame:
    """All pairs with a cosine strictly above the threshold.

    Cost: O(num_rows * num_against * dim) up to `exact_rows`; about O(num_rows ** 1.5 * dim) above.

    Args:
        embeddings: float32 [num_rows, dim], L2-normalised.
        threshold: cosine, -1..1.
        against: float32 [num_against, dim], L2-normalised, whose rows are `right`; None compares rows with each other.
        exact_rows: rows (the geometric mean of both sets' numbers) up to which every pair is computed.
        target_recall: share of a sample's pairs at which no further buckets are compared, 0..1.
        max_pairs: most pairs that are held; None: `MAX_PAIRS`.
        run: assigns rows to buckets and compares these, above `exact_rows`.

    Returns:
        Schema `PAIRS`, sorted by left and right; left < right, where a set is compared with itself.

    Raises:
        ValueError: rows that are not normalised, dimensions that differ, or more than `max_pairs` pairs
            (`TooManyPairsError`).

    >>> rows = np.float32([[1, 0], [0.6, 0.8], [1, 0]])
    >>> find_similar_pairs(rows, threshold=0.9).rows()
    [(0, 2, 1.0)]
    """
    check_normalised(embeddings)
    others = embeddings if against is None else against
    if against is not None:
        check_normalised(against, "against")
        if len(embeddings) and len(against) and embeddings.shape[1] != against.shape[1]:
            raise ValueError(f"embeddings have {embeddings.shape[1]} dimensions, against {against.shape[1]}")
    if not len(embeddings) or not len(others):
        return pl.DataFrame(schema=PAIRS)
    left = np.ascontiguousarray(embeddings, dtype=np.float32)
    others = left if against is None else np.ascontiguousarray(against, dtype=np.float32)
    if (len(left) * len(others)) ** 0.5 <= exact_rows:
        found = _compare_all(left, others, threshold, is_self=against is None, max_pairs=max_pairs)
    else:
        found = _compare_buckets(left, others, threshold, target_recall, max_pairs, run)
    return _finish(left, others, found, threshold, is_self=against is None)


def _finish(left: np.ndarray, right: np.ndarray, found: Found, threshold: float, *, is_self: bool) -> pl.DataFrame:
    """Each pair once, with its similarity in float64, in order."""
    rows, others = found
    if is_self:
        is_pair = rows != others
        rows, others = np.minimum(rows, others)[is_pair], np.maximum(rows, others)[is_pair]
    # Buckets overlap and meet a pair several times; as one number each, pairs are sorted and made unique at once.
    codes = np.unique(rows * len(right) + others)
    rows, others = codes // len(right), codes % len(right)
    similarity = np.empty(len(codes))
    for start in range(0, len(codes), 1 << 16):
        part = slice(start, start + (1 << 16))
        similarity[part] = np.einsum("ij,ij->i", left[rows[part]].astype(np.float64), right[others[part]])
    is_near = similarity > threshold
    columns = (rows[is_near], others[is_near], similarity[is_near].clip(-1, 1))
    return pl.DataFrame(dict(zip(PAIRS, columns, strict=True)), schema=PAIRS)


def _gather(parts: list[Found]) -> Found:
    rows, others = zip(*parts, strict=True) if parts else ((), ())
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([empty, *rows]), np.concatenate([empty, *others])


def _compare_all(
    left: np.ndarray, right: np.ndarray, threshold: float, *, is_self: bool, max_pairs: int | None = None
) -> Found:
    block = max(1, _BLOCK_VALUES // len(right))
    parts, num_pairs = [], 0
    for start in range(0, len(left), block):
        # Of a set with itself only the half above the diagonal is computed.
        first = start if is_self else 0
        # The threshold is lowered by what float32 may lose; `_finish` decides in float64.
        rows, others = np.nonzero(left[start : start + block] @ right[first:].T > threshold - _SLACK)
        if is_self:
            rows, others = rows[rows < others], others[rows < others]
        parts.append((rows + start, others + first))
        num_pairs += len(rows)
        check_num_pairs(num_pairs, max_pairs)
    return _gather(parts)


def _train_centres(rows: np.ndarray, num_centres: int) -> np.ndarray:
    """Centres by cosine, float32 [num_centres, dim]: a few Lloyd steps over a sample; an empty one stays as it was."""
    sample = rows[:: max(1, len(rows) // (_TRAINING_ROWS_A_CENTRE * num_centres))]
    centres = sample[:: max(1, len(sample) // num_centres)][:num_centres].copy()
    for _ in range(_LLOYD_STEPS):
        nearest, _ = _find_nearest_centres(sample, centres, 1)
        # Sorted by centre, the rows of each lie together and are summed in one pass.
        order = np.argsort(nearest[:, 0], kind="stable")
        filled, starts = np.unique(nearest[order, 0], return_index=True)
        sums = np.add.reduceat(sample[order], starts, axis=0)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres[filled] = np.divide(sums, norms, out=centres[filled], where=norms > 0)
    return centres


def _find_nearest_centres(rows: np.ndarray, centres: np.ndarray, num_probes: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centres of each row, nearest first where there is one: int32 [num_rows, num_probes], and cosines."""
    block = max(1, _BLOCK_VALUES // len(centres))
    places = np.empty((len(rows), num_probes), dtype=np.int32)
    highest = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), block):
        near = rows[start : start + block] @ centres.T
        highest[start : start + block] = near.max(axis=1)
        if num_probes == 1:
            places[start : start + block, 0] = near.argmax(axis=1)
        else:
            places[start : start + block] = np.argpartition(near, -num_probes, axis=1)[:, -num_probes:]
    return places, highest


def _assign(rows: np.ndarray, centres: np.ndarray, num_probes: int, run: RunParts) -> np.ndarray:
    """The nearest centres of each row, int32 [num_rows, num_probes], in parts of whole blocks."""
    size = _PART_BLOCKS * max(1, _BLOCK_VALUES // len(centres))
    parts = [(start, start + size) for start in range(0, len(rows), size)]
    return np.concatenate(list(run(partial(_assign_part, num_probes=num_probes), (rows, centres), parts)))


def _assign_part(rows: np.ndarray, centres: np.ndarray, part: tuple[int, int], *, num_probes: int) -> np.ndarray:
    return _find_nearest_centres(rows[slice(*part)], centres, num_probes)[0]


def _compare_buckets(
    left: np.ndarray, right: np.ndarray, threshold: float, target_recall: float, max_pairs: int | None, run: RunParts
) -> Found:
    """Compare each row with the rows of its nearest buckets, more buckets until the sample's pairs are found."""
    num_centres = int((len(left) * len(right)) ** 0.25)
    centres = _train_centres(right, num_centres)
    homes = _assign(right, centres, 1, run)[:, 0]
    members = np.argsort(homes, kind="stable")
    edges = np.searchsorted(homes[members], np.arange(num_centres + 1))
    sampled = np.unique(np.linspace(0, len(left) - 1, _SAMPLED_ROWS).astype(int))
    # The recall is measured and not assumed, since it depends on how the texts cluster.
    truth = _list_codes(_compare_all(left[sampled], right, threshold, is_self=False), sampled, len(right))
    truth = truth[truth // len(right) != truth % len(right)] if left is right else truth
    num_probes = min(2, num_centres)
    while True:
        probes, _ = _find_nearest_centres(left[sampled], centres, num_probes)
        tried = _compare_probed(left[sampled], probes, right, members, edges, threshold, None, run_here)
        seen = np.isin(truth, _list_codes(tried, sampled, len(right)))
        recall = float(seen.mean()) if len(truth) else 1.0
        if recall >= target_recall or num_probes == num_centres:
            break
        # Doubling finds the number in a few steps, and comparing with all buckets is the exact search.
        num_probes = min(2 * num_probes, num_centres)
    probes = _assign(left, centres, num_probes, run)
    return _compare_probed(left, probes, right, members, edges, threshold, max_pairs, run)


def _list_codes(found: Found, rows: np.ndarray, num_right: int) -> np.ndarray:
    """Each pair as one number."""
    return rows[found[0]] * num_right + found[1]


def _compare_probed(
    left: np.ndarray,
    probes: np.ndarray,
    right: np.ndarray,
    members: np.ndarray,
    edges: np.ndarray,
    threshold: float,
    max_pairs: int | None,
    run: RunParts,
) -> Found:
    """One matrix product a bucket: all rows that probe it with all that live in it."""
    compare = partial(_compare_part, threshold=threshold, is_self=left is right, max_pairs=max_pairs)
    parts, num_pairs = [], 0
    for found in run(compare, (left, right), _list_parts(probes, members, edges)):
        parts.append(found)
        num_pairs += len(found[0])
        # Buckets overlap, and meet a pair of one set in both orders.
        check_num_pairs(num_pairs // 2, max_pairs)
    return _gather(parts)


def _list_parts(probes: np.ndarray, members: np.ndarray, edges: np.ndarray) -> Iterator[list[Found]]:
    """Buckets, each with the rows that live in it and those that probe it, in parts of about `_PART_PRODUCTS`."""
    num_probes = probes.shape[1]
    order = np.argsort(probes.ravel(), kind="stable")
    asked = np.searchsorted(probes.ravel()[order], np.arange(len(edges)))
    part: list[Found] = []
    size = 0
    for bucket in range(len(edges) - 1):
        inside = members[edges[bucket] : edges[bucket + 1]]
        asking = order[asked[bucket] : asked[bucket + 1]] // num_probes
        if len(inside) and len(asking):
            part.append((inside, asking))
            size += len(inside) * len(asking)
        if size >= _PART_PRODUCTS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _compare_part(
    left: np.ndarray,
    right: np.ndarray,
    part: Sequence[Found],
    *,
    threshold: float,
    is_self: bool,
    max_pairs: int | None,
) -> Found:
    """The pairs of some buckets."""
    found, num_pairs = [], 0
    for inside, asking in part:
        keys = right[inside]
        block = max(1, _BLOCK_VALUES // len(inside))
        for start in range(0, len(asking), block):
            some = asking[start : start + block]
            rows, others = np.nonzero(left[some] @ keys.T > threshold - _SLACK)
            rows, others = some[rows], inside[others]
            if is_self:
                rows, others = rows[rows != others], others[rows != others]
            found.append((rows, others))
            num_pairs += len(rows)
            check_num_pairs(num_pairs // 2, max_pairs)
    return _gather(found)
