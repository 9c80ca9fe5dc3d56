"""A lock with hashes: it names what is installed, and a locked setup installs nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def checkout(project_root: Path, tmp_path: Path) -> Path:
    """A folder with what `make setup` reads."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(project_root / name, tmp_path)
    return tmp_path


def show_commands(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What `make` would run, without running it."""
    command = ["make", "--dry-run", "--always-make", "PYTHON=python3", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_locked_setup_installs_what_the_lock_names_and_nothing_beside_it(checkout: Path) -> None:
    (checkout / "requirements.lock").touch()
    told = subprocess.run(
        ["make", "--dry-run", "setup", "LOCKED=1"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout
    installs = [line for line in told.splitlines() if "pip install" in line]
    assert [line.partition("pip install ")[2] for line in installs] == [
        "--require-hashes -r requirements.lock",
        # The project itself, built by what the lock names too.
        "--no-deps --no-build-isolation -e .",
    ]


def test_without_a_lock_a_locked_setup_says_how_to_write_one(checkout: Path) -> None:
    done = subprocess.run(["make", "setup", "LOCKED=1"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode != 0
    assert "write it with make lock" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_open_setup_is_as_it_was(checkout: Path) -> None:
    told = show_commands(checkout, "setup").stdout
    assert [line.partition("pip install ")[2] for line in told.splitlines() if "pip install" in line] == [
        "-c constraints.txt -e '.[dev]'"
    ]


def test_the_lock_is_of_what_is_installed_with_hashes_and_of_what_builds_it(checkout: Path) -> None:
    told = show_commands(checkout, "lock").stdout.replace("\\\n", " ")
    (freeze,) = (line for line in told.splitlines() if "pip freeze" in line)
    (write,) = (line for line in told.splitlines() if "pip-compile --quiet" in line)
    assert freeze.endswith("> .venv-lock/installed.txt")
    for option in ("--generate-hashes", "--all-build-deps", "--allow-unsafe", "-c .venv-lock/installed.txt"):
        assert option in write
    assert "-o requirements.lock" in write
