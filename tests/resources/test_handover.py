"""Engines that really run, and what is left of them; the handover waits for all, and names what stays."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from resources.machine.handover import (
    EngineLease,
    EngineLeases,
    LeakedProcessError,
    describe_command,
    explain_leak,
    find_processes,
    list_held,
    wait_until_free,
)
from resources.machine.processes import GpuMemory

SLEEPS = "import time; time.sleep(60)"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEPS!r}])
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def leases(tmp_path: Path) -> EngineLeases:
    return EngineLeases(tmp_path / "engines")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts processes, and ends them with the test."""
    started: list[subprocess.Popen] = []

    def start_one(script: str = SLEEPS, *arguments: str, own_session: bool = False) -> subprocess.Popen:
        command = [sys.executable, "-c", script, *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=own_session))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def hold(leases: EngineLeases, pid: int) -> EngineLease:
    return leases.hold(pid, "the base model", experiment="mini", round_key="r0001")


def pids_of(leases: EngineLeases) -> list[list[int]]:
    return [[process.pid for process in each.processes] for each in leases.list_alive()]


def hand_over(leases: EngineLeases, seconds: float = 0.0, log: Callable[[str], None] = lambda _: None) -> float:
    handover = wait_until_free(leases, min_free_gpu_rate=0.9, timeout_seconds=seconds, log=log)
    assert 0.0 < handover.free_host_gib <= psutil.virtual_memory().total / 2**30
    return handover.seconds_waited


