"""With LANCE_STORE what is made here is published, and what others made is fetched, weights when they are asked for."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lance_assets.home import STORE
from lance_assets.rounds.platform import Platform
from resources.remote.copying import OtherExperimentError
from resources.remote.folder import DataFolder
from resources.remote.manifest import Entry, StoreError
from resources.remote.store import Store, UnreachableStoreError
from resources.remote.weights import find_store
from resources.remote.write_through import (
    PAUSE_SECONDS,
    bring_experiment,
    publish_experiment,
    publish_finished,
    publish_left,
)
from resources.stores.checkpoints import CheckpointStore, MissingCheckpointError, Removal, copy_checkpoint
from resources.stores.files import write_file_atomically
from resources.stores.tables import CorruptTableError
from tests.resources.test_remote import read_all, write_round, write_table


def publish(root: Path) -> list[str]:
    """Publish the experiment; what was said."""
    said = list[str]()
    assert publish_experiment(root, "tiny", say=said.append) is not None
    return said


def bring(root: Path) -> bool:
    """Fetch the experiment; whether there was something."""
    return bring_experiment(root, "tiny", say=lambda _: None)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of LANCE_STORE."""
    monkeypatch.setenv(STORE, f"file://{tmp_path}/bucket/")
    found = find_store()
    assert found is not None
    return found


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The folder of the machine that made r0000."""
    write_round(tmp_path / "first", "r0000")
    return tmp_path / "first"


def read_published(root: Path) -> dict[str, bytes]:
    """The bytes of every file that is published."""
    return {path: content for path, content in read_all(root).items() if not path.startswith("stages/")}


def test_without_a_store_nothing_is_published(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORE, raising=False)
    assert publish_experiment(first, "tiny", say=pytest.fail) is None
    assert not bring(tmp_path / "second")
    assert Platform(str(first)).checkpoints.elsewhere is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first"]


def test_two_machines_go_on_from_each_other(first: Path, store: Store, tmp_path: Path) -> None:
    second = tmp_path / "second"
    assert not bring(second)
    said = publish(first)
    assert said[-1].startswith(f"{store} has tiny as it is here")
    # A step that made nothing new publishes nothing.
    assert publish(first) == []
    assert bring(second)
    assert not bring(second)
    assert read_all(second) == read_published(first)
    write_round(second, "r0001", 1)
    publish(second)
    assert bring(first)
    write_table(first, "r0001", 5)
    publish(first)
    assert bring(second)
    assert read_published(second) == read_published(first)
    # Only what is at work on both at once is refused, and nothing of it is lost.
    write_table(first, "r0001", 6)
    publish(first)
    write_table(second, "r0001", 7)
    before = read_all(second)
    for act in (publish, bring):
        with pytest.raises(OtherExperimentError, match="other tables of 'tiny'"):
            act(second)
    assert read_all(second) == before


def test_what_another_machine_published_meanwhile_is_neither_taken_back_nor_missed(
    first: Path, store: Store, tmp_path: Path
) -> None:
    second, costs = tmp_path / "second", "costs/tiny/r0000/seed_set.json"
    publish(first)
    bring(second)
    # Both add a round, and one of them writes a file of the first round again.
    write_round(first, "r0001", 1)
    write_round(second, "r0002", 2)
    write_file_atomically(second / costs, b'{"costs": "again"}')
    publish(second)
    publish(first)
    newest = store.read_newest("tiny")
    assert newest is not None
    assert {path.split("/")[2] for path in newest.files if path.startswith("tables/")} == {"r0000", "r0001", "r0002"}
    publish(first)
    assert bring(first)
    assert (first / costs).read_bytes() == b'{"costs": "again"}'
    assert bring(second)
    assert read_published(first) == read_published(second)
    # What was written here before the others' was fetched is published all the same.
    write_table(first, "r0001", 9)
    write_round(second, "r0003", 3)
    publish(second)
    bring(first)
    publish(first)
    bring(second)
    assert read_published(first) == read_published(second)
    assert (first / "tables/tiny/r0003").is_dir()


def test_weights_come_when_they_are_asked_for_and_what_was_removed_is_gone_everywhere(
    first: Path, store: Store, tmp_path: Path, small_model: Path
) -> None:
    made, second = CheckpointStore(first), tmp_path / "second"
    for owner, key in (("tiny", "r0000"), ("tiny_label", "r0000")):
        copy_checkpoint(small_model, made.staging_folder(owner, key))
        made.publish(first / "checkpoints" / owner / f"{key}.staging", owner, key)
    publish(first)
    bring(second)
    assert not (second / "checkpoints").exists()
    found = Platform(str(second)).checkpoints
    assert found.is_elsewhere("tiny", "r0000")
    assert not found.is_elsewhere("tiny", "r0001")
    with pytest.raises(MissingCheckpointError):
        found.find("tiny", "r0001")
    assert found.hash_checkpoint(found.find("tiny", "r0000")) == made.hash_checkpoint(small_model)
    assert not found.is_elsewhere("tiny", "r0000")
    assert found.is_elsewhere("tiny_label", "r0000")
    # A machine that has no weights of its own takes none away by publishing.
    write_round(second, "r0001", 1)
    publish(second)
    newest = store.read_newest("tiny")
    assert newest is not None
    assert any(path.startswith("checkpoints/tiny_label/") for path in newest.files)
    # Nor does one whose folder somebody removed to make room: the weights come back when they are asked for.
    shutil.rmtree(second / "checkpoints/tiny/r0000")
    write_round(second, "r0002", 2)
    publish(second)
    assert found.is_elsewhere("tiny", "r0000")
    assert found.find("tiny", "r0000").is_dir()
    publish(second)
    found.remove("tiny", "r0000", Removal("last 1", 1, None))
    publish(second)
    bring(first)
    assert not made.folder("tiny", "r0000").exists()
    assert made.read_removal("tiny", "r0000") is not None
    assert made.find("tiny_label", "r0000")


def test_a_store_that_is_away_takes_nothing_of_a_step(
    first: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(first)
    write_round(first, "r0001", 1)
    with monkeypatch.context() as patch:
        patch.setattr("resources.remote.store._link_new", lambda *_: (_ for _ in ()).throw(ConnectionError("reset")))
        patch.setattr("resources.remote.store.time.sleep", lambda _: None)
        patch.setattr("resources.remote.store.time.monotonic", iter(range(0, 10_000_000, 60)).__next__)
        with pytest.raises(UnreachableStoreError, match=rf"{store} did not answer for \d+ s: .* run the command again"):
            publish(first)
    # The next step publishes what this one could not.
    write_round(first, "r0002", 2)
    publish(first)
    bring(tmp_path / "second")
    assert read_all(tmp_path / "second") == read_published(first)


def test_what_a_step_could_not_publish_is_sent_before_the_next_one_begins(
    first: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, warned = list[str](), list[str]()
    assert not publish_left(tmp_path / "second", "tiny", say=pytest.fail)
    publish(first)
    assert not publish_left(first, "tiny", say=pytest.fail)
    write_round(first, "r0001", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", refuse(UnreachableStoreError("it did not answer")))
        publish_finished(first, "tiny", say=said.append, warn=warned.append)
        assert warned == [
            "what was made of tiny is here and not in the store yet; the next step sends it first: it did not answer"
        ]
        with pytest.raises(UnreachableStoreError):
            publish_left(first, "tiny", say=said.append)
        # One whose key has run out is no other: what was made is there, and what follows waits for it.
        patch.setattr(Store, "publish", refuse(StoreError("the key is refused")))
        publish_finished(first, "tiny", say=said.append, warn=warned.append)
        with pytest.raises(StoreError, match="the key is refused"):
            publish_left(first, "tiny", say=said.append)
    assert publish_left(first, "tiny", say=said.append)
    assert not publish_left(first, "tiny", say=pytest.fail)
    bring(tmp_path / "second")
    assert read_all(tmp_path / "second") == read_published(first)


def test_a_table_that_is_damaged_stops_no_step_that_may_mend_it(first: Path, store: Store) -> None:
    publish(first)
    said, file = list[str](), first / "tables/tiny/r0000/seed_set.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert publish_left(first, "tiny", say=said.append)
    assert "seed_set.parquet is not what was written" in said[-1]
    with pytest.raises(CorruptTableError, match=r"seed_set.parquet is not what was written"):
        publish_finished(first, "tiny", say=said.append, warn=pytest.fail)


def refuse(error: Exception) -> Callable[..., Any]:
    """A call that fails."""

    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("size", [100, 3 * 2**20])
@pytest.mark.parametrize("is_removed", [True, False])
def test_a_file_that_another_step_takes_away_meanwhile_is_looked_at_again(
    first: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, is_removed: bool
) -> None:
    file, describe, pauses = first / "costs/tiny/r0000/review.json", DataFolder.describe, list[float]()
    write_file_atomically(file, b"a" * size)

    def change_after(self: DataFolder, experiment: str, **arguments: Any) -> dict[str, Entry]:
        """It is described, and is another one when it is sent."""
        found = describe(self, experiment, **arguments)
        if len(pauses) == 1:
            file.unlink()
            if not is_removed:
                write_file_atomically(file, b"b" * size)
        return found

    monkeypatch.setattr(DataFolder, "describe", change_after)
    monkeypatch.setattr("resources.remote.write_through.time.sleep", pauses.append)
    publish(first)
    assert pauses == [0, PAUSE_SECONDS]
    bring(tmp_path / "second")
    assert read_all(tmp_path / "second") == read_published(first)
    assert (tmp_path / "second/costs/tiny/r0000/review.json").exists() is not is_removed


def test_a_fetch_that_was_broken_off_is_finished_by_the_next(
    first: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "second"
    publish(first)
    with monkeypatch.context() as patch:
        patch.setattr(DataFolder, "place", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bring(second)
    assert not (second / "tables").exists()
    shutil.rmtree(tmp_path / "bucket/objects")  # all has arrived
    assert bring(second)
    assert read_all(second) == read_published(first)


def test_a_mistaken_address_names_the_variable(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE, "bucket/lance")
    write_file_atomically(first / "costs/tiny/r0000/x.json", b"{}")
    with pytest.raises(
        ValueError, match="LANCE_STORE: a store is an address like s3://bucket/lance, got 'bucket/lance'"
    ):
        publish_experiment(first, "tiny", say=pytest.fail)


def test_the_address_of_the_history_is_one_and_holds_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = Platform(str(tmp_path))
    assert platform.history.uri == platform.embeddings.uri == tmp_path / "history.lancedb"
    monkeypatch.setenv("LANCE_HISTORY", "s3://bucket/vectors/")
    assert platform.history.uri == platform.embeddings.uri == "s3://bucket/vectors"
    for address, told in (("vectors", "LANCE_HISTORY: a store is an address like"), ("s3://a:b@c", "must hold no key")):
        monkeypatch.setenv("LANCE_HISTORY", address)
        with pytest.raises(ValueError, match=told):
            platform.history.digest_rounds("tiny")
