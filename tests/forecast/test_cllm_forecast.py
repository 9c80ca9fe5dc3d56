"""What CLLM forecasts, counted by hand."""

import pytest

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool
from lance_assets.recipes.cllm.forecast import FORECAST
from lance_assets.recipes.cllm.settings import CllmSettings

LENGTHS = Lengths(3.0, {"rows": 50.0}, {"rows": 60.0}, {"rows": 90.0}, prompt=40.0, completion=2.0)
POOL = Pool(100, num_eft=0, eft_tokens=0.0)


def settings(**given: object) -> CllmSettings:
    return CllmSettings.model_validate({"num_requests": 5, "num_samples": 4} | given)


def test_texts_are_counted_and_rows_assumed() -> None:
    """Five requests of four texts, after twenty rows of 42 tokens; ten rows a text, of which 0.7 are used, 0.8 kept."""
    start, first, second = FORECAST.expected(settings(), "full", LENGTHS, POOL, num_rounds=2)
    (stage,) = first.stages
    assert (start.stages, start.num_sft) == ((), 0.0)
    assert (stage.rows, stage.prompt_tokens) == (20, pytest.approx(20 * (LENGTHS.templates["rows"] + 20 * 42)))
    assert stage.completion_tokens == pytest.approx(20 * 10 * 42)
    assert first.num_kept == first.num_reviewed == pytest.approx(140)
    assert first.num_sft == second.num_sft == 0, "no model is trained"


def test_lessons_are_trained_on_as_far_as_the_set_keeps_them() -> None:
    own = settings(teaches="labels", sft_on_seeds=True, trains_on="all")
    start, first, second = FORECAST.expected(own, "full", LENGTHS, POOL, num_rounds=2)
    assert [this.num_sft for this in (start, first, second)] == pytest.approx([100, 212, 324])
    assert first.sft_tokens == pytest.approx(212 * 42)
    latest = FORECAST.expected(settings(teaches="labels", sft_on_seeds=True), "full", LENGTHS, POOL, num_rounds=2)
    assert [this.num_sft for this in latest] == pytest.approx([100, 112, 112])


@pytest.mark.parametrize("profile", ["full", "compact"])
@pytest.mark.parametrize("teaches", ["nothing", "labels", "rows"])
def test_no_figure_is_expected_beyond_its_bound(profile: str, teaches: str) -> None:
    own = settings(teaches=teaches, sft_on_seeds=True, trains_on="all")
    expected, most = (
        which(own, profile, LENGTHS, POOL, num_rounds=2) for which in (FORECAST.expected, FORECAST.at_most)
    )
    for one, bound in zip(expected, most, strict=True):
        assert one.num_sft <= bound.num_sft
        assert one.sft_tokens <= bound.sft_tokens
        assert one.num_kept <= bound.num_kept
        assert one.kept_tokens <= bound.kept_tokens
        for mine, limit in zip(one.stages, bound.stages, strict=True):
            assert mine.prompt_tokens <= limit.prompt_tokens
            assert mine.completion_tokens <= limit.completion_tokens
