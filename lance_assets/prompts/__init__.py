"""The words that models are asked with: one Jinja2 template per step, in four profiles, and an experiment's own.

The profile `full` is for instruction-tuned models, `full_zh` has the same in Chinese, `small` is for those below about
a billion parameters, and `compact` uses the words that the packaged small model was trained on. Each has a folder of
steps for each recipe: `lance/review` is `<profile>/lance/review.j2`. All profiles have the same steps with the same
variables, and the same parsers read the completions: what is parsed, such as `score:`, is English in all of them.

A template is one message of the user, or several turns, as few-shot examples are:

    {% for example in examples %}
    {% user %}Write a task.{% enduser %}
    {% assistant %}{{ example.prompt }}{% endassistant %}
    {% endfor %}
    {% user %}Write a task.{% enduser %}

A turn is a call of the template's own tag and never a mark in the filled text. So whatever a variable holds, it is a
part of the turn in which it is shown and opens none.

Beside a step's template there may be lists that it shows, such as few-shot examples and criteria: `new_prompt.j2` shows
the rows of `new_prompt.shots.yaml` as `shots`. A recipe whose method has a system message keeps it as `system.j2`
among its steps; without one, or where it is empty, no system message is sent.

An experiment's folder may hold words of its own, which replace the package's in whatever profile: `prompts/system.j2`,
`prompts/lance/review.j2`, `prompts/lance/new_prompt.shots.yaml`. `own_words` reads and checks them.

A recipe of a person's own is named by its module, as `my_package.my_method`. Its templates lie beside that module, in
the same layout: the step `my_package.my_method/ask` is `prompts/<profile>/my_method/ask.j2` there, and an experiment's
own is `prompts/my_method/ask.j2`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, TemplateRuntimeError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lance_assets.conversations import Turn, quote_prompt, read_conversation, show_prompt, write_conversation
from lance_assets.records import FINAL_MARKER

PROFILES = ("compact", "full", "full_zh", "small")
SYSTEM = "system"
"""The name of the template of the system message, which is no step."""
_FOLDER = Path(__file__).parent


ROLES = ("user", "assistant")
"""Who may speak in a template; the system message is a file of its own."""

_TURNS = "turns of the template"
"""Where the turns of one filling are collected: a name that no template can write."""


class Examples(tuple[Mapping[str, str], ...]):
    r"""Rows that a template shows, each with a `prompt` and a `completion`; printed as a whole, the prompts numbered.

    >>> str(Examples([{"prompt": "Sort 3 1.", "completion": "1 3"}, {"prompt": "Add 1 and 2.", "completion": "3"}]))
    '1. Sort 3 1.\n2. Add 1 and 2.'
    """

    def __str__(self) -> str:
        """The prompts, one a line, with a number from 1."""
        return "\n".join(f"{number}. {row['prompt']}" for number, row in enumerate(self, start=1))


class TurnTags(Extension):
    """The tags `{% user %}...{% enduser %}` and `{% assistant %}...{% endassistant %}`."""

    tags = set(ROLES)  # noqa: RUF012 (jinja2 declares it as an instance's)

    def parse(self, parser: Parser) -> nodes.Node:
        """Read a turn up to its end tag; a turn within another one is a mistake."""
        token = next(parser.stream)
        body = parser.parse_statements((f"name:end{token.value}",), drop_needle=True)
        if inner := find_turns(nodes.Template(body)):
            parser.fail(f"a turn within another one; end {{% {token.value} %}} before it", inner[0].lineno)
        taken = self.call_method("take", [nodes.Const(token.value), nodes.ContextReference()])
        return nodes.CallBlock(taken, [], [], body).set_lineno(token.lineno)

    def take(self, role: str, context: Context, caller: Macro) -> str:
        """Collect a turn; nothing of it is left in the text around it."""
        turns: list[Turn] | None = context.get(_TURNS)
        if turns is None:
            raise TemplateRuntimeError(f"the tag {{% {role} %}} belongs to a step's template alone")
        turns.append(Turn(role, str(caller()).strip()))
        return ""


def find_turns(tree: nodes.Template) -> list[nodes.CallBlock]:
    """Every turn of a parsed template, in order."""
    mine = f"{TurnTags.__module__}.{TurnTags.__qualname__}"
    return [
        block
        for block in tree.find_all(nodes.CallBlock)
        if isinstance(block.call.node, nodes.ExtensionAttribute) and block.call.node.identifier == mine
    ]


def fill_template(template: Template, variables: Mapping[str, Any]) -> str | list[Turn]:
    """Fill a template: its text, or its turns where it has any.

    Args:
        template: of an environment with `TurnTags`.
        variables: a value for each of its variables.

    Raises:
        ValueError: text outside of the turns, or turns that are not the user's and the assistant's alternately, from
            the user to the user.
        jinja2.TemplateError: the template cannot be filled.
    """
    turns: list[Turn] = []
    around = template.render({**variables, _TURNS: turns})
    if not turns:
        return around
    if around.strip():
        raise ValueError(f"text outside of the turns: {around.strip()[:60]!r}; put it into a turn")
    roles = [turn.role for turn in turns]
    if roles != [ROLES[place % 2] for place in range(len(roles))] or len(roles) % 2 == 0:
        raise ValueError(
            f"the turns are {', '.join(roles)}; user and assistant have to alternate, from a user's turn to a user's"
        )
    return turns


def show_question(prompt: str) -> str:
    r"""What a template asks as text to read: one turn as it is, several under the name of who speaks.

    >>> print(show_question(write_conversation([Turn("user", "1?"), Turn("assistant", "2."), Turn("user", "3?")])))
    [user]
    1?
    [assistant]
    2.
    [user]
    3?
    """
    turns = read_conversation(prompt)
    return turns[0].text if len(turns) == 1 else "\n".join(f"[{role}]\n{text}" for role, text in turns)


ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, extensions=[TurnTags])
"""What templates are read with. It has no loader: a template includes no other one."""


@dataclass(frozen=True)
class PromptStep:
    """One step in which a recipe asks, and what it gives to the step's template."""

    name: str
    """The name of the template within the recipe's folder, such as `review`."""
    nouns: tuple[str, ...]
    """The nouns that are asked with it: a changed template marks exactly these, and what is made from them."""
    needs: tuple[str, ...]
    """The texts of a row without which the question makes no sense; an own template has to show them."""
    may: tuple[str, ...] = ()
    """Further texts of a row that a template may show."""
    given: Mapping[str, str] = field(default_factory=dict)
    """What the settings give it, with its values."""
    is_asked: bool = True
    """Whether the settings use the step."""
    is_trained_on: bool = False
    """Whether its question is also the prompt of a row to train on, so that it has to be one message."""

    @property
    def variables(self) -> list[str]:
        """Every variable of the template, its lists not counted."""
        return [*self.needs, *self.may, *self.given]


