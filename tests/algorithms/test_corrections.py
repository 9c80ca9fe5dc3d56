"""CLEAR's correction worked by hand: the votes of a judge, and what replaces what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.selection.corrections import compare_scores, is_preferred, read_votes

VOTE = st.sampled_from([0.0, 0.5, 1.0, None])


def test_the_confidence_is_the_mean_over_both_orders() -> None:
    """Own first: 3 of 3; given first: 2 of 3 read votes: (1 + 2 / 3) / 2."""
    votes = [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0, None]]
    assert read_votes(votes) == pytest.approx(5 / 6)
    assert is_preferred(votes, min_confidence=0.8)
    assert not is_preferred(votes, min_confidence=0.9)


def test_a_judge_that_favours_a_place_replaces_nothing() -> None:
    """It says A whatever A is: 1 and 0, so that the mean is a half, and no order may speak against it."""
    assert not is_preferred([[1.0, 1.0], [0.0, 0.0]], min_confidence=0.5)
    assert not is_preferred([[1.0, 1.0], [0.5, 0.5]], min_confidence=0.75)


def test_what_cannot_be_read_is_no_vote() -> None:
    assert read_votes([[1.0], [None]]) is None
    assert read_votes([]) is None
    assert not is_preferred([[1.0], [None]], min_confidence=0.5)


def test_scores_are_compared_pair_by_pair() -> None:
    assert compare_scores([9.0, 5.0, None, 2.0], [4.0, 5.0, 2.0, 3.0]) == [1.0, 0.5, None, 0.0]
    with pytest.raises(ValueError, match="both completions need as many scores, got 1 and 2"):
        compare_scores([1.0], [1.0, 2.0])


@given(st.lists(st.lists(VOTE, min_size=1, max_size=4), min_size=1, max_size=2))
def test_what_is_preferred_is_not_preferred_the_other_way_round(votes: list[list[float | None]]) -> None:
    turned = [[None if vote is None else 1 - vote for vote in order] for order in votes]
    assert not (is_preferred(votes, min_confidence=0.5) and is_preferred(turned, min_confidence=0.5))
    confidence, other = read_votes(votes), read_votes(turned)
    assert (confidence is None) == (other is None)
    if confidence is not None:
        assert confidence + other == pytest.approx(1.0)
