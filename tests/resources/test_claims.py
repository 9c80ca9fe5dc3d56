"""Who works on what: a claim ends with its process, whatever ended that."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from resources.machine import claims as room
from resources.machine.claims import ClaimedError, Claims
from resources.machine.processes import is_running

HOLDS = """
import sys, time
from pathlib import Path
from resources.machine.claims import Claims
with Claims(Path(sys.argv[1])).hold(sys.argv[2], what="holding in a test", scopes=sys.argv[3:]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holding(folder: Path, name: str, *scopes: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a claim until the block ends, or it is killed."""
    command = [sys.executable, "-c", HOLDS, str(folder), name, *scopes]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_by_name_until_the_first_is_killed(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with holding(tmp_path, "first", "tiny r0001", "tiny") as process:
        (held,) = claims.list_alive()
        assert (held.pid, held.scopes) == (process.pid, ("tiny r0001", "tiny"))
        with pytest.raises(ClaimedError) as refused, claims.hold("second", what="a test", scopes=["tiny r0001"]):
            pass
        for said in ("tiny r0001", f"process {process.pid} on {held.host} since 20", "(holding in a test)", "kill "):
            assert said in str(refused.value)
        with pytest.raises(ClaimedError), claims.hold("first", what="the same name"):
            pass
        with claims.hold("third", what="another round", scopes=["tiny r0002"]):
            assert len(claims.list_alive()) == 2
        with claims.hold("first.step", what="a step of the same run", scopes=["tiny r0001"]):
            assert [one.name for one in claims.list_alive("first.")] == ["first.step"]
        with claims.end("first") as is_mine:
            assert not is_mine
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Who it was stays known until somebody has done what is to be done about it.
        assert claims.find("first") == held
        assert not claims.is_alive(held)
        with claims.end("first") as is_mine:
            assert is_mine
            with pytest.raises(ClaimedError), claims.hold("first", what="while it is ended"):
                pass
        assert claims.find("first") is None
    with claims.hold("second", what="a test", scopes=["tiny r0001"]) as mine:
        assert claims.holds("second")
        assert claims.list_alive() == [mine]
        # A step that was killed leaves its file, and its run takes that away.
        (tmp_path / "second.step.json").write_text(json.dumps(asdict(replace(mine, name="second.step"))))
    assert not list(tmp_path.glob("*.json"))


def test_what_is_left_of_a_writer_that_died_is_no_claim(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    for half in ("", '{"name": "r', "[]"):
        (tmp_path / "half.json").write_text(half)
        assert claims.find("half") is None
        assert not claims.list_alive()
    with claims.hold("half", what="a test"):
        assert claims.find("half") is not None
    with pytest.raises(ValueError, match="a claim's name must be letters"), claims.hold("../half", what="a test"):
        pass


def test_a_forked_child_does_not_go_on_holding(tmp_path: Path) -> None:
    """Otherwise a claim would outlive its process for as long as a worker that it left behind."""
    told = 'print("held", flush=True)'
    code = HOLDS.replace(told, f"import os\n    if os.fork() == 0:\n        time.sleep(600)\n    {told}")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), "parent"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (held,) = Claims(tmp_path).list_alive()
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        assert child.is_running()
        # On a busy machine the child may not have run yet since it was forked.
        waited_until = time.monotonic() + 30
        while Claims(tmp_path).is_alive(held) and time.monotonic() < waited_until:
            time.sleep(0.05)
        assert not Claims(tmp_path).is_alive(held)
        os.killpg(process.pid, signal.SIGKILL)


def test_a_claim_of_another_machine_lives_as_long_as_it_is_touched(tmp_path: Path) -> None:
    """A shared disk may not show one machine the locks of another."""
    claims = Claims(tmp_path)
    with claims.hold("here", what="a test") as claim:
        pass
    there = replace(claim, name="there", host=f"not-{claim.host}")
    path = tmp_path / "there.json"
    path.write_text(json.dumps(there.__dict__))
    assert claims.is_alive(there)
    silent = time.time() - room.SILENT_SECONDS - 1
    os.utime(path, (silent, silent))
    assert not claims.is_alive(there)


def test_without_locks_a_process_is_known_by_its_number_and_its_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(tmp_path)
    with claims.hold("here", what="a test") as claim:
        pass

    def refuse(*_: object) -> None:
        raise OSError(room._NO_LOCKS[0], "no locks available")

    monkeypatch.setattr(room.fcntl, "flock", refuse)
    for name, pid, created in (("mine", claim.pid, claim.created), ("older", claim.pid, claim.created - 60)):
        (tmp_path / f"{name}.json").write_text(json.dumps(replace(claim, name=name, pid=pid, created=created).__dict__))
    assert [one.name for one in claims.list_alive()] == ["mine"]


def work_for_ever(started: "multiprocessing.connection.Connection") -> None:  # type: ignore[name-defined]
    """A step: it ends with its parent, and so does what it started."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    room.end_with_parent(parent)
    started.send(subprocess.Popen(["sleep", "600"]).pid)
    time.sleep(600)


STARTS_A_STEP = """
import multiprocessing, os, time
from tests.resources.test_claims import work_for_ever
if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    step = context.Process(target=work_for_ever, args=(there,))
    step.start()
    print(step.pid, here.recv(), flush=True)
    time.sleep(600)
"""


def test_a_step_ends_with_the_run_that_was_killed(tmp_path: Path, project_root: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(STARTS_A_STEP)
    environment = os.environ | {"PYTHONPATH": str(project_root)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        left = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
        assert len(left) == 2
        run.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while any(map(is_running, left)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_running, left))
