"""Reviews as the packaged model really writes them: read from the text and from the probabilities."""

import random
from pathlib import Path

import pytest

from lance_assets.algorithms.reviews.review_parsing import ExpectedScore, compute_expected_score, parse_review
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.recipes.steps.reviewing import build_review_requests, build_review_sampling
from lance_assets.recipes.steps.rows import Example
from lance_assets.records import SamplingSettings
from lance_assets.small_world.jobs import complete_wrongly
from lance_assets.small_world.tasks import complete, draw_problem, phrase_prompt
from resources.engines.contract import sample_in_order
from resources.engines.transformers.engine import TransformersEngine

SAMPLING = SamplingSettings(0.7, 0.9, 128)


def test_expected_scores_are_told_and_near_the_written_ones(small_model: Path) -> None:
    """Its scores are one or two tokens of digits, and it is sure of them once its rationale is written."""
    rng = random.Random(3)
    problems = [draw_problem(rng, task="sum", rung=rung, held_out=False) for rung in (1, 2, 5)]
    rows = [
        Example(
            row_id=f"{number}-{is_right}",
            prompt=phrase_prompt(problem, rng),
            completion=complete(problem) if is_right else complete_wrongly(problem, rng),
        )
        for number, problem in enumerate(problems)
        for is_right in (True, False)
    ]
    requests = build_review_requests(
        RoundIdentity("mini", "r0001", 0, Templates("compact")), "review", rows, rubric=RUBRIC, num_reviews=1
    )
    engine = TransformersEngine(model_path=small_model, device="cpu")
    samples = sample_in_order(engine, requests, build_review_sampling(SAMPLING, RUBRIC, score_from="expected"))
    engine.close()
    for sample in samples:
        expected = compute_expected_score(sample)
        assert isinstance(expected, ExpectedScore), sample
        assert expected.covered > 0.9
        assert expected.value == pytest.approx(parse_review(sample.text), abs=0.5)
    rights, wrongs = ([parse_review(sample.text) for sample in samples[first::2]] for first in (0, 1))
    assert sum(rights) > sum(wrongs) + 6
