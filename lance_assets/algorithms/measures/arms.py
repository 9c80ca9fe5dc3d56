"""What a study of arms says: accuracies by round, and an arm against another with a paired interval.

An arm is a variant of one experiment. Runs with the same `rng_seed` share their start and their held-out problems, so
differences are taken within a seed: over several seeds the interval is Student's t over the seeds' differences, and
with one seed it is over the held-out problems, which says nothing of how another seed would have come out.
"""

import polars as pl

from lance_assets.algorithms.measures.statistics import Interval, compute_mean_interval, compute_paired_difference

BACKBONE = "backbone"
"""The model before any training: what r0000's eval_report has beside its checkpoint."""


def compare_rounds(rows: pl.DataFrame, before: tuple[str, str], after: tuple[str, str], *, metric: str) -> Interval:
    """The change of accuracy between two rounds, of one arm or of two.

    Args:
        rows: schema `STUDY_ROWS`.
        before: (arm, round) to compare with.
        after: (arm, round) to compare.
        metric: "greedy" or "sampled".

    Returns:
        Mean difference over the seeds that have both, with its interval.

    Raises:
        ValueError: no seed has both rounds.
    """
    columns = ["rng_seed", metric, f"{metric}_items"]
    old, new = (
        rows.filter(pl.col("arm") == arm, pl.col("round") == key).select(columns) for arm, key in (before, after)
    )
    both = old.join(new, on="rng_seed", suffix="_after").sort("rng_seed")
    if both.is_empty():
        raise ValueError(
            f"no seed has finished both {' '.join(before)} and {' '.join(after)}; run the study to its end"
        )
    if len(both) == 1:
        row = both.row(0, named=True)
        return compute_paired_difference(row[f"{metric}_items"], row[f"{metric}_items_after"])
    return compute_mean_interval((both[f"{metric}_after"] - both[metric]).to_list())


def summarise_arms(rows: pl.DataFrame, *, metric: str) -> pl.DataFrame:
    """Mean accuracy of each arm and round over its seeds.

    Returns:
        Columns arm, round, num_seeds, mean, low, high; the interval is over seeds, the mean itself with one seed.
    """
    found = []
    for (arm, key), group in rows.group_by("arm", "round", maintain_order=True):
        mean, low, high = compute_mean_interval(group[metric].to_list())
        if len(group) == 1:
            low = high = mean
        found.append({"arm": arm, "round": key, "num_seeds": len(group), "mean": mean, "low": low, "high": high})
    schema = {"arm": pl.String, "round": pl.String, "num_seeds": pl.Int64}
    return pl.DataFrame(found, schema=schema | dict.fromkeys(("mean", "low", "high"), pl.Float64))


def average_by_stratum(rows: pl.DataFrame, arm: str, round_key: str, *, metric: str) -> list[float]:
    """Mean accuracy of an arm's round over its seeds, by stratum in ascending order; empty when no seed has it."""
    mine = rows.filter(pl.col("arm") == arm, pl.col("round") == round_key)[f"{metric}_by_stratum"].to_list()
    return [sum(rates) / len(rates) for rates in zip(*mine, strict=True)]


def find_fallen_strata(
    rows: pl.DataFrame, before: tuple[str, str], after: tuple[str, str], *, metric: str, above: float, by: float
) -> list[int]:
    """The places, from 1, of the strata that were above a bar and fell by more than so much, as means over seeds.

    >>> rates = [[1.0, 0.95], [1.0, 0.9]]
    >>> rows = pl.DataFrame({"arm": "lance", "round": ["r0000", "r0001"], "greedy_by_stratum": rates})
    >>> find_fallen_strata(rows, ("lance", "r0000"), ("lance", "r0001"), metric="greedy", above=0.9, by=0.03)
    [2]
    """
    old, new = (average_by_stratum(rows, *place, metric=metric) for place in (before, after))
    pairs = enumerate(zip(old, new, strict=True), start=1)
    return [place for place, (was, now) in pairs if was > above and was - now > by + 1e-9]
