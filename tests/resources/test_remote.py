"""Experiments that are copied between folders and stores: whole, by their hashes, and taken up after a kill."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from resources.machine.claims import ClaimedError, Claims
from resources.remote.copying import Copied, Copying, OtherExperimentError, copy_experiment
from resources.remote.folder import DataFolder
from resources.remote.lease import hold_lease
from resources.remote.manifest import (
    DamagedObjectError,
    Entry,
    Manifest,
    ManifestError,
    StoreError,
    decode_manifest,
    merge,
)
from resources.remote.store import ChangedFileError, Store, UnreachableStoreError
from resources.stores.checkpoints import CheckpointStore, copy_checkpoint
from resources.stores.decisions import DecisionStore
from resources.stores.files import hash_whole, write_file_atomically
from resources.stores.tables import CorruptTableError, TableStore

SCHEMA = pl.Schema({"row_id": pl.String, "number": pl.Int64})
SPAWN = multiprocessing.get_context("spawn")


def write_table(root: Path, key: str, number: int, *, experiment: str = "tiny", asset: str = "seed_set") -> None:
    """A table of a round, with the record of its hash."""
    table = pl.DataFrame({"row_id": ["a", "b"], "number": [number, number + 1]}, schema=SCHEMA)
    TableStore(root).write(experiment, key, asset, table, schema=SCHEMA)


def write_round(root: Path, key: str, number: int = 0, *, experiment: str = "tiny") -> None:
    """A round of an experiment: tables, costs, an identity and a stage."""
    for asset in ("seed_set", "eval_report"):
        write_table(root, key, number, experiment=experiment, asset=asset)
    for folder in ("costs", "identity", "made"):
        write_file_atomically(root / folder / experiment / key / "seed_set.json", f'{{"{folder}": {number}}}'.encode())
    write_file_atomically(root / "stages" / experiment / key / "raw" / "f" / "x.sqlite", os.urandom(100))


def read_all(root: Path, experiment: str = "tiny") -> dict[str, bytes]:
    """The bytes of every file of an experiment."""
    return {path: (root / path).read_bytes() for path in DataFolder(root).list_paths(experiment)}


def copy(source: Any, target: Any, **arguments: Any) -> Copied:
    """Copy the experiment between two places."""
    places = [DataFolder(each) if isinstance(each, Path) else each for each in (source, target)]
    return copy_experiment(Copying("tiny", *places, **arguments))


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """A folder of data with two rounds of an experiment, and one of another."""
    root = tmp_path / "laptop"
    write_round(root, "r0000")
    write_round(root, "r0001", 1)
    write_round(root, "r0000", 7, experiment="other")
    DecisionStore(root, "tiny").add({"one": '{"who": "you"}', "two": "\N{SNOWMAN} \u2028"})
    return root


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store."""
    return Store(f"{request.param}://{tmp_path}/bucket/lance", patience=0)


def test_an_experiment_comes_back_as_it_was_with_its_weights_and_decisions(
    laptop: Path, store: Store, small_model: Path, tmp_path: Path
) -> None:
    checkpoints = CheckpointStore(laptop)
    copy_checkpoint(small_model, checkpoints.staging_folder("tiny", "r0001"))
    checkpoints.publish(laptop / "checkpoints/tiny/r0001.staging", "tiny", "r0001")
    sent = copy(laptop, store)
    assert sent.num_decisions == 2
    elsewhere = tmp_path / "elsewhere"
    copy(store, elsewhere)
    assert read_all(elsewhere) == read_all(laptop)
    assert not read_all(elsewhere, "other")
    assert DecisionStore(elsewhere, "tiny").read_records() == DecisionStore(laptop, "tiny").read_records()
    assert CheckpointStore(elsewhere).hash_checkpoint(CheckpointStore(elsewhere).find("tiny", "r0001"))
    assert not list((elsewhere / "arriving").iterdir())
    # What is there is neither sent nor fetched again, and no new state is published.
    assert not copy(laptop, store).is_changed
    assert not copy(store, elsewhere).is_changed
    newest = store.read_newest("tiny")
    assert newest is not None
    assert newest.number == 1


