"""What `lance review` does: list the rows that wait, take single decisions, write files of rows and read them back."""

import getpass
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lance_assets.cli.reading import format_row
from lance_assets.rounds.deciding.asked import describe_open, list_asked, list_waiting
from lance_assets.rounds.deciding.decisions import Decision, decide, find_scale, keep_decisions, read_ledger
from lance_assets.rounds.deciding.exchange import Known, know_rows, read_lines, take_answers, write_lines
from lance_assets.rounds.deciding.label_studio import read_annotations, write_labeling_config, write_tasks
from lance_assets.rounds.plan import Plan, asks_people
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from resources.stores.files import write_file_atomically

Say = Callable[[str], None]
"""Takes text that a person reads."""

FORMATS = ("jsonl", "label-studio")
"""What rows are written as."""
NUM_SHOWN = 5
"""Rows of a round that are printed."""
REST = "rest"
"""In place of a row's id: every row that still waits."""


@dataclass(frozen=True)
class Said:
    """Single decisions of a command line."""

    accept: Sequence[str] = ()
    """Rows by id."""
    reject: Sequence[str] = ()
    """Rows by id."""
    score: Sequence[str] = ()
    """`ROW=SCORE`."""
    edit: str | None = None
    """A row by id."""
    completion: str | None = None
    """The text that is trained on in its place."""


def open_round(plan: Plan, platform: Platform, key: str) -> Round:
    """A round, to read."""
    return Round(plan, platform, key, lambda _: None)


def find_waiting_rounds(plan: Plan, platform: Platform) -> list[Round]:
    """The rounds that wait and have something to decide about, oldest first.

    Raises:
        ValueError: nobody is asked about rows of the experiment.
    """
    if not asks_people(plan):
        raise ValueError(
            f"{plan.name} asks nobody: human_review is none in {plan.folder / 'defs.yaml'}; set it to all, or to "
            "'sample 20'"
        )
    keys = list_waiting(platform.root, plan.name)
    return [open_round(plan, platform, key) for key in keys if platform.tables.exists(plan.name, key, "reviewed_set")]


def know(plan: Plan, platform: Platform) -> Known:
    """Every row of the experiment that can be decided about."""
    keys = [
        key for key in platform.tables.list_rounds(plan.name) if platform.tables.exists(plan.name, key, "reviewed_set")
    ]
    return know_rows(plan.name, {key: open_round(plan, platform, key).read("reviewed_set") for key in keys})


def show_waiting(plan: Plan, platform: Platform, *, say: Say) -> None:
    """Print how many rows of each round wait, and the first of them whole."""
    ledger = read_ledger(platform.root, plan.name)
    rounds = find_waiting_rounds(plan, platform)
    if not rounds:
        say(f"{plan.name}: no round waits for people; {len(ledger.decisions)} decisions are kept")
    for one in rounds:
        asked = list_asked(one, ledger)
        if asked.open_rows.is_empty():
            say(
                f"{plan.name} {one.key}: all {len(asked.rows)} rows are decided, and the round goes on: make ui, or "
                f"lance run {plan.name}"
            )
            continue
        say(describe_open(plan.name, one.key, asked))
        for row in asked.open_rows.head(NUM_SHOWN).to_dicts():
            say("\n" + format_row({name: row[name] for name in _SHOWN}))
        if len(asked.open_rows) > NUM_SHOWN:
            say(f"\nand {len(asked.open_rows) - NUM_SHOWN} more")


_SHOWN = ("row_id", "kind", "prompt", "completion", "review_score", "reviews")


