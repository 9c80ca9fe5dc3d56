"""A streamed process leaves nothing behind, also not what a launcher put into sessions of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from resources.machine.processes import stream_process

# A process inherits which signals are ignored or blocked, and tests before this one may have left SIGTERM so.
LAUNCHER = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
rank = "import sys; sys.stdin.read()"
ranks = [subprocess.Popen([sys.executable, "-c", rank], start_new_session=own) for own in (True, True, False)]
print("launched", *(rank.pid for rank in ranks), flush=True)
for rank in ranks:
    rank.wait()
"""


def interrupt(_: psutil.Process) -> None:
    raise KeyboardInterrupt


def run_launcher(end: Callable[[psutil.Process], None]) -> tuple[int, list[psutil.Process]]:
    """Its exit code and its ranks, which watch standard input as the training worker does; it was waited for."""
    ranks: list[psutil.Process] = []
    launchers: list[psutil.Process] = []

    def end_launcher(line: str) -> None:
        ranks.extend(psutil.Process(int(pid)) for pid in line.split()[1:])
        launchers.append(psutil.Process(ranks[0].ppid()))
        end(launchers[0])

    try:
        code, _ = stream_process([sys.executable, "-c", LAUNCHER], added_environment={}, log=end_launcher)
    except KeyboardInterrupt:
        code = 0
    assert not psutil.pid_exists(launchers[0].pid), "not even as a zombie"
    return code, ranks


@pytest.mark.parametrize(
    ("end", "expected"), [(interrupt, 0), (psutil.Process.kill, -9), (psutil.Process.terminate, -15)]
)
def test_nothing_outlives_it(end: Callable[[psutil.Process], None], expected: int) -> None:
    """This call is interrupted, or the launcher is ended from outside and does not end its ranks."""
    code, ranks = run_launcher(end)
    assert code == expected
    assert len(ranks) == 3
    _, alive = psutil.wait_procs(ranks, timeout=30)
    # Nobody may be there to reap an orphan.
    assert [rank.pid for rank in alive if rank.status() != psutil.STATUS_ZOMBIE] == []


def test_the_log_is_whole_and_the_code_is_its_own() -> None:
    lines: list[str] = []
    script = "import os, sys; print(*range(100), sep='\\n'); sys.exit(int(os.environ['CODE']))"
    code, tail = stream_process([sys.executable, "-c", script], added_environment={"CODE": "3"}, log=lines.append)
    assert code == 3
    assert lines == [str(number) for number in range(100)]
    assert tail.splitlines() == lines[-40:]


@pytest.mark.parametrize(
    "worker", ["evaluation.harness_worker", "evaluation.task_prompts_worker", "training.train_worker"]
)
def test_a_worker_ends_when_its_parent_is_killed(worker: str, tmp_path: Path, project_root: Path) -> None:
    job = tmp_path / "job.json"
    os.mkfifo(job)
    watches = ["--watch-stdin"] if worker.startswith("training") else []
    parent = f"""if True:
        import sys
        from resources.machine.processes import stream_process
        command = [sys.executable, "-m", "resources.{worker}", {str(job)!r}, *{watches!r}]
        stream_process(command, added_environment={{}}, log=print)
    """
    # The job is opened for writing when the worker opens it, which then reads to its end, and so as long as we like.
    with subprocess.Popen([sys.executable, "-c", parent], cwd=project_root) as started, job.open("w"):
        (child,) = psutil.Process(started.pid).children()
        started.kill()
        started.wait()
        _, alive = psutil.wait_procs([child], timeout=30)
        assert [one.pid for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
