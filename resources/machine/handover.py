"""Memory handover: training starts once every engine's process has ended and the memory is measured to be free.

A lease is a file that says which process holds a model. A process is known by its number and the time it was made,
since numbers are used again. Its descendants belong to it, and so does what is left of its process group when it leads
one, as engines started in their own session do: the rest of an engine that died still holds its memory.

Written here, since a lock is not enough: filelock's locks end with the process that took them, while a worker that it
left behind goes on holding a GPU, and an error has to name that worker. psutil finds the processes.
"""

import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from resources.machine.processes import (
    GIB,
    GpuMemory,
    find_not_free,
    is_running,
    list_group,
    read_gpus,
    read_start_ticks,
)
from resources.stores.files import DamagedFileError, write_file_atomically

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.2
_COMMAND_CHARS = 200
# Not secret are ordinary arguments such as max_tokens, tokenizer and author.
_SECRET_NAME = r"[\w.-]*(key|token(?!s|iz)|secret|passw|credential|auth(?!or)|bearer)[\w.-]*"
_SECRET_FLAG = re.compile(f"(?i)-{{1,2}}{_SECRET_NAME}")
# Up to the argument's end: a script given as one argument may have a space in its secret.
_SECRET_VALUE = re.compile(f"(?is)(?P<name>{_SECRET_NAME}[\"']?(\\s*[=:]|\\s)\\s*).+")
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_CLOCK_SECONDS = 5.0
"""psutil counts from the boot time, which moves when the clock is set: by so much the same process may differ, of which
nothing better is known."""


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
    ticks: int | None = None
    """When it was made, in the kernel's ticks since the machine was started; None where there is no /proc."""

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
        place = (experiment, round_key, leads_group, socket.gethostname())
        lease = EngineLease(pid, created, serves, *place, read_start_ticks(pid))
        write_file_atomically(self.folder / lease.file_name, json.dumps(asdict(lease)).encode())
        return lease

    def release(self, lease: EngineLease) -> None:
        """Forget a lease whose engine was closed; for an engine with processes of its own, once they have ended."""
        (self.folder / lease.file_name).unlink(missing_ok=True)

    def list_alive(self) -> list[LiveLease]:
        """This machine's leases of which something still runs, by process number; the others' files are removed."""
        alive = []
        for file in self.folder.glob("*.json"):
            try:
                lease = read_lease(file)
            except FileNotFoundError:  # released meanwhile
                continue
            except DamagedFileError as error:
                logger.warning("%s", error)
                continue
            # The process numbers of another machine mean nothing here, so its leases are neither judged nor removed.
            if lease.host != socket.gethostname():
                continue
            if processes := find_processes(lease):
                alive.append(LiveLease(lease, processes))
            else:
                self.release(lease)
        return sorted(alive, key=lambda each: each.lease.pid)


_FILE_NAME = re.compile(r"(?P<pid>[0-9]+)-(?P<created>[0-9]+\.[0-9]+)\.json")


