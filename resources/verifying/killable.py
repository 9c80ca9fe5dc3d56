"""Rows that a process verifies which is killed where one of them takes too long (`row_worker.py`).

A row at which the process is killed, dies or fails is unverified with the reason; the next row has a new process.
"""

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lance_assets.algorithms.verifying.verdict import Completed, Verdict

PATIENCE = 4
"""A busy machine gives a process only a part of a core: a verdict shall not depend on that."""
TICK_SECONDS = 0.2
"""How often the process's seconds are looked at while it works."""
START_SECONDS = 60.0
"""Of the CPU, within which a process has to be ready: it imports a library or a person's module."""
MAX_LINE = 1 << 20
MAX_SHOWN = 80
"""Bytes that are shown of what is no answer."""


class VerifierError(RuntimeError):
    """No row can be verified; the message says why."""


def read_answer(line: bytes, *, is_start: bool) -> dict[str, Any] | None:
    """What `row_worker.py` says in a line, of a row or when it is ready; None where it is no answer of its."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    names = {*found}
    if names == {"error"}:
        is_answer = isinstance(found["error"], str)
    elif is_start:
        is_answer = found == {"ready": True}
    else:
        is_answer = names == {"share", "reason"} and isinstance(found["reason"], str)
        is_answer = is_answer and isinstance(found["share"], float) and 0 <= found["share"] <= 1
    return found if is_answer else None


@dataclass
class Worker:
    """A process that verifies rows, started when it is first needed."""

    job: dict[str, Any]
    """What it is told first."""
    timeout_seconds: float
    """Of the CPU, for one row; by the clock a row may take `PATIENCE` times as long."""
    _process: "subprocess.Popen[bytes] | None" = None
    _rest: bytes = b""

    def judge(self, row: Completed) -> Verdict:
        """The verdict on a row.

        Raises:
            VerifierError: the process does not start.
        """
        if self._process is None:
            self._start()
        said = self._ask(asdict(row), self.timeout_seconds, is_start=False)
        if said is None:
            is_alive = self._process is not None and self._process.poll() is None
            self.close()
            if is_alive:
                reason = f"verifying took more than {self.timeout_seconds:g} s, and was killed"
                return Verdict(None, reason, "timed_out")
            return Verdict(None, "the process that verified it died, as for want of memory", "died")
        if "error" in said:
            return Verdict(None, f"verifying failed: {said['error']}", "failed")
        return Verdict(said["share"], said["reason"])

    def _start(self) -> None:
        self._rest = b""
        self._process = subprocess.Popen(
            # Without -P a file of the experiment's folder could stand for a module of Python's own.
            [sys.executable, "-P", "-m", "resources.verifying.row_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self.job["folder"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        said = self._ask(self.job, START_SECONDS, is_start=True)
        if said is None or "error" in said:
            self.close()
            why = f"it was not ready within {START_SECONDS:g} s, or died" if said is None else said["error"]
            raise VerifierError(f"the verifier cannot be started: {why}; correct verifier.{self.job['setting']}")

    def _ask(self, what: dict[str, Any], seconds: float, *, is_start: bool) -> dict[str, Any] | None:
        """The process's answer; None where it gave none in time, or died.

        What is no answer is told as an error, and the process is ended: its next answer might be this row's.
        """
        process = self._process
        assert process is not None, "it was started"
        assert process.stdin is not None, "a pipe was asked for"
        assert process.stdout is not None, "a pipe was asked for"
        deadline, busy = time.monotonic() + PATIENCE * seconds, self._measure_cpu()
        try:
            process.stdin.write(json.dumps(what).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            process.wait()
            return None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if time.monotonic() > deadline or self._measure_cpu() > busy + seconds or len(self._rest) > MAX_LINE:
                    return None
                if not selector.select(TICK_SECONDS):
                    continue
                read = os.read(process.stdout.fileno(), 65536)
                if not read:
                    process.wait()
                    return None
                self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        found = read_answer(line, is_start=is_start)
        if found is None or self._rest:
            self.close()
            return {"error": f"it wrote {line[:MAX_SHOWN]!r} in place of an answer; write to standard output"}
        return found

    def _measure_cpu(self) -> float:
        """Seconds of the CPU that the process has taken; endless where it is gone."""
        assert self._process is not None, "it was started"
        try:
            taken = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return float("inf")
        return float(taken.user + taken.system)

    def close(self) -> None:
        """Kill the process, where there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@dataclass
class KillableRows:
    """Several such processes."""

    job: dict[str, Any]
    """What each is told first."""
    timeout_seconds: float
    """For one row."""
    num_processes: int = 1
    """How many rows are verified at the same time."""
    _idle: "deque[Worker]" = field(default_factory=deque)

    def judge(self, rows: Sequence[Completed]) -> list[Verdict]:
        """A verdict for each row, in order."""
        number = max(1, min(self.num_processes, len(rows)))
        while len(self._idle) < number:
            self._idle.append(Worker(self.job, self.timeout_seconds))

        def judge_one(row: Completed) -> Verdict:
            worker = self._idle.popleft()
            try:
                return worker.judge(row)
            finally:
                self._idle.append(worker)

        with ThreadPoolExecutor(number) as pool:
            return list(pool.map(judge_one, rows))

    def close(self) -> None:
        """End all of them."""
        while self._idle:
            self._idle.popleft().close()


def describe_job(kind: str, *, setting: str, memory_mib: int, folder: Path, name: str | None = None) -> dict[str, Any]:
    """What a process is told first."""
    return {"kind": kind, "setting": setting, "memory_mib": memory_mib, "folder": str(folder), "name": name}
