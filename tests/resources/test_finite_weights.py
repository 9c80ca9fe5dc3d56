"""Weights are read once for NaN and infinity: what was found is remembered as long as the file is the same."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from resources.stores import checkpoints, finite_weights
from resources.stores.checkpoints import (
    CheckpointStore,
    NotFiniteError,
    find_broken_weights,
    require_finite_weights,
)
from resources.stores.finite_weights import NotFinite

MakeModel = Callable[..., Path]


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read, an own cache folder, and a clock by which all files are ten seconds old."""
    found, read = list[str](), finite_weights._read_tensors

    def note(file: Path) -> Iterator[tuple[str, np.ndarray, int]]:
        found.append(file.name)
        return read(file)

    monkeypatch.setattr(finite_weights, "_read_tensors", note)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoints, "time", type("Clock", (), {"time": staticmethod(lambda: time.time() + 10)}))
    return found


def test_a_checkpoint_is_read_once_for_publishing_judging_and_the_next_start(
    make_model: MakeModel, tmp_path: Path, reads: list[str]
) -> None:
    store = CheckpointStore(tmp_path)
    folder = store.publish(make_model(store.staging_folder("mini", "r0001")), "mini", "r0001")
    assert find_broken_weights(folder) is None
    require_finite_weights(folder, remedy="train it again")
    assert reads == ["model.safetensors"]


def test_what_is_broken_is_told_the_same_again(make_model: MakeModel, tmp_path: Path, reads: list[str]) -> None:
    folder = make_model(tmp_path / "model", float("nan"))
    found = find_broken_weights(folder)
    assert found == NotFinite(folder / "model.safetensors", "weight", 64 * 64, 64 * 64)
    assert find_broken_weights(folder) == found
    with pytest.raises(NotFiniteError, match=r"4096 of 4096 weights of weight in .*model\.safetensors are NaN"):
        require_finite_weights(folder, remedy="train it again")
    assert len(reads) == 1


def test_a_file_that_was_changed_is_read_again_whatever_its_time_says(
    make_model: MakeModel, tmp_path: Path, reads: list[str]
) -> None:
    file = make_model(tmp_path / "model") / "model.safetensors"
    before = file.stat()
    assert find_broken_weights(file.parent) is None
    weights = np.ones((64, 64), dtype=np.float32)
    weights[3, 5] = np.inf
    save_file({"weight": weights}, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    found = find_broken_weights(file.parent)
    assert found is not None
    assert (found.num_wrong, len(reads)) == (1, 2)


def test_nothing_is_remembered_of_a_file_that_was_just_written(
    make_model: MakeModel, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change once more within the same tick of the clock; nor of one from the future."""
    folder = make_model(tmp_path / "model")
    for now in (0.0, -3600.0):
        monkeypatch.setattr(checkpoints.time, "time", staticmethod(lambda now=now: time.time() + now))
        assert find_broken_weights(folder) is None
        assert find_broken_weights(folder) is None
    assert len(reads) == 4
