"""A power cut between any two writes, flushes and renames leaves the state before or the one after, never a third."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from resources.stores.checkpoints import CheckpointStore, MissingCheckpointError, copy_checkpoint, hash_checkpoint
from resources.stores.files import DiskFullError, write_file_atomically
from resources.stores.history import HistoryStore
from resources.stores.lance_tables import HistoryError
from resources.stores.tables import MissingTableError, TableStore
from tests.resources.power_cut import Disk, PowerCut, cut_everywhere

MakeModel = Callable[..., Path]
SCHEMA = pl.Schema({"row_id": pl.String, "score": pl.Float64})
OLD = pl.DataFrame({"row_id": ["a", "b"], "score": [1.0, None]}, schema=SCHEMA)
NEW = pl.DataFrame({"row_id": ["c"], "score": [2.0]}, schema=SCHEMA)
PLACE = ("mini", "r0001", "sft_set")


def test_the_disk_of_these_tests_loses_what_was_not_flushed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_text("old")
    with Disk(root, cut_before=4) as disk:
        (root / "b").write_text("new!")
        (root / "b").rename(root / "a")
        with (root / "c").open("w") as file:
            file.write("whole")
            with pytest.raises(PowerCut):
                os.fsync(file.fileno())
    disk.lose(0)
    assert (root / "a").read_text() == "ne"
    assert (root / "c").read_text() == "wh"
    disk.lose(1)
    assert (root / "a").read_text() == "old"


@pytest.mark.parametrize("is_first", [True, False], ids=["of a first table", "of a table that is replaced"])
def test_a_cut_while_a_table_is_written_leaves_the_old_table_or_the_new(tmp_path: Path, is_first: bool) -> None:
    def prepare(root: Path) -> None:
        root.mkdir()
        if not is_first:
            TableStore(root).write(*PLACE, OLD, schema=SCHEMA)

    def act(root: Path) -> None:
        TableStore(root).write(*PLACE, NEW, schema=SCHEMA)

    def check(root: Path) -> None:
        store = TableStore(root)
        try:
            found = store.read(*PLACE, schema=SCHEMA)
            assert found.equals(NEW) or (found.equals(OLD) and not is_first)
            store.hash(*PLACE)
        except MissingTableError:
            assert is_first
        act(root)
        assert store.read(*PLACE, schema=SCHEMA).equals(NEW)
        assert json.loads(store.record_path(*PLACE).read_text())["replaced"] is None
        assert not list(root.rglob("*.tmp")) or {path.name.split(".")[-2] for path in root.rglob("*.tmp")} == {
            str(os.getpid())
        }, "what this very process left is removed by the next one"

    steps = cut_everywhere(tmp_path, prepare=prepare, act=act, check=check)
    assert sum("rename" in step or "replace" in step for step in steps) == (2 if is_first else 3)


def test_a_cut_while_a_small_file_is_written_leaves_it_whole(tmp_path: Path) -> None:
    def check(root: Path) -> None:
        assert (root / "cost.json").read_bytes() in (b"old", b"newer")

    cut_everywhere(
        tmp_path,
        prepare=lambda root: write_file_atomically(root / "cost.json", b"old"),
        act=lambda root: write_file_atomically(root / "cost.json", b"newer"),
        check=check,
    )


def test_a_cut_while_a_checkpoint_is_published_leaves_the_old_one_or_the_new(
    make_model: MakeModel, tmp_path: Path
) -> None:
    known = {hash_checkpoint(make_model(tmp_path / str(value), value)): value for value in (1.0, 2.0)}

    def prepare(root: Path) -> None:
        store = CheckpointStore(root)
        store.publish(make_model(store.staging_folder("mini", "r0001"), 1.0), "mini", "r0001")
        make_model(store.staging_folder("mini", "r0001"), 2.0)

    def act(root: Path) -> None:
        store = CheckpointStore(root)
        store.publish(store.folder("mini", "r0001").with_name("r0001.staging"), "mini", "r0001")

    def check(root: Path) -> None:
        store = CheckpointStore(root)
        assert hash_checkpoint(store.find("mini", "r0001")) in known
        store.publish(make_model(store.staging_folder("mini", "r0001"), 2.0), "mini", "r0001")
        assert known[hash_checkpoint(store.find("mini", "r0001"))] == 2.0
        assert [path.name for path in store.folder("mini", "r0001").parent.iterdir()] == ["r0001"]

    steps = cut_everywhere(tmp_path / "cuts", prepare=prepare, act=act, check=check)
    assert len(steps) > 10


def test_a_cut_while_the_start_checkpoint_is_kept_leaves_none_or_a_whole_one(
    make_model: MakeModel, tmp_path: Path
) -> None:
    source = make_model(tmp_path / "model")

    def act(root: Path) -> None:
        staging = root / "stages" / "kept"
        shutil.rmtree(staging, ignore_errors=True)
        copy_checkpoint(source, staging)
        CheckpointStore(root).publish(staging, "mini", "r0001")

    def check(root: Path) -> None:
        store = CheckpointStore(root)
        with suppress(MissingCheckpointError):
            assert hash_checkpoint(store.find("mini", "r0001")) == hash_checkpoint(source)
        act(root)
        assert hash_checkpoint(store.find("mini", "r0001")) == hash_checkpoint(source)

    cut_everywhere(tmp_path / "cuts", prepare=lambda root: root.mkdir(parents=True), act=act, check=check)


def test_a_full_disk_while_a_checkpoint_is_copied_names_the_file_and_the_free_space(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    before = store.publish(make_model(store.staging_folder("mini", "r0001"), 1.0), "mini", "r0001")
    kept = hash_checkpoint(before)

    def fail(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", None, None, str(target))

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(DiskFullError, match=r"the disk is full: \d+ bytes free.*kept"):
        copy_checkpoint(make_model(tmp_path / "model", 2.0), tmp_path / "stages" / "kept")
    assert hash_checkpoint(store.find("mini", "r0001")) == kept


def test_a_full_disk_while_a_checkpoint_is_flushed_leaves_the_old_one(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    kept = hash_checkpoint(store.publish(make_model(store.staging_folder("mini", "r0001")), "mini", "r0001"))
    staging = make_model(store.staging_folder("mini", "r0001"), 2.0)

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DiskFullError, match=r"the disk is full: \d+ bytes free.*r0001"):
            store.publish(staging, "mini", "r0001")
    assert hash_checkpoint(store.find("mini", "r0001")) == kept


@pytest.mark.parametrize("offset", [-(10**6), 10**6], ids=["set back", "set forward"])
def test_a_clock_that_is_set_changes_nothing_about_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    """The times of files and the clock may disagree by days: every read gives what is there."""
    store = TableStore(tmp_path)
    path = store.write(*PLACE, OLD, schema=SCHEMA).path
    now = path.stat().st_mtime_ns
    monkeypatch.setattr("resources.stores.hashes.time.time_ns", lambda: now + offset * 10**9)
    assert store.read(*PLACE, schema=SCHEMA).equals(OLD)
    os.utime(path, (now / 1e9 + offset, now / 1e9 + offset))
    assert store.read(*PLACE, schema=SCHEMA).equals(OLD)
    store.write(*PLACE, NEW, schema=SCHEMA)
    os.utime(path, (now / 1e9, now / 1e9))
    assert store.read(*PLACE, schema=SCHEMA).equals(NEW)


def test_a_full_disk_while_vectors_are_written_leaves_the_old_round_and_says_the_free_space(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk of its own can be mounted by root only")
    try:
        store = HistoryStore(uri=tmp_path / "history")
        rows = pl.DataFrame({"row_id": ["a"], "text": ["kept"]})
        store.replace_round("mini", "r0001", rows, np.ones((1, 64), dtype=np.float32), model_hash="m")
        many = pl.DataFrame({"row_id": [str(n) for n in range(4000)]}).with_columns(text="row_id")
        vectors = np.random.default_rng(0).normal(size=(4000, 64))
        with pytest.raises(HistoryError, match=r"history\.lance: the disk is full, \d+ bytes free: free some space"):
            store.replace_round("mini", "r0001", many, vectors, model_hash="m")
        assert store.read_round("mini", "r0001")[0]["text"].to_list() == ["kept"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
