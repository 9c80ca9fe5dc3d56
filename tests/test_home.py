"""The folder of all data is a folder, and every variable that the code reads stands on one page."""

import ast
import re
from pathlib import Path

import pytest

from lance_assets import home
from lance_assets.cli.moving import find_place
from lance_assets.settings.variables import find_named

ADDRESSES = (
    "s3://bucket/lance",
    "gs://bucket",
    "az://container/x",
    "file:///mnt/share",
    "S3:/bucket/lance",
    " memory://a",
)
OF_TOOLS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_FSDP", "PYTHONPATH"}
"""What PyTorch, accelerate and Python have set where a process reads it."""
ENVIRONMENT = re.compile(r"(?:os\.)?environ(?:\.get\('(\w+)'.*\)|\['(\w+)'\])", re.DOTALL)
READ = re.compile(r"(LANCE|DAGSTER_POSTGRES|RAY|MASTER)_[A-Z_]+|DAGSTER_HOME|NODE_RANK")


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str) -> None:
    """As a path it would be a folder of that name, beside whatever the command was called in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANCE_HOME", address)
    for find in (home.find_home, home.find_data_root, home.find_models_root):
        with pytest.raises(ValueError, match=r"LANCE_HOME is the address .* LANCE_STORE to the address"):
            find()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["data", "a:b", "C:/lance", "./s3:/x", "~/lance"])
def test_a_folder_is_a_home(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("LANCE_HOME", folder)
    assert home.find_home() == Path(folder).expanduser().resolve()


def test_an_address_with_one_slash_is_no_place_of_a_move() -> None:
    with pytest.raises(ValueError, match="the place is the address 's3:/bucket', and rounds work in a folder"):
        find_place("s3:/bucket", is_new=True)


def test_every_variable_that_is_read_stands_on_the_page_of_deployments(project_root: Path) -> None:
    """Each that the code asks for, or has as a text of its own, and each that a preset's file names.

    What tests, Make and containers read is theirs.
    """
    found = {"DAGSTER_POSTGRES_" + part for part in ("HOST", "PORT", "DB", "USER", "PASSWORD")}
    for folder in ("lance_assets", "resources"):
        for file in (project_root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and READ.fullmatch(node.value):
                    found.add(node.value)
                is_read = isinstance(node, ast.Call) or isinstance(getattr(node, "ctx", None), ast.Load)
                if is_read and (asked := ENVIRONMENT.fullmatch(ast.unparse(node))):
                    found.add(asked[1] or asked[2])
    presets = [project_root / "lance_assets" / "experiments", project_root / "deploy" / "experiments"]
    found |= find_named(presets)[0]
    page = (project_root / "docs" / "deploy" / "README.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in page.splitlines() if line.startswith("| `"))
    found -= {"LANCE_", "DAGSTER_POSTGRES", "DAGSTER_IS_DEFS_VALIDATION_CLI"} | OF_TOOLS
    assert {"LANCE_STORE", "LANCE_SLURM_ARGS", "NODE_RANK", "RAY_ADDRESS", "HF_HOME", "QWEN2_MODEL"} <= found
    assert sorted(name for name in found if f"`{name}`" not in table) == []


def test_one_place_reads_where_steps_run(project_root: Path) -> None:
    named = [
        file.relative_to(project_root).as_posix()
        for folder in ("lance_assets", "resources")
        for file in (project_root / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call | ast.Subscript) and "os.environ" in ast.unparse(node)
        if re.search(r"\bVARIABLE\b|LANCE_DEPLOYMENT", ast.unparse(node)) and not isinstance(node, ast.Subscript)
    ]
    assert named == ["lance_assets/step_processes.py"]