def write_waiting(plan: Plan, platform: Platform, file: Path, *, form: str, say: Say) -> None:
    """Write the rows that wait into a file, for Label Studio with its labeling configuration beside it.

    Raises:
        ValueError: there is no such form, or nothing waits.
    """
    if form not in FORMATS:
        raise ValueError(f"--format is one of {', '.join(FORMATS)}, got {form!r}")
    ledger = read_ledger(platform.root, plan.name)
    waiting = {one.key: list_asked(one, ledger).open_rows for one in find_waiting_rounds(plan, platform)}
    number = sum(map(len, waiting.values()))
    if not number:
        raise ValueError(f"{plan.name}: no row waits for people, so there is nothing to write into {file}")
    # Rounds are made one after another, so that one of them waits at most, unless later ones were begun by hand.
    key, rows = next((key, rows) for key, rows in waiting.items() if len(rows))
    if form == "jsonl":
        write_file_atomically(file, write_lines(rows.to_dicts(), key))
    else:
        write_file_atomically(file, write_tasks(rows.to_dicts(), key))
        config = file.with_suffix(".xml")
        scale = find_scale(plan.settings.parameters)
        write_file_atomically(config, write_labeling_config(scale).encode())
        say(f"{config}: the labeling configuration for Label Studio")
    say(f"{file}: {len(rows)} rows of {plan.name} {key}; bring them back with: lance review {plan.name} --back {file}")


def take_file(plan: Plan, platform: Platform, file: Path, *, who: str | None, say: Say) -> None:
    """Keep the decisions of a file, all of them or none; what form it has is seen by its first sign.

    Raises:
        ValueError: the file has mistakes.
        OSError: there is no such file.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text ({error}); save it as UTF-8") from error
    answers = read_annotations(content) if content.lstrip().startswith("[") else read_lines(content)
    known, ledger = know(plan, platform), read_ledger(platform.root, plan.name)
    scale = find_scale(plan.settings.parameters)
    taken = take_answers(answers, known, ledger, scale=scale, who=who, file=file)
    keep(plan, platform, taken, say=say)


def take_single(plan: Plan, platform: Platform, said: Said, *, who: str | None, note: str, say: Say) -> None:
    """Keep the decisions of a command line.

    Raises:
        ValueError: a row is not known, or a decision does not go with its values.
    """
    known, name = know(plan, platform), who or getpass.getuser()
    scale = find_scale(plan.settings.parameters)

    def take(row: str, action: str, **given: object) -> list[Decision]:
        rows = list_rest(plan, platform) if row == REST else [known.find(row)]
        return [
            decide(one["prompt"], one["completion"], action, who=name, scale=scale, note=note, **given)  # type: ignore[arg-type]
            for one in rows
        ]

    taken = [one for row in said.accept for one in take(row, "accept")]
    taken += [one for row in said.reject for one in take(row, "reject")]
    for assignment in said.score:
        row, equals, score = assignment.rpartition("=")
        try:
            number = float(score)
        except ValueError as error:
            raise ValueError(f"--score takes ROW=SCORE, got {assignment!r}") from error
        if not equals:
            raise ValueError(f"--score takes ROW=SCORE, got {assignment!r}")
        taken += take(row, "score", score=number)
    if (said.edit is None) != (said.completion is None):
        raise ValueError("--edit ROW and --completion TEXT go together: the row, and what is trained on in its place")
    if said.edit is not None:
        taken += take(said.edit, "edit", edited=said.completion)
    keep(plan, platform, taken, say=say)


def list_rest(plan: Plan, platform: Platform) -> list[dict[str, str]]:
    """Every row that still waits."""
    ledger = read_ledger(platform.root, plan.name)
    waiting = [list_asked(one, ledger).open_rows for one in find_waiting_rounds(plan, platform)]
    return [row for rows in waiting for row in rows.to_dicts()]


def keep(plan: Plan, platform: Platform, taken: Sequence[Decision], *, say: Say) -> None:
    """Keep decisions, and say how many are new and what still waits."""
    number = keep_decisions(platform.root, plan.name, taken)
    say(f"{plan.name}: {number} new decisions are kept")
    if not asks_people(plan):
        return
    ledger = read_ledger(platform.root, plan.name)
    for one in find_waiting_rounds(plan, platform):
        asked = list_asked(one, ledger)
        say(f"{plan.name} {one.key}: {len(asked.open_rows)} of {len(asked.rows)} rows wait")
