"""The processes of this machine: what memory they hold, and running one that leaves nothing behind.

psutil gives processes and the memory of the host, and nvidia-ml-py that of GPUs. Neither has what is here: a process's
peak on Linux (psutil 7.2.2 gives the present size alone), which GPUs CUDA_VISIBLE_DEVICES selects, and the end of what
a launcher such as torchrun put into sessions of its own. accelerate 1.15 offers none of the three.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pynvml import c_nvmlDevice_t

GIB = 2**30
TAIL_LINES = 40
PIECE = 4096
"""Bytes that are read at once of an input that nothing is expected from."""


@dataclass(frozen=True)
class MemoryPeak:
    """The most memory that was held at one moment."""

    host_gib: float
    """Resident memory of the machine."""
    gpu_gib: float
    """Memory of all its GPUs together; 0 where there is none."""


def measure_own_peak() -> MemoryPeak:
    """What this process has held at most."""
    gpu_bytes = 0
    if "torch" in sys.modules:
        import torch

        # Asking a GPU that this process has not used would start CUDA, which holds memory itself.
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            gpu_bytes = sum(torch.cuda.max_memory_reserved(device) for device in range(torch.cuda.device_count()))
    return MemoryPeak(host_gib=_read_host_peak() / GIB, gpu_gib=gpu_bytes / GIB)


def measure_peak_of_children() -> MemoryPeak:
    """What the largest process has held at most that this one started and waited for, or one that such a one did.

    A trainer and an engine may have processes of their own. Each is a share of the machine beside this process, and the
    largest of them decides what machine a round needs. Of GPUs the kernel knows nothing.

    The kernel counts a child from its parent's size on, so that a small child of a large process seems as large as this
    was when it started. That is never more than the parent's own peak, and so the larger of both is right.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return MemoryPeak(host_gib=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / GIB, gpu_gib=0.0)


def _read_host_peak() -> int:
    """Bytes. Of Linux's two counts VmHWM starts again with each program; ru_maxrss begins with its parent's peak."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class GpuMemory:
    """The memory of one GPU at one moment."""

    name: str
    """Its place and model, as "GPU 0 (NVIDIA H100 80GB HBM3)"."""
    free_gib: float
    """Not held by any process or by the driver."""
    total_gib: float
    """All of it."""
    held_gib: tuple[tuple[int, float | None], ...]
    """By process, as (pid, GiB), whoever's; None where the driver does not report it, as in a container."""

    @property
    def free_rate(self) -> float:
        """Free over total."""
        return self.free_gib / self.total_gib


def find_not_free(gpus: Iterable[GpuMemory], *, min_free_rate: float) -> list[GpuMemory]:
    """The GPUs with less than a share of their memory free.

    >>> gpu = GpuMemory("GPU 0 (A)", free_gib=7.0, total_gib=8.0, held_gib=((12, 1.0),))
    >>> [found.name for found in find_not_free([gpu], min_free_rate=0.9)]
    ['GPU 0 (A)']
    >>> find_not_free([gpu], min_free_rate=0.875)
    []
    """
    return [gpu for gpu in gpus if gpu.free_rate < min_free_rate]


def select_visible(uuids: Sequence[str], visible: str | None) -> list[str]:
    """The GPUs that CUDA gives a process, by UUID.

    Args:
        uuids: of the machine's GPUs in PCI order, which is CUDA's where all are alike or CUDA_DEVICE_ORDER says so.
        visible: the value of CUDA_VISIBLE_DEVICES, numbers or beginnings of UUIDs; None where it is not set.

    Returns:
        UUIDs; those of MIG instances as they are. As in CUDA, the first that names no GPU ends the list.

    >>> select_visible(["GPU-aa", "GPU-bb"], None)
    ['GPU-aa', 'GPU-bb']
    >>> select_visible(["GPU-aa", "GPU-bb"], "1,GPU-a,7,0")
    ['GPU-bb', 'GPU-aa']
    """
    if visible is None:
        return list(uuids)
    chosen: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.startswith("MIG-"):
            chosen.append(entry)
        elif entry.isdecimal() and int(entry) < len(uuids):
            chosen.append(uuids[int(entry)])
        # A beginning that fits several GPUs names none of them.
        elif entry.startswith("GPU-") and len(found := [uuid for uuid in uuids if uuid.startswith(entry)]) == 1:
            chosen.append(found[0])
        else:
            break
    return chosen


