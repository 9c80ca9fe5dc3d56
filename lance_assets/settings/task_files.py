"""What of the harness's task files would run code: lm-evaluation-harness gives a YAML file more than data.

1. `!function module.name` imports a Python file beside the task, or any installed module.
2. Other tags, such as `!!python/name:`, make Python objects.
3. `hf_evaluate: true`, and a metric with a path for a name, load a metric's script.

A file of the harness's own package is as trusted as the package. Templates (`doc_to_text`) are no code: they are
rendered in a sandbox (`resources.evaluation.harness_worker`).
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lance_assets.settings.yaml_nodes import walk_nodes

_DATA = "tag:yaml.org,2002:"
_PYTHON = f"{_DATA}python"
_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class TaskCode:
    """One place of a task file that runs code, or that cannot be read."""

    file: Path
    """The task's file."""
    line: int
    """From 1."""
    what: str
    """What stands there, in words."""
    is_broken: bool = False
    """Whether the file cannot be read at all."""


def find_task_code(tasks: Sequence[str], include_path: Path | None) -> list[TaskCode]:
    """Every place of an experiment's own task files that runs code, those that they include among them.

    Args:
        tasks: names of tasks, or paths of task files.
        include_path: the folder of task files; None for none.
    """
    files = [] if include_path is None else sorted(path for path in include_path.rglob("*") if path.suffix in _ENDINGS)
    files += [Path(task) for task in tasks if task.endswith(_ENDINGS) and Path(task).is_file()]
    seen: set[Path] = set()
    return [found for file in files for found in _look_into(file, seen)]


def _look_into(file: Path, seen: set[Path]) -> Iterator[TaskCode]:
    place = file.resolve()
    if place in seen:
        return
    seen.add(place)
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        told = getattr(error, "problem", None) or str(error)
        yield TaskCode(file, 1 if mark is None else mark.line + 1, told, is_broken=True)
        return
    for node in walk_nodes(root):
        if not node.tag.startswith(_DATA) or node.tag.startswith(_PYTHON):
            value = f" {node.value}" if isinstance(node, yaml.ScalarNode) else ""
            yield TaskCode(file, node.start_mark.line + 1, f"{node.tag}{value}")
        if isinstance(node, yaml.MappingNode):
            yield from _look_for_scripts(file, node)
    for included in _list_included(root, file):
        if not _is_the_harnesss(included):
            yield from _look_into(included, seen)


def _look_for_scripts(file: Path, node: yaml.MappingNode) -> Iterator[TaskCode]:
    for key, value in node.value:
        name, said = key.value, value.value
        if name == "hf_evaluate" and str(said).lower() in ("true", "yes", "on"):
            yield TaskCode(file, key.start_mark.line + 1, "hf_evaluate: true")
        if name == "metric" and isinstance(said, str) and any(sign in said for sign in "/\\.~"):
            yield TaskCode(file, key.start_mark.line + 1, f"metric: {said}")


def _list_included(root: yaml.Node | None, file: Path) -> Iterator[Path]:
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    for key, value in pairs:
        if key.value == "include":
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            yield from (file.parent / Path(str(part.value)) for part in parts)


def _is_the_harnesss(file: Path) -> bool:
    spec = importlib.util.find_spec("lm_eval")
    return spec is not None and spec.origin is not None and Path(spec.origin).parent in file.resolve().parents
