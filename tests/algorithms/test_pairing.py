import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_assets.algorithms.selection.pairing import (
    build_best_worst_pairs,
    build_preference_pairs,
    build_self_play_pairs,
    find_min_chars,
    grow_seed_set,
    select_sft_rows,
    split_by_score,
    take_seeds,
)
from lance_assets.records import PREFERENCE_PAIRS, REVIEWED_SET, SEED_SET, SFT_SET


def reviewed_row(row_id: str, kind: str, score: float | None, *, seed_id: str = "s", **more) -> dict:
    row = {"row_id": row_id, "kind": kind, "seed_id": seed_id, "review_score": score}
    return row | {"prompt": "Add 2 and 3.", "completion": f"completion {row_id}"} | more


def reviewed(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=REVIEWED_SET)


def high(*scores: float | None) -> pl.DataFrame:
    """A high seed `s` with the first score, and degraded completions d1, d2, ... with the others."""
    degraded = [reviewed_row(f"d{i}", "degraded_completion", score) for i, score in enumerate(scores[1:], start=1)]
    return reviewed(reviewed_row("s", "seed", scores[0]), *degraded)


def pair_ids(frame: pl.DataFrame, **more) -> list[tuple[str, str]]:
    pairs = build_preference_pairs(frame, round_key="r0001", **more)
    assert pairs.schema == PREFERENCE_PAIRS
    assert pairs["row_id"].is_unique().all()
    return pairs.select("chosen_id", "rejected_id").rows()


def test_split_at_the_threshold_is_low() -> None:
    scores = [7.0, (7.1 + 6.8 + 7.1) / 3, 7.1, None, 0.0]
    split = split_by_score(pl.DataFrame({"review_score": scores}), branch_threshold=7.0)
    assert split["branch"].to_list() == ["low", "low", "high", "unscored", "low"]


def test_split_of_all_unscored() -> None:
    assert split_by_score(pl.DataFrame({"review_score": [None]}), branch_threshold=7.0)["branch"].to_list() == [
        "unscored"
    ]


def test_every_candidate_above_the_gap_against_the_lowest() -> None:
    """9, 3, 6, 5 and 5.5: lowest d1 at 3; the seed, d2 and d4 are more than 2 above it, d3 exactly 2 is not."""
    assert pair_ids(high(9.0, 3.0, 6.0, 5.0, 5.5)) == [("s", "d1"), ("d2", "d1"), ("d4", "d1")]


def test_seed_can_be_rejected() -> None:
    assert pair_ids(high(4.0, 9.0)) == [("d1", "s")]


def test_unscored_takes_no_part() -> None:
    assert pair_ids(high(9.0, None, 8.0)) == []
    assert pair_ids(high(None, 2.0, 8.0)) == [("d2", "d1")]


def test_tie_for_the_lowest_goes_to_the_smallest_row_id() -> None:
    frame = high(9.0, 3.0, 3.0)
    assert pair_ids(frame) == pair_ids(frame.reverse()) == [("s", "d1")]


def test_gap_of_two_is_not_above_two_whatever_the_rounding() -> None:
    assert 25 / 3 - 19 / 3 > 2
    assert pair_ids(high(25 / 3, 19 / 3)) == []


def test_equal_and_short_texts_make_no_pair() -> None:
    frame = high(9.0, 3.0)
    assert pair_ids(frame.with_columns(completion=pl.Series(["same text", "same text "]))) == []
    assert pair_ids(frame.with_columns(completion=pl.Series(["long enough", "12345"]))) == []
    assert pair_ids(frame.with_columns(completion=pl.Series(["long enough", "123456"]))) == [("s", "d1")]
    assert pair_ids(frame.with_columns(prompt=pl.lit("Add 5")), min_chars=5) == []


def test_a_seed_without_degraded_completions_makes_no_pair() -> None:
    assert pair_ids(high(9.0)) == []
    assert pair_ids(reviewed()) == []


def test_pair_fields() -> None:
    row = build_preference_pairs(high(9.0, 3.0), round_key="r0002").row(0, named=True)
    assert len(row.pop("row_id")) == 16
    assert row == {
        "prompt": "Add 2 and 3.",
        "chosen": "completion s",
        "rejected": "completion d1",
        "chosen_id": "s",
        "rejected_id": "d1",
        "chosen_score": 9.0,
        "rejected_score": 3.0,
        "score_gap": 6.0,
        "source_round": "r0002",
    }


