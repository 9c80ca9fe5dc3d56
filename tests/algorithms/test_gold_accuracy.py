"""AUC of scores against what is right, with the variance of rows that share a prompt."""

import random

import numpy as np
import pytest

from lance_assets.algorithms.measures.gold_accuracy import compute_clustered_auc, measure_gold_accuracy
from lance_assets.algorithms.measures.signals import CHANCE, compute_auc


@pytest.mark.parametrize("rng_seed", range(5))
def test_of_pairs_it_is_the_auc_and_the_variance_of_pairs(rng_seed: int) -> None:
    """One right and one wrong row of each prompt: Obuchowski's formula is that of DeLong with the pairs' covariance."""
    rng = random.Random(rng_seed)
    better, worse = [[float(rng.randint(low, 6)) for _ in range(12)] for low in (2, 0)]
    rows = [(score, True, place) for place, score in enumerate(better)]
    rows += [(score, False, place) for place, score in enumerate(worse)]
    rng.shuffle(rows)
    assert compute_clustered_auc(*zip(*rows, strict=True)) == pytest.approx(compute_auc(better, worse))


@pytest.mark.parametrize("rng_seed", range(5))
def test_it_is_the_share_of_all_comparisons(rng_seed: int) -> None:
    rng = random.Random(rng_seed)
    scores = [float(rng.randint(0, 5)) for _ in range(40)]
    is_right = [rng.random() < 0.3 for _ in scores]
    pairs = [
        (a, b)
        for a, right in zip(scores, is_right, strict=True)
        if right
        for b, other in zip(scores, is_right, strict=True)
        if not other
    ]
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert compute_clustered_auc(scores, is_right, range(40))[0] == pytest.approx(expected)


def test_rows_that_are_copies_of_one_prompt_are_no_more_than_one() -> None:
    """Ten copies of each row say no more than the rows: the variance stays, and so does the interval."""
    rng = np.random.default_rng(0)
    scores, prompts = rng.normal(size=30), list(range(30))
    is_right = [place % 2 == 0 for place in prompts]
    once = measure_gold_accuracy(list(scores), is_right, prompts)
    often = measure_gold_accuracy(list(scores) * 10, is_right * 10, prompts * 10)
    assert often.auc.value == pytest.approx(once.auc.value)
    assert (often.auc.low, often.auc.high) == pytest.approx((once.auc.low, once.auc.high))


def test_the_interval_of_chance_holds_chance() -> None:
    """Of 200 reviewers that draw their scores, about 5 in 100 lie outside; below lie a few."""
    rng, below = np.random.default_rng(1), 0
    for _ in range(200):
        scores = rng.integers(0, 11, size=60).astype(float)
        below += measure_gold_accuracy(list(scores), [place < 20 for place in range(60)], range(60)).is_below(CHANCE)
    assert below <= 10


@pytest.mark.parametrize(("number", "can_tell"), [(1, False), (3, False), (4, True)])
def test_too_few_rows_never_lie_below_the_bar(number: int, can_tell: bool) -> None:
    scores = [0.0] * number + [9.0] * 50
    measured = measure_gold_accuracy(scores, [place < number for place in range(len(scores))], range(len(scores)))
    assert measured.auc.value == 0.0
    assert measured.is_below(CHANCE) == measured.can_be_below(CHANCE) == can_tell


def test_without_right_or_without_wrong_rows_nothing_is_known() -> None:
    for is_right in ([True, True], [None, None], []):
        measured = measure_gold_accuracy([1.0] * len(is_right), is_right, range(len(is_right)))
        assert measured.auc.value is None
        assert not measured.is_below(1.0)
    with pytest.raises(ValueError, match="right and wrong rows are needed, got 2 and 0"):
        compute_clustered_auc([1.0, 2.0], [True, True], "ab")
    with pytest.raises(ValueError, match="each score needs a verdict and a cluster, got 1, 2, 1"):
        compute_clustered_auc([1.0], [True, True], "a")
