"""The variables that a job of Ray is given: it does not inherit those of the process that asks for it.

A job reads the experiments' files again. So it has to know every variable that such a file names: a default in its
place is another model, or other seeds, than the run was started with.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from lance_assets.home import list_folders
from lance_assets.keys import hide_secrets
from lance_assets.settings.values import find_variables
from lance_assets.settings.yaml_nodes import walk_nodes

TOLD = ("LANCE_", "DAGSTER_", "HF_", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "AWS_", "OMP_NUM_THREADS")
"""Beginnings of the variables that say where data and models are, and how a step works."""
SECRET = re.compile("PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL")
"""In the name of a variable that no job is given: Ray shows what it gives. The nodes have it in their environment."""
OWN = frozenset({"HOME", "USER", "LOGNAME", "SHELL", "PATH", "PWD", "TMPDIR", "HOSTNAME", "VIRTUAL_ENV"})
"""Of a machine, which has another value on each: a file that names one means that of where the step runs."""
LAUNCHER = ("attributes", "training", "launcher")
"""Where a file names variables of the step's own, such as Slurm's, which are known where the step runs."""


def list_told() -> dict[str, str]:
    """The variables of this process that a job is given: `TOLD`, and those that experiments name; none with a key."""
    named, keys = find_named(list_folders())
    return {
        name: value
        for name, value in os.environ.items()
        if (name.startswith(TOLD) or (name in named and name not in OWN))
        and not (name in keys or SECRET.search(name.upper()) or hide_secrets(value) != value)
    }


def find_named(folders: Sequence[Path]) -> tuple[set[str], set[str]]:
    """The variables that the files of experiments name, and those that they say hold a key.

    Args:
        folders: whose subfolders with a `defs.yaml` are experiments.
    """
    named: set[str] = set()
    keys: set[str] = set()
    for file in sorted(file for folder in folders for file in folder.glob("*/defs.yaml")):
        try:
            root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, ValueError, yaml.YAMLError):
            continue  # Whoever loads the experiments tells what is wrong with the file.
        own = {id(node) for node in walk_nodes(_find_node(root, LAUNCHER))}
        for node in walk_nodes(root):
            if isinstance(node, yaml.ScalarNode) and id(node) not in own:
                named.update(find_variables(node.value))
            keys.update(
                value.value
                for name, value in _list_pairs(node)
                if name == "api_key_env" and isinstance(value, yaml.ScalarNode)
            )
    return named, keys


def _list_pairs(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, value) for key, value in node.value if isinstance(key, yaml.ScalarNode))


def _find_node(root: yaml.Node | None, names: Sequence[str]) -> yaml.Node | None:
    for name in names:
        root = dict(_list_pairs(root)).get(name)
    return root
