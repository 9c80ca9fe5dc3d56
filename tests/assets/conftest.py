"""Worlds the tests of the assets start from: rounds made once, by the real engine, trainer and LanceDB."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from tests.assets.scripted_platform import SCRIPTED_TRAINER, ScriptedPlatform
from tests.assets.tiny_experiment import TRAINING, World, open_world


class OpenWorld(Protocol):
    def __call__(self, **arguments: object) -> World: ...


@pytest.fixture(scope="session")
def first_round(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world in which r0000 stands."""
    root = tmp_path_factory.mktemp("first_round")
    with open_world(root) as world:
        assert world.run("r0000").success
    return root


@pytest.fixture(scope="session")
def two_rounds(first_round: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world in which r0000 and r0001 stand."""
    root = tmp_path_factory.mktemp("two_rounds")
    with open_world(root, made_before=first_round) as world:
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
def make_scripted_world(make_world: OpenWorld, first_round: Path) -> OpenWorld:
    """Opens the test's own world after r0000, with a scripted engine, embedder and training."""

    def make(**arguments: object) -> World:
        given = {"made_before": first_round, "platform_class": ScriptedPlatform}
        given["training"] = TRAINING | {"launcher": SCRIPTED_TRAINER}
        return make_world(**given | arguments)

    return make
