"""The section `filters` of an experiment's file: further filters by name, each with its settings beside the name."""

from typing import Annotated, Any

from pydantic import SerializeAsAny, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.dotted_names import find_dotted

_ROOM = "lance_assets.algorithms.filters"

FILTERS = {
    "words": f"{_ROOM}.rules:Words",
    "completion_chars": f"{_ROOM}.output_filters:CompletionChars",
    "keywords": f"{_ROOM}.keywords:Keywords",
    "repetition": f"{_ROOM}.output_filters:Repetition",
    "loop": f"{_ROOM}.loops:Loop",
    "chatter": f"{_ROOM}.proposals:Chatter",
    "truncated": f"{_ROOM}.proposals:Truncated",
    "invented_example": f"{_ROOM}.proposals:InventedExample",
    "copied_example": f"{_ROOM}.proposals:CopiedExample",
    "answer": f"{_ROOM}.answers:AnswerInstead",
    "like_siblings": f"{_ROOM}.rules:LikeSiblings",
    "duplicate_in_round": f"{_ROOM}.rules:DuplicateInRound",
    "same_as_seed": f"{_ROOM}.rules:SameAsSeed",
    "refusal": f"{_ROOM}.assistants:Refusal",
    "sign_off": f"{_ROOM}.assistants:SignOff",
    "encoding": f"{_ROOM}.encoding:Encoding",
    "script": f"{_ROOM}.languages:Script",
    "language": f"{_ROOM}.languages:Language",
    "personal_data": f"{_ROOM}.personal_data:PersonalData",
    "license": f"{_ROOM}.licences:License",
    "harm_classifier": f"{_ROOM}.safety:HarmClassifier",
    "harm_judge": f"{_ROOM}.safety:HarmJudge",
    "confidence": f"{_ROOM}.confidence:LowConfidence",
}
"""The dotted name of each filter with a short name. One of a person's own is named as my_package.my_filters:Loud."""

OF_ALL_MODELS = ("loop", "chatter", "copied_example", "invented_example")
"""What a new experiment is cleaned by, in this order: texts that are no proposal and no completion of any model."""

OF_SMALL_MODELS = ("loop", "chatter", "copied_example", "answer", "invented_example", "truncated")
"""What a new experiment of the profile `small` is cleaned by, in this order; all of `OF_ALL_MODELS` are among them."""


def find_filter(name: str) -> type[Filter]:
    """The filter of a name.

    Args:
        name: one of `FILTERS`, or a dotted name, `package.module:NAME`.

    Raises:
        ValueError: there is no such filter, or what the name leads to is no filter.

    >>> find_filter("repetition").__name__
    'Repetition'
    """
    if name not in FILTERS and ":" not in name:
        known = ", ".join(sorted(FILTERS))
        raise ValueError(f"there is no filter {name!r}; name one of {known}, or one of your own as module:NAME")
    found = find_dotted(FILTERS[name] if name in FILTERS else name)
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
            "then": find_filter(known).model_json_schema(),
        }
        for known in FILTERS
    ]
    return {"type": "object", "required": ["name"], "properties": {"name": name}, "allOf": by_name}


NamedFilter = Annotated[SerializeAsAny[Filter], WrapValidator(_read_filter), WithJsonSchema(_describe_filters())]
"""A filter as an experiment's file has it."""
