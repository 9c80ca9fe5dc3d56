"""The prompt templates of all steps: one Jinja2 template per file, in two profiles.

The profile `full` is for instruction-tuned models, and `compact` uses the words that the small model was trained on. A
profile has a `system` template for all recipes, and a folder of steps for each recipe: `lance/review` is
`<profile>/lance/review.j2`. Both profiles have the same steps with the same variables, and the same parsers read the
completions. If `system` is empty, no system message is sent.

A recipe of a person's own is named by its module, as `my_package.my_method`. Its templates lie beside that module, in
the same layout: the step `my_package.my_method/ask` is `prompts/<profile>/my_method/ask.j2` there.
"""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

PROFILES = ("compact", "full")
_FOLDER = Path(__file__).parent


def _find_folder(profile: str, recipe: str) -> Path:
    """The folder of a recipe's templates; it need not exist.

    Raises:
        ValueError: the recipe has a dotted name, and there is no such module.
    """
    if "." not in recipe:
        return _FOLDER / profile / recipe
    try:
        spec = find_spec(recipe)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {recipe}, beside which its prompt templates would lie")
    return Path(spec.origin).parent / "prompts" / profile / recipe.rpartition(".")[2]


def _find_file(profile: str, step: str) -> Path:
    """The file of a step's template; it need not exist."""
    recipe, _, name = step.rpartition("/")
    return _find_folder(profile, recipe) / f"{name}.j2" if recipe else _FOLDER / profile / f"{name}.j2"


def list_steps(profile: str, recipe: str) -> list[str]:
    """The steps of a recipe that have a template, as `render_prompt` takes them, sorted.

    >>> list_steps("compact", "lance")
    ['lance/degrade', 'lance/judge_pair', 'lance/new_prompt', 'lance/review']
    """
    return sorted(f"{recipe}/{path.stem}" for path in _find_folder(profile, recipe).glob("*.j2"))


@cache
def _load_template(profile: str, step: str) -> Template:
    known = [path.name for path in (_FOLDER / profile).iterdir() if path.is_dir()] if profile in PROFILES else []
    own = step.rpartition("/")[0]
    recipes = [*sorted(known), *([own] if "." in own and "/" not in own else [])]
    steps = ["system", *(name for recipe in recipes for name in list_steps(profile, recipe))] if known else []
    if step not in steps:
        raise ValueError(f"no prompt template {profile}/{step}; profiles: {PROFILES}, steps: {steps}")
    file = _find_file(profile, step)
    environment = ImmutableSandboxedEnvironment(loader=FileSystemLoader(file.parent), undefined=StrictUndefined)
    return environment.get_template(file.name)


def render_prompt(profile: str, step: str, **variables: str) -> str:
    r"""Fill a step's template.

    Args:
        profile: one of `PROFILES`.
        step: `<recipe>/<step>`, or `system`; the recipe as an experiment names it.
        variables: a value for each variable of the template.

    Raises:
        ValueError: no such profile or step.
        jinja2.UndefinedError: the template names a variable that was not given.

    >>> render_prompt("compact", "lance/new_prompt", prompt="Sort the list 3 1 2.", completion="")
    'Write a new and harder task like this.\nTask: Sort the list 3 1 2.'
    """
    return _load_template(profile, step).render(**variables)


def build_messages(profile: str, prompt: str) -> list[dict[str, str]]:
    """The chat messages of a prompt: the profile's system message, if it has one, and the user's message."""
    system = render_prompt(profile, "system")
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]


def hash_templates(profile: str, recipe: str | None = None) -> str:
    """The sha256 of a profile's templates, part of an experiment's fingerprint.

    Args:
        profile: one of `PROFILES`.
        recipe: the recipe whose steps are hashed; None hashes the system message alone, which training depends on.
    """
    digest = hashlib.sha256()
    for step in ("system", *(list_steps(profile, recipe) if recipe else [])):
        digest.update(step.encode() + b"\0" + _find_file(profile, step).read_bytes() + b"\0")
    return digest.hexdigest()
