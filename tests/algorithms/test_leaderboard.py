import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.measures.headline import combine_scores
from lance_assets.algorithms.measures.leaderboard import (
    SPENT,
    Measured,
    compare_measured,
    identify_scale,
    name_scales,
    order_rounds,
    rank_experiments,
    tell_apart,
)
from lance_assets.algorithms.measures.statistics import compute_paired_difference

SCHEMA = {
    **dict.fromkeys(("experiment", "round", "scale", "benchmark", "metric", "evaluation"), pl.String),
    **{"num_items": pl.Int64, "score": pl.Float64, "price": pl.Float64, "higher_is_better": pl.Boolean},
    **dict.fromkeys(SPENT[:3], pl.Int64),
}


def board(*rows: tuple[str, str, float], **more) -> pl.DataFrame:
    """Rows of (experiment, round, score), on one scale unless `more` says otherwise; each took 10 of everything."""
    same = {"scale": "s", "benchmark": "b", "metric": "m", "num_items": 4, "evaluation": "{}", "price": None}
    same["higher_is_better"] = True
    fields = [
        same
        | dict.fromkeys(SPENT[:3], 10)
        | {"experiment": experiment, "round": key, "score": score}
        | {name: values[place] for name, values in more.items()}
        for place, (experiment, key, score) in enumerate(rows)
    ]
    return pl.DataFrame(fields, schema=SCHEMA)


def measured(score: float, *, scale: str = "s", half: float | None = 0.1, items: str = "") -> Measured:
    """A score with an interval of so much to both sides; items are 1 for right and 0 for wrong."""
    ends = (None, None) if half is None else (score - half, score + half)
    return measured_of({f"p{place}": item == "1" for place, item in enumerate(items)}, score, *ends, scale=scale)


def measured_of(items: dict, score: float, low: float | None, high: float | None, *, scale: str = "s") -> Measured:
    """A score with its interval and items."""
    names = {"model": "checkpoint", "benchmark": "b", "metric": "m", "task": "all", "stratum": None, "part_of": None}
    row = names | {"score": score, "ci_low": low, "ci_high": high, "num_items": 4, "higher_is_better": True}
    return Measured(scale, combine_scores([row], [1.0]), [items])


def test_a_scale_is_benchmark_metric_settings_and_items_in_any_order() -> None:
    given = {"benchmark": "b", "metric": "m", "settings": {"x": "1", "y": "2"}, "items": ["p", "q"]}
    scale = identify_scale(**given)
    assert len(scale) == 8
    assert identify_scale(**given | {"settings": {"y": "2", "x": "1"}, "items": ["q", "p"]}) == scale
    others = [
        {"benchmark": "c"},
        {"metric": "n"},
        {"settings": {"x": "1"}},
        {"settings": {"x": "1", "y": "3"}},
        {"items": ["p"]},
        {"items": ["pq"]},
    ]
    assert len({identify_scale(**given | other) for other in others} | {scale}) == 1 + len(others)


def test_the_same_items_are_paired_in_whatever_order_they_are() -> None:
    """Wrong to right once in four: mean 0.25, standard error 0.5 / 2, and 1.96 of it to both sides."""
    before, after = measured(0.5, items="1100"), measured(0.75, items="1110")
    shuffled = measured_of(dict(reversed(after.items[0].items())), 0.75, 0.0, 1.0)
    for other in (after, shuffled):
        mean, low, high = compare_measured(before, other)
        assert mean == pytest.approx(0.25)
        assert (low, high) == pytest.approx((0.25 - 1.959964 * 0.25, 0.25 + 1.959964 * 0.25))


def test_other_items_are_not_paired() -> None:
    """Two intervals of 0.3 and 0.4 to both sides are one of 0.5."""
    after = measured_of({"another": True}, 0.9, 0.5, 1.3)
    assert compare_measured(measured(0.5, half=0.3, items="10"), after) == pytest.approx((0.4, -0.1, 0.9))
    assert compare_measured(measured(0.5, half=0.3), measured(0.9, half=0.4)) == pytest.approx((0.4, -0.1, 0.9))


def test_without_an_interval_nothing_is_known_of_the_noise() -> None:
    for before, after in ((0.1, None), (None, 0.1), (None, None)):
        found = compare_measured(measured(0.5, half=before), measured(0.6, half=after))
        assert found == (pytest.approx(0.1), -math.inf, math.inf)


def test_two_scales_do_not_compare() -> None:
    assert compare_measured(measured(0.5, items="10"), measured(0.6, scale="t", items="10")) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_items_give_what_the_paired_difference_gives(items: list[tuple[bool, bool]]) -> None:
    before, after = zip(*items, strict=True)
    sides = [measured_of(dict(enumerate(side)), sum(side) / len(side), 0, 1) for side in (before, after)]
    assert compare_measured(*sides) == compute_paired_difference(before, after)
    there, back = compare_measured(*sides), compare_measured(*reversed(sides))
    assert there == pytest.approx((-back[0], -back[2], -back[1]))


