"""The contract of a checkable task: a `World` has problems that no round trains on, and a rule that judges completions.

An experiment names its world in `evaluation.world.name`: `package.module:NAME` for an installed package, or
`my_task.py:NAME` for a file, relative to the experiment's folder. The platform knows a world by this contract alone.
"""

import hashlib
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lance_assets.dotted_names import IMPORT_ERRORS, describe_import_error, find_dotted

ALL_TASKS = "all"
"""The `task` of a score over every task; no problem may have it."""


class WorldError(ValueError):
    """A world cannot be found, or it breaks the contract."""


@dataclass(frozen=True)
class Problem:
    """One checkable problem."""

    key: str
    """Identity of the problem, whatever its wording; row ids and sampling seeds derive from it."""
    task: str
    """The kind of problem; scores are also reported by task. A world of one kind has one task."""
    stratum: int
    """One of the world's strata, such as a level of difficulty."""
    prompt: str
    """What the model is asked."""
    answer: str
    """The gold answer, as text."""


def read_nothing(prompt: str) -> Problem | None:
    """The default of `World.read_prompt`: no prompt can be read back, so this returns None."""
    del prompt
    return None


@dataclass(frozen=True)
class World:
    """A checkable task. The fields with a default are optional."""

    name: str
    """The benchmark's name in every table, in lower case letters, digits and _."""
    axis: str
    """The word for the strata in tables and pictures, such as "rung" or "difficulty"."""
    strata: tuple[int, ...]
    """The numbers of the strata, ascending; each has held-out problems."""
    draw_held_out: Callable[[int], Sequence[Problem]]
    """Given the number of problems for each task and stratum: the held-out problems, the same ones on every call."""
    is_right: Callable[[Problem, str], bool]
    """Whether a completion answers the problem. No round trains on this verdict, unless GRPO is told to
    (`training.grpo.reward: rule`), on prompts that are not held out."""
    read_prompt: Callable[[str], Problem | None] = read_nothing
    """The problem that a prompt asks, None where it asks none of this world; for a study's report on training rows."""
    build_guard: Callable[[Sequence[Problem]], Callable[[str], bool]] | None = None
    """Given held-out problems: a function that says whether a text asks one of them, in whatever words.

    None: a text asks one when it equals its prompt, or shares `evaluation.ngram` words in a row with it.
    """
    files: tuple[Path, ...] = ()
    """What the problems are read from; a change of their content is another evaluation."""
    mean_tokens: tuple[float, float] | None = None
    """Tokens of a prompt and of a completion, as measured means, for `lance plan`; None: the plan shows no tokens."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise WorldError(f"a world's name has lower case letters, digits and _, got {self.name!r}")
        if self.name == "judge":
            raise WorldError("a world cannot be named 'judge', which is another evaluation; choose another name")
        if not self.strata or list(self.strata) != sorted(set(self.strata)):
            raise WorldError(f"world {self.name}: strata must be different numbers in ascending order: {self.strata}")


def draw_problems(world: World, per_stratum: int) -> list[Problem]:
    """The world's held-out problems, checked against the contract.

    Args:
        world: whose problems.
        per_stratum: problems for each task and stratum, at least 1.

    Raises:
        WorldError: two problems share a key or a prompt, one has an unknown stratum or the task "all", or a stratum has
            none.
    """
    # A person writes worlds, so the contract is checked here and not trusted.
    problems = list(world.draw_held_out(per_stratum))
    if missing := sorted(set(world.strata) - {problem.stratum for problem in problems}):
        numbers = ", ".join(map(str, missing))
        raise WorldError(
            f"world {world.name}: draw_held_out({per_stratum}) returned no problem of {world.axis} {numbers}"
        )
    for what, values in (("key", [one.key for one in problems]), ("prompt", [one.prompt for one in problems])):
        value, number = Counter(values).most_common(1)[0]
        if number > 1:
            raise WorldError(f"world {world.name}: {number} held-out problems have the same {what} {value!r}")
    for problem in problems:
        if problem.stratum not in world.strata:
            known = ", ".join(map(str, world.strata))
            raise WorldError(
                f"world {world.name}: the problem {problem.key!r} has stratum {problem.stratum!r}, not one of {known}"
            )
        if problem.task == ALL_TASKS:
            raise WorldError(
                f"world {world.name}: the problem {problem.key!r} has the task {ALL_TASKS!r}, which means every task; "
                "give it another name"
            )
    return problems


def find_world(name: str, folder: Path) -> World:
    """The world that an experiment names.

    Args:
        name: `package.module:NAME`, or `my_task.py:NAME` for a file.
        folder: the experiment's, which a file's path is relative to.

    Raises:
        WorldError: there is no such module, file or object, the module cannot be imported, or the object is no `World`.
    """
    path, attribute = split_file_name(name, folder)
    if path is None:
        try:
            found = find_dotted(name)
        except ValueError as error:
            raise WorldError(f"no world {name!r}: {error}; a file's name ends in .py, as my_task.py:NAME") from None
    else:
        if not path.is_file():
            raise WorldError(f"no world {name!r}: there is no file {path}; put it there or correct the path")
        members = run_file(path)
        if attribute not in members:
            known = ", ".join(sorted(key for key, value in members.items() if isinstance(value, World))) or "none"
            raise WorldError(f"no world {name!r}: {path} has no {attribute}; its worlds are: {known}")
        found = members[attribute]
    if not isinstance(found, World):
        raise WorldError(f"{name!r} is a {type(found).__name__}, not a lance_assets.worlds.World; name a World")
    return found


def split_file_name(name: str, folder: Path) -> tuple[Path | None, str]:
    """The file and the object that `my_task.py:NAME` names; the file is None for any other form."""
    file, _, attribute = name.rpartition(":")
    return (folder / Path(file).expanduser() if file.endswith(".py") else None), attribute


def hash_world_file(name: str, folder: Path) -> str | None:
    """SHA-256 of the file that a world's name leads to; None where the name is dotted or the file is missing."""
    path, _ = split_file_name(name, folder)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else None


def run_file(path: Path) -> dict[str, object]:
    """Everything that a Python file of an experiment defines; the file runs once for each content.

    Raises:
        WorldError: it cannot be imported.
    """
    return _run_content(path, hashlib.sha256(path.read_bytes()).hexdigest())


@lru_cache(maxsize=16)
def _run_content(path: Path, content_hash: str) -> dict[str, object]:
    """Everything that a Python file defines; the file runs once for each content."""
    # With the content in its name a changed file is another module, and no old code is left in it.
    module_name = f"world_{path.stem}_{content_hash[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, f"a file that ends in .py has a loader: {path}"
    assert spec.loader is not None, f"a file that ends in .py has a loader: {path}"
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their own module up by its name
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except IMPORT_ERRORS as error:
        del sys.modules[module_name]
        raise WorldError(f"{path} cannot be imported: {describe_import_error(error)}; correct the file") from None
    return vars(module)
