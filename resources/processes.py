"""A process of its own whose log is streamed, and which does not outlive this one."""

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence

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
        error in `log`) kills the process and its children. Its standard input is a pipe that closes with this process,
        so a command that watches it also ends when this process is killed.
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
        try:
            for line in process.stdout:
                tail.append(line.rstrip("\n"))
                log(tail[-1])
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return code, "\n".join(tail)
