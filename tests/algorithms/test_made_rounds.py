"""A plan that follows a round gives for it what it took, and others keep their proportions to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.forecast.made_rounds import MadeRound, MadeStep, count_read, follow
from lance_assets.algorithms.forecast.round_forecast import RoundForecast, StageForecast


def expect(key: str, scale: float = 1.0) -> RoundForecast:
    """100 prompts of 50 tokens with 4 samples each, 200 completions of the same step, and 80 reviews."""
    stages = (
        StageForecast("new prompts", "raw_generations", None, 400 * scale, 4, 400 * 50 * scale, 400 * 20 * scale),
        StageForecast("completions", "raw_generations", None, 200 * scale, 1, 200 * 30 * scale, 200 * 60 * scale),
        StageForecast("reviews", "reviewed_set", None, 80 * scale, 1, 80 * 90 * scale, 80 * 10 * scale),
    )
    return RoundForecast(
        **{"key": key, "num_seeds": 50, "stages": stages, "num_kept": 150 * scale, "kept_tokens": 9000 * scale},
        **{"num_reviewed": 80, "num_sft": 60 * scale, "sft_tokens": 6000 * scale},
        **{"num_pairs": 20 * scale, "pair_tokens": 4000 * scale},
    )


MADE = MadeRound(
    "r0001",
    {"raw_generations": MadeStep(300, 5500, 10_000), "reviewed_set": MadeStep(160, 7200, 400)},
    **{"num_kept": 75, "num_sft": 90, "num_pairs": 10, "trained_tokens": 13_200},
)


def test_the_plan_of_a_round_that_was_made_is_what_it_took() -> None:
    found = follow(expect("r0001"), expect("r0001"), MADE, passes=(2.0, 1.0))
    raw = [stage for stage in found.stages if stage.noun == "raw_generations"]
    # Of 600 expected rows half were made, in the proportions of the plan; 11,000 tokens were to be read.
    assert [stage.rows for stage in raw] == [200, 100]
    assert sum(map(count_read, raw)) == pytest.approx(5500)
    assert sum(stage.completion_tokens for stage in raw) == pytest.approx(10_000)
    assert found.stages[2].completion_tokens == pytest.approx(400)
    assert (found.num_kept, found.kept_tokens) == (75, 4500)
    assert (found.num_sft, found.num_pairs) == (90, 10)
    # 9,000 tokens twice and 2,000 once were 20,000 by the rows; 13,200 were trained on.
    assert found.sft_tokens * 2 + found.pair_tokens == pytest.approx(13_200)
    assert found.sft_tokens / found.pair_tokens == pytest.approx(4.5)


def test_another_round_keeps_its_proportion_to_that_one() -> None:
    mine = follow(expect("r0001"), expect("r0001"), MADE, passes=(1.0, 1.0))
    later = follow(expect("r0002", scale=1.5), expect("r0001"), MADE, passes=(1.0, 1.0))
    for one, other in zip(mine.stages, later.stages, strict=True):
        assert other.rows == pytest.approx(1.5 * one.rows)
        assert other.prompt_tokens == pytest.approx(1.5 * one.prompt_tokens)
    assert later.sft_tokens == pytest.approx(1.5 * mine.sft_tokens)
    assert later.key == "r0002"


def test_what_is_not_known_stays_as_it_was_expected() -> None:
    expected = expect("r0002")
    assert follow(expected, expect("r0001"), MadeRound("r0001", {}), passes=(1.0, 1.0)) == expected


@given(scale=st.sampled_from([0.0, 1.0]), rows=st.integers(0, 10_000), tokens=st.integers(0, 10**6))
def test_nothing_is_divided_by_nothing(scale: float, rows: int, tokens: int) -> None:
    made = MadeRound("r0001", {"reviewed_set": MadeStep(rows, tokens, tokens)}, rows, rows, rows, tokens)
    found = follow(expect("r0002", scale), expect("r0001", scale), made, passes=(1.0, 1.0))
    assert found.stages[2].rows == pytest.approx(scale * rows)
    assert found.num_sft == pytest.approx(scale * rows)
