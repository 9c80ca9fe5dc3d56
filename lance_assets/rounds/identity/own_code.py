"""The hash of what the project's own code does for an asset, and which of its code decides nothing."""

import gc
import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from lance_assets.rounds.identity.code import CodeHash, CodeHasher
from lance_assets.rounds.identity.source import SourceTree, find_packages
from resources.stores.remembered import remember

PACKAGES = frozenset({"lance_assets", "resources"})
"""The packages whose source is followed, beside that of a person's own recipe."""

NOT_FOLLOWED = (
    "lance_assets.dotted_names",  # finds what is named
    "lance_assets.recipes.contract:find_recipe",  # the steps of the experiment's own recipe are roots
    "lance_assets.rounds.asking:Cost",  # what a round took is shown, and decides nothing
    "lance_assets.rounds.identity",
    "lance_assets.rounds.differences",  # showing
    "lance_assets.rounds.nouns",  # an asset's columns are in its identity as they are
    "lance_assets.rounds.overrides",  # the values that they give are in the identity
    "lance_assets.rounds.plan",  # the values of the settings are in the identity
    "lance_assets.rounds.platform",  # says where data lies; the engines that it opens are roots
    "lance_assets.rounds.report",  # showing
    "lance_assets.settings",
    "lance_assets.worlds:find_world",  # the functions of the experiment's own world are roots
    "resources.engines.durable_stage",  # keeps what an engine gave
    "resources.engines.vllm.on_ray",
    "resources.engines.vllm.process",
    "resources.machine",  # processes and memory
    "resources.stores.checkpoints",  # finds models and keeps them; their content is in the identity
    "resources.stores.embeddings:EmbeddingStore",  # keeps what the embedder gave
    "resources.stores.lance_tables:LanceTable",
    "resources.stores.remembered",
    "resources.stores.tables",
)
"""Code that decides no value of a table: showing, costs, places, and keeping what was made."""

VALUE_CLASSES = (
    "lance_assets.recipes.axes:AxisSettings",
    "resources.training.stage_settings:LoraSettings",
    "resources.training.stage_settings:SftSettings",
)
"""Settings outside `lance_assets.settings`: of their code only the methods that are used count."""

ENGINES: dict[str, tuple[str, ...]] = {
    "transformers": ("resources.engines.transformers.engine:TransformersEngine",),
    "vllm": ("resources.engines.vllm.engine:VllmEngine", "resources.engines.vllm.worker"),
    "openai": ("resources.engines.openai.engine:OpenAIEngine",),
}
"""What runs for each kind of engine: its class, and the program of its own process where it has one."""


_EXPLAINED: dict[str, dict[str, dict[str, str]]] = {}
"""What was explained in this process: experiments of one recipe run the same code."""


def hash_own_code(roots: Sequence[str], *, without: Sequence[str] = ()) -> str:
    """The hash of everything that is reached from some definitions, 16 hex digits.

    It is remembered as long as no source file changes.

    Args:
        roots: full names, as `lance_assets.rounds.making.proposing:make_seed_set`.
        without: full names of definitions that are named and never used.

    Raises:
        MissingSourceError: the source of code that is reached is not a file here.
        ValueError: there is no such definition.
    """
    key = _name_key(roots, without)
    return remember("code_hashes", key, lambda: _reach(roots, without).digest)


def explain_own_code(roots: Sequence[str], *, without: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """The hash of each definition that is reached, 8 hex digits, by module and name; arguments as `hash_own_code`."""
    key = _name_key(roots, without)
    if key not in _EXPLAINED:
        modules: dict[str, dict[str, str]] = {}
        for full_name, digest in remember("code_definitions", key, lambda: _reach(roots, without).definitions).items():
            module, _, name = full_name.partition(":")
            modules.setdefault(module, {})[name] = digest
        _EXPLAINED[key] = modules
    return _EXPLAINED[key]


def _name_key(roots: Sequence[str], without: Sequence[str]) -> str:
    return " ".join([hash_sources(list_packages(roots)), *roots, "without", *without])


def _reach(roots: Sequence[str], without: Sequence[str]) -> CodeHash:
    was_enabled = gc.isenabled()
    # syntax trees are many small objects, and none is garbage: collecting would take as long as all the rest
    gc.disable()
    try:
        return open_hasher(list_packages(roots)).hash_code(roots, without=without)
    finally:
        if was_enabled:
            gc.enable()


def list_packages(roots: Sequence[str]) -> frozenset[str]:
    """The packages whose source is followed from some definitions."""
    return PACKAGES | {root.partition(":")[0].partition(".")[0] for root in roots}


@cache
def open_hasher(packages: frozenset[str]) -> CodeHasher:
    """What hashes the code of some packages; it reads each source file once in a process."""
    return CodeHasher(SourceTree(find_packages(packages)), NOT_FOLLOWED, VALUE_CLASSES)


@cache
def hash_sources(packages: frozenset[str]) -> str:
    """The hash of every source file of some packages, as they were when first asked.

    Raises:
        MissingSourceError: a package is not in a folder.
    """
    digest = hashlib.sha256(" ".join([*NOT_FOLLOWED, *VALUE_CLASSES]).encode())
    for name, folder in find_packages(packages).items():
        for file in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            place = file.relative_to(folder) if folder.is_dir() else file.name
            digest.update(f"\0{name}/{place}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def name_root(code: Callable[..., Any], *, otherwise: str) -> str:
    """The full name of a function or class that a module defines.

    Args:
        code: what is called.
        otherwise: the full name of what holds it, for code without a name of its own: a lambda, a nested function, a
            `partial`, or an object.
    """
    # `<lambda>` and `<locals>` in a name cannot be found in the source.
    is_named = (inspect.isroutine(code) or inspect.isclass(code)) and "<" not in code.__qualname__
    return f"{code.__module__}:{code.__qualname__}" if is_named else otherwise
