"""The fork server of the steps is started early where steps are processes here, with the home that the command sets."""

import importlib.util
import os
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest

from lance_assets import step_processes
from lance_assets.step_processes import MODELS, PRELOADED, VARIABLE, list_preloaded, start_early


@pytest.fixture
def homes(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The DAGSTER_HOME of every fork server that is started; none really is."""
    started: list[str | None] = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: started.append(os.environ.get("DAGSTER_HOME")))
    monkeypatch.setattr(forkserver._forkserver, "_preload_modules", [])
    monkeypatch.delenv(VARIABLE, raising=False)
    return started


@pytest.mark.parametrize("named", [None, "/of/a/person"])
def test_it_has_the_home_of_the_steps(
    homes: list[str | None], named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a person named it stays as it was, since that decides whose folder it is."""
    monkeypatch.setenv("LANCE_HOME", str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    if named is not None:
        monkeypatch.setenv("DAGSTER_HOME", named)
    start_early()
    assert homes == [named or str(tmp_path / "dagster")]
    assert forkserver._forkserver._preload_modules == list_preloaded()
    assert os.environ.get("DAGSTER_HOME") == named


def test_a_cluster_s_steps_need_none(homes: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "slurm")
    start_early()
    assert homes == []


def test_what_is_imported_early_is_there() -> None:
    """Dagster's names are its own, and one that is gone would be left out without a word."""
    assert [name for name in [*PRELOADED, *MODELS] if importlib.util.find_spec(name) is None] == []


def test_where_a_driver_is_no_model_s_libraries_are_imported_before_a_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_processes, "DRIVER", tmp_path / "nvidiactl")
    assert list_preloaded() == [*PRELOADED, *MODELS]
    (tmp_path / "nvidiactl").touch()
    assert list_preloaded() == PRELOADED


FORKED = """
import multiprocessing, sys
from lance_assets.small_world import SMALL_MODEL
from lance_assets.step_processes import list_preloaded

def work(answers):
    imported = [name for name in ("torch", "lancedb") if name in sys.modules]
    import torch
    from lance_assets.records import Request, SamplingSettings
    from resources.engines.contract import sample_in_order
    from resources.engines.transformers.engine import TransformersEngine
    torch.set_num_threads(2)
    # Large enough that torch divides it among its threads, and the reader of weights has threads of its own.
    product = torch.ones(1200, 1200) @ torch.ones(1200, 1200)
    asked = [Request("row", ({"role": "user", "content": "Reverse the list 1 2."},), 0)]
    sampling = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=40)
    (sample,) = sample_in_order(TransformersEngine(SMALL_MODEL, device="cpu"), asked, sampling)
    answers.put((imported, float(product.sum()), sample.finish_reason))

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list_preloaded())
    answers = context.Queue()
    steps = [context.Process(target=work, args=(answers,)) for _ in range(3)]
    for step in steps:
        step.start()
    for _ in steps:
        print(answers.get(timeout=240))
    for step in steps:
        step.join()
"""


@pytest.mark.slow
def test_processes_that_are_forked_side_by_side_ask_a_model(
    tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was imported before the fork is there, and its threads work in each of the processes."""
    program = tmp_path / "forking.py"
    program.write_text(FORKED)
    environment = os.environ | {"PYTHONPATH": str(project_root)}
    command = [sys.executable, str(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    imported = [] if step_processes.DRIVER.exists() else ["torch"]
    assert done.stdout.splitlines() == [str((imported, 1200.0**3, "stop"))] * 3
