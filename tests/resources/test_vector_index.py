"""The index of a history by its size: it is made, measured, used and dropped."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from resources.stores import lance_tables
from resources.stores.history import HistoryStore
from resources.stores.lance_tables import choose_kind, choose_num_partitions


def make_rows(num_rows: int, rng_seed: int) -> np.ndarray:
    rng = np.random.default_rng(rng_seed)
    rows = rng.normal(size=(30, 32))[rng.integers(0, 30, num_rows)] + 0.3 * rng.normal(size=(num_rows, 32))
    return rows.astype(np.float32)


def put(store: HistoryStore, experiment: str, key: str, rows: np.ndarray) -> None:
    ids = [f"{number:05d}" for number in range(len(rows))]
    store.replace_round(experiment, key, pl.DataFrame({"row_id": ids, "text": ids}), rows, model_hash="m")


def find(store: HistoryStore, rows: np.ndarray, experiment: str = "mini") -> pl.DataFrame:
    return store.find_nearest(rows, experiment=experiment, before_round="r0009", model_hash="m")


def test_kinds_by_size() -> None:
    assert [choose_kind(size) for size in (0, 50_000, 50_001, 2_000_001)] == ["flat", "flat", "ivf_flat", "ivf_pq"]
    assert [choose_num_partitions(size) for size in (10, 1_000_000)] == [16, 1000]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_pq"])
def test_an_index_is_made_measured_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    store, rows = HistoryStore(tmp_path), make_rows(3000, 0)
    put(store, "mini", "r0000", rows)
    assert store.maintain().index == "flat"
    exact = find(store, rows[:200] + 0.01)
    monkeypatch.setattr(lance_tables, "FLAT_ROWS", 500)
    monkeypatch.setattr(lance_tables, "PQ_ROWS", 500 if kind == "ivf_pq" else 5000)
    health = store.maintain()
    assert (health.index, health.num_rows, health.num_partitions) == (kind, 3000, 54)
    assert health.measured_recall >= (0.97 if kind == "ivf_flat" else 0.6)
    found = find(store, rows[:200] + 0.01)
    assert (found["nearest_id"] == exact["nearest_id"]).mean() >= 0.98
    np.testing.assert_allclose(found["similarity"], exact["similarity"], atol=0.05)

    put(store, "mini", "r0001", make_rows(400, 1))
    assert find(store, make_rows(400, 1))["nearest_round"].to_list() == ["r0001"] * 400
    assert store.maintain().num_rows == 3400

    put(store, "mini", "r0000", rows[:100])
    assert store.maintain().index == "flat"


def test_a_small_experiment_in_a_large_table_is_searched_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_tables, "FLAT_ROWS", 500)
    store = HistoryStore(tmp_path)
    put(store, "large", "r0000", make_rows(3000, 0))
    put(store, "mini", "r0000", make_rows(20, 5))
    assert store.maintain().index == "ivf_flat"
    assert find(store, make_rows(20, 5))["similarity"].to_numpy() == pytest.approx(np.ones(20), abs=1e-5)


def test_nothing_to_maintain(tmp_path: Path) -> None:
    assert HistoryStore(tmp_path).maintain() == lance_tables.EMPTY