def read_gpus() -> tuple[GpuMemory, ...]:
    """The memory of the visible GPUs, from NVIDIA's management library; none where there is no driver.

    Raises:
        pynvml.NVMLError: the driver is there and does not answer.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return ()
    try:
        devices = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
        uuids = [pynvml.nvmlDeviceGetUUID(device) for device in devices]
        visible = select_visible(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return tuple(
            _read_gpu(pynvml.nvmlDeviceGetHandleByUUID(uuid), str(uuids.index(uuid)) if uuid in uuids else uuid)
            for uuid in visible
        )
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(device: "c_nvmlDevice_t", place: str) -> GpuMemory:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(device)
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
    return GpuMemory(
        name=f"GPU {place} ({pynvml.nvmlDeviceGetName(device)})",
        free_gib=memory.free / GIB,
        total_gib=memory.total / GIB,
        held_gib=tuple(
            (process.pid, None if process.usedGpuMemory is None else process.usedGpuMemory / GIB)
            for process in sorted(processes, key=lambda each: each.pid)
        ),
    )


def stream_process(
    command: Sequence[str],
    *,
    added_environment: Mapping[str, str],
    log: Callable[[str], None],
    descriptors: Sequence[int] = (),
) -> tuple[int, str]:
    """Run a command to its end.

    Args:
        command: program and arguments.
        added_environment: variables on top of this process's.
        log: is given each line of standard output and error as it comes.
        descriptors: open files that the process inherits, under their numbers.

    Returns:
        The exit code, negative for a signal, and the last lines. Whatever ends this call early (an interrupt, an
        error in `log`) kills the process and all it started. Its standard input is a pipe that closes with it and with
        this process, so what watches it ends with both, also where a launcher put it into another session.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with subprocess.Popen(
        command,
        env={**os.environ, **added_environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=tuple(descriptors),
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        # What the process leaves behind may keep the pipe open, and then the loop below would never end.
        threading.Thread(target=_end_what_it_left, args=(process,), daemon=True).start()
        try:
            for line in process.stdout:
                tail.append(line.rstrip("\n"))
                log(tail[-1])
            code = process.wait()
        except BaseException:
            kill_with_descendants(process.pid)
            # On an interrupt Popen itself waits a quarter of a second at most.
            process.wait()
            raise
    return code, "\n".join(tail)


def _end_what_it_left(process: subprocess.Popen[str]) -> None:
    """When a process ends, end what it started and did not end; that would hold the log open, and so this call."""
    assert process.stdin is not None
    # Not reaped yet, so its number still belongs to its own group.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.stdin.close()


def end_with_stdin() -> None:
    """End this process as soon as its standard input closes, as that of a streamed process does when its parent ends.

    A parent that is killed cannot end it, and its work would be begun again beside what it left behind.
    """

    def watch() -> None:
        # Not by sys.stdin, whose lock a fork of this process would inherit while it is held.
        while os.read(0, PIECE):
            pass
        # sys.exit would end this thread alone.
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with standard input").start()


def kill_with_descendants(pid: int) -> None:
    """Kill a process that leads a group, its group, and what it started outside of it, as torchrun's workers."""
    try:
        descendants = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        descendants = []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for descendant in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendant.kill()


def read_start_ticks(pid: int) -> int | None:
    """When a process was made, in the kernel's ticks since the machine was started; None without /proc or process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the command in brackets, which may hold any character; the 22nd is the time.
    return int(text.rpartition(")")[2].split()[19])


def list_group(leader: int) -> list[psutil.Process]:
    """The processes of a group that have not ended, by number; the leader may be gone."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == leader and is_running(process):
                members.append(process)
    return members


def is_running(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that only waits to be reaped holds no memory."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
