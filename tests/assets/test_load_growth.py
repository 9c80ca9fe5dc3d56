"""What loading a code location takes, counted by what is done for each experiment: time depends on the machine."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import dagster as dg
import pytest

from lance_assets.assets import settings
from lance_assets.assets.loading import load_experiments
from lance_assets.home import SHIPPED_FOLDER
from lance_assets.rounds.identity import installed, own_code
from lance_assets.rounds.identity.code import CodeHash


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    """Two folders, one with two and one with six copies of an experiment."""
    folders = []
    for number in (2, 6):
        folder = tmp_path / f"{number}"
        for copy in range(number):
            shutil.copytree(SHIPPED_FOLDER / "mini_lance", folder / f"copy_{number}_{copy}")
        folders.append(folder)
    return folders


def test_loading_more_experiments_of_a_recipe_hashes_no_more_code_and_parses_no_more_libraries(
    copies: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code is walked, and what libraries say of themselves is parsed, once in a process, whatever its experiments."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(own_code, "_EXPLAINED", {})
    counts: dict[str, int] = {"walks": 0, "versions": 0}

    def walk(*_: object) -> CodeHash:
        counts["walks"] += 1
        return CodeHash("0" * 16, {"lance_assets.records:Sample": "0" * 8})

    def read(name: str) -> str:
        counts["versions"] += 1
        return metadata.version(name)

    monkeypatch.setattr(own_code, "_reach", walk)
    monkeypatch.setattr(installed, "version", read)
    installed._read_version.cache_clear()
    installed.read_versions.cache_clear()
    load_experiments([copies[0]])
    first = dict(counts)
    assert first["walks"] > 0
    assert first["versions"] > 0
    load_experiments([copies[1]])
    assert counts == first


def test_the_schema_of_a_launch_makes_no_class_for_an_experiment(
    copies: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster turned ten pydantic classes of each experiment into config types, which took longer than all else."""
    made: list[str] = []
    monkeypatch.setattr(dg.Config, "__init_subclass__", classmethod(lambda cls, **_: made.append(cls.__name__)))
    defs = load_experiments([copies[0]])
    assert made == []
    start = next(
        each
        for each in defs.assets or ()
        if isinstance(each, dg.AssetsDefinition) and dg.AssetKey(["copy_2_0", "start_checkpoint"]) in each.keys
    )
    assert settings.KEEP in start.op.config_schema.as_field().config_type.fields


def test_a_round_and_its_recipe_load_without_scipy_torch_and_the_patterns_of_reviews() -> None:
    """Each of them takes longer than an experiment."""
    code = (
        "import sys, lance_assets.rounds.headline, lance_assets.rounds.round, lance_assets.recipes.lance\n"
        "late = ('scipy', 'torch', 'transformers', 'lancedb', 'lance_assets.algorithms.reviews.score_statements')\n"
        "print([name for name in late if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_definitions_load_without_databases_and_the_daemon() -> None:
    """They took a third of the time in which everything that definitions need was imported."""
    code = (
        "import sys, lance_assets.assets.loading\n"
        "late = ('sqlalchemy', 'alembic', 'dagster._daemon', 'dagster._core.storage.runs.sqlite')\n"
        "print([name for name in late if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
