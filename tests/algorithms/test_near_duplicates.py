import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms import near_duplicates
from lance_assets.algorithms.near_duplicates import find_repeats


def at_angles(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_first_of_each_cluster_stays() -> None:
    """Above 0.9 is within 25.8 degrees: 20 repeats 0; 40 is near the dropped 20 alone, so it stays; 60 repeats 40."""
    repeats_of, similarity = find_repeats(at_angles(0, 20, 40, 60), threshold=0.9)
    assert repeats_of.tolist() == [-1, 0, -1, 2]
    np.testing.assert_allclose(
        similarity, [0, np.cos(np.radians(20)), np.cos(np.radians(40)), np.cos(np.radians(20))], atol=1e-6
    )


def test_the_most_similar_is_named() -> None:
    assert find_repeats(at_angles(0, 30, 20), threshold=0.9)[0].tolist() == [-1, -1, 1]


def test_at_the_threshold_is_no_repeat() -> None:
    same = np.array([[1, 0], [1, 0]], dtype=np.float32)
    assert find_repeats(same, threshold=1.0)[0].tolist() == [-1, -1]
    assert find_repeats(same, threshold=0.999)[0].tolist() == [-1, 0]


@pytest.mark.parametrize("num_rows", [0, 1])
def test_nothing_to_compare(num_rows: int) -> None:
    repeats_of, similarity = find_repeats(np.ones((num_rows, 3), dtype=np.float32), threshold=0.5)
    assert (repeats_of.tolist(), similarity.tolist()) == ([-1] * num_rows, [0.0] * num_rows)


def test_the_shape_is_checked() -> None:
    with pytest.raises(ValueError, match=r"2D array, got shape \(3,\)"):
        find_repeats(np.ones(3, dtype=np.float32), threshold=0.5)


CLUSTERS = st.lists(st.floats(0, 359), min_size=1, max_size=40)


@given(CLUSTERS, st.floats(0.1, 0.999))
def test_kept_rows_differ_and_dropped_ones_name_a_kept_one(degrees: list[float], threshold: float) -> None:
    embeddings = at_angles(*degrees)
    repeats_of, similarity = find_repeats(embeddings, threshold=threshold)
    kept = np.flatnonzero(repeats_of == -1)
    assert kept[0] == 0
    among_kept = embeddings[kept] @ embeddings[kept].T - np.eye(len(kept))
    assert among_kept.max(initial=0) <= threshold + 1e-6
    for row in np.flatnonzero(repeats_of >= 0):
        assert repeats_of[row] in kept
        assert repeats_of[row] < row
        assert similarity[row] > threshold


@given(CLUSTERS, st.floats(0.1, 0.999), st.integers(1, 7))
def test_blocks_change_nothing(degrees: list[float], threshold: float, block_rows: int) -> None:
    """Quarter turns and their like are exact in float32, so that the block size cannot move a similarity."""
    embeddings = np.eye(8, dtype=np.float32)[[int(angle) % 8 for angle in degrees]]
    whole = find_repeats(embeddings, threshold=threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "BLOCK_ROWS", block_rows)
        parts = find_repeats(embeddings, threshold=threshold)
    assert [array.tolist() for array in whole] == [array.tolist() for array in parts]
    assert (whole[0] == -1).sum() == len({int(angle) % 8 for angle in degrees})
