"""What the command prints of rounds that are finished: the leaderboard, a round's tables and rows, a row's story."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl

from lance_assets.algorithms.measures.progress import parse_round
from lance_assets.conversations import show_prompt
from lance_assets.home import find_data_root
from lance_assets.rounds.finished.trace import LIKENESS, LINKS, Entry, Story, Tables, find_row_ids, trace_row
from lance_assets.rounds.headline import read_headline
from lance_assets.rounds.nouns import list_schemas
from lance_assets.rounds.overrides import read_overrides
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.report import format_score
from lance_assets.settings.evaluation import EvaluationSettings
from lance_assets.settings.overrides import format_value

Say = Callable[[str], None]
"""Takes text that a person reads."""

FACTS = ("kind", "source", "drop_reason", "decision", "decided_by", "note")
"""Columns of a row that a story shows as they are."""

WIDTH = 96
"""Characters of a row's text that a story shows."""


def open_platform() -> Platform:
    """The platform on the data of LANCE_HOME."""
    return Platform(data_root=str(find_data_root()))


def print_leaderboard(
    plans: Mapping[str, Plan | str], platform: Platform, *, markdown: Path | None, picture: Path | None, say: Say
) -> None:
    """Print the leaderboard, and write it where asked; without any round no picture is drawn."""
    from lance_assets.pictures.leaderboard import (
        draw_leaderboard,
        list_left_out,
        tabulate_all_rounds,
        tabulate_experiments,
        tabulate_seconds,
    )
    from lance_assets.rounds.finished.leaderboard import read_leaderboard
    from resources.stores.files import write_file_atomically

    broken = {name: plan for name, plan in plans.items() if isinstance(plan, str)}
    rows, unread = read_leaderboard([plan for plan in plans.values() if isinstance(plan, Plan)], platform)
    table = tabulate_experiments(rows)
    say("\n\n".join([table, *([tabulate_all_rounds(rows), tabulate_seconds(rows)] if len(rows) else [])]))
    say(f"\nLeft out:\n\n{list_left_out(broken | unread)}")
    if markdown is not None:
        write_file_atomically(markdown, f"{table}\n".encode())
    if picture is not None and len(rows):
        draw_leaderboard(rows).savefig(picture, format="png", dpi=110, metadata={"Software": None})


def list_tables(platform: Platform, experiment: str) -> list[tuple[str, str]]:
    """Round and name of every table of an experiment, in the order in which they were made.

    Raises:
        ValueError: the experiment has no tables.
    """
    rounds = sorted(platform.root.joinpath("tables", experiment).glob("r[0-9]*"))
    found = [(path.name, noun) for path in rounds for noun in list_schemas() if (path / f"{noun}.parquet").is_file()]
    if not found:
        there = ", ".join(platform.tables.list_experiments()) or "none"
        raise ValueError(f"no round of {experiment!r} in {platform.root / 'tables'}; experiments with rounds: {there}")
    return found


def read_table(platform: Platform, experiment: str, round_key: str, noun: str) -> pl.DataFrame:
    """A table that a person asks for by name.

    Raises:
        ValueError: the round key is no round's, there is no such table, or it was written by another version.
        OSError: the round has not made it.
    """
    parse_round(round_key)
    if noun not in list_schemas():
        raise ValueError(f"there is no table {noun!r}; choose one of {', '.join(list_schemas())}")
    if (round_key, noun) not in (found := list_tables(platform, experiment)):
        in_round = ", ".join(name for key, name in found if key == round_key)
        rounds = ", ".join(dict.fromkeys(key for key, _ in found))
        there = f"it has {in_round}" if in_round else f"{experiment} has the rounds {rounds}"
        raise ValueError(f"{experiment} {round_key} has no table {noun!r}; {there}")
    return platform.tables.read(experiment, round_key, noun, schema=list_schemas()[noun])


def show_round(
    platform: Platform, experiment: str, round_key: str, *, evaluation: EvaluationSettings | None = None, say: Say
) -> None:
    """Print the tables of a round with their rows, and its score.

    Args:
        platform: where the tables are.
        experiment: whose.
        round_key: of which round.
        evaluation: names the score, as the experiment's file does; None where there is no such file any more.
        say: takes the text.
    """
    parse_round(round_key)
    nouns = [noun for key, noun in list_tables(platform, experiment) if key == round_key]
    if not nouns:
        rounds = ", ".join(dict.fromkeys(key for key, _ in list_tables(platform, experiment)))
        raise ValueError(f"{experiment} has no round {round_key}; it has {rounds}")
    say(f"{experiment} {round_key}")
    # The file may be gone, so that its values are not known here.
    own = read_overrides(platform.tables, experiment, round_key).values
    if own:
        said = ", ".join(f"{path} {format_value(value)}" for path, value in sorted(own.items()))
        say(f"  in place of the file's settings: {said}")
    for noun in nouns:
        say(f"  {noun:<18}{len(read_table(platform, experiment, round_key, noun)):>8} rows")
    if "eval_report" in nouns:
        report = read_table(platform, experiment, round_key, "eval_report")
        headline = read_headline(report, evaluation=evaluation)
        if headline is not None:
            direction = "" if headline["higher_is_better"] else "; lower is better"
            say(f"score: {format_score(headline)} ({headline['benchmark']} {headline['metric']}{direction})")


