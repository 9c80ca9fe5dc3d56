"""The funnel of a round: how many rows reach each stage, and by which reasons the others are lost, beside a round."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.browse.contract import Asked, Page, View, Way
from lance_assets.browse.selecting import NO_VALUE
from lance_assets.browse.shelf import Shelf


@dataclass(frozen=True)
class Step:
    """One line of the funnel."""

    name: str
    """What it counts."""
    table: str
    """Where its rows are."""
    where: Mapping[str, str]
    """What chooses them there, as the rows view takes it; empty for all rows."""
    number: int
    """How many there are."""
    kind: str = "stage"
    """`stage`; `part` for rows of the stage above it; `lost` for those that go no further."""

    def write_address(self, base: str) -> str:
        """Where the rows are listed."""
        return f"{base}/rows/{self.table}" + (f"?{urlencode(self.where)}" if self.where else "")


def show_funnel(asked: Asked) -> Page:
    """The funnel of a round beside another round's."""
    shelf, name, key = asked.shelf, asked.experiment, asked.round_key
    other = asked.choose_other_round()
    mine, theirs = count_steps(shelf, name, key), count_steps(shelf, name, other) if other else []
    lines = _arrange(mine, theirs)
    numbers = {
        side: {_name(step): step.number for step in steps} for side, steps in (("mine", mine), ("other", theirs))
    }
    most = max([1, *(step.number for step in [*mine, *theirs])])
    rows = [
        {
            "step": step,
            "mine": numbers["mine"].get(_name(step), 0),
            "other": numbers["other"].get(_name(step), 0),
            "address": step.write_address(f"/e/{name}/{key}"),
            "other_address": step.write_address(f"/e/{name}/{other}"),
        }
        for step in lines
    ]
    others = [one for one in shelf.list_rounds(name) if one != key]
    return Page(
        "funnel.html", f"Funnel of {name} {key}", {"rows": rows, "other": other, "others": others, "most": most}
    )


def _name(step: Step) -> tuple[str, str, str]:
    return (step.table, step.kind, step.name)


def _arrange(mine: list[Step], theirs: list[Step]) -> list[Step]:
    """The lines of both rounds: mine in their order, and what only the other round has at the end of its stage."""
    lines = list(mine)
    known = {_name(step) for step in mine}
    for step in theirs:
        if _name(step) not in known:
            same = [place for place, one in enumerate(lines) if (one.table, one.kind) == (step.table, step.kind)]
            stage = [place for place, one in enumerate(lines) if one.table == step.table]
            lines.insert(
                (same or stage or [len(lines) - 1])[-1] + 1, Step(step.name, step.table, step.where, 0, step.kind)
            )
    return lines


def count_steps(shelf: Shelf, experiment: str, round_key: str) -> list[Step]:
    """The funnel of one round, from its seeds to what it brought to the training sets."""

    def read(table: str, *columns: str) -> pl.DataFrame:
        return shelf.read_if_there(experiment, round_key, table, columns)

    raw, cleaned = read("raw_generations", "kind", "refused_reason"), read("cleaned_set", "kind", "drop_reason")
    reviewed = read("reviewed_set", "kind", "review_score", "drop_reason")
    sft, pairs = read("sft_set", "source", "source_round"), read("preference_pairs", "source_round")
    # A recipe may take rows from a pool in place of writing them; r0000 has the seeds and takes nothing.
    is_new = (pl.col("source_round") == round_key) & (pl.col("source") != "eft")
    brought = sft.filter(is_new) if round_key != START_ROUND else sft.clear()
    candidates = reviewed.filter(pl.col("kind") != "seed")
    seeds = len(read("seed_set", "row_id"))
    return [
        Step("seeds", "seed_set", {}, seeds),
        Step("generated", "raw_generations", {}, len(raw)),
        *_count_parts(raw, "raw_generations", "kind"),
        *_count_lost(raw, "raw_generations", "refused_reason"),
        Step("candidates", "cleaned_set", {}, len(cleaned)),
        *_count_parts(cleaned, "cleaned_set", "kind"),
        *_count_lost(cleaned, "cleaned_set", "drop_reason"),
        Step("kept", "cleaned_set", {"drop_reason": NO_VALUE}, cleaned["drop_reason"].null_count()),
        Step("reviewed, seeds too", "reviewed_set", {}, len(reviewed)),
        *_count_parts(reviewed, "reviewed_set", "kind"),
        *_count_lost(reviewed, "reviewed_set", "drop_reason"),
        *_count_unscored(candidates),
        Step("accepted for SFT", "sft_set", {"source_round": round_key}, len(brought)),
        Step("new pairs", "preference_pairs", {"source_round": round_key}, pairs.filter(source_round=round_key).height),
        Step("SFT rows in all", "sft_set", {}, len(sft)),
        Step("pairs in all", "preference_pairs", {}, len(pairs)),
    ]


def _count_parts(rows: pl.DataFrame, table: str, column: str) -> list[Step]:
    counts = rows[column].value_counts(sort=True).rows() if len(rows) else []
    return [Step(str(value), table, {column: str(value)}, number, "part") for value, number in counts]


def _count_lost(rows: pl.DataFrame, table: str, column: str) -> list[Step]:
    counts = rows[column].drop_nulls().value_counts(sort=True).rows() if len(rows) else []
    return [Step(str(value), table, {column: str(value)}, number, "lost") for value, number in counts]


def _count_unscored(rows: pl.DataFrame) -> list[Step]:
    number = rows["review_score"].null_count()
    return [Step("without a score", "reviewed_set", {}, number, "lost")] if number else []


VIEW = View(
    "funnel",
    "Funnel",
    "How many rows reach each stage, and why are the others lost?",
    (Way("/e/{experiment}/{round_key}/funnel", show_funnel),),
)
