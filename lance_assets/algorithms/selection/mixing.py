"""Which of several generators writes which row: in given shares, drawn by the rows' ids.

Source: regurgitative training (arXiv 2407.12835), which mixes several generators to lose less by training on generated
text. It names no shares; here they are the experiment's.
"""

from collections.abc import Mapping, Sequence

from lance_assets.records import derive_row_id

_ROUNDING = 1e-9


def count_shares(number: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many rows each generator writes: whole numbers nearest to its share, by largest remainder.

    Args:
        number: rows in all.
        shares: of each generator, above 0; together at most 1. What is left over is nobody's.

    Returns:
        By generator; of equal remainders the first name in order gets the row. The sum is the rounded sum of shares.

    Raises:
        ValueError: a share is not above 0, or they are more than 1 together.

    >>> count_shares(10, {"a": 0.25, "b": 0.75}), count_shares(3, {"a": 0.5})
    ({'a': 3, 'b': 7}, {'a': 2})
    """
    if any(share <= 0 for share in shares.values()) or sum(shares.values()) > 1 + _ROUNDING:
        raise ValueError(f"shares must be above 0 and at most 1 together, got {dict(shares)}")
    wanted = {name: number * shares[name] for name in sorted(shares)}
    counts = {name: int(rows + _ROUNDING) for name, rows in wanted.items()}
    # Half a row is somebody's, and not the own model's.
    total = int(sum(wanted.values()) + 0.5 + _ROUNDING)
    by_remainder = sorted(wanted, key=lambda name: (round(counts[name] - wanted[name], 9), name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return {name: counts[name] for name in shares}


def deal_rows(row_ids: Sequence[str], shares: Mapping[str, float], *, rng_seed: int) -> list[str | None]:
    """The generator of each row; None for the rows that are left over.

    Args:
        row_ids: unique; their order has no effect on who writes a row, nor has the order of the shares.
        shares: as for `count_shares`.
        rng_seed: the experiment's.

    Returns:
        In the order of the rows. A row more or less moves at most a few others.

    >>> deal_rows(["r1", "r2", "r3", "r4"], {"other": 0.5}, rng_seed=0).count("other")
    2
    """
    counts = count_shares(len(row_ids), shares)
    drawn = sorted(row_ids, key=lambda row_id: derive_row_id("generator", rng_seed, row_id))
    writers: dict[str, str] = {}
    for name in sorted(counts):
        for row_id in drawn[len(writers) : len(writers) + counts[name]]:
            writers[row_id] = name
    return [writers.get(row_id) for row_id in row_ids]
