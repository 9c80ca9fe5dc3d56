"""Which kind of rows a file has: recognised by its columns and the shapes of values, or as the experiment says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lance_assets.data_paths import find_ending
from resources.readers.column_templates import ColumnTemplate, compile_template, is_template, write_column
from resources.readers.mistakes import SeedFileError, refuse_file
from resources.readers.row_files import TEXT_TABLES, Row
from resources.readers.turns import Turns, find_role_key, is_missing

Format = Literal["auto", "prompt_completion", "alpaca", "self_instruct", "sharegpt", "messages", "trl", "preference"]
"""The kinds of rows; `auto` recognises them."""

TITLES = {
    "prompt_completion": "prompt and completion",
    "alpaca": "Alpaca",
    "self_instruct": "Self-Instruct",
    "sharegpt": "ShareGPT",
    "messages": "OpenAI messages",
    "trl": "TRL conversational",
    "preference": "preference pairs, of which the chosen completion is read,",
}
"""How a person calls them."""

PROMPTS = (("prompt",), ("instruction", "question", "query", "problem"), ("input", "inputs", "user", "human"))
"""Names of the column that holds the prompt, the surest first; two of one group are ambiguous."""
COMPLETIONS = (
    ("completion",),
    ("response", "output", "solution", "target", "targets", "assistant", "gpt", "reply", "chosen"),
    ("answer", "answers"),
)
"""Names of the column that holds the completion, the surest first."""
INPUTS = ("input", "inputs", "context")
"""Names of what an Alpaca instruction is about."""
SYSTEMS = ("system", "system_prompt", "system_message")
"""Names of a row's system message."""
HISTORIES = ("history",)
"""Names of a row's earlier turns."""
TASK = (
    *(name for group in PROMPTS for name in group),
    *(
        *INPUTS,
        *SYSTEMS,
        *HISTORIES,
        "passage",
        "document",
        "article",
        "choices",
        "options",
        "instances",
        "instructions",
    ),
    *("image", "images", "audio", "audios", "video", "videos", "tools", "functions"),
)
"""Names of columns that belong to the task, whatever the kind."""


@dataclass(frozen=True)
class Origins:
    """What an experiment says of licences and sources."""

    license: str | None = None
    """Of all rows; None: not stated."""
    license_field: str | None = None
    """The column that holds each row's."""
    source: str | None = None
    """Where all rows are from."""
    source_field: str | None = None
    """The column that holds where each row is from."""
    allowed: Sequence[str] | None = None
    """Licences of rows that are used; None: all."""


NOTHING_SAID = Origins()


@dataclass(frozen=True)
class SeedFields:
    """How an experiment says that its rows are read."""

    format: Format = "auto"
    """The kind of the rows."""
    prompt: str | None = None
    """The column of the prompt, or a template of it; None: recognised."""
    completion: str | None = None
    """The column of the completion, or a template of it; None: recognised."""
    turns: Turns = "carry"
    """What becomes of a system message and earlier turns."""
    ignore: tuple[str, ...] = ()
    """Columns of the task that are left out knowingly."""
    answer: str | None = None
    """The gold answer (a string, a number or null); None where the file has no such field."""
    answer_after: str | None = None
    """The mark before the gold answer at the end of a completion (`####` in GSM8K); the completion keeps both."""
    answer_json: bool = False
    """Whether the gold answer may be a list or an object, which is kept as JSON."""
    strip_marks: bool = False
    """Whether to remove calculator marks `<<...>>` from completions."""
    setting: str = "seeds"
    """The section of the experiment's file that errors name; empty where there is none."""
    needs_completion: bool = True
    """Whether a row without a completion is a mistake."""
    takes_empty: bool = False
    """Whether a completion may be an empty text."""
    origins: Origins = NOTHING_SAID
    """What is said of licences and sources."""


