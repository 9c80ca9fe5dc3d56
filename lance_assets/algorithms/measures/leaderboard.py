"""A leaderboard of experiments: which scores may be put in one order, how far apart they are, and what each one took.

Scores are compared on one scale alone: the same benchmark, metric, held-out items and settings of the evaluation. On
it a difference is paired over the items that both sides kept, as in Miller 2024, "Adding Error Bars to Evals"
(arXiv 2411.00640), section 4.2. Hand-written because the rules are the platform's own.

An experiment is listed with its best round, chosen by the scores that are shown: of many rounds with noise the highest
flatters, and the more so the more rounds there are. The table of all rounds has the others.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from lance_assets.algorithms.measures.headline import Headline, Items, compare_headlines
from lance_assets.algorithms.measures.statistics import Interval

SPENT = ("sampled_tokens", "train_tokens", "seconds", "price")
"""What rounds take: an experiment is listed with the sum from its first round to its best."""


GAIN = pl.when("higher_is_better").then("score").otherwise(-pl.col("score"))
"""The score with the sign that makes a higher one better."""


@dataclass(frozen=True)
class Measured:
    """One model's headline score."""

    scale: str
    """What it may be compared with: `identify_scale`."""
    headline: Headline
    """The score, or the mean of several, with its interval."""
    items: Sequence[Items]
    """The items of each score; empty where they were not kept."""


def identify_scale(*, benchmark: str, metric: str, settings: Mapping[str, str], items: list[str]) -> str:
    """The identity of a scale: scores with the same one may be compared.

    Args:
        benchmark: the name of a world, of a harness task, or "judge".
        metric: such as "greedy".
        settings: the settings of the evaluation by name.
        items: the prompts that were asked, in any order, or whatever is known of them, such as their number.

    Returns:
        8 hex digits.

    >>> one = identify_scale(benchmark="b", metric="m", settings={"shots": "5"}, items=["p", "q"])
    >>> one == identify_scale(benchmark="b", metric="m", settings={"shots": "5"}, items=["q", "p"])
    True
    >>> one == identify_scale(benchmark="b", metric="m", settings={"shots": "0"}, items=["p", "q"])
    False
    """
    text = json.dumps([benchmark, metric, dict(settings), sorted(items)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def compare_measured(before: Measured, after: Measured) -> Interval | None:
    """The change of a headline with its interval, as `compare_headlines`; None on two scales."""
    if before.scale != after.scale:
        return None
    return compare_headlines(before.headline, after.headline, before.items, after.items)


def tell_apart(settings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What sets several evaluations apart, in words; empty for a single one, and where nothing known differs.

    >>> tell_apart({"a": {"shots": "0", "limit": "9"}, "b": {"shots": "5", "limit": "9"}})
    {'a': 'shots 0', 'b': 'shots 5'}
    """
    names = sorted({name for mine in settings.values() for name in mine})
    differing = [name for name in names if len({mine.get(name) for mine in settings.values()}) > 1]
    return {
        key: ", ".join(f"{name} {mine[name]}" if name in mine else f"no {name}" for name in differing)
        for key, mine in settings.items()
    }


def name_scales(rows: pl.DataFrame) -> dict[str, str]:
    """Each scale in words, in the order of the rows: benchmark, metric, number of items, and what sets it apart.

    Where that leaves two scales with one name, each also has its identity.

    Args:
        rows: columns scale, benchmark, metric, num_items, higher_is_better, and evaluation, which holds the settings as
            JSON.

    >>> row = {"scale": "s", "benchmark": "gsm8k", "metric": "exact_match", "num_items": 1319, "evaluation": "{}"}
    >>> row["higher_is_better"] = True
    >>> name_scales(pl.DataFrame([row]))
    {'s': 'gsm8k exact_match, 1319 items'}
    """
    scales = rows.unique("scale", keep="first", maintain_order=True).to_dicts()
    names = {}
    for scale in scales:
        alike = [other for other in scales if all(other[name] == scale[name] for name in ("benchmark", "metric"))]
        apart = tell_apart({other["scale"]: json.loads(other["evaluation"]) for other in alike})[scale["scale"]]
        name = f"{scale['benchmark']} {scale['metric']}, {scale['num_items']} items"
        name += "" if scale["higher_is_better"] else ", lower is better"
        names[scale["scale"]] = f"{name}; {apart or 'items of its own'}" if len(alike) > 1 else name
    found = list(names.values())
    return {key: name if found.count(name) == 1 else f"{name} ({key})" for key, name in names.items()}


def order_rounds(rows: pl.DataFrame) -> pl.DataFrame:
    """Every round, the best first on each scale; the scale with the most experiments first.

    Args:
        rows: columns scale, benchmark, metric, experiment, round, score and higher_is_better.

    Returns:
        The same rows. Ties go by the experiment's name, then to the earliest round; ties of scales by benchmark,
        metric and identity.
    """
    return (
        rows.with_columns(pl.col("experiment").n_unique().over("scale").alias("num_experiments"), GAIN.alias("gain"))
        .sort(
            *("num_experiments", "benchmark", "metric", "scale", "gain", "experiment", "round"),
            descending=[True, False, False, False, True, False, False],
        )
        .drop("num_experiments", "gain")
    )


def rank_experiments(rows: pl.DataFrame) -> pl.DataFrame:
    """One row for each scale and experiment: its best round, the best experiment first.

    Args:
        rows: a row a round, with the columns of `order_rounds` and `SPENT`.

    Returns:
        The rows of the best rounds, in the order of `order_rounds`, with place (from 1; equal scores share one), of
        each of `SPENT` the sum over the experiment's rounds up to this one, on whatever scale (null where a round's is
        not known), and num_rounds, how many rounds of the experiment are on the scale, its first included.

    >>> rows = pl.DataFrame({"experiment": "a", "round": ["r0000", "r0001"], "scale": "s", "score": [0.5, 0.6]})
    >>> rows = rows.with_columns(benchmark=pl.lit("b"), metric=pl.lit("m"), higher_is_better=pl.lit(True))
    >>> rows = rows.with_columns(**dict.fromkeys(SPENT, pl.lit(2)))
    >>> rank_experiments(rows).select("place", "round", "num_rounds", "seconds").row(0)
    (1, 'r0001', 2, 4)
    """
    spent = [
        pl.when(pl.col(name).is_null().cum_max().over("experiment", order_by="round").not_())
        .then(pl.col(name).cum_sum().over("experiment", order_by="round"))
        .alias(name)
        for name in SPENT
    ]
    counted = rows.with_columns(*spent, pl.len().over("scale", "experiment").cast(pl.Int64).alias("num_rounds"))
    best = order_rounds(counted).unique(["scale", "experiment"], keep="first", maintain_order=True)
    place = GAIN.rank("min", descending=True).over("scale").cast(pl.Int64).alias("place")
    return order_rounds(best).select(place, pl.all())