def test_a_leaked_engine_is_named_and_its_end_frees_the_way(leases: EngineLeases, start: Callable) -> None:
    engine = start(SLEEPS, "--api-key", "k3y-of-mine", "x" * 300)
    hold(leases, engine.pid)
    with pytest.raises(LeakedProcessError) as raised:
        hand_over(leases)
    told = str(raised.value)
    assert f"process {engine.pid} ({sys.executable} -c {SLEEPS} --api-key *** xxx" in told
    assert "k3y-of-mine" not in told
    assert "x" * 200 not in told
    assert "GiB of host memory; it belongs to the engine of mini r0001" in told
    assert "serving the base model" in told
    assert told.endswith(f"remedy: kill {engine.pid}")
    engine.kill()
    # Not reaped yet: it holds no memory, so it is no leak.
    while psutil.Process(engine.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    hand_over(leases)
    assert list(leases.folder.iterdir()) == []


def test_it_waits_for_an_engine_that_is_about_to_end(leases: EngineLeases, start: Callable) -> None:
    engine = start()
    hold(leases, engine.pid)
    lines: list[str] = []

    def end_it(line: str) -> None:
        lines.append(line)
        threading.Timer(0.3, engine.kill).start()

    assert hand_over(leases, 60.0, end_it) > 0.2
    assert lines == [
        f"before training, waiting for memory held by the engine of mini r0001 (process {engine.pid}, "
        "serving the base model)"
    ]


def test_an_engine_of_this_process_is_no_leak_once_released(leases: EngineLeases) -> None:
    lease = hold(leases, os.getpid())
    assert not lease.leads_group
    assert os.getpid() in pids_of(leases)[0]
    with pytest.raises(LeakedProcessError, match="remedy: run the step again, in a process of its own"):
        hand_over(leases)
    leases.release(lease)
    assert pids_of(leases) == []
    hand_over(leases)
    leases.release(lease)


def test_its_children_belong_to_it(leases: EngineLeases, start: Callable) -> None:
    engine = start(PARENT)
    child = int(engine.stdout.readline())
    hold(leases, engine.pid)
    assert pids_of(leases) == [sorted([engine.pid, child])]
    os.kill(child, signal.SIGKILL)


def test_what_is_left_of_its_group_is_named_after_its_death(leases: EngineLeases, start: Callable) -> None:
    """An engine in its own session dies and leaves a worker; the worker holds the memory on."""
    engine = start(PARENT, own_session=True)
    child = int(engine.stdout.readline())
    lease = hold(leases, engine.pid)
    assert lease.leads_group
    engine.kill()
    engine.wait()
    assert pids_of(leases) == [[child]]
    with pytest.raises(LeakedProcessError, match=f"process {child} .*remedy: kill {child}"):
        hand_over(leases)
    os.kill(child, signal.SIGKILL)
    assert hand_over(leases, 60.0) < 60.0
    assert list(leases.folder.iterdir()) == []


def test_a_number_that_is_used_again_is_no_leak(leases: EngineLeases, start: Callable) -> None:
    """The same number, made at another time: not the engine, and by it neither is its group."""
    other = start(own_session=True)
    lease = hold(leases, other.pid)
    earlier = dataclasses.replace(lease, created=lease.created - 100.0, ticks=(lease.ticks or 10_000) - 10_000)
    leases.release(lease)
    (leases.folder / earlier.file_name).write_text(json.dumps(dataclasses.asdict(earlier)))
    assert find_processes(lease) != ()
    assert find_processes(earlier) == ()
    hand_over(leases)
    assert list(leases.folder.iterdir()) == []


def test_another_machines_leases_are_left_alone(leases: EngineLeases, start: Callable) -> None:
    lease = hold(leases, start().pid)
    other = dataclasses.replace(lease, host="another")
    leases.release(lease)
    (leases.folder / other.file_name).write_text(json.dumps(dataclasses.asdict(other)))
    hand_over(leases)
    assert [file.name for file in leases.folder.iterdir()] == [other.file_name]


def test_a_process_that_is_not_there_holds_nothing(leases: EngineLeases, start: Callable) -> None:
    ended = start("")
    ended.wait()
    with pytest.raises(psutil.NoSuchProcess):
        hold(leases, ended.pid)
    assert leases.list_alive() == []


def test_processes_on_a_gpu_are_named_whoever_they_belong_to(leases: EngineLeases, start: Callable) -> None:
    """Two GPUs by hand: an engine on both, a stranger and one of another container on the first."""
    engine, stranger = start(), start()
    hold(leases, engine.pid)
    alive = leases.list_alive()
    outside = 2**22 + 1  # above the largest process number of Linux
    gpus = [
        GpuMemory("GPU 0 (A)", 40.0, 80.0, ((engine.pid, 30.0), (stranger.pid, 9.5), (outside, None))),
        GpuMemory("GPU 1 (A)", 70.0, 80.0, ((engine.pid, 10.0),)),
    ]
    held = {each.pid: each for each in list_held(alive, gpus)}
    assert held.keys() == {engine.pid, stranger.pid, outside}
    assert held[engine.pid].gpu_gib == (("GPU 0 (A)", 30.0), ("GPU 1 (A)", 10.0))
    told = explain_leak(alive, gpus, 0.9, 120.0)
    assert told.startswith("training cannot start: after 120.0 seconds")
    assert "GPU 0 (A) has 40.00 of 80.00 GiB free, and training.min_free_gpu_rate is 0.9" in told
    assert "30.00 GiB of GPU 0 (A), 10.00 GiB of GPU 1 (A); it belongs to the engine of mini r0001" in told
    assert f"9.50 GiB of GPU 0 (A); it belongs to no engine of this platform; remedy: kill {stranger.pid}" in told
    assert f"process {outside} (not visible from here)" in told
    assert "unknown GiB of GPU 0 (A)" in told
    assert "remedy: end it where it runs, in another container" in told
    assert "no process of it can be seen" in explain_leak([], [dataclasses.replace(gpus[1], held_gib=())], 0.9, 0.0)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["python", "-m", "vllm", "--max-num-batched-tokens", "512"], "python -m vllm --max-num-batched-tokens 512"),
        (["sh", "-c", "OPENAI_API_KEY=s3cret python\nserve.py"], "sh -c OPENAI_API_KEY=***"),
        (["curl", "-H", "Authorization: Bearer s3cret"], "curl -H Authorization: Bearer ***"),
        (["serve", "--token", "-s3cret", "--port", "80"], "serve --token *** --port 80"),
        (["python", "-c", '{"password": "s3cret and more"}'], 'python -c {"password": ***'),
        (["git", "clone", "https://user:s3cret@host/x"], "git clone https://***@host/x"),
    ],
)
def test_a_command_shows_no_secret(arguments: list[str], shown: str) -> None:
    assert describe_command(arguments) == shown
