"""The harness's list of its own tasks, remembered between processes.

lm-evaluation-harness 0.4.13 parses all of its task files to find the few that are asked: 14,000 files and 9 CPU
seconds in each process. Of what it finds, tasks, groups and tags are used by name and place, since a task's own file is
read again when the task is built. That is remembered here for the files that are installed, which the installer's
record of their hashes identifies. Task files of an experiment are read each time.
"""
# ruff: noqa: TID253 (runs in the harness's process)

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import lm_eval.tasks
from lm_eval.tasks._index import Entry, Kind, TaskIndex

from resources.stores.remembered import remember

logger = logging.getLogger(__name__)
OWN = Path(str(lm_eval.tasks.__file__)).parent
"""Where the harness's own task files are installed."""
Index = dict[str, Entry]


def write_index(index: Index, root: Path) -> str:
    """An index as text, in its order, without what the files hold.

    Args:
        index: of the files under a folder.
        root: the folder.
    """
    rows = [
        (name, one.kind.name, one.yaml_path and one.yaml_path.relative_to(root).as_posix(), sorted(one.tags))
        for name, one in index.items()
    ]
    return json.dumps(rows)


def read_index(text: str, root: Path) -> Index:
    """The index that `write_index` wrote."""
    return {
        name: Entry(name, Kind[kind], None if path is None else root / path, tags=set(tags))
        for name, kind, path, tags in json.loads(text)
    }


def name_installed() -> str | None:
    """What identifies the content of the harness's own task files; None where nothing does, as in a checkout."""
    record = importlib.metadata.distribution("lm_eval").read_text("RECORD")
    if record is None or "lm_eval/tasks/" not in record:
        return None
    return f"{OWN} {hashlib.sha256(record.encode()).hexdigest()}"


def build_index(paths: Iterable[Path], *, resolve_includes: bool = True) -> Index:
    """As the harness's `TaskIndex.build`: a later folder's task replaces an earlier one's of the same name."""
    index: Index = {}
    for root in paths:
        found = _index_folder(Path(root), resolve_includes=resolve_includes)
        for name in found.keys() & index.keys():
            logger.warning("task %s of %s replaces that of %s", name, found[name].yaml_path, index[name].yaml_path)
        index |= found
    return index


_build = TaskIndex.build


def _index_folder(root: Path, *, resolve_includes: bool) -> Index:
    installed = name_installed() if root == OWN else None
    if installed is None:
        found: Index = _build([root], resolve_includes=resolve_includes)
        return found
    text = remember("harness_tasks", installed, lambda: write_index(_build([root]), root))
    return read_index(text, root)


def remember_tasks() -> None:
    """Let the harness use the remembered list, in this process."""
    TaskIndex.build = staticmethod(build_index)
