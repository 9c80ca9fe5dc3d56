"""The prompt templates of all steps: one Jinja2 template per file, in two profiles.

The profile `full` is for instruction-tuned models, and `compact` uses the words that the small model was trained on. A
profile has a `system` template for all recipes, and a folder of steps for each recipe: `lance/review` is
`<profile>/lance/review.j2`. Both profiles have the same steps with the same variables, and the same parsers read the
completions. If `system` is empty, no system message is sent.
"""

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

PROFILES = ("compact", "full")
_FOLDER = Path(__file__).parent


def list_steps(profile: str, recipe: str) -> list[str]:
    """The steps of a recipe that have a template, as `render_prompt` takes them, sorted.

    >>> list_steps("compact", "lance")
    ['lance/degrade', 'lance/judge_pair', 'lance/new_prompt', 'lance/review']
    """
    return sorted(f"{recipe}/{path.stem}" for path in (_FOLDER / profile / recipe).glob("*.j2"))


@cache
def _load_template(profile: str, step: str) -> Template:
    known = [path.name for path in (_FOLDER / profile).iterdir() if path.is_dir()] if profile in PROFILES else []
    steps = ["system", *(name for recipe in sorted(known) for name in list_steps(profile, recipe))] if known else []
    if step not in steps:
        raise ValueError(f"no prompt template {profile}/{step}; profiles: {PROFILES}, steps: {steps}")
    loader = FileSystemLoader(_FOLDER / profile)
    return ImmutableSandboxedEnvironment(loader=loader, undefined=StrictUndefined).get_template(f"{step}.j2")


def render_prompt(profile: str, step: str, **variables: str) -> str:
    r"""Fill a step's template.

    Args:
        profile: one of `PROFILES`.
        step: `<recipe>/<step>`, or `system`.
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
        digest.update(step.encode() + b"\0" + (_FOLDER / profile / f"{step}.j2").read_bytes() + b"\0")
    return digest.hexdigest()