SCORES = st.none() | st.integers(0, 30).map(lambda thirds: thirds / 3)


@given(st.lists(st.lists(SCORES, min_size=1, max_size=5), max_size=4), st.sampled_from([0.0, 1.0, 2.0]))
@settings(deadline=None)
def test_pairs_hold_for_any_scores(seeds: list[list[float | None]], score_gap: float) -> None:
    rows = [
        reviewed_row(f"{s}-{i}", "degraded_completion" if i else "seed", score, seed_id=str(s))
        for s, scores in enumerate(seeds)
        for i, score in enumerate(scores)
    ]
    pairs = build_preference_pairs(reviewed(*rows), score_gap=score_gap, round_key="r0001")
    expected = 0
    for scores in seeds:
        thirds = [round(score * 3) for score in scores if score is not None]
        expected += sum(third - min(thirds) > 3 * score_gap for third in thirds)
    assert len(pairs) == expected
    assert (pairs["chosen_score"] > pairs["rejected_score"]).all()
    assert pairs.group_by("rejected_id").len().height <= len(seeds)


def test_sft_rows() -> None:
    frame = reviewed(
        reviewed_row("kept", "completion", 8.5),
        reviewed_row("at", "completion", 8.0),
        reviewed_row("rounded", "completion", (8.1 + 8.2 + 7.7) / 3),
        reviewed_row("unscored", "completion", None),
        reviewed_row("seed", "seed", 9.0),
        reviewed_row("short", "completion", 9.0, completion="12345"),
        reviewed_row("short prompt", "completion", 9.0, prompt="12345"),
    )
    rows = select_sft_rows(frame, min_chars=5, round_key="r0003")
    assert rows.schema == SFT_SET
    assert rows.drop("row_id", "prompt", "completion").rows() == [("generated", "r0003", "kept", 8.5)]
    assert select_sft_rows(reviewed(), round_key="r0003").schema == SFT_SET


@pytest.mark.parametrize(
    ("seeds", "bound"),
    [
        (["24", "7", "Yes.", "Paris"], 0),
        (["24", "Yes.", "Paris"], 1),
        (["It is 24."] * 4, 5),
        (["24", *["It is 24."] * 19], 5),  # one of twenty is below the 5th percentile
        (["24", "24", *["It is 24."] * 18], 1),
        ([""], 0),
        ([], 0),
    ],
)
def test_the_shortest_text_goes_by_the_seeds(seeds: list[str], bound: int) -> None:
    assert find_min_chars(pl.Series(seeds, dtype=pl.String)) == bound


@pytest.mark.parametrize(("own", "kept"), [("42", ["24", "Paris"]), ("It is 42.", [])])
def test_short_right_answers_stay_where_the_seeds_are_short(own: str, kept: list[str]) -> None:
    """Where seeds are answers, "24" and "Paris" are trained on and paired; where they are sentences, neither is."""
    seed = reviewed_row("s", "seed", 9.0, completion=own)
    answers = [reviewed_row(text, "completion", 9.0, completion=text) for text in ("24", "Paris", "")]
    assert select_sft_rows(reviewed(seed, *answers), round_key="r0001")["completion"].to_list() == kept
    worse = reviewed_row("d", "degraded_completion", 3.0, completion="7")
    is_short = own == "42"
    assert pair_ids(reviewed(seed, worse)) == []
    longer = reviewed_row("d", "degraded_completion", 3.0, completion="77")
    assert pair_ids(reviewed(seed, longer)) == ([("s", "d")] if is_short else [])
    assert pair_ids(reviewed(seed, worse), min_chars=0) == [("s", "d")]
    prompts = [reviewed_row("p", "completion", 9.0, prompt="2+2=?", completion="It is 4.")]
    assert len(select_sft_rows(reviewed(reviewed_row("s", "seed", 9.0, prompt="1+1"), *prompts), round_key="r")) == 1


