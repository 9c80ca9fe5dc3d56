"""The words each step says to a model: one Jinja2 template a file, in profiles.

`full` is for instruction-tuned models, `compact` in the small model's own words. Both have the same steps,
are given the same variables, and are read by the same parsers. An empty `system` means no system message.
"""

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

PROFILES = ("compact", "full")
STEPS = ("system", "review", "new_prompt", "degrade")
_FOLDER = Path(__file__).parent


@cache
def _load_template(profile: str, step: str) -> Template:
    if profile not in PROFILES or step not in STEPS:
        raise ValueError(f"no prompt template {profile}/{step}; profiles: {PROFILES}, steps: {STEPS}")
    loader = FileSystemLoader(_FOLDER / profile)
    return ImmutableSandboxedEnvironment(loader=loader, undefined=StrictUndefined).get_template(f"{step}.j2")


def render_prompt(profile: str, step: str, **variables: str) -> str:
    r"""Fill a step's template.

    Raises:
        ValueError: no such profile or step.
        jinja2.UndefinedError: the template names a variable that was not given.

    >>> render_prompt("compact", "new_prompt", prompt="Sort the list 3 1 2.", completion="")
    'Write a new and harder task like this.\nTask: Sort the list 3 1 2.'
    """
    return _load_template(profile, step).render(**variables)


def build_messages(profile: str, prompt: str) -> list[dict[str, str]]:
    """The chat messages that ask a prompt: the profile's system message, where it has one, then the user's."""
    system = render_prompt(profile, "system")
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]


def hash_templates(profile: str) -> str:
    """The sha256 of a profile's templates, part of an experiment's fingerprint."""
    digest = hashlib.sha256()
    for step in STEPS:
        digest.update(step.encode() + b"\0" + (_FOLDER / profile / f"{step}.j2").read_bytes() + b"\0")
    return digest.hexdigest()
