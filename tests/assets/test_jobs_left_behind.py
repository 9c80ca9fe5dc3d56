"""Jobs of a cluster whose run is gone: they end by themselves, and nobody begins the same beside them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import psutil
import pytest

from benchmarks._chaos_results import compare
from benchmarks._chaos_site import NAME, Site, write_experiment
from lance_assets.assets.running import lost
from lance_assets.assets.running.steps import LostRunError, work_as_step
from resources.machine import claims as room
from resources.machine.claims import ClaimedError, Claims
from resources.machine.processes import is_running
from tests.assets import scripted_slurm
from tests.resources.test_claims import holding

LIMIT_SECONDS = 600
JOB = """
import subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
from lance_assets.assets.running.steps import work_as_step
from resources.machine import claims
claims.LOOK_SECONDS = 1.0
with work_as_step(claims.Claims(Path(sys.argv[1])), SimpleNamespace(run_id="run", is_finished=False), "training"):
    print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
    time.sleep(600)
"""


def a_run(*, is_finished: bool = False) -> dg.DagsterRun:
    """As much of a run as a step looks at."""
    return cast(dg.DagsterRun, SimpleNamespace(run_id="run", is_finished=is_finished))


def test_a_job_holds_the_rounds_of_its_run_and_ends_once_that_was_killed(tmp_path: Path, project_root: Path) -> None:
    claims, environment = Claims(tmp_path), os.environ | {"PYTHONPATH": str(project_root)}
    with holding(tmp_path, "run", "tiny r0001") as run:
        # No child of the run: a cluster has started it.
        command = [sys.executable, "-c", JOB, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as job:
            assert job.stdout is not None
            own = psutil.Process(int(job.stdout.readline()))
            (held,) = claims.list_alive("run.")
            assert (held.name, held.pid, held.scopes) == ("run.training", job.pid, ("tiny r0001",))
            time.sleep(4)
            assert job.poll() is None, "a job outlives some looks at a run that lives"
            run.kill()
            run.wait()
            with (
                pytest.raises(ClaimedError, match="training in holding"),
                claims.hold("b", what="b", scopes=held.scopes),
            ):
                pass
            assert job.wait(LIMIT_SECONDS) == -signal.SIGKILL
    assert not is_running(own)
    with claims.hold("b", what="the round again", scopes=["tiny r0001"]):
        pass


def test_a_job_that_was_queued_for_a_run_that_has_ended_does_nothing(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with holding(tmp_path, "run", "tiny r0001") as run:
        run.kill()
        run.wait()
        with pytest.raises(LostRunError, match="was queued for, is gone"), work_as_step(claims, a_run(), "training"):
            pass
    with claims.end("run"):
        pass
    with pytest.raises(LostRunError, match="has ended"), work_as_step(claims, a_run(is_finished=True), "training"):
        pass


def test_steps_of_a_machine_that_went_down_are_forgotten_with_their_run(tmp_path: Path) -> None:
    """They were touched a moment ago, and no lock says that nobody holds them."""
    claims = Claims(tmp_path)
    with claims.hold("run.training", what="training", scopes=["tiny r0001"]):
        left = (tmp_path / "run.training.json").read_text().replace(room.socket.gethostname(), "elsewhere")
    (tmp_path / "run.training.json").write_text(left)
    with pytest.raises(ClaimedError, match="on elsewhere"), claims.hold("b", what="b", scopes=["tiny r0001"]):
        pass
    claims.forget_steps("run")
    with claims.hold("b", what="b", scopes=["tiny r0001"]):
        pass


def test_a_lost_run_waits_longer_for_a_step_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "STEP_SECONDS", 0.0)
    claims, said = Claims(tmp_path), list[str]()
    with holding(tmp_path, "run.training"):
        assert not lost._end_steps(claims, "run", said.append)
    assert "its step goes on" in said[0]
    with claims.hold("run.training", what="training"):
        told: Any = (tmp_path / "run.training.json").read_text().replace(room.socket.gethostname(), "elsewhere")
    file = tmp_path / "run.training.json"
    file.write_text(told)
    # It seems to live for so long after its last touch.
    os.utime(file, (time.time(), time.time() - room.SILENT_SECONDS + 2))
    assert lost._end_steps(claims, "run", said.append)
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_command_that_is_started_again_waits_for_the_jobs_of_the_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed alone while a job trains; the round goes on from there, and is that of this machine's processes."""
    write_experiment(tmp_path / "experiments", num_rounds=0)
    sites = [Site(tmp_path / name, tmp_path / "experiments", "command", 0) for name in ("here", "there")]
    assert sites[0].start().wait(LIMIT_SECONDS) == 0, (sites[0].home / "log.txt").read_text()[-3000:]
    site = sites[1]
    (tmp_path / "slurm").mkdir()
    monkeypatch.setenv("PATH", scripted_slurm.put_on_path(scripted_slurm.install(tmp_path / "slurm")))
    monkeypatch.setenv("LANCE_DEPLOYMENT", "slurm")
    command = site.start()
    until = time.monotonic() + LIMIT_SECONDS
    while not site.find_trainer()[1]:
        assert command.poll() is None, (site.home / "log.txt").read_text()[-3000:]
        assert time.monotonic() < until
        time.sleep(0.05)
    trainer = psutil.Process(site.find_trainer()[0])
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    assert is_running(trainer), "a job outlives the process that watches it"
    again = site.start()
    try:
        code = again.wait(LIMIT_SECONDS)
    finally:
        site.end(again)
    log = (site.home / "log.txt").read_text()
    assert code == 0, log[-3000:]
    assert not is_running(trainer)
    assert "is lost" in log
    assert compare(sites[0].data, site.data, NAME).differences == []
