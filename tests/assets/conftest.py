"""Worlds the tests of the assets start from: rounds made once, with real models or on the scripted platform."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob

from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import World, open_world


@pytest.fixture(autouse=True)
def forget_jobs() -> None:
    """Dagster keeps the job that it built last by a name, and each test's world builds another one by the same name."""
    for built in (ReconstructableJob.get_definition, ReconstructableJob.get_repository_definition):
        built.cache_clear()


class OpenWorld(Protocol):
    def __call__(self, **arguments: object) -> World: ...


def take_shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """This process's copy of a folder that is made once in a test run: by the first that needs it, others wait."""
    own = factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = shared / f"{name}_shared"
        if not made.exists():
            partial = factory.mktemp(f"{name}_partial") / "world"
            make(partial)
            partial.rename(made)
        return shutil.copytree(made, own / name)


@pytest.fixture(scope="session")
def first_round(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world in which r0000 stands, by the real engine, trainer and LanceDB."""

    def make(root: Path) -> None:
        with open_world(root) as world:
            assert world.run("r0000").success

    return take_shared(tmp_path_factory, "first_round", make)


@pytest.fixture(scope="session")
def two_rounds(first_round: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world in which r0000 and r0001 stand, by the real engine, trainer and LanceDB."""

    def make(root: Path) -> None:
        with open_world(root, made_before=first_round) as world:
            assert world.run("r0001").success

    return take_shared(tmp_path_factory, "two_rounds", make)


@pytest.fixture(scope="session")
def scripted_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scripted world in which r0000 stands."""
    root = tmp_path_factory.mktemp("scripted_start") / "world"
    with without_drawing(), open_world(root, **SCRIPTED) as world:
        assert world.run("r0000").success
    return root


@pytest.fixture(scope="session")
def scripted_rounds(scripted_start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scripted world in which r0000 and r0001 stand."""
    root = tmp_path_factory.mktemp("scripted_rounds") / "world"
    with without_drawing(), open_world(root, made_before=scripted_start, **SCRIPTED) as world:
        assert world.run("r0001").success
    return root


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[OpenWorld]:
    """Opens the test's own world, by default with real models."""
    opened: list[AbstractContextManager[World]] = []

    def make(**arguments: object) -> World:
        opened.append(open_world(tmp_path / f"world{len(opened)}", **arguments))  # type: ignore[arg-type]
        return opened[-1].__enter__()

    yield make
    for world in reversed(opened):
        world.__exit__(None, None, None)


@pytest.fixture
def make_scripted_world(make_world: OpenWorld, scripted_start: Path) -> Iterator[OpenWorld]:
    """Opens the test's own scripted world after r0000; its rounds draw no pictures."""

    def make(**arguments: object) -> World:
        return make_world(**{**SCRIPTED, "made_before": scripted_start, **arguments})

    with without_drawing():
        yield make