@dataclass(frozen=True)
class Words:
    """A step's template with the lists that it shows, as text."""

    template: str
    """The template as written."""
    lists: Mapping[str, str]
    """The YAML of each list by its name."""
    own: tuple[str, ...]
    """Which of these files are the experiment's own, as `own_words` names them."""

    def hash(self) -> str:
        """A hash of the texts, 16 hex digits; whose they are is no part of it."""
        texts = [self.template, *(part for name in sorted(self.lists) for part in (name, self.lists[name]))]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Templates:
    """The words that one model of an experiment is asked with."""

    profile: str
    """One of `PROFILES`."""
    recipe: str = ""
    """The recipe whose system message is sent, as an experiment names it; empty for none."""
    own: Mapping[str, str] = field(default_factory=dict)
    """The experiment's own words: the text of each file by its name, such as `lance/review.j2`."""
    _found: dict[str, Words] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def system(self) -> str:
        """The text of the system message; empty where none is sent."""
        name = f"{SYSTEM}.j2"
        if name in self.own:
            return _compile(self.own[name]).render()
        file = _find_folder(self.profile, self.recipe) / name if self.recipe else None
        return _compile(file.read_text(encoding="utf-8")).render() if file is not None and file.is_file() else ""

    @property
    def is_chinese(self) -> bool:
        """Whether the profile's words are Chinese."""
        return self.profile.endswith("_zh")

    def build_messages(self, prompt: str) -> list[dict[str, str]]:
        """The chat messages of a prompt, as `build_messages` has them, with the system message of these words."""
        return build_messages(self.system, prompt)

    def render(self, step: str, **variables: object) -> str:
        r"""Fill a step's template.

        Args:
            step: `<recipe>/<step>`, the recipe as an experiment names it.
            variables: a value for each variable of the template; its lists come from their files. A `prompt` that is a
                conversation is shown as a transcript.

        Returns:
            What is asked, as a prompt: of one user turn, or a conversation where the template has turns.

        Raises:
            ValueError: no such profile or step, a list that cannot be read, or turns that do not alternate.
            jinja2.UndefinedError: the template names a variable that was not given.

        >>> Templates("compact").render("lance/new_prompt", prompt="Sort the list 3 1 2.", completion="")
        'Write a new and harder task like this.\nTask: Sort the list 3 1 2.'
        """
        words = self.look_up(step)
        lists = {name: read_rows(text) for name, text in words.lists.items()}
        shown = {name: show_prompt(str(text)) if name == "prompt" else text for name, text in variables.items()}
        filled = fill_template(_compile(words.template), {**lists, **shown})
        return quote_prompt(filled) if isinstance(filled, str) else write_conversation(filled)

    def marks_proposals(self, step: str) -> bool:
        """Whether what a proposing step asks for comes after `FINAL_MARKER`, and is no whole completion.

        It does where the step's words name the marker, and for the questions of one message of the profiles `compact`
        and `full`: the packaged small model marks its proposals without being told.
        """
        words = self.look_up(step)
        if any(FINAL_MARKER.lower() in text.lower() for text in (words.template, *words.lists.values())):
            return True
        return self.profile != "small" and not find_turns(ENVIRONMENT.parse(words.template))

    def list_shown(self, step: str) -> list[str]:
        """The texts that a step's template shows by itself: its own words, piece by piece, and those of its lists."""
        words = self.look_up(step)
        pieces = [node.data for node in ENVIRONMENT.parse(words.template).find_all(nodes.TemplateData)]
        rows = [text for written in words.lists.values() for row in read_rows(written) for text in row.values()]
        return [text.strip() for text in (*pieces, *rows) if text.strip()]

    def has(self, step: str) -> bool:
        """Whether there is a template of a step, the package's or the experiment's own."""
        recipe, _, name = step.rpartition("/")
        is_ours = self.profile in PROFILES and step in list_steps(self.profile, recipe)
        return is_ours or f"{name_own_folder(recipe)}/{name}.j2" in self.own

    def look_up(self, step: str) -> Words:
        """A step's template and lists, the experiment's own before the package's; read once.

        Raises:
            ValueError: no such profile or step.
        """
        if step not in self._found:
            self._found[step] = self._read(step)
        return self._found[step]

    def _read(self, step: str) -> Words:
        recipe, _, name = step.rpartition("/")
        own_folder = name_own_folder(recipe)
        if not self.has(step):
            steps = sorted({*_list_all(self.profile), *list_steps(self.profile, recipe)})
            raise ValueError(f"no prompt template {self.profile}/{step}; profiles: {PROFILES}, steps: {steps}")
        folder = _find_folder(self.profile, recipe)
        ours = {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.glob(f"{name}.*"))}
        theirs = {file: text for file, text in self.own.items() if file.startswith(f"{own_folder}/{name}.")}
        texts = ours | {file.rpartition("/")[2]: text for file, text in theirs.items()}
        lists = {file.split(".")[1]: text for file, text in sorted(texts.items()) if file.endswith(".yaml")}
        return Words(texts[f"{name}.j2"], lists, tuple(sorted(theirs)))


