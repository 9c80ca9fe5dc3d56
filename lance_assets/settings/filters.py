"""The section `filters` of an experiment's file: further filters by name, each with its settings beside the name."""

import ast
import hashlib
import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

from pydantic import SerializeAsAny, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.keywords import Keywords
from lance_assets.algorithms.filters.output_filters import CompletionChars, Repetition
from lance_assets.algorithms.filters.rules import DuplicateInRound, LikeSiblings, SameAsSeed, Words
from lance_assets.dotted_names import find_dotted

FILTERS: dict[str, type[Filter]] = {
    "words": Words,
    "completion_chars": CompletionChars,
    "keywords": Keywords,
    "repetition": Repetition,
    "like_siblings": LikeSiblings,
    "duplicate_in_round": DuplicateInRound,
    "same_as_seed": SameAsSeed,
}
"""By name. A filter of a person's own needs no entry: its dotted name leads to it, as in my_package.my_filters:Loud."""


def find_filter(name: str) -> type[Filter]:
    """The filter of a name.

    Args:
        name: one of `FILTERS`, or the dotted name of a class, `package.module:NAME`.

    Raises:
        ValueError: there is no such filter, or what the name leads to is no filter.

    >>> find_filter("repetition").__name__
    'Repetition'
    """
    if name in FILTERS:
        return FILTERS[name]
    if ":" not in name:
        known = ", ".join(sorted(FILTERS))
        raise ValueError(f"there is no filter {name!r}; name one of {known}, or one of your own as module:NAME")
    found = find_dotted(name)
    if not (isinstance(found, type) and issubclass(found, Filter)):
        raise ValueError(f"{name!r} is not a filter; derive the class from RowFilter or Filter")
    return found


def _read_filter(value: Any, _: ValidatorFunctionWrapHandler) -> Filter:
    """The filter that a section names, with the section's settings; a mistake keeps its place."""
    if isinstance(value, Filter):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("a filter is a section with a name and its settings, such as {name: words, min_words: 3}")
    return find_filter(value["name"]).model_validate(value)


def _describe_filters() -> dict[str, Any]:
    """The JSON schema of a filter: which settings it has depends on its name; those of a person's own are not known."""
    name = {
        "description": "A filter of the platform, or one of your own as module:NAME.",
        "anyOf": [{"enum": list(FILTERS)}, {"type": "string", "pattern": r"^\w+(\.\w+)*:\w+$"}],
    }
    by_name = [
        {
            "if": {"required": ["name"], "properties": {"name": {"const": known}}},
            "then": filter_class.model_json_schema(),
        }
        for known, filter_class in FILTERS.items()
    ]
    return {"type": "object", "required": ["name"], "properties": {"name": name}, "allOf": by_name}


NamedFilter = Annotated[SerializeAsAny[Filter], WrapValidator(_read_filter), WithJsonSchema(_describe_filters())]
"""A filter as an experiment's file has it."""


def identify_filters(filters: Sequence[Filter]) -> list[dict[str, object]]:
    """What of an experiment's filters changes a result: their settings, and the code of the module each is from.

    Comments and docstrings are no part of the code. What that module imports is no part of it either.
    """
    return [one.model_dump() | {"code": _hash_code(type(one).__module__)} for one in filters]


def _hash_code(module_name: str) -> str:
    """A hash of what a module's code does, 16 hex digits."""
    tree = ast.parse(inspect.getsource(import_module(module_name)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_text = (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) for part in node.body)
            node.body = [part for part, drops in zip(node.body, is_text, strict=True) if not drops]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
