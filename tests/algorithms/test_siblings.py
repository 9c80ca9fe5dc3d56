"""The most like earlier text, found for a block at once: the same as one pair after the other."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.similarity import siblings
from lance_assets.algorithms.similarity.contrast import compute_likeness
from lance_assets.algorithms.similarity.siblings import find_most_like_earlier
from lance_assets.algorithms.similarity.words import compute_similarity

WORDS = st.lists(st.lists(st.sampled_from(["a", "the", "ab", "é", "好", "12"]), max_size=24), max_size=12)


@given(WORDS, st.booleans(), st.integers(1, 5))
def test_blocks_give_what_pairs_give(words: list[list[str]], short_by_f: bool, block: int) -> None:
    measure = compute_likeness if short_by_f else compute_similarity
    wanted = []
    for place, own in enumerate(words):
        to_earlier = [measure(own, earlier) for earlier in words[:place]]
        highest = max(to_earlier, default=0.0)
        wanted.append((highest, to_earlier.index(highest) if to_earlier else -1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(siblings, "_BLOCK", block)
        assert list(find_most_like_earlier(words, short_by_f=short_by_f)) == wanted


def test_a_large_group_takes_less_than_a_pair_at_a_time() -> None:
    """The ratio is about 10, and a machine that is busy slows both sides."""
    words = [[f"w{(place * 31 + number * number) % 97}" for number in range(30)] for place in range(500)]
    marks = [time.process_time()]
    assert len(list(find_most_like_earlier(words, short_by_f=False))) == 500
    marks.append(time.process_time())
    assert max(compute_similarity(own, earlier) for place, own in enumerate(words) for earlier in words[:place]) > 0
    marks.append(time.process_time())
    assert marks[1] - marks[0] < (marks[2] - marks[1]) / 2
