"""Rows that wait, taken out as a file and brought back with decisions: one JSON object a line.

A line has what identifies its row (`key`), what a person needs to decide (`prompt`, `completion`, `review_score`,
`reviews`), and five empty fields: `decision`, `edited`, `score`, `who` and `note`. A line whose `decision` is still
empty comes back undecided. A file is taken whole or not at all, and one that was taken before changes nothing.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lance_assets.rounds.deciding.applying import list_decidable
from lance_assets.rounds.deciding.decisions import Decision, Ledger, Scale, decide, hash_text

FIELDS = ("decision", "edited", "score", "who", "note")
"""What a person fills in."""
TEXTS = ("prompt", "completion")
"""What a person must not change, since the row is known by it."""
MAX_TOLD = 5
"""So many mistakes of a file are told at once."""


class DecisionFileError(ValueError):
    """A file of decisions cannot be taken: each mistake with its place, its value and the remedy."""


@dataclass(frozen=True)
class Known:
    """The rows of an experiment that can be decided about."""

    experiment: str
    """Whose rows."""
    rows: Mapping[str, Mapping[str, Any]]
    """By the key of its text a row of the newest round that has it, with `round`."""

    def find(self, row: str) -> Mapping[str, Any]:
        """A row by its id or key, or the first digits of one.

        Raises:
            ValueError: there is none, or several.
        """
        found = [one for key, one in self.rows.items() if one["row_id"].startswith(row) or key.startswith(row)]
        if len(found) != 1:
            what = f"{len(found)} rows begin with" if found else "there is no reviewed row"
            raise ValueError(
                f"{what} {row!r} in {self.experiment}; lance review {self.experiment} lists those that wait, with "
                "their ids"
            )
        return found[0]


def know_rows(experiment: str, reviewed: Mapping[str, pl.DataFrame]) -> Known:
    """The rows that can be decided about.

    Args:
        experiment: whose.
        reviewed: the reviewed set of each round, oldest first.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for key, table in reviewed.items():
        for row in list_decidable(table).to_dicts():
            rows[hash_text(row["prompt"], row["completion"])] = row | {"round": key}
    return Known(experiment, rows)


def describe_row(row: Mapping[str, Any], round_key: str) -> dict[str, Any]:
    """What a person is shown of a row, with what identifies it."""
    shown = ("row_id", "kind", "prompt", "completion", "review_score", "reviews")
    known_by = {"key": hash_text(row["prompt"], row["completion"]), "round": round_key}
    return known_by | {name: row[name] for name in shown}


def write_lines(rows: Iterable[Mapping[str, Any]], round_key: str) -> bytes:
    """Rows of a round as JSONL, undecided."""
    empty = dict.fromkeys(FIELDS)
    lines = (json.dumps(describe_row(row, round_key) | empty, ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


@dataclass(frozen=True)
class Answer:
    """What a person said of a row in a file."""

    place: str
    """Where it stands in the file, for messages."""
    key: str
    """The row."""
    values: Mapping[str, Any]
    """The values of `FIELDS`, and `at` where the file says when."""
    texts: Mapping[str, Any]
    """The texts of the row as the file has them, to see whether they were changed."""


def read_lines(content: str) -> Iterator[Answer]:
    """The decided lines of a JSONL file.

    Raises:
        ValueError: a line is no object with a key; the message names the line.
    """
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON ({error}): {line[:60]!r}") from error
        if not isinstance(values, dict) or not isinstance(values.get("key"), str):
            raise ValueError(f"line {number} has no 'key', by which its row is known: {line[:60]!r}")
        if unknown := sorted(set(values) - {*FIELDS, *TEXTS, "at", "key", "round", "row_id", "kind"} - _SHOWN):
            raise ValueError(f"line {number} has the unknown field {unknown[0]!r}; fill in {', '.join(FIELDS)}")
        if values.get("decision") not in (None, ""):
            given = {name: values.get(name) for name in (*FIELDS, "at")}
            yield Answer(f"line {number}", values["key"], given, {name: values.get(name) for name in TEXTS})


_SHOWN = {"review_score", "reviews"}


def take_answers(
    answers: Iterable[Answer], known: Known, ledger: Ledger, *, scale: Scale | None, who: str | None, file: Path
) -> list[Decision]:
    """The decisions that a file adds.

    Args:
        answers: what the file says.
        known: the rows that can be decided about.
        ledger: what is decided already.
        scale: the reviewer's.
        who: the person where the file does not say; None: it has to.
        file: named in messages.

    Returns:
        Those that are new. One that says what counts already for its row is left out, unless the file says when.

    Raises:
        DecisionFileError: the file has mistakes; nothing of it is taken.
    """
    taken: list[Decision] = []
    mistakes: list[str] = []
    try:
        for answer in answers:
            try:
                taken += _take(answer, known, ledger, scale=scale, who=who)
            except ValueError as error:
                mistakes.append(f"{answer.place}: {error}")
    except ValueError as error:
        mistakes.append(str(error))
    if mistakes:
        more = f"\nand {len(mistakes) - MAX_TOLD} more" if len(mistakes) > MAX_TOLD else ""
        told = "\n".join(f"{file} {mistake}" for mistake in mistakes[:MAX_TOLD])
        raise DecisionFileError(f"{told}{more}\nNothing of the file was taken; correct it and give it again")
    return taken


def _take(answer: Answer, known: Known, ledger: Ledger, *, scale: Scale | None, who: str | None) -> Sequence[Decision]:
    if answer.key not in known.rows:
        raise ValueError(f"key {answer.key[:40]!r} is of no reviewed row of {known.experiment}; write the file again")
    row = known.rows[answer.key]
    for name in TEXTS:
        if answer.texts[name] is not None and answer.texts[name] != row[name]:
            raise ValueError(f"the {name} was changed to {str(answer.texts[name])[:60]!r}; write a text into 'edited'")
    values = {name: value for name, value in answer.values.items() if value not in (None, "")}
    score = values.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise ValueError(f"score must be a number, got {score!r}")
    for name in ("decision", "edited", "who", "note", "at"):
        if name in values and not isinstance(values[name], str):
            raise ValueError(f"{name} must be a text, got {values[name]!r}")
    decision = decide(
        row["prompt"],
        row["completion"],
        values["decision"],
        who=values.get("who") or who or "",
        scale=scale,
        at=values.get("at"),
        edited=values.get("edited"),
        score=score,
        note=values.get("note", ""),
    )
    own = ledger.by_key.get(decision.key, [])
    is_same = bool(own) and own[-1].said == decision.said
    return [] if is_same and "at" not in values else [decision]
