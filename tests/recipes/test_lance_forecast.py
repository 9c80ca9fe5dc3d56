"""The forecast of a round against the recipe's own counts, worked by hand and asked for real."""

import dataclasses
from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast
from lance_assets.prompts import Templates
from lance_assets.recipes import lance
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.lance import LanceSettings
from lance_assets.recipes.lance_forecast import (
    EXPECTED,
    Assumptions,
    forecast_at_most,
    forecast_rounds,
    list_assumptions,
)
from lance_assets.records import SEED_SET, Request, Sample, SamplingSettings
from tests.recipes.scripted_round import NOT_TRAINED, build_inputs

LENGTHS = Lengths(
    chat=10.0,
    templates={"review": 100.0, "new_prompt": 200.0, "degrade": 300.0, "judge_pair": 150.0},
    asked={"review": 160.0, "new_prompt": 260.0, "degrade": 360.0},
    longest_asked={"review": 400.0, "new_prompt": 500.0, "degrade": 600.0},
    prompt=20.0,
    completion=40.0,
)
HALF = Assumptions(
    low_rate=0.5,
    readable_rate=0.5,
    kept_prompt_rate=0.5,
    kept_completion_rate=0.5,
    kept_degraded_rate=0.25,
    accepted_rate=0.5,
    pairs_per_high_seed=2.0,
    review_tokens=30.0,
    thought_tokens=5.0,
    completion_ratio=1.5,
)


def count_rows(this: RoundForecast) -> dict[str, float]:
    return {stage.name: stage.rows for stage in this.stages}


def test_a_round_by_hand() -> None:
    """100 seeds, 50 low: 200 new prompts, 100 of them readable, 400 completions, 200 kept; 200 degraded, 50 kept.

    250 rows are reviewed three times; 100 completions are accepted; 100 pairs, of which 60 are judged twice.
    """
    settings = LanceSettings(num_judged_pairs=60)
    start, this = forecast_rounds(settings, HALF, LENGTHS, Pool(100, 10, 700.0), num_rounds=1)
    assert count_rows(this) == {
        "seed reviews": 300,
        "new prompts": 200,
        "completions": 400,
        "degraded completions": 200,
        "reviews": 750,
        "judged pairs": 120,
    }
    by_name = {stage.name: stage for stage in this.stages}
    assert by_name["seed reviews"].prompt_tokens == 300 * 160
    assert by_name["seed reviews"].completion_tokens == 300 * 30
    assert by_name["new prompts"].completion_tokens == 200 * (20 + 5)
    assert by_name["completions"].prompt_tokens == 400 * (10 + 20)
    assert by_name["completions"].completion_tokens == 400 * 60
    assert by_name["degraded completions"].completion_tokens == 200 * (60 + 5)
    assert by_name["reviews"].prompt_tokens == 750 * (100 + 20 + 60)
    assert by_name["judged pairs"].prompt_tokens == 120 * (150 + 20 + 2 * 60)
    assert (start.num_sft, start.sft_tokens, start.stages) == (110, 100 * 70 + 700, ())
    assert (this.num_sft, this.sft_tokens) == (210, 7700 + 100 * (10 + 20 + 60))
    assert (this.num_pairs, this.pair_tokens) == (100, 100 * 2 * (10 + 20 + 60))
    assert this.num_kept == 50 + 250
    assert this.kept_tokens == 50 * 20 + 250 * 80


def test_sets_and_the_pool_grow() -> None:
    pool = Pool(100, 10, 700.0)
    _, first, second = forecast_rounds(LanceSettings(), HALF, LENGTHS, pool, num_rounds=2)
    assert second.num_seeds == 100 + 250
    assert second.num_sft == 110 + 100 + 350
    capped = forecast_rounds(LanceSettings(max_seeds=120), HALF, LENGTHS, pool, num_rounds=2)
    assert [this.num_seeds for this in capped] == [100, 100, 120]
    latest = forecast_rounds(LanceSettings(trains_on="latest"), HALF, LENGTHS, pool, num_rounds=2)[2]
    assert (latest.num_sft, latest.num_pairs) == (10 + 350, 350)
    authors = forecast_rounds(LanceSettings(seed_growth="code"), HALF, LENGTHS, pool, num_rounds=3)
    assert [this.num_seeds for this in authors[1:3]] == [100, first.num_reviewed]
    assert authors[3].num_seeds == 100 + authors[2].num_reviewed


