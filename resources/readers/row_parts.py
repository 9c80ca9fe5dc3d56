"""The prompt and completion of each row, by the parts that its columns play.

A column that belongs to the task and would not be read is an error that names it, unless the experiment says that it is
to be left out. A row with a mistake is noted, so that one message tells all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lance_assets.conversations import Turn, quote_prompt
from resources.readers.column_templates import ColumnTemplate, write_column
from resources.readers.mistakes import Mistakes, RowError, show_value
from resources.readers.row_files import Row, Values
from resources.readers.row_kinds import INPUTS, Reading, SeedFields, recognise
from resources.readers.turns import (
    is_missing,
    list_exchanges,
    load_nested,
    read_turns,
    split_last,
    write_prompt,
)

QUOTED = 12
"""Characters from which on a text that a prompt contains is no chance; our choice."""


@dataclass(frozen=True)
class ReadRow:
    """A row whose parts are found."""

    row: Row
    """As the file has it."""
    prompt: str
    """What is asked, a conversation where it has earlier turns (`lance_assets.conversations`)."""
    completion: str | None
    """The answer; None where none is needed."""
    turns: tuple[Turn, ...] = ()
    """All turns, where the row is no plain prompt and completion."""
    is_last: bool = True
    """Whether the completion is the last one of its conversation, to which the row's gold answer belongs."""


@dataclass(frozen=True)
class ReadRows:
    """What was read."""

    rows: list[ReadRow]
    """In the order of the files."""
    reading: Reading
    """How."""


def flatten_instances(rows: Sequence[Row]) -> list[Row]:
    """Rows of Self-Instruct's seed tasks, one for each instance, with the instance's input and output as columns."""
    flat: list[Row] = []
    for row in rows:
        instances = load_nested(row.values["instances"]) if "instances" in row.values else None
        rest = {name: value for name, value in row.values.items() if name != "instances"}
        if not instances or not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
            flat.append(row)
        else:
            flat += [row._replace(values=rest | one) for one in instances]
    return flat


def read_parts(rows: Sequence[Row], fields: SeedFields, mistakes: Mistakes) -> ReadRows:
    """The prompt and completion of each row; rows with mistakes are noted and left out.

    Args:
        rows: of one experiment's files, at least one.
        fields: how they are read.
        mistakes: takes the rows that cannot be used.

    Raises:
        SeedFileError: the files as a whole cannot be read.
    """
    is_nested = {"instruction", "instances"} <= rows[0].values.keys() and fields.prompt is None
    if is_nested and fields.format in ("auto", "self_instruct"):
        rows, fields = flatten_instances(rows), replace(fields, format="self_instruct")
    reading = recognise(rows, fields)
    found: list[ReadRow] = []
    before: list[tuple[Row, Turn]] = []
    lost: dict[str, list[Row]] = {}
    read = _build_reader(reading, fields)
    for row in rows:
        try:
            parts = read(row)
        except RowError as error:
            mistakes.add(row.file, row.place, str(error))
            continue
        for name in reading.unread:
            if name in row.values and not _is_said(row.values[name], parts[-1], reading):
                lost.setdefault(name, []).append(row)
        if fields.turns == "refuse" and parts[-1].turns:
            before.append((row, parts[-1].turns[0]))
        found += parts
    for name, of_rows in lost.items():
        mistakes.add(of_rows[0].file, of_rows[0].place, _explain_lost(name, of_rows, len(rows), reading, fields))
    if before:
        row, turn = before[0]
        mistakes.add(row.file, row.place, _explain_turns(turn, len(before), len(rows)))
    return ReadRows(found, reading)


def _is_said(value: object, parts: ReadRow, reading: Reading) -> bool:
    """Whether a value says nothing, or nothing that is not read from another column."""
    if is_missing(value):
        return True
    if isinstance(value, str):
        # A prompt may quote another column, and holds a short text by chance. What the completion says is no task.
        asked, text = [parts.prompt, *(turn.text for turn in parts.turns if turn.role != "assistant")], value.strip()
        return any(text == one.strip() or (len(text) >= QUOTED and text in one) for one in asked)
    values = parts.row.values
    return any(value == values[name] for name in reading.used if name in values)


def _explain_lost(name: str, lost: Sequence[Row], num_rows: int, reading: Reading, fields: SeedFields) -> str:
    where = fields.setting
    value = show_value(lost[0].values[name])
    what = f"column {name!r} belongs to the task and would be left out of {len(lost)} of {num_rows} rows, here {value}"
    if where != "seeds":
        return f"{what}; write it into the prompt"
    prompt = reading.prompt if isinstance(reading.prompt, str) else "prompt"
    example = f"{write_column(prompt)}\\n\\n{write_column(name)}"
    remedies = [f'write it into the prompt by seeds.prompt, as in "{example}"']
    if reading.kind == "prompt_completion" and name.lower() in INPUTS and str(reading.prompt).lower() == "instruction":
        remedies.insert(0, "set seeds.format: alpaca, which joins it to the prompt")
    if name in ("messages", "conversations", "conversation"):
        remedies = ["set seeds.format: messages"]
    return f"{what}; {', '.join(remedies)}, or leave it out by seeds.ignore: [{name}]"


