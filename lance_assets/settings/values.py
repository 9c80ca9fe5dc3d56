"""The parts of every section of an experiment's file: strict fields, and values that come from the environment.

A value may name a variable of the environment as a shell does, `${NAME:-default}`. Dagster's own templates,
`{{ env('NAME', 'default') }}`, are not used, for what Dagster 1.13.27 does with them (tried on an experiment's file):

1. A component's attributes are validated as they are written, and templates are filled in later. A field with a choice
   of values refuses its template: "input should be 'compact' or 'full'".
2. `{{ env.NAME }}` of a variable that is not set becomes None, within a text the four letters "None", without an error.
3. A variable that is set and empty does not take the default.
4. A default in code, such as that of `engine.vllm.python`, is in no file and passes through no template.
"""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def find_variables(text: str) -> list[str]:
    """The names of the variables that `expand_environment` replaces in a text, in their order.

    >>> find_variables("${DATA}/${NAME:-seeds.jsonl}")
    ['DATA', 'NAME']
    """
    return [match[1] for match in _VARIABLE.finditer(text)]


def expand_environment(value: Any) -> Any:
    """Replace `${NAME}` and `${NAME:-default}` by environment variables, as shells do.

    Raises:
        ValueError: a variable without default is not set.

    >>> expand_environment("${NOT_SET_ANYWHERE:-small}")
    'small'
    """
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if (found := os.environ.get(name)) or default is not None:
            return found or default
        raise ValueError(f"environment variable {name} is not set; set it, or write ${{{name}:-default}}")

    return _VARIABLE.sub(look_up, value)


FromEnvironment = Annotated[str, BeforeValidator(expand_environment)]
"""A string in which `${NAME:-default}` is replaced: for values that differ between machines."""

MODEL_ALIASES = {"small": "lance_assets.small_world:SMALL_MODEL"}
"""Short names of packaged models; any other packaged model is named in full, as `package.module:NAME`."""


def name_model(name: str) -> str:
    """The full name of a model that has a short one; any other name as it is.

    >>> name_model("small")
    'lance_assets.small_world:SMALL_MODEL'
    """
    return MODEL_ALIASES.get(name, name)


ModelName = Annotated[str, BeforeValidator(expand_environment), AfterValidator(name_model)]
"""The name of a model: a short name, a folder, `package.module:NAME`, or a hub id."""


def read_off(value: object) -> object:
    """YAML reads an unquoted `off` as false; where a setting has the word, false is that word.

    >>> read_off(False), read_off("auto"), read_off(True)
    ('off', 'auto', True)
    """
    return "off" if value is False else value


def read_switch(value: object) -> object:
    """The same where a setting has the words `on` and `off`: YAML reads either, unquoted, as true or false.

    >>> read_switch(False), read_switch(True), read_switch("auto")
    ('off', 'on', 'auto')
    """
    return "on" if value is True else read_off(value)


StructuredOutput = Annotated[
    Literal["auto", "required", "off"],
    BeforeValidator(read_off),
    WithJsonSchema({"enum": ["auto", "required", "off", False]}),
]
"""Whether an engine constrains what has a form."""

Switch = Annotated[
    Literal["auto", "off", "on"],
    BeforeValidator(read_switch),
    WithJsonSchema({"enum": ["auto", "off", "on", False, True]}),
]
"""Whether something is used, where "auto" finds out."""

PromptProfile = Annotated[
    Literal["compact", "full", "full_zh", "small"],
    BeforeValidator(expand_environment),
    WithJsonSchema({"type": "string", "pattern": r"^(compact|full|full_zh|small|\$\{.*\})$"}),
]
"""A profile of prompt templates, or a variable that names one."""

MAX_NAME = 100
"""Characters of an experiment's name: files and folders are named after it, with a round and an ending."""
RESERVED_NAMES = {
    "leaderboard": "the asset over all experiments",
    "shipped": "what LANCE_EXPERIMENTS calls the package's experiments",
}
"""Names that mean something else beside an experiment's."""


def check_experiment_name(name: str) -> str:
    """The name of an experiment, which is that of its folder.

    Raises:
        ValueError: it is not made of small letters, digits and _, too long, or taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        shown = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."
        raise ValueError(f"an experiment's folder is named in lower case letters, digits and _, got {shown!r}")
    if len(name) > MAX_NAME:
        raise ValueError(
            f"an experiment's name has at most {MAX_NAME} characters, got {len(name)}: '{name[:20]}...'; shorten it"
        )
    if name in RESERVED_NAMES:
        raise ValueError(f"no experiment can be named {name!r}, which is {RESERVED_NAMES[name]}; choose another name")
    if re.fullmatch(r"r\d+", name):
        raise ValueError(f"no experiment can be named {name!r}, which looks like a round's key; choose another name")
    return name


def count_asked(human_review: str) -> int | None:
    """How many rows of a round people are asked about by the setting `human_review`; None for all of them.

    Raises:
        ValueError: it is none of `none`, `all` and `sample N`.

    >>> count_asked("none"), count_asked("sample 20"), count_asked("all")
    (0, 20, None)
    """
    if human_review == "all":
        return None
    if human_review == "none":
        return 0
    if match := re.fullmatch(r"sample ([1-9][0-9]{0,8})", human_review):
        return int(match[1])
    raise ValueError(f"human_review must be none, all, or sample N such as 'sample 20', got {human_review[:60]!r}")


def _check_human_review(text: str) -> str:
    count_asked(text)
    return text


HumanReview = Annotated[
    str,
    AfterValidator(_check_human_review),
    WithJsonSchema({"type": "string", "pattern": r"^(none|all|sample [1-9][0-9]{0,8})$"}),
]
"""About which rows of a round people decide."""

Owner = Annotated[str, Field(pattern=r"^(team:.+|[^@\s]+@[^@\s]+\.[^@\s]+)$")]
"""An owner in the form that Dagster requires."""


class Settings(BaseModel):
    """A section of an experiment's file. Unknown fields are errors, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