def test_what_was_added_elsewhere_comes_back_and_only_that(laptop: Path, store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    copy(laptop, store)
    copy(store, elsewhere)
    write_round(elsewhere, "r0002", 2)
    # The round before is made again there, which is newer than what the store has.
    write_table(elsewhere, "r0001", 5)
    DecisionStore(elsewhere, "tiny").add({"three": "later"})
    DecisionStore(laptop, "tiny").add({"four": "meanwhile"})
    shutil.rmtree(elsewhere / "stages" / "tiny" / "r0000")
    sent = copy(elsewhere, store)
    assert sent.num_sent < 12
    copy(store, laptop)
    copy(laptop, store)
    copy(store, elsewhere)
    assert read_all(laptop) == read_all(elsewhere)
    assert not (laptop / "stages/tiny/r0000").exists()
    for root in (laptop, elsewhere):
        assert set(DecisionStore(root, "tiny").read_records()) == {"one", "two", "three", "four"}


def test_where_both_went_on_nothing_is_overwritten_unless_told(laptop: Path, store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    copy(laptop, store)
    copy(store, elsewhere)
    write_table(elsewhere, "r0001", 5)
    copy(elsewhere, store)
    write_table(laptop, "r0001", 6)
    before = read_all(laptop)
    for places in ((laptop, store), (store, laptop)):
        with pytest.raises(
            OtherExperimentError, match=r"other tables of 'tiny' than .*: tiny/r0001/seed_set\. .*--repl"
        ):
            copy(*places)
    assert read_all(laptop) == before
    newest = store.read_newest("tiny")
    assert newest is not None
    assert newest.number == 2
    copied = copy(store, laptop, replaces=True)
    assert read_all(laptop) == read_all(elsewhere)
    assert copied.aside is not None
    assert {path: (copied.aside / path).read_bytes() for path in before} == before


def test_a_lost_file_is_no_removed_one(laptop: Path, store: Store) -> None:
    copy(laptop, store)
    before = read_all(laptop)
    shutil.rmtree(laptop / "tables/tiny/r0001")
    shutil.rmtree(laptop / "hashes/tiny")
    assert not copy(laptop, store).is_changed
    copy(store, laptop)
    assert read_all(laptop) == before


_CALLS = itertools.count(1)


class _DyingStore(Store):
    """A store whose process is killed at one of its calls."""

    def count(self) -> None:
        """Count a call, and end at the one that was chosen."""
        if next(_CALLS) == int(os.environ["LAST_CALL"]):
            os.kill(os.getpid(), signal.SIGKILL)

    def put_object(self, file: Path, entry: Entry) -> bool:
        """Send a file."""
        self.count()
        return super().put_object(file, entry)

    def fetch_object(self, entry: Entry, to: Path) -> None:
        """Fetch a file."""
        self.count()
        super().fetch_object(entry, to)

    def publish(self, manifest: Manifest) -> bool:
        """Publish a state."""
        self.count()
        return super().publish(manifest)


def _copy_and_die(url: str, root: Path, is_sent: bool, last: int) -> None:
    os.environ["LAST_CALL"] = str(last)
    store = _DyingStore(url, patience=0)
    copy(*((root, store) if is_sent else (store, root)))


def run_killed(url: str, root: Path, *, is_sent: bool, last: int) -> None:
    """Copy in a process that is killed at a call."""
    process = SPAWN.Process(target=_copy_and_die, args=(url, root, is_sent, last))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_a_copy_that_was_killed_is_finished_by_the_same_call(laptop: Path, tmp_path: Path) -> None:
    url, elsewhere = f"file://{tmp_path}/bucket", tmp_path / "elsewhere"
    store = Store(url, patience=0)
    run_killed(url, laptop, is_sent=True, last=9)
    assert store.read_newest("tiny") is None
    objects = list((tmp_path / "bucket/objects").rglob("*"))
    assert objects
    sent = set[str]()
    original = Store.put_object

    def put(self: Store, file: Path, entry: Entry) -> bool:
        is_new = not self.has_object(entry)
        original(self, file, entry)
        if is_new:
            sent.add(entry.sha256)
        return is_new

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "put_object", put)
        copy(laptop, store)
    assert sent.isdisjoint(each.name for each in objects)
    run_killed(url, elsewhere, is_sent=False, last=9)
    assert not (elsewhere / "tables").exists()
    # A claim ends with its process, and what has arrived stays.
    assert list((elsewhere / "arriving/tiny").iterdir())
    copy(store, elsewhere)
    assert read_all(elsewhere) == read_all(laptop)


@pytest.mark.parametrize("number", range(0, 16, 3))
def test_a_kill_while_files_take_their_places_leaves_all_tables_or_none(
    laptop: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    copy(laptop, store)
    elsewhere, placed, original = tmp_path / "elsewhere", list[Path](), DataFolder._link

    class KilledError(BaseException):
        """In place of the end of the process."""

    def link(self: DataFolder, file: Path, to: Path) -> None:
        if len(placed) == number:
            raise KilledError
        placed.append(to)
        original(self, file, to)

    with monkeypatch.context() as patch:
        patch.setattr(DataFolder, "_link", link)
        with pytest.raises(KilledError):
            copy(store, elsewhere)
    assert TableStore(elsewhere).list_experiments() == []
    copy(store, elsewhere)
    assert read_all(elsewhere) == read_all(laptop)


def test_two_machines_that_publish_at_once_both_come_through(laptop: Path, store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    copy(laptop, store)
    copy(store, elsewhere)
    write_round(laptop, "r0002", 2)
    write_round(elsewhere, "r0003", 3)

    class RacedStore(Store):
        """A store that another machine publishes in just before this one does."""

        def publish(self, manifest: Manifest) -> bool:
            newest = store.read_newest("tiny")
            if newest is not None and newest.number == 1:
                copy(elsewhere, store)
            return super().publish(manifest)

    copy(laptop, RacedStore(store.url, patience=0))
    newest = store.read_newest("tiny")
    assert newest is not None
    assert newest.number == 3
    assert {path.split("/")[2] for path in newest.files if path.startswith("tables/")} == {
        f"r000{number}" for number in range(4)
    }


def test_a_damaged_object_is_named_and_nothing_takes_its_place(laptop: Path, tmp_path: Path) -> None:
    store, elsewhere = Store(f"file://{tmp_path}/bucket", patience=0), tmp_path / "elsewhere"
    copy(laptop, store)
    newest = store.read_newest("tiny")
    assert newest is not None
    entry = newest.files["tables/tiny/r0000/seed_set.parquet"]
    damaged = tmp_path / "bucket/objects" / entry.sha256[:2] / entry.sha256
    content = damaged.read_bytes()
    damaged.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DamagedObjectError, match=rf"objects/../{entry.sha256} is not what was written.*lance move"):
        copy(store, elsewhere)
    assert not (elsewhere / "tables").exists()
    # What the message says: it is removed, and sent again.
    damaged.unlink()
    with pytest.raises(DamagedObjectError, match="is not there"):
        copy(store, elsewhere)
    assert copy(laptop, store, is_thorough=True).num_sent == 1
    copy(store, elsewhere)
    assert read_all(elsewhere) == read_all(laptop)


def test_a_large_object_is_known_by_its_bytes(store: Store, tmp_path: Path) -> None:
    check_large_objects(store, tmp_path)


def check_large_objects(store: Store, folder: Path) -> None:
    """What has the size of a large object and other bytes is neither sent as it nor taken for it."""
    right, wrong, back = folder / "right", folder / "wrong", folder / "back"
    right.write_bytes(b"a" * (3 * 2**20))
    wrong.write_bytes(b"b" * (3 * 2**20))
    entry = Entry(hash_whole(right), right.stat().st_size)
    # The file that was described is another one when it is sent, or gone.
    with pytest.raises(ChangedFileError, match=r"wrong was changed or removed while it was sent"):
        store.put_object(wrong, entry)
    with pytest.raises(ChangedFileError, match=r"gone was changed or removed while it was sent"):
        store.put_object(folder / "gone", entry)
    assert store.put_object(right, entry)
    assert not store.put_object(right, entry)
    store.fetch_object(entry, back)
    assert hash_whole(back) == entry.sha256
    # As an earlier version of this project could leave it.
    store.write(f"objects/{entry.sha256[:2]}/{entry.sha256}", wrong.read_bytes())
    assert store.has_object(entry)
    assert store.put_object(right, entry)
    store.fetch_object(entry, back)
    assert hash_whole(back) == entry.sha256


def test_a_wrong_file_of_any_size_never_takes_the_name_of_an_object(tmp_path: Path) -> None:
    store, file = Store(f"file://{tmp_path}/bucket", patience=0), tmp_path / "file"
    for size in (0, 10, 2**20, 2**20 + 1, 3 * 2**20):
        file.write_bytes(b"a" * size)
        entry = Entry(hash_whole(file), size)
        file.write_bytes(b"b" * size + b"b" * (size == 0))
        with pytest.raises(ChangedFileError):
            store.put_object(file, entry)
        assert not store.has_object(entry)
    assert not [each for each in (tmp_path / "bucket").rglob("*") if each.is_file()]


def test_a_damaged_table_is_not_handed_on(laptop: Path, store: Store) -> None:
    file = laptop / "tables/tiny/r0001/seed_set.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptTableError, match=r"r0001/seed_set.parquet is not what was written.*not copied"):
        copy(laptop, store)
    assert store.read_newest("tiny") is None


def test_a_run_at_work_is_not_copied(laptop: Path, store: Store) -> None:
    for scope in ("tiny", "tiny r0001", "tiny r0002"):
        with (
            Claims(laptop / "running").hold("a_run", what="a run", scopes=[scope]),
            pytest.raises(ClaimedError, match=rf"{scope} is worked on by .*a run"),
        ):
            copy(laptop, store)
    assert store.read_newest("tiny") is None


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../x",
            "tables/tiny/../../x",
            "/etc/passwd",
            "tables/other/r0000/x.parquet",
            "tables/tiny",
            "tables/tiny//x",
        ),
        *("history.lancedb/tiny/x", "tables\\tiny\\r0000\\x", "running/tiny/x"),
    ],
)
def test_a_store_names_no_file_outside_of_the_experiment(path: str) -> None:
    content = Manifest("tiny", 1, {path: Entry("0" * 64, 1)}).encode()
    with pytest.raises(ManifestError, match="in no folder of 'tiny'"):
        decode_manifest(content, experiment="tiny", place="s3://bucket/x")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": 2}', b'{"format": 1, "files": []}'])
