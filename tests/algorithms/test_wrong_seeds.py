from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.selection.wrong_seeds import choose_lesson_sources, sample_seeds


@pytest.mark.parametrize(("share", "num_seeds"), [(0.01, 74), (0.02, 149), (0.05, 373), (0.1, 747), (0.2, 1494)])
def test_the_authors_counts_of_gsm8k(real_data: Path, share: float, num_seeds: int) -> None:
    lines = (real_data / "gsm8k_train.jsonl").read_text("utf-8").splitlines()
    places = sample_seeds(len(lines), share, rng_seed=1)
    assert len({lines[place] for place in places}) == num_seeds


@given(st.integers(1, 500), st.integers(1, 100), st.integers(0, 3))
def test_a_share_is_rounded_down_and_the_same_each_time(num_rows: int, percent: int, rng_seed: int) -> None:
    num_seeds = num_rows * percent // 100
    if num_seeds == 0:
        with pytest.raises(ValueError, match="less than one row"):
            sample_seeds(num_rows, percent / 100, rng_seed)
        return
    places = sample_seeds(num_rows, percent / 100, rng_seed)
    assert len(places) == num_seeds
    assert places == sorted(set(places))
    assert 0 <= places[0] <= places[-1] < num_rows
    assert all(type(place) is int for place in places)
    assert places == sample_seeds(num_rows, percent / 100, rng_seed)


def test_a_share_that_is_whole_but_for_its_rounding() -> None:
    assert 100 * 0.29 < 29
    assert len(sample_seeds(100, 0.29, rng_seed=0)) == 29


def test_other_seeds_draw_other_rows_from_the_whole_file() -> None:
    drawn = [sample_seeds(1000, 0.01, rng_seed) for rng_seed in range(300)]
    assert len(set(map(tuple, drawn))) == 300
    counts = [sum(place // 250 == quarter for places in drawn for place in places) for quarter in range(4)]
    assert sum(counts) == 3000
    assert min(counts) > 650


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_wrong_share(share: float) -> None:
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\]"):
        sample_seeds(10, share, rng_seed=0)


ROWS = pl.DataFrame(
    {
        "row_id": ["s1", "g1", "s2", "s3", "g2", "s4"],
        "prompt": ["2 + 3?", "2 + 3?", "4 + 4?", "2 + 3?", "6 + 1?", "1 + 1?"],
        "completion": ["#### 5", "#### 5", "#### 8", "#### 5", "#### 7", "#### 2"],
        "answer": ["5", "5", "8", "5", "7", "2"],
        "source": ["seed", "generated", "seed", "seed", "generated", "seed"],
        "is_correct": [False, False, True, False, True, False],
    }
)
"""s1 and s3 have the same prompt, and so has the generated g1."""


def choose(rows: pl.DataFrame, augment_source: str, *, targeted: bool) -> list[str]:
    chosen = choose_lesson_sources(rows, augment_source=augment_source, targeted=targeted)
    assert chosen.schema == rows.schema
    return chosen["row_id"].to_list()


def test_wrong_seeds_alone_and_each_of_those_with_one_prompt() -> None:
    assert choose(ROWS, "seed", targeted=True) == ["s1", "s3", "s4"]
    assert choose(ROWS.reverse(), "seed", targeted=True) == ["s4", "s3", "s1"]


def test_the_ablations() -> None:
    assert choose(ROWS, "all", targeted=True) == ["s1", "g1", "s3", "s4"]
    assert choose(ROWS, "seed", targeted=False) == ["s1", "s2", "s3", "s4"]
    assert choose(ROWS, "all", targeted=False) == ROWS["row_id"].to_list()


def test_rows_that_are_not_chosen_need_no_verdict() -> None:
    generated = pl.col("source") == "generated"
    unjudged = ROWS.with_columns(is_correct=pl.when(~generated).then("is_correct"))
    assert choose(unjudged, "seed", targeted=True) == ["s1", "s3", "s4"]
    assert choose(ROWS.drop("is_correct"), "seed", targeted=False) == ["s1", "s2", "s3", "s4"]
    with pytest.raises(ValueError, match="row g1 has no is_correct"):
        choose(unjudged, "all", targeted=True)


def test_nothing_wrong_and_no_rows() -> None:
    assert choose(ROWS.with_columns(is_correct=pl.lit(True)), "seed", targeted=True) == []
    assert choose(ROWS.clear(), "all", targeted=True) == []


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="augment_source is one of seed, all; got 'wrong'"):
        choose(ROWS, "wrong", targeted=True)
    with pytest.raises(ValueError, match="row s1 has 'eft'"):
        choose(ROWS.with_columns(source=pl.lit("eft")), "seed", targeted=True)
    with pytest.raises(ValueError, match="row s1 has None"):
        choose(ROWS.with_columns(source=pl.lit(None, pl.String)), "all", targeted=False)
    with pytest.raises(ValueError, match="g1 has several"):
        choose(pl.concat([ROWS, ROWS[1:2]]), "seed", targeted=True)