def test_only_what_differs_sets_apart() -> None:
    told = tell_apart({"a": {"x": "1", "y": "2"}, "b": {"x": "1", "y": "3"}, "c": {"x": "1"}})
    assert told == {"a": "y 2", "b": "y 3", "c": "no y"}
    assert tell_apart({"a": {"x": "1"}, "b": {"x": "1"}}) == {"a": "", "b": ""}
    assert tell_apart({"a": {"x": "1"}}) == {"a": ""}
    assert tell_apart({}) == {}


def test_scales_are_named_by_what_sets_them_apart() -> None:
    rows = board(
        *[("a", "r0000", 0.5)] * 5,
        scale=["one", "two", "three", "four", "one"],
        benchmark=["b", "b", "b", "c", "b"],
        evaluation=[
            '{"x": "1", "z": "9"}',
            '{"x": "2", "z": "9"}',
            '{"x": "2", "z": "9"}',
            "{}",
            '{"x": "1", "z": "9"}',
        ],
    )
    assert name_scales(rows) == {
        "one": "b m, 4 items; x 1",
        "two": "b m, 4 items; x 2 (two)",
        "three": "b m, 4 items; x 2 (three)",
        "four": "c m, 4 items",
    }
    same = board(("a", "r0000", 0.5), ("b", "r0000", 0.5), scale=["one", "two"], num_items=[4, 5])
    assert list(name_scales(same).values()) == ["b m, 4 items; items of its own", "b m, 5 items; items of its own"]
    assert name_scales(board()) == {}


def test_rounds_stand_by_score_within_their_scale() -> None:
    rows = board(
        *(("a", "r0001", 0.6), ("a", "r0000", 0.6), ("c", "r0000", 0.9), ("b", "r0000", 0.6), ("b", "r0001", 0.7)),
        scale=["s", "s", "t", "s", "s"],
        benchmark=["b", "b", "a", "b", "b"],
    )
    found = order_rounds(rows)
    assert found.columns == rows.columns
    assert found.select("experiment", "round").rows() == [
        ("b", "r0001"),
        ("a", "r0000"),
        ("a", "r0001"),
        ("b", "r0000"),
        ("c", "r0000"),
    ]
    assert order_rounds(board()).is_empty()


def test_an_experiment_stands_with_its_earliest_best_round_and_what_it_took() -> None:
    """a: 0.5, 0.8 and 0.8, so r0001 after two rounds; b: 0.7 at once."""
    rows = board(("a", "r0002", 0.8), ("a", "r0000", 0.5), ("a", "r0001", 0.8), ("b", "r0000", 0.7))
    found = rank_experiments(rows)
    assert found.select("place", "experiment", "round", "num_rounds").rows() == [
        (1, "a", "r0001", 3),
        (2, "b", "r0000", 1),
    ]
    assert found.select(SPENT).rows() == [(20, 20, 20, None), (10, 10, 10, None)]


def test_equal_scores_share_a_place() -> None:
    found = rank_experiments(board(("c", "r0000", 0.5), ("b", "r0000", 0.9), ("a", "r0000", 0.9)))
    assert found.select("place", "experiment").rows() == [(1, "a"), (1, "b"), (3, "c")]


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    rows = board(("a", "r0000", 0.5), ("a", "r0001", 0.8), sampled_tokens=[None, 7], price=[1.5, 2.0])
    assert rank_experiments(rows).select("sampled_tokens", "price").rows() == [(None, 3.5)]
    later = board(("a", "r0000", 0.8), ("a", "r0001", 0.5), sampled_tokens=[7, None])
    assert rank_experiments(later)["sampled_tokens"].to_list() == [7]


def test_an_experiment_on_two_scales_stands_on_both_and_took_all_rounds_before() -> None:
    rows = board(("a", "r0000", 0.9), ("a", "r0001", 0.1), ("b", "r0000", 0.5), scale=["s", "t", "t"])
    found = rank_experiments(rows)
    assert found.select("scale", "place", "experiment", "round", "num_rounds", "seconds").rows() == [
        ("t", 1, "b", "r0000", 1, 10),
        ("t", 2, "a", "r0001", 1, 20),
        ("s", 1, "a", "r0000", 1, 10),
    ]


ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from("st"), st.integers(0, 4)),
    unique_by=lambda row: row[:2],
    max_size=12,
)


@given(ROWS)
def test_every_experiment_stands_once_on_each_of_its_scales_with_its_highest_score(rows: list) -> None:
    frame = board(*((name, f"r000{key}", score / 4) for name, key, _, score in rows), scale=[row[2] for row in rows])
    found = rank_experiments(frame)
    highest: dict[tuple[str, str], float] = {}
    for name, _, scale, score in rows:
        highest[scale, name] = max(score / 4, highest.get((scale, name), 0.0))
    assert {(row["scale"], row["experiment"]): row["score"] for row in found.to_dicts()} == highest
    assert len(found) == len(highest)
    for (_,), group in found.group_by("scale", maintain_order=True):
        assert group["score"].is_sorted(descending=True)
        assert group["place"].to_list() == [sum(group["score"] > score) + 1 for score in group["score"]]