def test_a_damaged_manifest_is_named(content: bytes) -> None:
    with pytest.raises(ManifestError, match="s3://bucket/x"):
        decode_manifest(content, experiment="tiny", place="s3://bucket/x")


def test_a_store_that_lets_writers_overwrite_each_other_is_refused(
    laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    store, original = Store(f"memory://{tmp_path}/careless", patience=0), MemoryFileSystem.pipe_file
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda self, path, value, mode="": original(self, path, value))
    with pytest.raises(StoreError, match="does not refuse a write to a name that is taken"):
        copy(laptop, store)
    assert store.read_newest("tiny") is None
    # Nor does it give a lease, which is taken before anything is made.
    with (
        pytest.raises(StoreError, match="does not refuse a write to a name that is taken"),
        hold_lease(store, laptop, "tiny", what="lance run tiny"),
    ):
        pytest.fail("two machines could have it")
    assert store.read("experiments/tiny/leases/000001.json") is None


def fail(times: int, error: Exception, call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that fails some times before it does what it should."""
    left = [times]

    def failing(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return call(*arguments, **options)

    return failing


def test_a_store_that_does_not_answer_is_asked_again_and_named_in_the_end(
    laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    pauses = list[float]()
    monkeypatch.setattr("resources.remote.store.time.sleep", pauses.append)
    url = f"memory://{tmp_path}/far"
    for name in ("cat_file", "pipe_file"):
        failing = fail(4, ConnectionError("refused"), getattr(MemoryFileSystem, name))
        monkeypatch.setattr(MemoryFileSystem, name, failing)
    copy(laptop, Store(url))
    assert len(pauses) >= 4
    assert pauses == sorted(pauses) or max(pauses) <= 10
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail(99, ConnectionError("refused"), MemoryFileSystem.cat_file))
    with pytest.raises(
        UnreachableStoreError, match=rf"memory://{tmp_path}/far did not answer .* run the command again"
    ):
        copy(laptop, Store(url, patience=0))
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail(99, PermissionError("no"), MemoryFileSystem.cat_file))
    pauses.clear()
    with pytest.raises(StoreError, match=r"PermissionError: no; are the credentials in the environment"):
        copy(laptop, Store(url))
    assert not pauses


def test_what_cannot_be_copied_is_named(laptop: Path, store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no round of 'tiny'; an experiment is put there by"):
        copy(store, laptop)
    with pytest.raises(ValueError, match="has no round of 'none'; it has rounds of: other, tiny"):
        copy_experiment(Copying("none", DataFolder(laptop), store))
    with pytest.raises(ValueError, match="name two places"):
        copy(laptop, laptop)
    with pytest.raises(ValueError, match="must hold no key") as caught:
        Store("s3://AKIAEXAMPLE:secret@bucket/lance")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="nowhere://x is no address that fsspec knows"):
        copy(laptop, Store("nowhere://x"))


def test_a_state_goes_on_from_what_both_had() -> None:
    old, new, other = Entry("a", 1), Entry("b", 1), Entry("c", 1)
    table, cost, stage = "tables/x/r0000/a.parquet", "costs/x/r0000/a.json", "stages/x/r0000/a/s.sqlite"
    # Only one of them has changed it.
    assert merge({table: old}, {table: new}, {table: old}).files == {table: new}
    assert merge({table: new}, {table: old}, {table: old}).files == {table: new}
    # Both have, or nothing is known of before.
    assert merge({table: new}, {table: other}, {table: old}).conflicts == [table]
    assert merge({table: new}, {table: other}, {}).conflicts == [table]
    assert merge({cost: new}, {cost: other}, {}).files == {cost: new}
    # What is gone of a stage was cleared, and what is gone of a table was lost.
    assert merge({table: old, stage: old}, {}, {table: old, stage: old}).files == {table: old}
    assert merge({}, {stage: old}, {stage: old}).files == {stage: old}


def test_a_state_is_plain_json(laptop: Path, tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/bucket")
    copy(laptop, store)
    found = json.loads((tmp_path / "bucket/experiments/tiny/000001.json").read_text())
    assert found["experiment"] == "tiny"
    assert sorted(found["files"]) == sorted([*DataFolder(laptop).list_paths("tiny"), "decisions/tiny/decisions.jsonl"])
