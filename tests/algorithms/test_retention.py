import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.measures.headline import ScoreRow
from lance_assets.algorithms.measures.retention import (
    RETENTION,
    build_retention,
    describe_fall,
    find_best,
    find_falls,
    list_forgotten,
)
from lance_assets.algorithms.measures.statistics import compute_cautious_difference


def row(score: float, *, higher_is_better: bool = True, half: float | None = None) -> ScoreRow:
    ends = {"ci_low": half and score - half, "ci_high": half and score + half}
    names = {"model": "checkpoint", "benchmark": "b", "metric": "m", "task": "all", "stratum": None, "part_of": None}
    return names | {"score": score, "higher_is_better": higher_is_better, "num_items": 100} | ends


def keep_nothing(key: str, of: ScoreRow) -> dict[str, float]:
    return {}


def test_the_matrix_is_worked_by_hand() -> None:
    """up rises, falls and recovers to less than its best; ppl is better the lower it is; new begins in r0001."""
    lower = {"higher_is_better": False}
    rounds = {
        "r0000": {"up": row(0.5), "ppl": row(20.0, **lower)},
        "r0001": {"up": row(0.8), "ppl": row(10.0, **lower), "new": row(0.0)},
        "r0002": {"up": row(0.4), "ppl": row(40.0, **lower), "new": row(0.0)},
        "r0003": {"up": row(0.6), "ppl": row(5.0, **lower)},
    }
    found = build_retention(rounds)
    assert found.schema == RETENTION
    figures = ("name", "round", "best_round", "fall", "retained_rate")
    assert found.select(figures).rows() == [
        ("up", "r0000", "r0000", 0.0, 1.0),
        ("up", "r0001", "r0001", 0.0, 1.0),
        ("up", "r0002", "r0001", pytest.approx(0.4), pytest.approx(0.5)),
        ("up", "r0003", "r0001", pytest.approx(0.2), pytest.approx(0.75)),
        ("ppl", "r0000", "r0000", 0.0, 1.0),
        ("ppl", "r0001", "r0001", 0.0, 1.0),
        ("ppl", "r0002", "r0001", 30.0, 0.25),
        ("ppl", "r0003", "r0003", 0.0, 1.0),
        ("new", "r0001", "r0001", 0.0, None),
        ("new", "r0002", "r0001", 0.0, None),
    ]
    assert build_retention({}).schema == RETENTION


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.booleans())
def test_what_is_retained_is_a_share_and_all_of_it_at_the_best(scores: list[float], higher_is_better: bool) -> None:
    rounds = {
        f"r{place:04d}": {"a": row(score, higher_is_better=higher_is_better)} for place, score in enumerate(scores)
    }
    found = build_retention(rounds)
    assert len(found) == len(scores)
    for place, line in enumerate(found.to_dicts()):
        so_far = scores[: place + 1]
        assert line["best_score"] == (max(so_far) if higher_is_better else min(so_far))
        assert line["best_round"] == f"r{so_far.index(line['best_score']):04d}"
        assert line["fall"] >= 0
        assert 0 < line["retained_rate"] <= 1
        assert (line["retained_rate"] == 1) == (line["fall"] == 0)
    # A score and its opposite direction mirror each other.
    mirrored = {
        key: {"a": row(-one["a"]["score"], higher_is_better=not higher_is_better)} for key, one in rounds.items()
    }
    assert build_retention(mirrored)["fall"].to_list() == pytest.approx(found["fall"].to_list())


def test_the_best_is_the_earliest_of_equals() -> None:
    assert find_best({"r0001": row(0.5), "r0000": row(0.5), "r0002": row(0.4)}) == "r0000"
    assert (
        find_best({key: row(score, higher_is_better=False) for key, score in (("r0000", 40.0), ("r0001", 12.3))})
        == "r0001"
    )


def test_a_clear_fall_is_found_and_noise_is_not() -> None:
    """40 of 40 to 20 of 40 is no chance; 40 to 38 may be. The best is r0001, not the round before."""
    items = {
        ("r0001", "clear"): [1.0] * 40,
        ("r0003", "clear"): [0.0, 1.0] * 20,
        ("r0001", "noise"): [1.0] * 40,
        ("r0003", "noise"): [1.0] * 38 + [0.0] * 2,
        ("r0001", "risen"): [0.0] * 40,
        ("r0003", "risen"): [1.0] * 40,
    }
    scores = {"r0001": {"clear": 1.0, "noise": 1.0, "risen": 0.0}, "r0003": {"clear": 0.5, "noise": 0.95, "risen": 1.0}}
    rounds = {
        key: {name: row(score) | {"metric": name} for name, score in mine.items()} for key, mine in scores.items()
    }
    between = {"clear": 0.7, "noise": 0.7, "risen": 0.0}
    rounds["r0002"] = {name: row(score) | {"metric": name} for name, score in between.items()}
    rounds = dict(sorted(rounds.items()))

    def read(key: str, of: ScoreRow) -> dict[int, float]:
        return dict(enumerate(items[key, of["metric"]]))

    falls = find_falls(rounds, read)
    assert [(fall.name, fall.best_round, fall.fall) for fall in falls] == [
        ("clear", "r0001", 0.5),
        ("noise", "r0001", pytest.approx(0.05)),
        ("risen", "r0001", -1.0),
    ]
    # Three scores hold together at 95%, so each holds at 98.3%.
    mean, low, high = compute_cautious_difference([1.0] * 40, [0.0, 1.0] * 20, 1 - 0.05 / 3)
    assert (falls[0].fall, falls[0].low, falls[0].high) == pytest.approx((-mean, -high, -low))
    (forgotten,) = list_forgotten(falls, bar=0.0)
    assert forgotten.name == "clear"
    assert list_forgotten(falls, bar=0.4) == []
    told = describe_fall(forgotten, "r0003")
    assert told.startswith("clear fell from 1 in r0001 to 0.5 in r0003 (worse by 0.5 [0.")


def test_a_perplexity_that_rose_is_a_fall() -> None:
    """From 10 +- 3 to 40 +- 4 is 30 +- 5, and without intervals nothing is known."""
    rounds = {
        "r0000": {"ppl": row(10.0, higher_is_better=False, half=3.0)},
        "r0001": {"ppl": row(40.0, higher_is_better=False, half=4.0)},
    }
    (fall,) = find_falls(rounds, keep_nothing)
    assert (fall.fall, fall.low, fall.high) == pytest.approx((30.0, 25.0, 35.0))
    assert describe_fall(fall, "r0001") == "ppl rose from 10 in r0000 to 40 in r0001 (worse by 30 [25, 35])"
    assert list_forgotten([fall], bar=26.0) == []
    unknown = {key: {"ppl": scores["ppl"] | {"ci_low": None}} for key, scores in rounds.items()}
    assert list_forgotten(find_falls(unknown, keep_nothing), bar=0.0) == []
    assert find_falls({"r0000": rounds["r0000"]}, keep_nothing) == []


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 2**16))
def test_a_handful_of_equal_changes_closes_no_interval(answers: list[bool], seed: int) -> None:
    """The normal interval of two items that both fell has no width, and would call it certain."""
    _, low, high = compute_cautious_difference([1.0, 1.0], [0.0, 0.0])
    assert low < 0 < high
    before, after = [float(answer) for answer in answers], [float((seed >> place) & 1) for place in range(len(answers))]
    there, back = compute_cautious_difference(before, after), compute_cautious_difference(after, before)
    assert there == pytest.approx((-back[0], -back[2], -back[1]))
    assert -1 <= there[1] <= there[0] + 1e-9
    assert there[1] < there[2]