def build_messages(system: str, prompt: str) -> list[dict[str, str]]:
    """The chat messages of a prompt: the system message, and the prompt's turns.

    Args:
        system: the recipe's or the experiment's; empty for none. A prompt whose first turn is a system message of its
            own is asked with that one alone.
        prompt: one user turn, or a conversation (`conversations.write_conversation`).

    >>> build_messages("", "Sort the list 3 1 2.")
    [{'role': 'user', 'content': 'Sort the list 3 1 2.'}]
    """
    turns = read_conversation(prompt)
    is_added = system and turns[0].role != "system"
    return [
        *([{"role": "system", "content": system}] if is_added else []),
        *({"role": role, "content": text} for role, text in turns),
    ]


def name_own_folder(recipe: str) -> str:
    """The folder in an experiment's `prompts` that has a recipe's steps: the last part of its name."""
    return recipe.rpartition(".")[2]


def list_steps(profile: str, recipe: str) -> list[str]:
    """The steps of a recipe that have a template, as `Templates.render` takes them, sorted.

    >>> list_steps("compact", "lance")
    ['lance/degrade', 'lance/judge_pair', 'lance/new_prompt', 'lance/review', 'lance/yes_no']
    """
    if not recipe or "/" in recipe:
        return []
    return sorted(f"{recipe}/{path.stem}" for path in _find_folder(profile, recipe).glob("*.j2") if path.stem != SYSTEM)


def _list_all(profile: str) -> list[str]:
    folder = _FOLDER / profile
    recipes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if profile in PROFILES else []
    return [step for recipe in recipes for step in list_steps(profile, recipe)]


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
    return Path(spec.origin).parent / "prompts" / profile / name_own_folder(recipe)


@cache
def _compile(text: str) -> Template:
    return ENVIRONMENT.from_string(text)


@cache
def read_rows(text: str) -> tuple[dict[str, str], ...]:
    """The rows of a list that a template shows, without the line ends around their texts.

    Args:
        text: YAML, a list of mappings from a field to a text.

    Raises:
        ValueError: the text is no such list.
        yaml.YAMLError: the text is no YAML.

    >>> read_rows("[{of: question, text: It is clear.}]")
    ({'of': 'question', 'text': 'It is clear.'},)
    """
    rows = yaml.safe_load(text)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(part, str) for pair in row.items() for part in pair) for row in rows
    ):
        raise ValueError("it has to be a list of mappings from a field to a text; [] is a list without rows")
    return tuple({name: value.strip("\n") for name, value in row.items()} for row in rows)


def hash_words(templates: Templates, steps: Iterable[str] = ()) -> dict[str, str | None]:
    """A hash of the system message, None where none is sent, and of each step's words by its name, 16 hex digits."""
    system = hashlib.sha256(templates.system.encode()).hexdigest()[:16] if templates.system else None
    return {"system_message": system} | {step: templates.look_up(step).hash() for step in steps}
