"""PostgreSQL on this machine, with a password, for the tests that keep Dagster's records in it."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from lance_assets.assets.deploying.instance import POSTGRES

PASSWORD = "not-in-a-file"
ENVIRONMENT = dict(zip(POSTGRES, ("127.0.0.1", "5432", "postgres", "lance", PASSWORD), strict=True))


def find_program(name: str) -> str | None:
    """A program of PostgreSQL's server, which Debian does not put on the PATH."""
    places = [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    return shutil.which(name, path=os.pathsep.join(places))


@contextlib.contextmanager
def open_postgres() -> Iterator[dict[str, str]]:
    """A server with data of its own; the variables that name it.

    A test is skipped where no server or no client is installed.
    """
    initdb, pg_ctl = find_program("initdb"), find_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    if find_spec("dagster_postgres") is None:
        pytest.skip("dagster_postgres is not installed: pip install -e '.[postgres]'")
    # pytest closes its own folder to other users whenever a session begins, so the data lie beside it.
    with tempfile.TemporaryDirectory(prefix="lance-postgres-") as name:
        yield from _serve(Path(name), initdb, pg_ctl)


def _serve(folder: Path, initdb: str, pg_ctl: str) -> Iterator[dict[str, str]]:
    as_whom: dict[str, object] = {}
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        owner = next((one for one in pwd.getpwall() if one.pw_name in ("postgres", "nobody")), None)
        if owner is None:
            pytest.skip("PostgreSQL refuses to run as root, and there is no other user")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_whom = {"user": owner.pw_uid, "group": owner.pw_gid}

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_whom)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    data = str(folder / "data")
    run(initdb, "-D", data, "-U", "lance", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    run(pg_ctl, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield ENVIRONMENT | {POSTGRES[1]: port}
    finally:
        run(pg_ctl, "-D", data, "-m", "immediate", "stop")
