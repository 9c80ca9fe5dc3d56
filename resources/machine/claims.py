"""Claims: which process works on what, and for certain whether it still lives.

A claim is a file that its process holds a lock on. The kernel ends the lock with the process, whatever ended that, also
when the whole machine went down; so whoever can take the lock knows that the process is gone. A process's number alone
says less: numbers are used again, and mean nothing in another container or on another machine. The file says who holds
it, for a person.

A lock of a shared disk may not be seen by the other machines. So each claim is also touched every few seconds, and the
claim of another machine counts as alive until it was not touched for a minute. Where a disk has no locks at all, a
process is known by its number and the time it was made, as in `resources.machine.handover`.

Written here, since filelock 3.32 says whether a lock is held and not by whom, and psutil 7.2 cannot look into another
container or machine.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from resources.machine.processes import is_running
from resources.stores.files import explain_full_disk

TOUCH_SECONDS = 10.0
"""A claim that is held is touched this often."""
SILENT_SECONDS = 60.0
"""The claim of another machine that was not touched for so long is taken to be left."""
LOOK_SECONDS, MAX_LOOKS = 5.0, 3
"""A job looks so often, with such a pause, whether its run still has its claim, before it takes it for gone."""
_CLOCK_SECONDS = 5.0
"""By so much the time at which one process was made may differ between two looks, as in the handover of memory."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_NAME = re.compile(r"[\w.-]+")


class ClaimedError(ValueError):
    """Another process works on the same; the message says which, where, since when and at what."""


