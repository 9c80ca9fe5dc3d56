"""An experiment's own words: the files of its folder `prompts`, read once, and what is wrong with them.

    prompts/system.j2                   the system message; an empty file: none is sent
    prompts/<recipe>/<step>.j2          a step's template
    prompts/<recipe>/<step>.<list>.yaml  a list that the step's template shows, such as `shots` or `criteria`
    prompts/judge/...                   the same for the judge of the evaluation, with a `system.j2` of its own

Every mistake is found when the experiment is loaded, so that no round is asked half a prompt.
"""

import difflib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes

from lance_assets.prompts import (
    ENVIRONMENT,
    PROFILES,
    SYSTEM,
    Examples,
    PromptStep,
    Templates,
    fill_template,
    find_turns,
    list_steps,
    name_own_folder,
    read_rows,
)

FOLDER = "prompts"
"""The folder beside an experiment's file."""
_RENDERING_FAILS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


@dataclass(frozen=True)
class Asked:
    """What asks in an experiment: its recipe, or its judge, with the folder of its own words."""

    folder: str
    """The folder's name within `prompts`."""
    recipe: str
    """The recipe whose templates are asked, as an experiment names it."""
    steps: tuple[PromptStep, ...]
    """Its steps."""
    templates: tuple[Templates, ...]
    """The words of every model that is asked: the round's own, and those of the roles with a profile of their own."""


def read_own_words(folder: Path) -> dict[str, str]:
    """The text of every file of an experiment's `prompts` by its name, such as `lance/review.j2`.

    Files whose name begins with a dot are left out.

    Raises:
        ValueError: a file is no UTF-8 text.
    """
    root = folder / FOLDER
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    texts = {}
    for file in files:
        try:
            texts[file.relative_to(root).as_posix()] = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}:1: not UTF-8 text ({error.reason}); write it as UTF-8 text") from error
    return texts


def pick_own_words(own: Mapping[str, str], folder: str, *, recipe: str) -> dict[str, str]:
    """The words of one folder as those of a recipe's, its `system.j2` as the system message."""
    found = {name.removeprefix(f"{folder}/"): text for name, text in own.items() if name.startswith(f"{folder}/")}
    return {name if name == f"{SYSTEM}.j2" else f"{recipe}/{name}": text for name, text in found.items()}


def guess_steps(recipe: str) -> tuple[PromptStep, ...]:
    """The steps of a recipe that declares none, with what its own templates show; its nouns are not known."""
    steps = sorted({step for profile in PROFILES for step in list_steps(profile, recipe)})
    return tuple(PromptStep(step.rpartition("/")[2], (), (), may=tuple(_list_shown(step))) for step in steps)


def _list_shown(step: str) -> list[str]:
    recipe, shown = step.rpartition("/")[0], set()
    for profile in PROFILES:
        if step in list_steps(profile, recipe):
            words = Templates(profile).look_up(step)
            shown |= meta.find_undeclared_variables(ENVIRONMENT.parse(words.template)) - set(words.lists)
    return sorted(shown)


def find_mistakes(own: Mapping[str, str], folder: Path, asked: Sequence[Asked]) -> list[str]:
    """What is wrong with an experiment's own words, one line a mistake: file, line, what, and what there is.

    Args:
        own: as `read_own_words` reads them.
        folder: the experiment's.
        asked: the recipe, and the judge where there is one.
    """
    mistakes = []
    for name, text in own.items():
        place = f"{folder / FOLDER / name}"
        mistakes += [f"{place}:{line}: {said}" for line, said in _check_file(name, text, asked)]
    return list(dict.fromkeys(mistakes))


def _check_file(name: str, text: str, asked: Sequence[Asked]) -> Iterator[tuple[int, str]]:
    folder, _, file = name.rpartition("/")
    stem, *rest = file.split(".")
    by_folder = {one.folder: one for one in asked}
    if stem == SYSTEM and rest == ["j2"] and folder in ("", *(one.folder for one in asked[1:])):
        yield from _check_template(text, {}, variables=[], needs=(), what="the system message", may_have_turns=False)
        return
    known = _list_names(asked)
    steps = {step.name: step for step in by_folder[folder].steps} if folder in by_folder else {}
    is_template, is_list = rest == ["j2"], len(rest) == 2 and rest[1] == "yaml"
    if stem not in steps or not (is_template or is_list):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        yield 1, f"there is no such step; {hint}This experiment may have {', '.join(known)}"
        return
    one, step = by_folder[folder], steps[stem]
    if is_list and (mistakes := list(_check_list(rest[0], text, one, step))):
        yield from mistakes
        return
    for templates in one.templates:
        yield from _check_step(file, one, step, templates)


def _list_names(asked: Sequence[Asked]) -> list[str]:
    """Every name that a file of own words may have."""
    names = [f"{SYSTEM}.j2", *(f"{one.folder}/{SYSTEM}.j2" for one in asked[1:])]
    for one in asked:
        for step in one.steps:
            lists = {name for profile in PROFILES for name in _find_ours(one, step, profile)}
            names += [f"{one.folder}/{step.name}.j2", *(f"{one.folder}/{step.name}.{each}.yaml" for each in lists)]
    return sorted(names)