@dataclass(frozen=True)
class Reading:
    """Which column of a file plays which part."""

    kind: str
    """One of `TITLES`."""
    prompt: str | ColumnTemplate | None = None
    """The prompt, a text or a list of messages."""
    completion: str | ColumnTemplate | None = None
    """The completion, a text or a list of messages."""
    input: str | None = None
    """What is written after the prompt."""
    system: str | None = None
    """A system message."""
    history: str | None = None
    """Earlier turns."""
    dialogue: str | None = None
    """All turns."""
    dialogues: frozenset[str] = frozenset()
    """The columns that hold lists of messages; a text in another one is a text, whatever it looks like."""
    columns: tuple[str, ...] = ()
    """All columns of the file."""
    unread: tuple[str, ...] = ()
    """Those of the task that no part is given."""

    @property
    def used(self) -> set[str]:
        """The columns that are read."""
        named: set[str] = set()
        for part in (self.prompt, self.completion, self.input, self.system, self.history, self.dialogue):
            named |= part.columns if isinstance(part, ColumnTemplate) else {part} if part is not None else set()
        return named

    def describe(self) -> str:
        """The kind, and the columns of a kind that does not say them by itself."""
        title = TITLES[self.kind]
        names = (self.prompt, self.completion)
        if any(isinstance(part, ColumnTemplate) for part in names):
            return f"{title}, by a template"
        if self.kind not in ("prompt_completion", "trl") or names in (("prompt", "completion"), ("prompt", None)):
            return title
        return f"{title} (columns {' and '.join(str(part) for part in names if part)})"