def show_rows(
    platform: Platform,
    experiment: str,
    round_key: str,
    noun: str,
    *,
    num_rows: int,
    where: Sequence[str],
    say: Say,
) -> None:
    """Print rows of a table whole, one column a line.

    Args:
        platform: where the tables are.
        experiment: whose.
        round_key: of which round.
        noun: the table.
        num_rows: the first rows, at most so many.
        where: conditions `column=value` that rows keep; `column=` keeps the rows that have none.
        say: takes the text.
    """
    table = read_table(platform, experiment, round_key, noun)
    kept = filter_rows(table, where)
    conditions = f" with {', '.join(where)}" if where else ""
    say(f"{experiment} {round_key} {noun}: {len(kept)} of {len(table)} rows{conditions}")
    for place, row in enumerate(kept.head(num_rows).to_dicts(), 1):
        say(f"\n-- {place} of {len(kept)}")
        say(format_row(row))


def filter_rows(table: pl.DataFrame, where: Sequence[str]) -> pl.DataFrame:
    """The rows that keep every condition.

    Raises:
        ValueError: a condition is not `column=value`, or names no column.
    """
    for condition in where:
        column, equals, value = condition.partition("=")
        if not equals:
            raise ValueError(f"--where takes column=value, got {condition!r}")
        if column not in table.columns:
            raise ValueError(f"--where: there is no column {column!r}; choose one of {', '.join(table.columns)}")
        as_text = pl.col(column).cast(pl.String, strict=False)
        table = table.filter(pl.col(column).is_null() if value == "" else as_text == value)
    return table


def format_row(row: Mapping[str, object]) -> str:
    """A row whole, one column a line; the lines of a text are indented below one another, turns as a transcript."""
    width = max(map(len, row)) + 2
    lines = []
    for name, value in row.items():
        first, *others = _write_value(name, value).splitlines() or [""]
        lines += [f"{name:<{width}}{first}", *(f"{'':<{width}}{line}" for line in others)]
    return "\n".join(lines)


def _write_value(name: str, value: object) -> str:
    text = "-" if value is None else str(value)
    return show_prompt(text) if name == "prompt" else text


def show_story(platform: Platform, row: str, *, experiment: str | None, say: Say) -> None:
    """Print a row's story.

    Raises:
        ValueError: no table has a row whose id begins so, or several have.
    """
    names = platform.tables.list_experiments() if experiment is None else [experiment]
    found: dict[tuple[str, str], Tables] = {}
    for name in names:
        tables = {
            (key, noun): platform.tables.read(name, key, noun, schema=list_schemas()[noun])
            for key, noun in list_tables(platform, name)
        }
        found |= {(name, row_id): tables for row_id in find_row_ids(tables, row)}
    if len(found) != 1:
        if not found:
            raise ValueError(
                f"no row {row!r} in {', '.join(names) or platform.root}; a row id is 16 hexadecimal digits, "
                "which `lance show EXPERIMENT ROUND TABLE` prints"
            )
        several = ", ".join(f"{row_id} of {name}" for name, row_id in list(found)[:5])
        raise ValueError(f"{len(found)} rows begin with {row!r}: {several}; give more digits, or --experiment")
    ((name, row_id),) = found
    say(format_story(name, trace_row(found[name, row_id], row_id)))


def format_story(experiment: str, story: Story) -> str:
    """A story as text: what the row comes from, the row whole, what came of it, and which checkpoints saw it."""
    parts = [f"{experiment} {story.row_id}"]
    own = [entry for entry in story.entries if entry.relation == "itself"]
    headings = {"source": "It comes from", "result": "What came of it", "like": "Rows it is like"}
    for relation in ("source", "itself", "result", "like"):
        entries = [entry for entry in story.entries if entry.relation == relation]
        if relation == "itself":
            parts += [f"\n{entry.round_key} {entry.table}\n{format_row(entry.row)}" for entry in own]
        elif entries:
            parts.append("\n".join([f"\n{headings[relation]} ({len(entries)}):", *map(format_entry, entries)]))
    seen = [f"  {key} by {', '.join(names)}" for key, names in story.training_sets.items()]
    parts.append("\n".join(["\nCheckpoints that trained on it, or on what came of it:", *(seen or ["  none"])]))
    return "\n".join(parts)


def format_entry(entry: Entry) -> str:
    """An entry on one line: its place, its id, what it is, the rows it names, and the beginning of its text."""
    row = entry.row
    named = [f"{link}={row[link]}" for link in (*LINKS, *LIKENESS) if link in row and row[link] is not None]
    facts = [str(row[name]) for name in FACTS if row.get(name)]
    names = ("completion", "prompt", "raw_text", "text")
    texts = [_write_value(name, row[name]) for name in names if row.get(name)]
    text = " ".join(texts[0].split()) if texts else ""
    short = text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
    return "  ".join(["", entry.round_key, f"{entry.table:<16}", str(row["row_id"]), *facts, *named, short]).rstrip()
