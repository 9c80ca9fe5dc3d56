"""What a round takes over from all rounds before it: the weights of its parent, and the tables that it reads of them.

Dagster knows no edge between rounds, so this is the one place that says what such an edge would carry.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import polars as pl

from lance_assets.algorithms.measures.progress import (
    START_ROUND,
    choose_parent_round,
    format_round,
    list_rejected_rounds,
    parse_round,
)
from lance_assets.records import HANDOVER
from lance_assets.rounds.gold import list_misled_rounds
from lance_assets.rounds.headline import read_outcomes
from lance_assets.rounds.nouns import list_handed_over_of
from lance_assets.rounds.round import Round


@dataclass(frozen=True)
class Handover:
    """What a round takes over."""

    parent: str | None
    """The round whose checkpoint it starts from; None for the base model."""
    content_hash: str
    """Of that checkpoint."""
    left_out: tuple[str, ...] = ()
    """Earlier rounds that were rejected, and without whose data this one is made."""
    tables: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=HANDOVER))
    """The hash of every table of earlier rounds that it may read, schema `HANDOVER`; without rows in r0000."""

    @property
    def version(self) -> str:
        """A hash of all of it, 64 hex digits."""
        digest = hashlib.sha256(self.content_hash.encode())
        for content_hash in self.tables["content_hash"]:
            digest.update(content_hash.encode())
        if self.left_out:
            digest.update(f"without {' '.join(self.left_out)}".encode())
        return digest.hexdigest()


def find_parent(this_round: Round) -> tuple[str | None, tuple[str, ...]]:
    """By the experiment's rules the round that this one starts from, and the rounds whose data it leaves out.

    Those are the rejected ones, and those whose reviews scored wrong rows higher than right ones.

    Returns:
        The parent, None for the base model; and round keys, oldest first.

    Raises:
        ValueError: the round before has no finished eval_report.
    """
    if this_round.is_start:
        return None, ()
    stop, outcomes = this_round.plan.settings.stop, read_outcomes(this_round, this_round.earlier_keys)
    parent = choose_parent_round(outcomes, before=this_round.key, on_regression=stop.on_regression)
    if stop.rejected_data != "leave_out":
        return parent, ()
    rejected = list_rejected_rounds(outcomes, on_regression=stop.on_regression)
    # The seeds of r0000 are no data of a rejected round, and neither are those of the parent.
    rejected = [key for key in rejected if key not in (START_ROUND, parent)]
    # What a round trained is judged by its evaluation, and what it brought by its reviews.
    misled = list_misled_rounds(this_round, this_round.earlier_keys)
    return parent, tuple(key for key in this_round.earlier_keys if key in (*rejected, *misled))


def find_handover(this_round: Round, parent: Handover | None = None) -> Handover:
    """What earlier rounds hand over to this one as their tables are now.

    Args:
        this_round: the round that takes it over.
        parent: the parent and its weights, where they are known; None: chosen now, with the weights that the parent
            recorded, so that no large file is read.

    Raises:
        ValueError: the round before has no finished eval_report.
        MissingTableError: an earlier round has not made a table that it hands over.
    """
    if parent is None:
        key, left_out = find_parent(this_round)
        if key is None:
            parent = Handover(None, this_round.platform.checkpoints.hash_checkpoint(this_round.model_path(None)))
        else:
            parent = Handover(key, this_round.read("checkpoint", key)["content_hash"][0], left_out)
    tables, name = this_round.platform.tables, this_round.plan.name
    rows = [
        {"round": key, "noun": noun, "content_hash": tables.hash(name, key, noun)}
        for key in this_round.earlier_keys
        for noun in list_handed_over_of(this_round.plan, tables, key)
    ]
    return replace(parent, tables=pl.DataFrame(rows, schema=HANDOVER))


class Change(NamedTuple):
    """One thing that earlier rounds hand over otherwise than when a round began."""

    round_key: str | None
    """The earlier round it is of; None where that is not known, or of the base model."""
    what: str
    """In words, such as `r0001 sft_set`."""


def list_changes(this_round: Round, now: Handover) -> list[Change]:
    """What differs from what the round began with.

    Args:
        this_round: the round.
        now: what it would take over now.
    """
    start = this_round.read("start_checkpoint").row(0, named=True)
    changed: list[Change] = []
    if (start["parent_round"], start["content_hash"]) != (now.parent, now.content_hash):
        changed.append(Change(now.parent, f"the checkpoint of {now.parent}" if now.parent else "the base model"))
    if tuple(start["left_out"]) != now.left_out:
        changed.append(Change(None, "the rejected rounds whose data is left out"))
    # Rounds of an older version of this project kept the hash of all tables alone.
    if this_round.has("handover", this_round.key):
        before = this_round.read("handover")
        both = now.tables.join(before, on=["round", "noun"], how="left", suffix="_before", maintain_order="left")
        is_new = pl.col("content_hash") != pl.col("content_hash_before").fill_null("")
        rows = both.filter(is_new).select("round", "noun").iter_rows()
        changed += [Change(key, f"{key} {noun}") for key, noun in rows]
    return changed or [Change(None, "a table of an earlier round")]


def find_first_to_redo(this_round: Round, changes: Sequence[Change]) -> str:
    """The first round that began before something changed: rounds after the changed one, in their order."""
    keys = [change.round_key for change in changes if change.round_key is not None]
    return min([format_round(parse_round(key) + 1) for key in keys], default=this_round.key)