def read_lease(file: Path) -> EngineLease:
    """A lease from its file; one that is half-written is known by the file's name, which says the process.

    Raises:
        FileNotFoundError: it was released.
        DamagedFileError: neither the file nor its name can be read.
    """
    try:
        return EngineLease(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        named = _FILE_NAME.fullmatch(file.name)
        if named is None:
            raise DamagedFileError(
                f"the lease {file} is half-written or damaged ({error}), and its name says no process; remove it if no "
                "engine of this data folder runs"
            ) from error
        # Whether it leads a group is not known; a process that runs holds back training in any case.
        pid, created = int(named["pid"]), float(named["created"])
        return EngineLease(pid, created, f"what {file} no longer says", "unknown", "", False, socket.gethostname())


def find_processes(lease: EngineLease) -> tuple[psutil.Process, ...]:
    """What still runs of a lease: its process, the descendants, and its group."""
    found: dict[int, psutil.Process] = {}
    holder = _find_process(lease.pid)
    is_holder = holder is not None and _is_same(holder, lease)
    if holder is not None and is_holder:
        found |= {each.pid: each for each in [holder, *_list_descendants(holder)]}
    # A group outlives its leader, and its number is not given to a process until the last of it has ended: a process
    # that has the number now and was made at another time shows that the group is gone.
    if lease.leads_group and (holder is None or is_holder):
        found |= {each.pid: each for each in list_group(lease.pid)}
    return tuple(found[pid] for pid in sorted(found) if is_running(found[pid]))


def _is_same(holder: psutil.Process, lease: EngineLease) -> bool:
    """Whether the process that has a lease's number is the one that took it."""
    # Setting the clock moves the time that psutil gives and leaves the ticks.
    if lease.ticks is not None:
        return read_start_ticks(lease.pid) == lease.ticks
    return abs(holder.create_time() - lease.created) < _CLOCK_SECONDS


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


class LeakedProcessError(RuntimeError):
    """Processes still hold memory that training needs; the message names each, and how to end it."""


@dataclass(frozen=True)
class MemoryHandover:
    """What was free when training could start."""

    free_host_gib: float
    """Memory of the machine that processes can be given without swapping."""
    gpus: tuple[GpuMemory, ...]
    """The visible GPUs; none where there is none."""
    seconds_waited: float
    """From the first look."""


@dataclass(frozen=True)
class HeldMemory:
    """A process that holds memory which training needs."""

    pid: int
    """Its number."""
    command: str
    """Its command line, by `describe_command`."""
    host_gib: float
    """Resident memory of the machine."""
    gpu_gib: tuple[tuple[str, float | None], ...]
    """By GPU's name; None where the driver does not report it."""
    lease: EngineLease | None
    """Which engine it belongs to; None for a process of none."""
    is_visible: bool
    """Whether it can be seen from here; a GPU's driver also lists those in other containers."""

    def __str__(self) -> str:
        """One line of an error, with its remedy."""
        of_gpus = [f"{'unknown' if gib is None else f'{gib:.2f}'} GiB of {name}" for name, gib in self.gpu_gib]
        held = ", ".join([f"{self.host_gib:.2f} GiB of host memory", *of_gpus])
        whose = str(self.lease) if self.lease else "no engine of this platform"
        remedy = f"kill {self.pid}"
        if self.pid == os.getpid():
            remedy = "run the step again, in a process of its own"
        elif not self.is_visible:
            remedy = "end it where it runs, in another container"
        return f"process {self.pid} ({self.command}) holds {held}; it belongs to {whose}; remedy: {remedy}"


def wait_until_free(
    leases: EngineLeases, *, min_free_gpu_rate: float, timeout_seconds: float, log: Callable[[str], None]
) -> MemoryHandover:
    """Wait until no engine runs and every visible GPU is free.

    Args:
        leases: of the engines of this machine.
        min_free_gpu_rate: share of each GPU's memory that has to be free, in [0, 1].
        timeout_seconds: after which waiting ends.
        log: is called once with what is waited for.

    Raises:
        LeakedProcessError: at the end of the time something still runs or holds a GPU; names each process.
    """
    started = time.monotonic()
    is_logged = False
    while True:
        alive, gpus = leases.list_alive(), read_gpus()
        not_free = find_not_free(gpus, min_free_rate=min_free_gpu_rate)
        waited = time.monotonic() - started
        # The machine is looked at before the time is, so that a timeout of 0 passes where all is free.
        if not alive and not not_free:
            return MemoryHandover(psutil.virtual_memory().available / GIB, gpus, waited)
        if waited >= timeout_seconds:
            raise LeakedProcessError(explain_leak(alive, not_free, min_free_gpu_rate, waited))
        if not is_logged:
            engines = [str(each.lease) for each in alive]
            log(f"before training, waiting for memory held by {', '.join([*engines, *(gpu.name for gpu in not_free)])}")
            is_logged = True
        time.sleep(min(POLL_SECONDS, timeout_seconds - waited))


def explain_leak(
    alive: Sequence[LiveLease], not_free: Sequence[GpuMemory], min_free_gpu_rate: float, waited: float
) -> str:
    """Why training cannot start: every process that holds what it needs, and what is not free."""
    lines = [f"training cannot start: after {waited:.1f} seconds the memory of generating is not free"]
    lines += [
        f"{gpu.name} has {gpu.free_gib:.2f} of {gpu.total_gib:.2f} GiB free, and "
        f"training.min_free_gpu_rate is {min_free_gpu_rate}"
        for gpu in not_free
    ]
    held = list_held(alive, not_free)
    lines += [str(each) for each in held]
    if not held:
        lines.append("no process of it can be seen from here: look for one outside of this container or account")
    return "\n".join(lines)


def list_held(alive: Sequence[LiveLease], not_free: Sequence[GpuMemory]) -> list[HeldMemory]:
    """The processes of engines, and others' on the GPUs that are not free, by number; those that ended are left out."""
    lease_of = {process.pid: each.lease for each in alive for process in each.processes}
    on_gpus: dict[int, list[tuple[str, float | None]]] = {}
    for gpu in not_free:
        for pid, gib in gpu.held_gib:
            on_gpus.setdefault(pid, []).append((gpu.name, gib))
    held = []
    for pid in sorted(lease_of.keys() | on_gpus.keys()):
        lease, of_gpus = lease_of.get(pid), tuple(on_gpus.get(pid, ()))
        try:
            process = psutil.Process(pid)
            command = describe_command(process.cmdline() or [process.name()])
            held.append(HeldMemory(pid, command, process.memory_info().rss / GIB, of_gpus, lease, is_visible=True))
        except psutil.AccessDenied:
            held.append(HeldMemory(pid, "of another user", 0.0, of_gpus, lease, is_visible=True))
        except psutil.NoSuchProcess:
            # The driver still lists it, so it runs where this process cannot see it; a process that is not listed has
            # ended.
            if of_gpus:
                held.append(HeldMemory(pid, "not visible from here", 0.0, of_gpus, lease, is_visible=False))
    return held


def describe_command(arguments: Sequence[str]) -> str:
    """A command line of at most 200 characters, in which what may be a secret is not shown.

    >>> describe_command(["serve", "--api-key", "k1", "--hf-token=t", "PASSWORD=p", "http://me:pw@host/v1"])
    'serve --api-key *** --hf-token=*** PASSWORD=*** http://***@host/v1'
    """
    shown = []
    hide_next = False
    for argument in arguments:
        if hide_next:
            shown.append("***")
        else:
            without_users = _USER_IN_URL.sub("***@", argument)
            shown.append(_SECRET_VALUE.sub(r"\g<name>***", without_users))
        # A flag such as `--api-key` has its secret in the next argument.
        hide_next = not hide_next and _SECRET_FLAG.fullmatch(argument) is not None
    # A script that is given as one argument has line ends, and this becomes one line of an error.
    text = " ".join(" ".join(shown).split())
    return text if len(text) <= _COMMAND_CHARS else text[: _COMMAND_CHARS - 3] + "..."
