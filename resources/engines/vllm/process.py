"""One process that runs vLLM: started, talked to in JSON lines over a socket, and ended with all its children."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from resources.machine.processes import TAIL_LINES, list_group

REPOSITORY = Path(__file__).resolve().parents[3]
GRACE_SECONDS = 10.0
"""How long a process may take to end by itself."""


class VllmProcess:
    """A worker (`resources.engines.vllm.worker`) with its socket and the last lines it wrote."""

    def __init__(
        self, python: str, job: Mapping[str, object], *, added_environment: Mapping[str, str], timeout_seconds: float
    ) -> None:
        """Start it; `read` gives its first message, `ready`, when the model is loaded.

        Args:
            python: the interpreter of the environment that has vLLM.
            job: what `resources.engines.vllm.worker.load_llm` takes.
            added_environment: variables on top of this process's.
            timeout_seconds: after so long without a byte taken or given, it counts as gone.

        Raises:
            OSError: there is no such interpreter, or it cannot be run.
        """
        mine, theirs = socket.socketpair()
        command = [python, "-m", "resources.engines.vllm.worker", str(theirs.fileno()), json.dumps(job)]
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **added_environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        self.socket = mine
        self.socket.settimeout(timeout_seconds)
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._silent_since = time.monotonic()
        self._unread = b""
        self._listener = threading.Thread(target=self._keep_tail, daemon=True)
        self._listener.start()

    def _keep_tail(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.tail.append(line.rstrip("\n"))

    def tell(self, message: Mapping[str, object]) -> None:
        """Send one line; where the other end is gone or takes nothing, `read` will say so."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            # A line that is half sent cannot be mended, so this is the end of the conversation.
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def read(self) -> list[dict] | None:
        """The messages that have come, after waiting for some bytes; None when the process is gone."""
        try:
            received = self.socket.recv(1 << 20)
        except OSError:
            return None
        if not received:
            return None
        self.expect_news()
        *lines, self._unread = (self._unread + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def expect_news(self) -> None:
        """Count the seconds of silence from now on."""
        self._silent_since = time.monotonic()

    def measure_silence(self) -> float:
        """Seconds since it last said something, or was given something to do."""
        return time.monotonic() - self._silent_since

    def has_ended(self) -> bool:
        """Whether the process has ended, though a child of it may hold the socket open."""
        return self.process.poll() is not None

    def describe_end(self) -> str:
        """How it ended: its exit code, negative for a signal."""
        try:
            return f"exit {self.process.wait(0.3)}"
        except subprocess.TimeoutExpired:
            return "still running, but out of reach"

    def list_group(self) -> list[int]:
        """The processes of its group that still run, its children among them."""
        return [process.pid for process in list_group(self.process.pid)]

    def end(self, *, kill: bool = False) -> list[int]:
        """End the process and what it started; returns what is left of its group, which should be none."""
        self.socket.close()
        if not kill:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)
        deadline = time.monotonic() + GRACE_SECONDS
        while (left := self.list_group()) and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            time.sleep(0.02)
        if not left:
            self.process.wait()
        self._listener.join(GRACE_SECONDS)
        return left
