"""Leases: which machine works on an experiment of a store, where claims, as locks of a file system, are not seen.

`experiments/<name>/leases/<number>.json` says who works on it, and was heard of when. The highest number counts. Who
finds it ended, or not heard of for `SILENT_SECONDS`, puts a lease of his own under the next number, by a write that is
refused where the number is taken; so of two that try, one has it. A holder writes to its own number alone: every
`TOUCH_SECONDS` that it lives, and that it has ended.

The holder is a home, that is a folder of data, whichever of its processes or machines work on it: among themselves
they have claims. A holder that comes back after it was taken over finds the next number, and says so; what it would
publish then is refused, as of any two machines that made the same round.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from resources.machine.claims import ClaimedError
from resources.remote.manifest import StoreError
from resources.remote.store import Store
from resources.stores.files import validate_name, write_file_atomically

TOUCH_SECONDS = 60.0
"""A lease that is held is touched this often."""
SILENT_SECONDS = 600.0
"""A lease that was not touched for so long is taken over. The clocks of the machines may differ by some minutes."""
JOIN_SECONDS = 10.0
"""So long is waited at the end for a store that does not answer."""
_HELD: dict[tuple[str, str, str], int] = {}
"""How often this process holds the lease of a folder, a store and an experiment: a run is inside of its command."""


class LeasedError(ClaimedError):
    """Another machine works on the experiment; the message says which, since when and at what."""


@dataclass(frozen=True)
class Lease:
    """What a home says of itself while it works on an experiment."""

    home: str
    """The id of its folder of data."""
    host: str
    """The machine or container of the process that took it."""
    pid: int
    """That process's number."""
    what: str
    """What it does, for a person; no secret."""
    since: float
    """When it was taken, in seconds since 1970."""
    touched: float
    """When its holder was last heard of."""
    is_ended: bool = False
    """Whether its holder is done."""

    def is_held(self) -> bool:
        """Whether its holder still works, or was heard of a short while ago."""
        return not self.is_ended and time.time() - self.touched < SILENT_SECONDS


@contextlib.contextmanager
def hold_lease(
    store: Store | None, root: Path, experiment: str, *, what: str, is_shared: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold the lease of an experiment in a store until the block ends; nothing happens without a store.

    Args:
        store: where it is published.
        root: the folder of data that is worked in.
        experiment: its name.
        what: what this process does, for a person; no secret.
        is_shared: whether another process of this folder goes on with the experiment when the block ends.

    Raises:
        LeasedError: another machine works on it.
        StoreError: the store cannot be used, or would let two machines take the lease.
    """
    if store is None:
        yield
        return
    key = (str(store), str(root), validate_name(experiment, what="experiment"))
    _HELD[key] = _HELD.get(key, 0) + 1
    try:
        if _HELD[key] > 1:
            yield
            return
        number, lease = _take(store, read_home(root), experiment, what)
        ended = threading.Event()
        watch = threading.Thread(target=_touch, args=(store, experiment, number, lease, ended), daemon=True)
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join(JOIN_SECONDS)
            # A store that is away now lets the lease run out.
            with contextlib.suppress(StoreError):
                if not is_shared() and store.read(_name(experiment, number + 1)) is None:
                    store.write(_name(experiment, number), _encode(replace(lease, touched=time.time(), is_ended=True)))
    finally:
        _HELD[key] -= 1


def read_home(root: Path) -> str:
    """The id of a folder of data; it is made with the first lease, and stays there."""
    file = root / "remote" / ".home"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file_atomically(file, uuid.uuid4().hex.encode())
    return file.read_text(encoding="ascii")


def _take(store: Store, home: str, experiment: str, what: str) -> tuple[int, Lease]:
    """The number of the lease that is now this home's, and the lease."""
    while True:
        number, found = _read_newest(store, experiment)
        if found is not None and found.home != home and found.is_held():
            raise LeasedError(_explain(store, experiment, found))
        now = time.time()
        lease = Lease(home, socket.gethostname(), os.getpid(), what, now, now)
        if found is not None and found.home == home and not found.is_ended:
            # Another process of this home has it, or had it and was killed.
            found = replace(found, touched=now)
            store.write(_name(experiment, number), _encode(found))
            return number, found
        # Where the store writes all the same, two machines would have it.
        store.require_refusal()
        if store.create(_name(experiment, number + 1), _encode(lease)):
            # A note that is behind costs the next reader a few reads.
            with contextlib.suppress(StoreError):
                store.write(_name_note(experiment), str(number + 1).encode())
            return number + 1, lease


def _explain(store: Store, experiment: str, found: Lease) -> str:
    since = datetime.fromtimestamp(found.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    ago = max(0.0, time.time() - found.touched)
    return (
        f"{experiment} in {store} is worked on by another machine: process {found.pid} on {found.host} since {since} "
        f"({found.what}), last heard of {ago:.0f} s ago; wait until it has ended, or end it there. Where that machine "
        f"is gone, it is taken over {SILENT_SECONDS - ago:.0f} s from now"
    )


def _touch(store: Store, experiment: str, number: int, lease: Lease, ended: threading.Event) -> None:
    """Say again and again that the holder lives, until it ends or finds that it was taken over."""
    hasty = replace(store, patience=0)
    while not ended.wait(TOUCH_SECONDS):
        with contextlib.suppress(StoreError):
            if hasty.read(_name(experiment, number + 1)) is not None:
                print(
                    f"{experiment} in {store} was taken over by another machine, since this one was not heard of for "
                    f"{SILENT_SECONDS:.0f} s; what this one makes will be refused there: end it",
                    flush=True,
                )
                return
            hasty.write(_name(experiment, number), _encode(replace(lease, touched=time.time())))


def _read_newest(store: Store, experiment: str) -> tuple[int, Lease | None]:
    """The highest number and its lease; 0 where there is none. Nothing is listed."""
    noted = (store.read(_name_note(experiment)) or b"").decode("ascii", "replace").strip()
    number = int(noted) if noted.isdecimal() else 0
    content = store.read(_name(experiment, number)) if number else None
    if content is None:
        number = 0
    while (following := store.read(_name(experiment, number + 1))) is not None:
        number, content = number + 1, following
    return number, None if content is None else _decode(content, f"{store}/{_name(experiment, number)}")


def _encode(lease: Lease) -> bytes:
    return json.dumps(asdict(lease)).encode()


def _decode(content: bytes, place: str) -> Lease:
    try:
        return Lease(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{place} is no lease ({error}); remove it where no machine works on the experiment"
        ) from error


def _name(experiment: str, number: int) -> str:
    return f"experiments/{experiment}/leases/{number:06d}.json"


def _name_note(experiment: str) -> str:
    return f"experiments/{experiment}/leases/newest"
