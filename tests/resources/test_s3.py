"""The same copies on a server with the S3 API that keeps its data on the disk; skipped where none is installed."""

import hashlib
import os
import re
import threading
from pathlib import Path

import pytest

from benchmarks._s3_server import KEYS, Server
from lance_assets.assets.running.executor import check_history
from resources.remote.lease import LeasedError, hold_lease
from resources.remote.manifest import Entry, Manifest, StoreError
from resources.remote.store import ChangedFileError, Store, UnreachableStoreError
from tests.resources.test_remote import check_large_objects, copy, laptop, read_all, write_round
from tests.test_cli import call

__all__ = ["laptop"]

pytestmark = pytest.mark.slow


@pytest.fixture
def store(server: Server, request: pytest.FixtureRequest) -> Store:
    """An empty place in the bucket."""
    return Store(f"s3://bucket/{request.node.name}", patience=60)


def test_an_experiment_goes_over_a_bucket_to_another_machine(laptop: Path, store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (laptop / "stages/tiny/large").write_bytes(os.urandom(3 * 2**20))
    copy(laptop, store, is_thorough=True)
    copy(store, elsewhere)
    assert read_all(elsewhere) == read_all(laptop)
    write_round(elsewhere, "r0002", 2)
    copy(elsewhere, store)
    copy(store, laptop)
    assert read_all(laptop) == read_all(elsewhere)
    assert not copy(laptop, store, is_thorough=True).is_changed
    # Credentials are in the environment, and in nothing that was written.
    kept = [*(laptop / "remote").rglob("*.json"), *(elsewhere / "remote").rglob("*.json")]
    assert kept
    assert not any(KEYS["AWS_SECRET_ACCESS_KEY"] in file.read_text() for file in kept)


def test_the_command_moves_an_experiment_to_a_bucket_and_back(
    laptop: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that left a home is in the one that it comes back to, by its hash."""
    (tmp_path / "home").mkdir()
    laptop.rename(tmp_path / "home" / "data")
    sent = hash_all(tmp_path / "home" / "data")
    monkeypatch.setenv("LANCE_HOME", str(tmp_path / "home"))
    code, said, mistake = call("move", "tiny", "--to", store.url)
    assert (code, mistake) == (0, "")
    assert re.search(rf"{store.url} has tiny: \d+ files, of which \d+ arrived now .* every hash is right", said), said
    monkeypatch.setenv("LANCE_HOME", str(tmp_path / "back"))
    code, said, mistake = call("move", "tiny", "--from", store.url)
    assert (code, mistake) == (0, "")
    assert "every hash is right" in said
    assert hash_all(tmp_path / "back" / "data") == sent
    code, said, _ = call("move", "tiny", "--from", store.url)
    assert (code, "files of tiny already" in said) == (0, True)


def hash_all(root: Path) -> dict[str, str]:
    """The SHA-256 of every file of the experiment."""
    return {path: hashlib.sha256(content).hexdigest() for path, content in read_all(root).items()}


def test_a_name_that_is_taken_is_refused(store: Store) -> None:
    assert store.create("once", b"1")
    assert not store.create("once", b"2")
    assert store.create("once", b"1")  # as where an answer was lost
    assert store.read("once") == b"1"
    assert store.publish(Manifest("tiny", 1, {}))
    assert not store.publish(Manifest("tiny", 1, {"costs/tiny/r0000/a.json": Entry("a", 1)}))


def test_a_large_object_is_known_by_its_bytes(store: Store, tmp_path: Path) -> None:
    check_large_objects(store, tmp_path)


def test_a_file_of_other_bytes_leaves_nothing_under_a_name(store: Store, tmp_path: Path) -> None:
    """In one part and in several: what was sent of it never becomes an object."""
    file = tmp_path / "file"
    for size in (2**20 + 1, 60 * 2**20):
        file.write_bytes(bytes(size))
        entry = Entry(hashlib.sha256(b"of another file").hexdigest(), size)
        with pytest.raises(ChangedFileError):
            store.put_object(file, entry)
        assert not store.has_object(entry)
        entry = Entry(hashlib.sha256(file.read_bytes()).hexdigest(), size)
        assert store.put_object(file, entry)
        assert not store.put_object(file, entry)


def test_a_connection_that_breaks_in_a_large_file_leaves_nothing_and_is_tried_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    file, upload, calls = tmp_path / "file", s3fs.core.S3File._upload_chunk, list[bool]()
    file.write_bytes(os.urandom(60 * 2**20))
    entry = Entry(hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size)

    def break_off(self: s3fs.core.S3File, final: bool = False) -> object:
        calls.append(final)
        if len(calls) == 2:
            raise ConnectionError("reset by peer")
        return upload(self, final)

    monkeypatch.setattr(s3fs.core.S3File, "_upload_chunk", break_off)
    with pytest.raises(UnreachableStoreError, match="reset by peer"):
        Store(store.url, patience=0).put_object(file, entry)
    assert not store.has_object(entry)
    calls.clear()
    assert store.put_object(file, entry)
    assert len(calls) > 3
    store.fetch_object(entry, tmp_path / "back")
    assert not store.put_object(file, entry)


def test_a_server_that_lets_commits_overwrite_each_other_gets_no_vectors(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setenv("LANCE_HISTORY", f"{store.url}/vectors")
    check_history()
    pipe = s3fs.S3FileSystem._pipe_file

    async def overwrite(self: s3fs.S3FileSystem, path: str, data: bytes, **options: object) -> object:
        return await pipe(self, path, data, **{**options, "mode": "overwrite"})

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", overwrite)
    with pytest.raises(StoreError, match=r"LANCE_HISTORY: s3://.*/vectors does not refuse a write to a name"):
        check_history()
    # Amazon's own server is not asked.
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    check_history()
    s3fs.S3FileSystem.clear_instance_cache()


def test_of_two_machines_one_works_on_an_experiment(store: Store, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    told = r"is worked on by another machine: .* \(lance run tiny\)"
    with hold_lease(store, one, "tiny", what="lance run tiny"), pytest.raises(LeasedError, match=told):
        hold_lease(store, other, "tiny", what="again").__enter__()
    with hold_lease(store, other, "tiny", what="then"):
        assert b'"what": "then"' in (store.read("experiments/tiny/leases/000002.json") or b"")


def test_a_server_that_is_away_for_a_while_loses_nothing(
    laptop: Path, store: Store, server: Server, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    copy(laptop, store)
    server.stop()
    with pytest.raises(UnreachableStoreError, match=rf"{store.url} did not answer .* run the command again"):
        copy(laptop, Store(store.url, patience=0))
    # A large file waits for it as all others do.
    (laptop / "stages/tiny/large").write_bytes(os.urandom(60 * 2**20))
    write_round(laptop, "r0002", 2)
    back = threading.Timer(5, server.start)
    back.start()
    copy(laptop, store)
    back.join()
    copy(store, elsewhere)
    assert read_all(elsewhere) == read_all(laptop)


def test_a_key_that_is_wrong_is_named(laptop: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-one")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"are the credentials in the environment") as caught:
        copy(laptop, Store(f"{store.url}/denied", patience=0))
    assert "wrong-one" not in str(caught.value)
    s3fs.S3FileSystem.clear_instance_cache()
