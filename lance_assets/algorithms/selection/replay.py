"""Which rows of earlier tasks a model is trained on once more, so that it does not forget them.

Source: TRACE (Wang et al., arXiv 2310.06762), replay with `past_task_ratio`. Difference: a row is replayed in every
later round or in none, by the hash of its id, so that a round need not know the sets of all rounds before.
"""

import polars as pl

from lance_assets.records import derive_row_id

_PLACES = 2**64


def take_replayed(rows: pl.DataFrame, *, rate: float, salt: str) -> pl.DataFrame:
    """The rows that are replayed, in order: about a share of them, each by its own hash.

    Args:
        rows: with the column `row_id`.
        rate: 0..1; 0 takes none and 1 all.
        salt: what the hashes begin with, such as the seed of the random numbers.

    Raises:
        ValueError: the rate is no share.

    >>> rows = pl.DataFrame({"row_id": [str(number) for number in range(1000)]})
    >>> 80 < len(take_replayed(rows, rate=0.1, salt="0")) < 120
    True
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate of replay lies between 0 and 1, got {rate:g}")
    places = [int(derive_row_id(salt, "replay", row_id), 16) / _PLACES for row_id in rows["row_id"]]
    return rows.filter(pl.Series([place < rate for place in places], dtype=pl.Boolean))
