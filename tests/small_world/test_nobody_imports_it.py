"""The small world is a plug-in: the platform knows it neither by an import nor by a path."""

import ast
from pathlib import Path

ALIASES = "lance_assets/settings/values.py"
"""Names the packaged small model, for `model: small`."""


def list_mentions(path: Path) -> set[str]:
    """Imports and texts of a module that speak of the small world; docstrings count as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return {text for text in found if "small_world" in text}


def test_no_room_of_the_platform_speaks_of_it(project_root: Path) -> None:
    files = [path for folder in ("lance_assets", "resources") for path in (project_root / folder).rglob("*.py")]
    files.append(project_root / "definitions.py")
    names = {str(path.relative_to(project_root)): path for path in files}
    plug_in = ("lance_assets/small_world/", "lance_assets/experiments/")
    platform = {name: path for name, path in names.items() if not name.startswith(plug_in)}
    assert len(platform) > 50
    assert {name for name, path in platform.items() if list_mentions(path)} == {ALIASES}