def recognise(rows: Sequence[Row], fields: SeedFields) -> Reading:
    """Find which column plays which part.

    Args:
        rows: of the file, at least one.
        fields: what the experiment says.

    Raises:
        SeedFileError: the columns are of no known kind, or a part has several of them.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    finder = _Finder(rows[0], columns, fields, _find_dialogues(rows, columns))
    reading = finder.build(fields.format if fields.format != "auto" else finder.find_kind())
    names, left = {name.lower() for name in TASK}, set(columns) - reading.used - set(fields.ignore)
    # The rejected completion of a pair is no part of the task.
    dialogues = set(finder.dialogues) - set(finder.find(["rejected"]) if reading.kind == "preference" else [])
    of_task = [name for name in columns if name in left and (name.lower() in names or name in dialogues)]
    found = frozenset(finder.dialogues)
    return replace(reading, columns=tuple(columns), dialogues=found, unread=tuple(of_task))


def _find_dialogues(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, str]:
    """The columns that hold lists of messages by their first values, each with the key that says who speaks.

    Texts that look like lists are some only where all are: a prompt that quotes such a list is a text among texts.
    """
    found: dict[str, str] = {}
    for name in columns:
        values = [row.values[name] for row in rows[:1000] if name in row.values]
        values = [value for value in values if not is_missing(value)]
        key = find_role_key(values[0]) if values else None
        may_be_text = key is not None and isinstance(values[0], str)
        is_text = may_be_text and any(find_role_key(value) is None for value in values)
        if key is not None and not is_text and name.lower() not in HISTORIES:
            found[name] = key
    return found


@dataclass(frozen=True)
class _Finder:
    """Finds columns by name and shape."""

    first: Row
    """The first row."""
    columns: Sequence[str]
    """Those of all rows."""
    fields: SeedFields
    """What the experiment says."""
    dialogues: dict[str, str]
    """The columns of messages, with the key that says who speaks."""

    def find(self, names: Iterable[str], *, without: Iterable[str] = ()) -> list[str]:
        """Those of some names that are columns, whatever their case, as the file writes them."""
        present = {name.strip().lower(): name for name in reversed(self.columns)}
        present |= {name: name for name in self.columns}
        found = dict.fromkeys(present[name] for name in names if name in present)
        return [name for name in found if name not in self.fields.ignore and name not in without]

    def find_one(self, groups: Sequence[Sequence[str]], part: str, *, without: Iterable[str] = ()) -> str | None:
        """The column of a part: of the first group of names that there is one of.

        Raises:
            SeedFileError: there are two of a group.
        """
        for group in groups:
            found = self.find(group, without=without)
            if len(found) > 1:
                told = " and ".join(map(repr, found))
                raise self._refuse(f"the columns {told} may both hold the {part}; {self._say_field(part)}")
            if found:
                return found[0]
        return None

    def find_kind(self) -> str:
        """The kind of the rows by their columns."""
        if self.fields.prompt is not None or self.fields.completion is not None:
            return "prompt_completion"
        if self.find(["chosen"]) and self.find(["rejected"]):
            return "preference"
        prompt, completion = self.find(PROMPTS[0]), self.find(COMPLETIONS[0])
        dialogues = [name for name in self.dialogues if name not in self.fields.ignore]
        if any(name in dialogues for name in prompt + completion):
            return "trl"
        if dialogues and not (prompt and completion):
            return "sharegpt" if self.dialogues[dialogues[0]] == "from" else "messages"
        return "alpaca" if self.find(["instruction"]) and not prompt else "prompt_completion"

    def build(self, kind: str) -> Reading:
        """The parts of a kind.

        Raises:
            SeedFileError: a column that the kind needs is missing.
        """
        if kind in ("sharegpt", "messages"):
            reading = Reading(kind, dialogue=self._find_dialogue(kind))
        elif kind == "preference":
            reading = self._find_parts(kind, PROMPTS, (("chosen",),))
        elif kind in ("alpaca", "self_instruct"):
            reading = self._find_parts(kind, (("instruction", "prompt"),), COMPLETIONS)
            inputs = self.find(INPUTS, without=reading.used)
            reading = replace(reading, input=inputs[0] if inputs else None)
        else:
            reading = self._find_parts(kind, PROMPTS, COMPLETIONS)
        system, history = (self.find(names, without=reading.used) for names in (SYSTEMS, HISTORIES))
        return replace(reading, system=system[0] if system else None, history=history[0] if history else None)

    def _find_parts(self, kind: str, prompts: Sequence[Sequence[str]], completions: Sequence[Sequence[str]]) -> Reading:
        """The columns or templates of prompt and completion."""
        prompt, completion = self._choose(self.fields.prompt), self._choose(self.fields.completion)
        if prompt is None:
            others = Reading(kind, completion=completion).used
            prompt = self.find_one(prompts, "prompt", without=others) or self.find_one(prompts, "prompt")
        elif prompt == completion and prompt in self.dialogues:
            raise self._refuse_dialogue(str(prompt))
        if completion is None:
            others = Reading(kind, prompt).used
            # The gold answer is the completion only where nothing else is.
            gold = {self.fields.answer} if self.fields.answer is not None else set()
            completion = self.find_one(completions, "completion", without=others | gold)
            completion = completion or self.find_one(completions, "completion", without=others)
        if completion is None and self.fields.needs_completion:
            raise self._refuse_missing("completion")
        if prompt is None and completion not in self.dialogues:
            raise self._refuse_missing("prompt")
        return Reading(kind, prompt, completion)

    def _choose(self, named: str | None) -> str | ColumnTemplate | None:
        """The column or the template that the experiment names.

        Raises:
            SeedFileError: the file has no such column.
        """
        if named is None:
            return None
        if is_template(named):
            return compile_template(named)
        if named not in self.columns:
            raise self._refuse(
                f"column {named!r} is missing, found {sorted(self.columns)}; set the experiment's fields to the names "
                "that the file has, or leave them out"
            )
        return named

    def _find_dialogue(self, kind: str) -> str:
        if self.fields.prompt is not None:
            return str(self._choose(self.fields.prompt))
        found = [name for name in self.dialogues if name not in self.fields.ignore]
        if len(found) != 1:
            told = f"the columns {found} hold" if found else "no column holds"
            raise self._refuse(
                f"{told} lists of messages, as format {kind} has them, found {sorted(self.columns)}; "
                f"{self._say_field('prompt')}"
            )
        return found[0]

    def _refuse(self, what: str) -> SeedFileError:
        return refuse_file(self.first.file, what)

    def _refuse_dialogue(self, column: str) -> SeedFileError:
        kind, where = "sharegpt" if self.dialogues[column] == "from" else "messages", self.fields.setting
        return self._refuse(
            f"column {column!r} holds lists of messages, and no text; remove {where}.prompt_field and "
            f"{where}.completion_field, or keep {where}.prompt_field alone and set {where}.format: {kind}"
        )

    def _refuse_missing(self, part: str) -> SeedFileError:
        remedy = self._say_field(part)
        if self.fields.setting == "seeds":
            remedy += f', or seeds.{part} to a template such as "{write_column(self.columns[0])}"'
        if find_ending(self.first.file) in TEXT_TABLES:
            remedy += "; if these are no names, write a first line of them"
        return self._refuse(f"no column is known to hold the {part}, found {sorted(self.columns)}; {remedy}")

    def _say_field(self, part: str) -> str:
        where = self.fields.setting
        if not where:
            return f"name the column of the {part} {part!r}"
        setting = "evaluation.protected_field" if where == "evaluation" else f"{where}.{part}_field"
        other = f", or {where}.opponent: backbone" if (where, part) == ("evaluation.judge", "completion") else ""
        return f"set {setting} to the column that does{other}"
