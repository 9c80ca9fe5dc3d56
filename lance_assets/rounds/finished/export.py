"""What a round hands to other tools: its training sets in the formats that people train from, and a card.

| file | rows |
| --- | --- |
| `sft.parquet`, `.jsonl` | TRL's conversational prompt and completion, and where each row came from |
| `preference_pairs.parquet`, `.jsonl` | TRL's conversational preference pairs, and where each came from |
| `other_formats/sft_sharegpt.json` | the SFT rows as ShareGPT |
| `other_formats/sft_alpaca.json` | the SFT rows as Alpaca, with `system` and `history` |
| `README.md` | the card, whose first lines name the Parquet files, so that `datasets.load_dataset(FOLDER)` opens them |

The same round gives the same bytes. This platform reads each file as seeds again, to the same prompts and completions.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from lance_assets.conversations import Turn, read_conversation
from lance_assets.rounds.filtering.generators import find_writers
from lance_assets.rounds.filtering.origins import find_origins
from lance_assets.rounds.finished.card import write_data_card
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from resources.stores.tables import encode_table

SOURCES = ("seed", "eft", "generated")
"""What a row of an SFT set comes from."""
FORMATS = ("parquet", "jsonl", "sharegpt", "alpaca")
"""The formats that rows are written in."""
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
"""Roles as ShareGPT calls them."""
MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
"""The dtype of a column of messages."""

Message = dict[str, str]
"""A turn as TRL and the OpenAI API write it."""


def write_message(turn: Turn) -> Message:
    """A turn as a message.

    >>> write_message(Turn("user", "Name a bird."))
    {'role': 'user', 'content': 'Name a bird.'}
    """
    return {"role": turn.role, "content": turn.text}


def split_prompt(row: Mapping[str, Any], completions: Sequence[str]) -> dict[str, Any]:
    """A row in TRL's conversational form: the turns of its prompt, and each completion as a turn of the assistant.

    Args:
        row: has `prompt`, the columns of `completions`, and columns that are kept as they are.
        completions: the columns that hold what the assistant says.
    """
    prompt = [write_message(turn) for turn in read_conversation(row["prompt"])]
    replies = {name: [write_message(Turn("assistant", row[name]))] for name in completions}
    return {"prompt": prompt} | replies | {name: row[name] for name in row if name not in {"prompt", *completions}}


def write_sharegpt(prompt: str, completion: str) -> dict[str, Any]:
    """A row as ShareGPT.

    >>> write_sharegpt("Name a bird.", "A hen.")["conversations"][-1]
    {'from': 'gpt', 'value': 'A hen.'}
    """
    turns = [*read_conversation(prompt), Turn("assistant", completion)]
    return {"conversations": [{"from": SPEAKERS[turn.role], "value": turn.text} for turn in turns]}


def write_alpaca(prompt: str, completion: str) -> dict[str, Any] | None:
    """A row as Alpaca; None where its turns are not a system message at most, then questions and replies in turn.

    >>> write_alpaca("Name a bird.", "A hen.")
    {'instruction': 'Name a bird.', 'input': '', 'output': 'A hen.', 'system': '', 'history': []}
    """
    turns = read_conversation(prompt)
    system = turns[0].text if turns[0].role == "system" else ""
    said = turns[1:] if turns[0].role == "system" else turns
    if [turn.role for turn in said] != ["user", "assistant"] * (len(said) // 2) + ["user"]:
        return None
    history = [[asked.text, replied.text] for asked, replied in zip(said[:-1:2], said[1:-1:2], strict=True)]
    return {"instruction": said[-1].text, "input": "", "output": completion, "system": system, "history": history}


def export_data(
    plan: Plan,
    platform: Platform,
    round_key: str,
    *,
    sources: Sequence[str] = SOURCES,
    formats: Sequence[str] = FORMATS,
    licence: str | None = None,
    allows_nothing: bool = False,
) -> dict[str, bytes]:
    """The files of a round's training sets.

    Args:
        plan: the experiment's.
        platform: where its tables are.
        round_key: the round, whose sets hold what earlier rounds accepted too.
        sources: which SFT rows are taken; of `SOURCES`.
        formats: which files are written; of `FORMATS`.
        licence: of the data, as the hub names it, such as "apache-2.0"; None: the card says that it was not stated.
        allows_nothing: whether a round without any row gives no file, in place of an error.

    Returns:
        The bytes of each file by its path in the folder. A set without rows has no files, and the card says so.

    Raises:
        ValueError: a source is none, or there is nothing to export.
        OSError: the round has not made its training sets.
    """
    if not sources or set(sources) - set(SOURCES):
        raise ValueError(f"an SFT row comes from {', '.join(SOURCES)}, got {', '.join(sources) or 'no source'}")
    this_round = Round(plan, platform, round_key, lambda _: None)
    sft = this_round.read("sft_set").filter(pl.col("source").is_in(list(sources)))
    pairs = this_round.read("preference_pairs")
    if sft.is_empty() and pairs.is_empty():
        if allows_nothing:
            return {}
        raise ValueError(
            f"{plan.name} {round_key} has nothing to export: no preference pairs, and no SFT rows from "
            f"{', '.join(sources)}"
        )
    sft, pairs = add_origins(this_round, sft, of="source_id"), add_origins(this_round, pairs, of="chosen_id")
    files: dict[str, bytes] = {}
    if not sft.is_empty():
        rows = sft.select("prompt", "completion").rows()
        files |= _write_rows("sft", sft, ("completion",), formats)
        if "sharegpt" in formats:
            files["other_formats/sft_sharegpt.json"] = _write_json([write_sharegpt(*row) for row in rows])
        if "alpaca" in formats and None not in (alpaca := [write_alpaca(*row) for row in rows]):
            files["other_formats/sft_alpaca.json"] = _write_json(alpaca)
    if not pairs.is_empty():
        files |= _write_rows("preference_pairs", pairs, ("chosen", "rejected"), formats)
    card = write_data_card(this_round, sft, pairs, sources=sources, licence=licence, files=sorted(files))
    return files | {"README.md": card.encode()}


def add_origins(this_round: Round, rows: pl.DataFrame, *, of: str) -> pl.DataFrame:
    """Rows with the licences and sources of the seeds that they come from, as far as these are stated.

    Where several generators write, each row also has the one that wrote it (of a pair, the chosen completion); null for
    what people wrote.

    Args:
        this_round: the round.
        rows: of its SFT set or pairs, with `source_round`.
        of: the column that names the row in the reviewed_set or seed_set of that round.
    """
    settings = this_round.plan.settings
    if settings.generators:
        writers = find_writers(this_round, rows.select("source_round", of).rows())
        rows = rows.with_columns(pl.Series("generator", writers, pl.String))
    if not (settings.seeds.states_origins or (settings.texts is not None and settings.texts.license)):
        return rows
    found = find_origins(this_round, rows.select("source_round", of).rows())
    return rows.with_columns(
        pl.Series("licenses", [list(origin.licenses) for origin in found], pl.List(pl.String)),
        pl.Series("sources", [list(origin.sources) for origin in found], pl.List(pl.String)),
    )


def _write_rows(name: str, table: pl.DataFrame, completions: Sequence[str], formats: Sequence[str]) -> dict[str, bytes]:
    rows = [split_prompt(row, completions) for row in table.to_dicts()]
    messages = ("prompt", *completions)
    schema = {column: MESSAGES if column in messages else table.schema[column] for column in rows[0]}
    write = {"parquet": lambda: encode_table(pl.DataFrame(rows, schema=schema)), "jsonl": lambda: _write_lines(rows)}
    return {f"{name}.{ending}": written() for ending, written in write.items() if ending in formats}


def _write_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _write_json(rows: Sequence[Mapping[str, Any] | None]) -> bytes:
    return (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode()