@pytest.mark.parametrize(
    ("changed", "absent"),
    [
        ({"branches": "low"}, {"degraded completions"}),
        ({"branches": "high"}, {"new prompts", "completions"}),
        ({"reviewer": "none"}, {"seed reviews", "reviews", "degraded completions"}),
        ({"reviewer": "random"}, {"seed reviews", "reviews"}),
        ({"propose": False}, {"seed reviews", "new prompts", "completions", "degraded completions", "reviews"}),
    ],
)
def test_what_a_control_does_not_ask(changed: dict[str, object], absent: set[str]) -> None:
    settings = LanceSettings.model_validate(changed)
    this = forecast_rounds(settings, HALF, LENGTHS, Pool(100), num_rounds=1)[1]
    assert {name for name, rows in count_rows(this).items() if not rows} == absent | {"judged pairs"}


def test_seeds_are_reviewed_once_where_the_recipe_says_so() -> None:
    settings = LanceSettings(review_seeds_each_round=False)
    rounds = forecast_rounds(settings, HALF, LENGTHS, Pool(100), num_rounds=2)
    assert [count_rows(this)["seed reviews"] for this in rounds[1:]] == [300, 0]
    assert LanceSettings(losses="sft").builds_pairs is False
    assert forecast_rounds(LanceSettings(losses="sft"), HALF, LENGTHS, Pool(100), num_rounds=1)[1].num_pairs == 0


@pytest.mark.parametrize("score", [0, 10])
def test_at_most_is_what_the_recipe_asks_when_everything_can_be_read(score: int) -> None:
    """The real recipe on a model whose every text can be read: all seeds low, or all high."""
    asked: dict[str, int] = {}

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        asked[stage] = len(requests)
        text = f"score: {score}\n" if stage == "seed_review" else "Final Answer: Name the largest of 3, 4 and 5 again."
        return [Sample(request.row_id, text, "stop", 10, 10) for request in requests]

    seeds = pl.DataFrame(
        [{"row_id": f"s{i}", "prompt": f"Sort {i}.", "completion": f"{i}", "source": "seed"} for i in range(5)],
        schema=SEED_SET,
    )
    identity = RoundIdentity("mini_lance", "r0001", 0, Templates("compact"))
    lance.generate(build_inputs(LanceSettings(), identity, ask=ask), seeds, NOT_TRAINED)
    bound = count_rows(forecast_at_most(LanceSettings(), LENGTHS, Pool(5), num_rounds=1)[1])
    branch = {0: ("new prompts", "completions"), 10: ("degraded completions",)}[score]
    given = {"new prompts": "new_prompt", "completions": "completion", "degraded completions": "degraded_completion"}
    assert bound["seed reviews"] == asked["seed_review"] == 15
    assert [bound[name] for name in branch] == [asked[given[name]] for name in branch]


