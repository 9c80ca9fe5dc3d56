"""The fork server of the steps is started early where steps are processes here, with the home that the command sets."""

import importlib.util
import os
from multiprocessing import forkserver
from pathlib import Path

import pytest

from lance_assets.step_processes import PRELOADED, VARIABLE, start_early


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
    assert forkserver._forkserver._preload_modules == PRELOADED
    assert os.environ.get("DAGSTER_HOME") == named


def test_a_cluster_s_steps_need_none(homes: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "slurm")
    start_early()
    assert homes == []


def test_what_is_imported_early_is_there() -> None:
    """Dagster's names are its own, and one that is gone would be left out without a word."""
    assert [name for name in PRELOADED if importlib.util.find_spec(name) is None] == []