def _find_ours(one: Asked, step: PromptStep, profile: str) -> Mapping[str, str]:
    """The lists that the package's own template of a step has in a profile."""
    full_name = f"{one.recipe}/{step.name}"
    return Templates(profile).look_up(full_name).lists if full_name in list_steps(profile, one.recipe) else {}


def _check_step(file: str, one: Asked, step: PromptStep, templates: Templates) -> Iterator[tuple[int, str]]:
    """A step with its own words, as a model of one profile is asked with them."""
    full_name = f"{one.recipe}/{step.name}"
    # A file that is wrong by itself is described in its own turn.
    try:
        words = templates.look_up(full_name)
        rows = {name: read_rows(text) for name, text in words.lists.items()}
    except (ValueError, yaml.YAMLError):
        return
    values = {name: stand_in(name) for name in (*step.needs, *step.may)} | dict(step.given) | dict(rows)
    if file.endswith(".j2"):
        # A template may ask whether it has a list that the package has in the other profile alone.
        lists = {name for profile in PROFILES for name in _find_ours(one, step, profile)} | set(rows)
        names = [*step.variables, *sorted(lists)]
        yield from _check_template(
            *(words.template, values),
            variables=names,
            needs=step.needs,
            what=full_name,
            may_have_turns=not step.is_trained_on,
        )
        return
    shown = _find_variables(words.template)
    name = file.split(".")[1]
    if shown is not None and name not in shown:
        yield (
            1,
            (
                f"the template {full_name} of the profile {templates.profile} shows no list {name!r}; put a "
                f"{step.name}.j2 that shows it beside this file"
            ),
        )
    elif f"{name_own_folder(one.recipe)}/{step.name}.j2" not in templates.own:
        # The package's template is right by itself, so what fails is the list that is shown in it.
        yield from ((1, said) for _, said in _try_rendering(words.template, values))


def stand_in(name: str) -> object:
    """What a variable holds while a template is tried."""
    rows = [{"prompt": f"<prompt {number}>", "completion": f"<completion {number}>"} for number in (1, 2)]
    return Examples(rows) if name == "examples" else f"<{name}>"


def _find_variables(text: str) -> set[str] | None:
    """The variables that a template names; None where it cannot be read."""
    try:
        return meta.find_undeclared_variables(ENVIRONMENT.parse(text))
    except TemplateSyntaxError:
        return None


def _check_template(
    text: str,
    values: Mapping[str, object],
    *,
    variables: Sequence[str],
    needs: Sequence[str],
    what: str,
    may_have_turns: bool,
) -> Iterator[tuple[int, str]]:
    try:
        tree = ENVIRONMENT.parse(text)
        ENVIRONMENT.compile(text)
    except TemplateSyntaxError as error:
        yield error.lineno, f"not a Jinja template: {str(error.message).rstrip('.')}; correct the line or one above it"
        return
    for reference in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        yield reference.lineno, "a template cannot include another one; write its text here"
        return
    if not may_have_turns and (turns := find_turns(tree)):
        yield turns[0].lineno, f"{what} is one message; write it without turns"
        return
    found = meta.find_undeclared_variables(tree)
    there = ", ".join(variables) or "none"
    if unknown := sorted(found - set(variables)):
        for name in unknown:
            near = difflib.get_close_matches(name, variables, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            line = min(node.lineno for node in tree.find_all(nodes.Name) if node.name == name)
            yield line, f"{what} is given no variable {name!r}; {hint}The variables here are {there}"
        return
    if missing := [name for name in needs if name not in found]:
        shown = " and ".join(f"{{{{ {name} }}}}" for name in missing)
        yield 1, f"{what} has to show {shown}; the variables here are {there}"
        return
    yield from _try_rendering(text, values)


def _try_rendering(text: str, values: Mapping[str, object]) -> Iterator[tuple[int, str]]:
    """Fill a template once: what fails here would fail in a round."""
    try:
        fill_template(ENVIRONMENT.from_string(text), values)
    except _RENDERING_FAILS as error:
        # Jinja gives a template's frames the lines of the template.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
        yield (lines[-1] or 1) if lines else 1, f"it cannot be filled: {error}; correct the line"


def _check_list(name: str, text: str, one: Asked, step: PromptStep) -> Iterator[tuple[int, str]]:
    """A list by itself: its YAML, and its fields, which are those of the package's list where there is one."""
    try:
        rows = read_rows(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        yield (mark.line + 1 if mark is not None else 1), f"not YAML: {error.problem}; correct the line or one above it"
        return
    except ValueError as error:
        yield 1, str(error)
        return
    if name in step.variables:
        yield 1, f"{name!r} is a variable of {one.recipe}/{step.name}; give the list another name"
        return
    ours = [lists[name] for profile in PROFILES if name in (lists := _find_ours(one, step, profile))]
    fields = list(read_rows(ours[0])[0]) if ours else list(rows[0]) if rows else []
    lines = [node.start_mark.line + 1 for node in yaml.compose(text, Loader=yaml.SafeLoader).value]
    for row, line in zip(rows, lines, strict=True):
        if sorted(row) != sorted(fields):
            yield line, f"a row of {name} has the fields {', '.join(fields)}, got {', '.join(row) or 'none'}"
