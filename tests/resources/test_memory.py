"""What is free and what is visible, on hand-made GPUs; what a process has held, on a real one."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.machine.processes import GpuMemory, find_not_free, measure_own_peak, read_gpus, select_visible

UUIDS = ["GPU-1a", "GPU-1b", "GPU-2c"]


def make_gpu(free_gib: float, *, name: str = "GPU 0 (made by hand)", held: tuple = ()) -> GpuMemory:
    return GpuMemory(name, free_gib=free_gib, total_gib=80.0, held_gib=held)


def test_a_gpu_is_free_from_the_rate_on() -> None:
    """72 of 80 GiB are 0.9."""
    gpus = [make_gpu(72.0, name="at"), make_gpu(71.9, name="below"), make_gpu(80.0, name="all")]
    assert [gpu.name for gpu in find_not_free(gpus, min_free_rate=0.9)] == ["below"]
    assert find_not_free(gpus, min_free_rate=0.0) == []
    assert [gpu.name for gpu in find_not_free(gpus, min_free_rate=1.0)] == ["at", "below"]
    assert find_not_free([], min_free_rate=1.0) == []


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [
        (None, UUIDS),
        ("", []),
        ("-1", []),
        ("2, 0", ["GPU-2c", "GPU-1a"]),
        ("GPU-2c", ["GPU-2c"]),
        ("GPU-2", ["GPU-2c"]),
        ("GPU-1", []),
        ("1,9,0", ["GPU-1b"]),
        ("MIG-5f/1/0", ["MIG-5f/1/0"]),
    ],
)
def test_visible_gpus_are_cudas(visible: str | None, chosen: list[str]) -> None:
    """A beginning that two GPUs share names neither, and what names none hides all after it."""
    assert select_visible(UUIDS, visible) == chosen


@given(places=st.lists(st.integers(0, 2), unique=True))
def test_numbers_keep_their_order(places: list[int]) -> None:
    assert select_visible(UUIDS, ",".join(map(str, places))) == [UUIDS[place] for place in places]


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here there is none; on a machine with one, none is visible."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert read_gpus() == ()


def test_the_peak_stays_after_the_memory_is_given_back(project_root: Path) -> None:
    """A quarter GiB is written and freed before the peak is read; what the parent held is not the child's."""
    held_here = bytearray(b"x") * 2**28
    del held_here
    script = (
        "from resources.machine.processes import measure_own_peak\n"
        "before = measure_own_peak()\n"
        "block = bytearray(b'x') * 2**28\n"
        "del block\n"
        "print(before.host_gib, measure_own_peak().host_gib, before.gpu_gib)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=project_root, capture_output=True, text=True, check=True)
    before, after, gpu_gib = map(float, done.stdout.split())
    assert before < 0.2
    assert 0.24 < after - before < 0.27
    assert gpu_gib == 0.0
    assert measure_own_peak().host_gib > 0.0
