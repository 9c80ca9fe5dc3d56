"""A process of its own whose log is streamed, and which leaves nothing behind, however it or this one ends."""

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import psutil

TAIL_LINES = 40


def stream_process(
    command: Sequence[str], *, added_environment: Mapping[str, str], log: Callable[[str], None]
) -> tuple[int, str]:
    """Run a command to its end.

    Args:
        command: program and arguments.
        added_environment: variables on top of this process's.
        log: is given each line of standard output and error as it comes.

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
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
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
    # Not reaped yet, so its number still stands for its own group.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.stdin.close()


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
