"""What an installation gets: the packages with their data, and nothing that belongs to this checkout alone."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def names(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a wheel, built from a copy so that the checkout stays clean."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("lance_assets", "resources", "benchmarks"):
        shutil.copytree(project_root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "definitions.py"):
        shutil.copy(project_root / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_a_wheel_puts_two_packages_into_site_packages(names: list[str]) -> None:
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"lance_assets", "resources"}


def test_a_wheel_has_what_the_code_reads(names: list[str], project_root: Path) -> None:
    """Templates, pages, packaged models, experiments, shapes of models and rates of machines."""
    data = ("*.j2", "*.safetensors", "defs.yaml", "*.jsonl", "config.json", "throughput.yaml", "dagster.yaml")
    data += ("*.html", "*.css", "*.svg")
    tracked = subprocess.run(["git", "ls-files", "lance_assets", "resources"], cwd=project_root, capture_output=True)
    wanted = {name for name in tracked.stdout.decode().split() if any(Path(name).match(pattern) for pattern in data)}
    assert len(wanted) > 50
    assert sorted(wanted - set(names)) == []