@given(
    rates=st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6),
    pairs=st.floats(0.0, 4.0),
    tokens=st.lists(st.floats(0.0, 512.0), min_size=2, max_size=2),
    num_seeds=st.integers(1, 500),
    max_seeds=st.none() | st.integers(1, 500),
)
def test_nothing_expected_is_above_the_bound(
    rates: list[float], pairs: float, tokens: list[float], num_seeds: int, max_seeds: int | None
) -> None:
    settings = LanceSettings(max_seeds=max_seeds, num_judged_pairs=20)
    assumed = Assumptions(*rates, pairs, *tokens, 1.0)
    expected = forecast_rounds(settings, assumed, LENGTHS, Pool(num_seeds), num_rounds=3)
    bounds = forecast_at_most(settings, LENGTHS, Pool(num_seeds), num_rounds=3)
    for this, bound in zip(expected, bounds, strict=True):
        for field in dataclasses.fields(RoundForecast):
            if field.name not in ("key", "stages"):
                assert getattr(this, field.name) <= getattr(bound, field.name) * (1 + 1e-9), (this.key, field.name)
        for stage, most in zip(this.stages, bound.stages, strict=True):
            for name in ("rows", "prompt_tokens", "completion_tokens"):
                assert getattr(stage, name) <= getattr(most, name) * (1 + 1e-9), (this.key, stage.name, name)


@pytest.mark.parametrize("profile", EXPECTED)
def test_every_assumption_is_told_with_its_source(profile: str) -> None:
    lines = list_assumptions(profile)
    told = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(told) == sorted(field.name for field in dataclasses.fields(Assumptions))
    assert all("measured" in line for line in lines if not line.startswith("  "))


@pytest.mark.parametrize(
    ("changed", "pool", "expected"),
    [
        # 8 pairs of each kind: each prompt's own completion, three worse ones and the written one, twice each
        ({}, Pool(100, num_signal_pairs=8), (8, 8 * 5 * 2)),
        ({}, Pool(100, num_signal_pairs=8, has_answers=True), (8, 8 * 6 * 2)),
        ({}, Pool(5, num_signal_pairs=8), (5, 5 * 5 * 2)),
        ({"branches": "low"}, Pool(100, num_signal_pairs=8), (0, 8 * 4 * 2)),
        ({"score_from": "yes_no"}, Pool(100, num_signal_pairs=8), (8, 8 * 5)),
        ({"score_from": "likelihood"}, Pool(100, num_signal_pairs=8), (8, 0)),
        ({"reviewer": "random"}, Pool(100, num_signal_pairs=8), (8, 0)),
        # four kinds of pairs, five with gold answers, in both orders, and no more than a round has judged
        ({"num_judged_pairs": 60}, Pool(100, num_signal_pairs=8), (8, 8 * 5 * 2, 2 * 8 * 4)),
        ({"num_judged_pairs": 60}, Pool(100, num_signal_pairs=8, has_answers=True), (8, 8 * 6 * 2, 2 * 8 * 5)),
        ({"num_judged_pairs": 9, "branches": "low"}, Pool(100, num_signal_pairs=8), (0, 8 * 4 * 2, 2 * 9)),
    ],
)
def test_r0000_counts_what_measures_its_reviewer(
    changed: dict[str, object], pool: Pool, expected: tuple[int, ...]
) -> None:
    settings = LanceSettings(**{"num_reviews": 2, **changed})
    for start in (
        forecast_rounds(settings, HALF, LENGTHS, pool, num_rounds=1)[0],
        forecast_at_most(settings, LENGTHS, pool, num_rounds=1)[0],
    ):
        assert tuple(stage.rows for stage in start.stages) == expected
        assert {stage.noun for stage in start.stages} == {"review_signal"}
        assert start.num_sft == pool.num_seeds
        assert start.sft_tokens == forecast_rounds(settings, HALF, LENGTHS, pool, num_rounds=0)[0].sft_tokens
    written, reviewed, *judged = forecast_rounds(settings, HALF, LENGTHS, pool, num_rounds=0)[0].stages
    assert all(stage.prompt_tokens > stage.rows * LENGTHS.templates["judge_pair"] for stage in judged)
    assert reviewed.prompt_tokens == reviewed.rows * LENGTHS.asked["review"]
    assert written.prompt_tokens == written.rows * LENGTHS.asked["degrade"]


def test_a_plan_without_a_measured_reviewer_has_no_stage_in_r0000() -> None:
    assert forecast_rounds(LanceSettings(), HALF, LENGTHS, Pool(100), num_rounds=1)[0].stages == ()
