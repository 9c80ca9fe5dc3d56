"""A whole round on Ray and on Slurm has the tables of this machine, also where nodes are lost while it is made."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from benchmarks._chaos_results import compare
from benchmarks._chaos_site import COUNTING, NAME, PROJECT_ROOT, Site, write_experiment
from tests.assets import slurm_nodes
from tests.assets.ray_nodes import RayNodes, open_nodes
from tests.assets.slurm_nodes import SlurmNodes, open_slurm

# Each step and each check of a round is a job with a start of its own, so they take many minutes.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not os.environ.get("LANCE_TEST_CLUSTERS"), reason="LANCE_TEST_CLUSTERS is not set"),
]
LIMIT_SECONDS = 3000


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment whose rounds take seconds where each step is a process."""
    folder = tmp_path_factory.mktemp("experiments")
    write_experiment(folder, num_rounds=1)
    return folder


@pytest.fixture(scope="module")
def begun(experiments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that has r0000, made by processes of this machine."""
    return run_here(tmp_path_factory.mktemp("begun") / "home", experiments, num_rounds=0)


@pytest.fixture(scope="module")
def here(begun: Path, experiments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that went on from there with r0001, here too."""
    home = tmp_path_factory.mktemp("here") / "home"
    shutil.copytree(begun, home)
    return run_here(home, experiments, num_rounds=1)


def run_here(home: Path, experiments: Path, *, num_rounds: int) -> Path:
    """Run rounds by processes of this machine; the home."""
    site = Site(home, experiments, "command", num_rounds)
    assert site.start().wait(LIMIT_SECONDS) == 0, (home / "log.txt").read_text()[-3000:]
    return home


@contextmanager
def on_ray(folder: Path) -> Iterator[RayNodes]:
    """Two nodes with one core each."""
    if find_spec("dagster_ray") is None or find_spec("ray") is None:
        pytest.skip("dagster_ray is not installed: pip install -e '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        # A job of Ray has the environment of its node.
        patch.setenv("PYTHONPATH", f"{PROJECT_ROOT}{os.pathsep}{COUNTING}")
        with open_nodes(2) as nodes:
            patch.setenv("LANCE_DEPLOYMENT", "ray")
            patch.setenv("RAY_ADDRESS", nodes.address)
            yield nodes


@contextmanager
def on_slurm(folder: Path) -> Iterator[SlurmNodes]:
    """Two nodes."""
    if not slurm_nodes.is_installed():
        pytest.skip(slurm_nodes.NEEDED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANCE_DEPLOYMENT", "slurm")
        with open_slurm(folder, "n0", "n1") as nodes:
            yield nodes


def find_generation(site: Site, num_before: int) -> int | None:
    """A process of the job that generates r0001, once an engine has given some samples beside those of r0000."""
    if site.count_samples() < num_before + 3:
        return None
    step = f"{NAME}__raw_generations"
    for process in psutil.process_iter(["environ"]):
        told = process.info["environ"] or {}
        # Ray's jobs are told the step, and Slurm's have it in their name.
        names = {told.get("DAGSTER_RUN_STEP_KEY"), told.get("SLURM_JOB_NAME", "").rpartition("-")[2]}
        if told.get("LANCE_HOME") == str(site.home) and step in names:
            return process.pid
    return None


def find_training(site: Site) -> int | None:
    """The process that trains r0001, once it has made some steps."""
    pid, num_steps = site.find_trainer()
    return pid if num_steps > 1 and site.count_steps_by_round()["r0001"] else None


@pytest.mark.parametrize("deployment", [on_ray, on_slurm])
def test_a_round_elsewhere_is_that_of_this_machine(
    deployment, begun: Path, experiments: Path, here: Path, tmp_path: Path
) -> None:
    """A node is lost in the middle of generation, and one in the middle of training; both are replaced."""
    (tmp_path / "cluster").mkdir()
    shutil.copytree(begun, tmp_path / "home")
    (tmp_path / "home" / "log.txt").unlink()
    with deployment(tmp_path / "cluster") as nodes:
        site = Site(tmp_path / "home", experiments, "command", 1)
        num_before, process = site.count_samples(), site.start()
        try:
            lose_node(nodes, lambda: find_generation(site, num_before), process, site)
            lose_node(nodes, lambda: find_training(site), process, site)
            code = process.wait(LIMIT_SECONDS)
        finally:
            site.end(process)
    log = (site.home / "log.txt").read_text()
    assert code == 0, log[-3000:]
    assert log.count("the round goes on from there") == 2
    compared = compare(here / "data", site.data, NAME)
    assert compared.differences == []
    assert compared.num_compared > 40


def lose_node(nodes, find: Callable[[], int | None], process, site: Site) -> None:
    """Lose the node of a process that is at work, and start another."""
    node = None
    while node is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            node = nodes.lose(wait_for(find, process, site))
    nodes.replace(node)


def wait_for(find: Callable[[], int | None], process, site: Site) -> int:
    """What is looked for, while the command runs."""
    until = time.monotonic() + LIMIT_SECONDS
    while (found := find()) is None:
        assert process.poll() is None, f"the command has ended: {(site.home / 'log.txt').read_text()[-3000:]}"
        assert time.monotonic() < until
        time.sleep(0.1)
    return found
