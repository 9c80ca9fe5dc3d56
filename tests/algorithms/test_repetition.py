"""Clusters by BLEU: worked by hand, held against nltk where it is there, and alike in any order."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_assets.algorithms.similarity import repetition
from lance_assets.algorithms.similarity.repetition import measure_bleu_distances, share_clusters

WORDS = ["add", "two", "and", "three", "name", "bird", "6"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1, max_size=8)


def test_a_distance_worked_by_hand() -> None:
    """Of "a b c d e" and "a b c d" every n-gram of the shorter is in the longer.

    The longer as hypothesis: 4/5, 3/4, 2/3 and 1/2, whose product is 1/5; the shorter: all 1, and the brevity penalty
    e^(1 - 5/4).
    """
    longer, shorter = (1 / 5) ** 0.25, math.exp(1 - 5 / 4)
    distances = measure_bleu_distances(["a b c d e", "a b c d"])
    assert distances[0, 1] == distances[1, 0] == pytest.approx(1 - (longer + shorter) / 2)


def test_bleu_is_nltks_on_texts_of_four_words_and_more() -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score", reason="nltk comes with lm-eval")
    rng, smooth = random.Random(0), bleu.SmoothingFunction().method1
    words = [[rng.choice(WORDS) for _ in range(rng.randint(4, 9))] for _ in range(12)]
    found = measure_bleu_distances([" ".join(one) for one in words])
    for place, one in enumerate(words):
        for other, another in enumerate(words[:place]):
            both = (
                bleu.sentence_bleu([another], one, smoothing_function=smooth),
                bleu.sentence_bleu([one], another, smoothing_function=smooth),
            )
            assert found[place, other] == pytest.approx(1 - sum(both) / 2)


@given(TEXTS)
@settings(max_examples=40, deadline=None)
def test_distances_are_symmetric_and_zero_for_equal_texts(texts: list[str]) -> None:
    found = measure_bleu_distances([*texts, texts[0]])
    assert np.array_equal(found, found.T)
    assert ((found >= 0) & (found <= 1)).all()
    assert found[0, -1] == pytest.approx(0.0, abs=1e-12)


@given(TEXTS, st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_shares_are_those_of_clusters_in_any_order(texts: list[str], salt: int) -> None:
    """Each cluster of size n gives n times the share n / N, so that 1 / share sums to the number of clusters' rows."""
    shares = share_clusters(texts, threshold=0.5)
    sizes = [share * len(texts) for share in shares]
    assert sum(1 / size for size in sizes) == pytest.approx(round(sum(1 / size for size in sizes)))
    distinct = list(dict.fromkeys(texts))
    order = random.Random(salt).sample(range(len(distinct)), len(distinct))
    before, after = (share_clusters(one, threshold=0.5) for one in (distinct, [distinct[place] for place in order]))
    # Ties of average linkage aside, which these words make: copies and pairs have none.
    if len(distinct) <= 2:
        assert [before[place] for place in order] == after


def test_equal_short_questions_are_one_cluster() -> None:
    """The authors' BLEU gives "6 bird" a distance of 0.68 to itself, so that it is never repeated."""
    assert share_clusters(["6 bird", "6 bird", "add two"], threshold=0.5) == [2 / 3, 2 / 3, 1 / 3]


def test_a_round_is_taken_apart_into_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repetition, "MAX_BATCH", 2)
    assert share_clusters(["a b", "a b", "a b"], threshold=0.5) == [1.0, 1.0, 1.0]
    assert share_clusters([], threshold=0.5) == []


def test_a_threshold_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\], got 0"):
        share_clusters(["a"], threshold=0)
