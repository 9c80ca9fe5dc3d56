import pytest

from lance_assets.algorithms.selection.draws import select_random


def test_random_is_seeded_and_leaves_out_what_is_selected() -> None:
    one = select_random(50, 10, selected=range(20), rng_seed=3)
    assert one.tolist() == select_random(50, 10, selected=range(20), rng_seed=3).tolist()
    assert one.tolist() != select_random(50, 10, selected=range(20), rng_seed=4).tolist()
    assert len(set(one.tolist())) == 10
    assert one.min() >= 20


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"k must be in \[0, 2\] .* got 3"):
        select_random(4, 3, selected=[0, 1], rng_seed=0)
    with pytest.raises(ValueError, match="got 9"):
        select_random(4, 1, selected=[9], rng_seed=0)