def test_grow_takes_everything_scored_once() -> None:
    frame = reviewed(
        reviewed_row("s", "seed", 9.0),
        reviewed_row("d", "degraded_completion", 1.0),
        reviewed_row("c", "completion", 8.0),
        reviewed_row("u", "completion", None),
    )
    rows, num_left_out = grow_seed_set(pl.DataFrame(schema=SEED_SET), frame, round_key="r0001")
    assert rows.schema == SEED_SET
    assert rows.select("row_id", "source", "source_round", "source_id", "review_score", "answer").rows() == [
        ("d", "generated", "r0001", "d", 1.0, None),
        ("c", "generated", "r0001", "c", 8.0, None),
    ]
    assert num_left_out == 1
    again, _ = grow_seed_set(rows, frame, round_key="r0001")
    assert len(again) == 0


@given(st.lists(st.text(max_size=3), unique=True, max_size=20), st.integers(1, 25), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_take_is_a_partition_independent_of_order(row_ids: list[str], max_seeds: int, rng) -> None:
    frame = pl.DataFrame({"row_id": row_ids}, schema={"row_id": pl.String})
    shuffled = pl.DataFrame({"row_id": rng.sample(row_ids, len(row_ids))}, schema={"row_id": pl.String})
    taken, left = take_seeds(frame, max_seeds=max_seeds, rng_seed=1, round_key="r0001")
    again, _ = take_seeds(shuffled, max_seeds=max_seeds, rng_seed=1, round_key="r0001")
    assert len(taken) == min(max_seeds, len(row_ids))
    assert sorted([*taken["row_id"], *left["row_id"]]) == sorted(row_ids)
    assert set(taken["row_id"]) == set(again["row_id"])


def test_take_draws_anew_each_round_and_rng_seed() -> None:
    frame = pl.DataFrame({"row_id": [str(i) for i in range(100)]})
    drawn = {
        tuple(take_seeds(frame, max_seeds=10, rng_seed=rng_seed, round_key=key)[0]["row_id"])
        for rng_seed in (0, 1)
        for key in ("r0001", "r0002")
    }
    assert len(drawn) == 4
    with pytest.raises(ValueError, match="max_seeds must be at least 1, got 0"):
        take_seeds(frame, max_seeds=0, rng_seed=0, round_key="r0001")


def self_play(*own: str, seed: str = "It is 5.") -> list[tuple]:
    """Chosen and rejected texts of a seed and its own completions o0, o1, ..."""
    rows = [reviewed_row(f"o{place}", "own_completion", None, completion=text) for place, text in enumerate(own)]
    pairs = build_self_play_pairs(reviewed(*rows, reviewed_row("s", "seed", 9.0, completion=seed)), round_key="r0002")
    assert pairs.schema == PREFERENCE_PAIRS
    assert pairs["row_id"].is_unique().all()
    return pairs.select("chosen", "rejected", "chosen_id", "rejected_id").rows()


def test_the_seed_is_chosen_over_each_own_completion() -> None:
    """In the order of the own completions; one that is the seed's text but for blanks makes no pair."""
    assert self_play("It is 6.", " It is 5.\n", "It is 5", "It is 6.") == [
        ("It is 5.", "It is 6.", "s", "o0"),
        ("It is 5.", "It is 5", "s", "o2"),
        ("It is 5.", "It is 6.", "s", "o3"),
    ]
    assert self_play() == []


def test_self_play_pairs_have_no_scores() -> None:
    """Not even where the seed has one: nothing was compared by score."""
    frame = reviewed(reviewed_row("s", "seed", 9.0), reviewed_row("o", "own_completion", 1.0))
    row = build_self_play_pairs(frame.drop("review_score"), round_key="r0002").row(0, named=True)
    assert row == build_self_play_pairs(frame, round_key="r0002").row(0, named=True)
    assert len(row.pop("row_id")) == 16
    assert row == {
        "prompt": "Add 2 and 3.",
        "chosen": "completion s",
        "rejected": "completion o",
        "chosen_id": "s",
        "rejected_id": "o",
        "chosen_score": None,
        "rejected_score": None,
        "score_gap": None,
        "source_round": "r0002",
    }


def test_own_completions_pair_with_their_own_seed() -> None:
    """Of two seeds, one without own completions; an own completion without its seed and other kinds make none."""
    frame = reviewed(
        reviewed_row("s", "seed", None),
        reviewed_row("t", "seed", None, seed_id="t"),
        reviewed_row("ot", "own_completion", None, seed_id="t"),
        reviewed_row("lost", "own_completion", None, seed_id="gone"),
        reviewed_row("c", "completion", 3.0),
    )
    assert build_self_play_pairs(frame, round_key="r0001").select("chosen_id", "rejected_id").rows() == [("t", "ot")]
    assert build_self_play_pairs(reviewed(), round_key="r0001").schema == PREFERENCE_PAIRS


def best_worst(frame: pl.DataFrame) -> list[tuple]:
    pairs = build_best_worst_pairs(frame, round_key="r0001")
    assert pairs.schema == PREFERENCE_PAIRS
    assert pairs["row_id"].is_unique().all()
    return pairs.select("chosen_id", "rejected_id", "chosen_score", "rejected_score", "score_gap").rows()


def completions_of(prompt: str, *scores: float | None) -> list[dict]:
    """Completions of a new prompt, with ids of its first letter and 0, 1, ..."""
    return [
        reviewed_row(f"{prompt[0]}{place}", "completion", score, prompt=prompt) for place, score in enumerate(scores)
    ]


def test_best_against_worst_of_each_prompt() -> None:
    """One pair a prompt whatever lies between; unscored ones take no part, and a single scored one has no other."""
    frame = reviewed(
        *completions_of("add", 3.0, 4.5, None, 1.0),
        *completions_of("sort", None, 2.0, None, 5.0),
        *completions_of("lone", None, 4.0),
        *completions_of("mute", None, None),
    )
    assert (
        best_worst(frame) == best_worst(frame.reverse()) == [("a1", "a3", 4.5, 1.0, 3.5), ("s3", "s1", 5.0, 2.0, 3.0)]
    )
    assert best_worst(reviewed()) == []


def test_ties_are_no_pairs_and_equal_scores_go_by_row_id() -> None:
    """Means that differ by a rounding error tie as well."""
    assert best_worst(reviewed(*completions_of("tied", 3.0, 3.0, 3.0))) == []
    assert 0.1 + 0.2 > 0.3
    assert best_worst(reviewed(*completions_of("tied", 0.1 + 0.2, 0.3))) == []
    frame = reviewed(*completions_of("both", 4.0, 1.0, 4.0, 1.0))
    assert best_worst(frame) == best_worst(frame.reverse()) == [("b0", "b1", 4.0, 1.0, 3.0)]


def test_one_text_on_both_sides_is_no_pair() -> None:
    rows = completions_of("add", 4.0, 1.0)
    rows[1]["completion"] = rows[0]["completion"] + "\n"
    assert best_worst(reviewed(*rows)) == []


def test_the_same_prompt_of_two_seeds_stays_apart() -> None:
    rows = [*completions_of("add", 4.0, 1.0), *completions_of("add", 2.0, 3.0)]
    for row, (row_id, seed_id) in zip(rows, [("a", "s"), ("b", "s"), ("c", "t"), ("d", "t")], strict=True):
        row |= {"row_id": row_id, "seed_id": seed_id}
    assert best_worst(reviewed(*rows)) == [("a", "b", 4.0, 1.0, 3.0), ("d", "c", 3.0, 2.0, 1.0)]


def test_seeds_and_degraded_completions_are_no_candidates() -> None:
    assert best_worst(high(9.0, 3.0, 5.0)) == []


@given(st.lists(st.lists(SCORES, max_size=5), max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_best_worst_pairs_hold_for_any_scores(prompts: list[list[float | None]], rng) -> None:
    """At most one pair a prompt, between its extremes, whatever the order of the rows."""
    rows = [row for letter, scores in zip("abcd", prompts, strict=False) for row in completions_of(letter, *scores)]
    expected = []
    for letter, scores in zip("abcd", prompts, strict=False):
        known = [(score, f"{letter}{place}") for place, score in enumerate(scores) if score is not None]
        if known and max(known)[0] > min(known)[0]:
            best = min(row_id for score, row_id in known if score == max(known)[0])
            expected.append((best, min(known)[1], max(known)[0], min(known)[0], max(known)[0] - min(known)[0]))
    assert best_worst(reviewed(*rng.sample(rows, len(rows)))) == expected