def _explain_turns(first: Turn, num_before: int, num_rows: int) -> str:
    return (
        f"{num_before} of {num_rows} rows have a system message or earlier turns, here "
        f"{first.role} {show_value(first.text)}, and seeds.turns is refuse; set it to carry, which keeps them as "
        "turns, to join, which writes them into the prompt, or to last, which leaves them out, or remove these rows"
    )


def _build_reader(reading: Reading, fields: SeedFields) -> Callable[[Row], list[ReadRow]]:
    """What finds the parts of a row: one, or one for each completion of a conversation."""
    prompt, completion = reading.prompt, reading.completion

    def read_turns_of(row: Row) -> list[ReadRow]:
        turns = _read_row(row.values, reading, fields)
        before, last, answer = split_last(turns)
        if answer is None and fields.needs_completion:
            raise RowError("the last message is the user's, and there is no completion; remove the row or the message")
        exchanges = list_exchanges(turns) if fields.turns == "split" else [(before, last, answer)]
        return [
            ReadRow(
                row,
                write_prompt(earlier, asked, fields.turns),
                said,
                turns=tuple(turns) if earlier else (),
                is_last=number == len(exchanges),
            )
            for number, (earlier, asked, said) in enumerate(exchanges, start=1)
        ]

    if not isinstance(prompt, str) or not isinstance(completion, str) or not fields.needs_completion:
        return read_turns_of
    if reading.input or reading.system or reading.history or fields.takes_empty or reading.used & reading.dialogues:
        return read_turns_of

    def read_texts_of(row: Row) -> list[ReadRow]:
        values = row.values
        # Most rows are two texts, and need no list of turns.
        if type(values.get(prompt)) is str and type(values.get(completion)) is str:
            asked = quote_prompt(check_text(prompt, values[prompt]))
            return [ReadRow(row, asked, check_text(completion, values[completion]))]
        return read_turns_of(row)

    return read_texts_of


def _read_row(values: Values, reading: Reading, fields: SeedFields) -> list[Turn]:
    turns: list[Turn] = []
    if reading.system is not None and not is_missing(_take(values, reading.system, optional=True)):
        turns.append(Turn("system", check_text(reading.system, values[reading.system])))
    if reading.history is not None and reading.history in values:
        turns += read_turns(reading.history, values[reading.history])
    if reading.dialogue is not None:
        said = read_turns(reading.dialogue, _take(values, reading.dialogue))
        return [turn for turn in turns if turn not in said] + said
    if reading.prompt is not None:
        asked = _read_part(values, reading.prompt, "user", reading)
        if reading.input is not None:
            asked = _add_input(values, reading.input, asked)
        turns += asked
    if reading.completion is not None and (fields.needs_completion or reading.prompt is None):
        if fields.takes_empty and isinstance(reading.completion, str) and values.get(reading.completion) == "":
            return [*turns, Turn("assistant", "")]
        answered = _read_part(values, reading.completion, "assistant", reading)
        # A chosen or rejected list often has the prompt again.
        asked = [turn for turn in turns if turn.role != "system"]
        for again in (turns, asked):
            if again and answered[: len(again)] == again:
                return turns + answered[len(again) :]
        turns += answered
    return turns


def _read_part(values: Values, part: str | ColumnTemplate, role: str, reading: Reading) -> list[Turn]:
    if isinstance(part, ColumnTemplate):
        return [Turn(role, check_text(part.text, part.render(values), what="template"))]
    value = _take(values, part)
    if part in reading.dialogues and not is_missing(value):
        return read_turns(part, value)
    return [Turn(role, check_text(part, value))]


def _add_input(values: Values, column: str, asked: list[Turn]) -> list[Turn]:
    value = _take(values, column, optional=True)
    # Self-Instruct's own mark of an instruction that needs none.
    if is_missing(value) or (isinstance(value, str) and value.strip().lower() == "<noinput>"):
        return asked
    *before, last = asked
    return [*before, Turn(last.role, f"{last.text}\n\n{check_text(column, value)}")]


def _take(values: Values, column: str, *, optional: bool = False) -> Any:
    if column not in values:
        if optional:
            return None
        raise RowError(f"field {column!r} is missing, found {sorted(values)}; add it")
    return values[column]


def check_text(column: str | None, value: object, *, what: str = "field") -> str:
    """A text as it is.

    Raises:
        RowError: it is missing, no string, empty, or no valid Unicode.
    """
    if not isinstance(value, str):
        if value is None or value != value:
            shown = "null" if value is None else "NaN"
            raise RowError(f"{what} {column!r} is empty, got {shown}; fill it or remove the row")
        kind = type(value).__name__
        raise RowError(f"{what} {column!r} must be a string, got {kind} {show_value(value)}; {_suggest(value)}")
    if not value.strip():
        raise RowError(f"{what} {column!r} is empty, got {show_value(value)}; fill it or remove the row")
    try:
        # Such a text cannot be written as UTF-8, and would fail much later, in a tokenizer.
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"{what} {column!r} has half of a surrogate pair, no character; remove it") from error
    return value


def _suggest(value: object) -> str:
    if isinstance(value, list | dict):
        return "write it as a text, or set the format whose rows have such lists"
    return "put it in quotes"