@dataclass(frozen=True)
class Claim:
    """What a process says of itself while it works on something."""

    name: str
    """The claim's own name: a run's id, that and a step's name, or a command's."""
    what: str
    """What the process does, for a person; no secret."""
    scopes: tuple[str, ...]
    """What no two processes may work on at once, such as `mini_lance r0001`."""
    pid: int
    """The process's number."""
    created: float
    """When it was made, in seconds since 1970."""
    host: str
    """The machine or container it runs in."""
    since: float
    """When the claim was made, in seconds since 1970."""

    def __str__(self) -> str:
        """Who holds it, for a message."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {self.pid} on {self.host} since {since} ({self.what})"


@dataclass
class _Held:
    """The claims that this process holds: their open files, by path. A child that is forked lets go of them."""

    files: dict[Path, int] = field(default_factory=dict)

    def forget(self) -> None:
        for descriptor in self.files.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.files.clear()


_HELD = _Held()
# A lock lasts as long as any process has its file open: a child would go on holding what its parent held.
os.register_at_fork(after_in_child=_HELD.forget)


@dataclass(frozen=True)
class Claims:
    """The claims of everything that works on one folder of data, one file each."""

    folder: Path
    """Where the files lie; made with the first claim."""

    @contextlib.contextmanager
    def hold(self, name: str, *, what: str, scopes: Sequence[str] = ()) -> Iterator[Claim]:
        """Hold a claim until the block ends, or this process.

        Args:
            name: the claim's own name, letters, digits, `_`, `.` and `-`. Those that are equal up to the first dot
                belong together.
            what: what this process does, for a person; no secret.
            scopes: what no other process may work on meanwhile.

        Raises:
            ClaimedError: a process that lives holds the name or one of the scopes; it may be this one.
            DiskFullError: the disk is full.
            ValueError: the name is none.
        """
        created = psutil.Process().create_time()
        claim = Claim(name, what, tuple(scopes), os.getpid(), created, socket.gethostname(), time.time())
        path = self._find_file(name)
        with self._alone():
            for other in self._read_all():
                # A run and its steps work on the same together.
                is_of_us = other.name != name and other.name.partition(".")[0] == name.partition(".")[0]
                is_shared = other.name == name or (set(other.scopes) & set(scopes) and not is_of_us)
                if is_shared and self._is_alive(other):
                    shared = sorted(set(other.scopes) & set(scopes))
                    raise ClaimedError(
                        f"{', '.join(shared) or name} is worked on by {other}; wait until it has ended, or end it: "
                        f"kill {other.pid}" + ("" if other.host == claim.host else f" on {other.host}")
                    )
            with explain_full_disk(path):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    _lock(descriptor)
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, json.dumps(asdict(claim)).encode(), 0)
                    # A disk of several machines may keep it here until then, and jobs elsewhere look for it.
                    os.fsync(descriptor)
                except OSError:
                    os.close(descriptor)
                    raise
            _HELD.files[path] = descriptor
        ended = threading.Event()
        threading.Thread(target=_touch, args=(path, ended), daemon=True, name=f"claim {name}").start()
        try:
            yield claim
        finally:
            ended.set()
            # A child of this process that was forked holds nothing, so there is nothing to let go of in it.
            if _HELD.files.get(path) == descriptor:
                with self._alone():
                    # What steps that were killed left behind.
                    steps = [each for each in self._read_all() if each.name.startswith(f"{name}.")]
                    left = [self._find_file(each.name) for each in steps if not self._is_alive(each)]
                    for file in (path, *left):
                        file.unlink(missing_ok=True)
                    os.close(_HELD.files.pop(path))

    def holds(self, name: str) -> bool:
        """Whether this process holds a claim."""
        return self._find_file(name) in _HELD.files

    def find(self, name: str) -> Claim | None:
        """A claim by its name, whether or not its process lives; None where there is none, or it cannot be read."""
        return _read(self._find_file(name))

    def is_alive(self, claim: Claim) -> bool:
        """Whether the process that holds a claim still lives."""
        with self._alone():
            return self._is_alive(claim)

    def list_alive(self, prefix: str = "") -> list[Claim]:
        """The claims whose processes live, by name.

        Args:
            prefix: begins the names of those that are wanted.
        """
        with self._alone():
            return [claim for claim in self._read_all() if claim.name.startswith(prefix) and self._is_alive(claim)]

    def list_left(self) -> list[Claim]:
        """The claims whose processes are gone and that nobody has ended yet, by name."""
        with self._alone():
            return [claim for claim in self._read_all() if not self._is_alive(claim)]

    @contextlib.contextmanager
    def end(self, name: str) -> Iterator[bool]:
        """Take over a claim whose process is gone, alone, and forget it and its steps' once the block succeeded.

        Yields:
            Whether it was taken over: not where its process or one of its steps lives, or another process is ending it.
        """
        path = self._find_file(name)
        with self._alone():
            steps = [claim for claim in self._read_all() if claim.name.startswith(f"{name}.")]
            claim = _read(path)
            is_gone = (claim is None or not self._is_alive(claim)) and not any(map(self._is_alive, steps))
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644) if is_gone else None
            if descriptor is not None and not _lock(descriptor):
                os.close(descriptor)
                descriptor = None
        if descriptor is None:
            yield False
            return
        try:
            yield True
            with self._alone():
                for left in (path, *(self._find_file(step.name) for step in steps)):
                    left.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def kill_steps(self, name: str) -> list[Claim]:
        """Kill what outlived the process that it belongs to, with its children: steps of this machine, `name.step`."""
        left = [claim for claim in self.list_alive(f"{name}.") if claim.host == socket.gethostname()]
        for claim in left:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(claim.pid)
                if _is_same(process, claim):
                    _kill_children(process)
                    process.send_signal(signal.SIGKILL)
        return left

    def forget_steps(self, name: str) -> None:
        """Forget the claims `name.step` of steps that are known to be over, on whichever machine they were.

        Their machine may have gone down, so that nobody ended them, and without this they seemed to live for a minute.
        """
        with self._alone():
            for each in self._read_all():
                if each.name.startswith(f"{name}."):
                    self._find_file(each.name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the other processes from looking at, making or removing claims meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _find_file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"a claim's name must be letters, digits, _, . and -, got {name!r}")
        return self.folder / f"{name}.json"

    def _read_all(self) -> list[Claim]:
        found = (_read(path) for path in sorted(self.folder.glob("*.json")))
        return [claim for claim in found if claim is not None]

    def _is_alive(self, claim: Claim) -> bool:
        path = self._find_file(claim.name)
        if path in _HELD.files:
            return True
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return _seems_alive(claim, path)
            if isinstance(error, BlockingIOError):
                return True
            raise
        finally:
            os.close(descriptor)
        # The disk may not show this machine the locks of another one.
        return claim.host != socket.gethostname() and _is_touched(path)


def end_with_parent(parent: BaseProcess) -> None:
    """End this process, and all that it started, as soon as the process that it belongs to has ended.

    What outlives its parent would go on writing beside the process that takes the work up.

    Args:
        parent: `multiprocessing.parent_process()`.
    """

    def watch() -> None:
        parent.join()
        _end(f"process {parent.pid}, which it worked for, is gone")

    threading.Thread(target=watch, daemon=True, name="end with parent").start()


@contextlib.contextmanager
def ending_with(claims: Claims, claim: Claim) -> Iterator[None]:
    """Within the block, end this process, and all that it started, once the holder of a claim has ended.

    It is for a job of a cluster, whose run is a process of another machine: within 15 seconds where the disk shows the
    locks of that machine, else within a minute and a half.

    Args:
        claims: of what works on the data.
        claim: that of the run that this process works for.
    """
    ended = threading.Event()

    def watch() -> None:
        num_gone = 0
        while not ended.wait(LOOK_SECONDS):
            # A disk that does not answer says nothing of the run, and neither does a process that may not be seen.
            with contextlib.suppress(OSError, psutil.Error):
                num_gone = 0 if claims.is_alive(claim) else num_gone + 1
            if num_gone >= MAX_LOOKS:
                _end(f"{claim}, which it worked for, is gone")

    threading.Thread(target=watch, daemon=True, name=f"end with {claim.name}").start()
    try:
        yield
    finally:
        ended.set()


def _end(why: str) -> None:
    """Kill what this process started, and then this process."""
    _kill_children(psutil.Process())
    # The disk of its log may be full, or its terminal gone.
    with contextlib.suppress(OSError, ValueError):
        print(f"process {os.getpid()} ends, since {why}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_children(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()


def _lock(descriptor: int) -> bool:
    """Lock a file without waiting; whether nobody else has it. A disk without locks has nothing to give."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _read(path: Path) -> Claim | None:
    """A claim; None where there is none, or where the process died while it wrote it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Claim(**(values | {"scopes": tuple(values["scopes"])}))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _touch(path: Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCH_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


def _is_touched(path: Path) -> bool:
    try:
        return abs(time.time() - path.stat().st_mtime) < SILENT_SECONDS
    except FileNotFoundError:
        return False


def _seems_alive(claim: Claim, path: Path) -> bool:
    """Where there are no locks: by the process on this machine, by touches on another."""
    if claim.host != socket.gethostname():
        return _is_touched(path)
    try:
        process = psutil.Process(claim.pid)
    except psutil.NoSuchProcess:
        return False
    return _is_same(process, claim) and is_running(process)


def _is_same(process: psutil.Process, claim: Claim) -> bool:
    return abs(process.create_time() - claim.created) < _CLOCK_SECONDS
