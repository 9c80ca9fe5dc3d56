"""Leases: which processes hold a model, on disk, so that training can see that every one has ended.

An engine's process is known by its number and the time it was made, since numbers are used again. Its descendants
belong to it, and so does what is left of its process group when it leads one, as engines started in their own session
do: those of an engine that died hold its memory on.
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from resources.stores.tables import write_file_atomically

_CLOCK_SECONDS = 5.0
"""psutil counts from the boot time, which moves when the clock is set: by so much the same process may differ."""


@dataclass(frozen=True)
class EngineLease:
    """A process that holds a model."""

    pid: int
    """The process's number."""
    created: float
    """When it was made, in seconds since 1970, as psutil gives it."""
    serves: str
    """The model, for a person."""
    experiment: str
    """Whose stage it was opened for."""
    round_key: str
    """Its round."""
    leads_group: bool
    """Whether it was started as the leader of a process group, all of which belongs to it."""
    host: str
    """The machine or container it runs in, since a data folder may be shared."""

    @property
    def file_name(self) -> str:
        """Of the lease's file."""
        return f"{self.pid}-{self.created:.2f}.json"

    def __str__(self) -> str:
        """Which engine this is, for an error."""
        return f"the engine of {self.experiment} {self.round_key} (process {self.pid}, serving {self.serves})"


@dataclass(frozen=True)
class LiveLease:
    """A lease of which something still runs."""

    lease: EngineLease
    """The lease."""
    processes: tuple[psutil.Process, ...]
    """Its process, their descendants, and what is left of its group, by number; at least one."""


@dataclass(frozen=True)
class EngineLeases:
    """The leases of one platform, one file each."""

    folder: Path
    """Where the files lie; made when the first lease is held."""

    def hold(self, pid: int, serves: str, *, experiment: str, round_key: str) -> EngineLease:
        """Note that a running process holds a model.

        Args:
            pid: the process's number; `os.getpid()` for an engine in this process.
            serves: the model, for a person; no secret.
            experiment: whose stage it is opened for.
            round_key: its round.

        Raises:
            psutil.NoSuchProcess: there is no such process.
        """
        created = psutil.Process(pid).create_time()
        # This process's group may be a shell's or Dagster's: only an engine's own group is its.
        leads_group = pid != os.getpid() and os.getpgid(pid) == pid
        lease = EngineLease(pid, created, serves, experiment, round_key, leads_group, socket.gethostname())
        write_file_atomically(self.folder / lease.file_name, json.dumps(asdict(lease)).encode())
        return lease

    def release(self, lease: EngineLease) -> None:
        """Forget a lease whose engine was closed; for an engine with processes of its own, once they have ended."""
        (self.folder / lease.file_name).unlink(missing_ok=True)

    @contextmanager
    def holding(self, pid: int, serves: str, *, experiment: str, round_key: str) -> Iterator[EngineLease]:
        """Hold a lease for a block."""
        lease = self.hold(pid, serves, experiment=experiment, round_key=round_key)
        try:
            yield lease
        finally:
            self.release(lease)

    def list_alive(self) -> list[LiveLease]:
        """This machine's leases of which something still runs, by process number; the others' files are removed."""
        alive = []
        for file in self.folder.glob("*.json"):
            try:
                lease = EngineLease(**json.loads(file.read_text()))
            except FileNotFoundError:  # released meanwhile
                continue
            if lease.host != socket.gethostname():
                continue
            if processes := find_processes(lease):
                alive.append(LiveLease(lease, processes))
            else:
                self.release(lease)
        return sorted(alive, key=lambda each: each.lease.pid)


def find_processes(lease: EngineLease) -> tuple[psutil.Process, ...]:
    """What still runs of a lease: its process, the descendants, and its group."""
    found: dict[int, psutil.Process] = {}
    holder = _find_process(lease.pid)
    is_holder = holder is not None and abs(holder.create_time() - lease.created) < _CLOCK_SECONDS
    if holder is not None and is_holder:
        found |= {each.pid: each for each in [holder, *_list_descendants(holder)]}
    # A group outlives its leader, and its number is not given to a process until the last of it has ended: whoever
    # has the number now and was made at another time tells that the group is gone.
    if lease.leads_group and (holder is None or is_holder):
        found |= {each.pid: each for each in _list_group(lease.pid, psutil.process_iter())}
    return tuple(found[pid] for pid in sorted(found) if is_running(found[pid]))


def is_running(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that only waits to be reaped holds no memory."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _find_process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _list_descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _list_group(group: int, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    members = []
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group:
                members.append(process)
    return members
