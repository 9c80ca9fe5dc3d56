import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.similarity import near_duplicates
from lance_assets.algorithms.similarity.near_duplicates import PAIRS, find_similar_pairs


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def at_angles(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_worked_by_hand() -> None:
    """Above 0.9 is within 25.8 degrees."""
    found = find_similar_pairs(at_angles(0, 20, 40, 90), threshold=0.9)
    assert found.select("left", "right").rows() == [(0, 1), (1, 2)]
    np.testing.assert_allclose(found["similarity"], np.cos(np.radians([20, 20])), atol=1e-6)
    across = find_similar_pairs(at_angles(0, 90), against=at_angles(80, 10, 0), threshold=0.9)
    assert across.select("left", "right").rows() == [(0, 1), (0, 2), (1, 0)]


@pytest.mark.parametrize("num_rows", [0, 1])
def test_nothing_to_compare(num_rows: int) -> None:
    found = find_similar_pairs(np.ones((num_rows, 1), dtype=np.float32), threshold=0.5)
    assert found.schema == PAIRS
    assert found.is_empty()


def test_all_equal() -> None:
    rows = np.repeat(at_angles(30), 10, axis=0)
    assert len(find_similar_pairs(rows, threshold=0.999)) == 45
    assert len(find_similar_pairs(rows, threshold=0.999, exact_rows=2)) == 45


@given(st.lists(st.floats(0, 359), min_size=2, max_size=40), st.floats(-0.9, 0.99), st.randoms())
def test_every_pair_in_every_order(degrees: list[float], threshold: float, lot) -> None:
    rows = at_angles(*degrees)
    cosines = rows.astype(np.float64) @ rows.T.astype(np.float64)
    found = {(a, b) for a, b, _ in find_similar_pairs(rows, threshold=threshold).rows()}
    upper = np.triu(np.ones_like(cosines), k=1) > 0
    sure = set(zip(*map(np.ndarray.tolist, np.nonzero(upper & (cosines > threshold + 1e-12))), strict=True))
    maybe = set(zip(*map(np.ndarray.tolist, np.nonzero(upper & (cosines > threshold - 1e-12))), strict=True))
    assert sure <= found <= maybe
    order = list(range(len(rows)))
    lot.shuffle(order)
    again = find_similar_pairs(rows[order], threshold=threshold).rows()
    assert {tuple(sorted((order[a], order[b]))) for a, b, _ in again} == found or sure != maybe


def planted(num_rows: int, rng_seed: int) -> np.ndarray:
    """Clustered rows, a tenth of them near copies at a cosine of about 0.95."""
    rng = np.random.default_rng(rng_seed)
    rows = unit(rng.normal(size=(40, 32))[rng.integers(0, 40, num_rows)] + rng.normal(size=(num_rows, 32)))
    copies = rng.choice(num_rows, num_rows // 10, replace=False)
    return np.concatenate([rows, unit(rows[copies] + 0.05 * rng.normal(size=(len(copies), 32)))])


@pytest.mark.parametrize("is_self", [True, False])
def test_buckets_find_what_comparing_all_finds(is_self: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    num_compared = []
    compare_probed = near_duplicates._compare_probed
    monkeypatch.setattr(
        near_duplicates,
        "_compare_probed",
        lambda left, *others: num_compared.append(len(left)) or compare_probed(left, *others),
    )
    rows, against = planted(3000, 0), None if is_self else planted(3000, 0)[::2].copy()
    every = find_similar_pairs(rows, threshold=0.9, against=against)
    some = find_similar_pairs(rows, threshold=0.9, against=against, exact_rows=100)
    assert num_compared[-1] == len(rows), "the buckets were not used"
    assert len(every) > 200
    found = set(some.rows())
    assert found <= set(every.rows())
    assert len(found) >= 0.98 * len(every)


@pytest.mark.parametrize("is_self", [True, False])
def test_parts_that_another_process_does_give_the_same_pairs(is_self: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part gets copies of what it needs, as another machine has them."""
    monkeypatch.setattr(near_duplicates, "_PART_PRODUCTS", 50_000)
    monkeypatch.setattr(near_duplicates, "_PART_BLOCKS", 1)
    monkeypatch.setattr(near_duplicates, "_BLOCK_VALUES", 20_000)
    done: list[str] = []

    def run_elsewhere(compute: Callable[..., Any], arrays: Sequence[np.ndarray], parts: Iterable[Any]) -> Iterator[Any]:
        for part in parts:
            own, mine, copies = pickle.loads(pickle.dumps((compute, part, list(arrays))))
            for array in copies:
                array.flags.writeable = False
            done.append(own.func.__name__)
            yield own(*copies, mine)

    rows, against = planted(3000, 0), None if is_self else planted(3000, 0)[::2].copy()
    given = {"threshold": 0.9, "against": against, "exact_rows": 100}
    here = find_similar_pairs(rows, **given)
    assert len(here) > 200
    assert find_similar_pairs(rows, **given, run=run_elsewhere).equals(here)
    assert min(done.count("_assign_part"), done.count("_compare_part")) > 3
    with pytest.raises(near_duplicates.TooManyPairsError):
        find_similar_pairs(rows, **given, max_pairs=20, run=run_elsewhere)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (np.ones(3), r"2D array .* got shape \(3,\)"),
        (np.array([[1.0, 0.0], [np.nan, 0.0]]), "row 1 has norm nan"),
        (np.array([[0.0, 0.0]]), "row 0 has norm 0"),
    ],
)
def test_wrong_rows(rows: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        find_similar_pairs(rows.astype(np.float32), threshold=0.5)


def test_wrong_dimensions_and_too_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="embeddings have 2 dimensions, against 3"):
        find_similar_pairs(at_angles(0), against=np.float32([[1, 0, 0]]), threshold=0.5)
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 10)
    with pytest.raises(ValueError, match="raise the threshold, or drop equal texts first"):
        find_similar_pairs(np.repeat(at_angles(30), 10, axis=0), threshold=0.9)
