"""The seeds of a round: what each proposed, and what was kept, accepted and paired of it."""

from typing import Any

import polars as pl

from lance_assets.browse.contract import Asked, Page, View, Way
from lance_assets.browse.mistakes import BadQueryError
from lance_assets.browse.selecting import PER_PAGE
from lance_assets.browse.shelf import Shelf, collect

COLUMNS = {
    "review_score": "its own score",
    "proposed": "proposed",
    "kept": "kept",
    "reviewed": "reviewed",
    "mean_score": "mean score",
    "accepted": "accepted",
    "paired": "paired",
}
"""What is counted of a seed, with the words for it; a person sorts by any of them."""


def count_seeds(shelf: Shelf, experiment: str, round_key: str) -> pl.DataFrame:
    """A row for each seed of a round: `row_id`, `prompt`, `source` and the columns of `COLUMNS`.

    Proposed are the samples that started from the seed, reviews of the seed itself left out. Accepted are rows of the
    SFT set that this round took, and paired those preference pairs whose chosen row started from the seed.
    """

    def scan(table: str, *columns: str) -> pl.LazyFrame:
        if shelf.has(experiment, round_key, table):
            return shelf.scan(experiment, round_key, table).select(columns)
        return shelf.read_if_there(experiment, round_key, table, columns).lazy()

    seeds = scan("seed_set", "row_id", "prompt", "source", "review_score").unique("row_id", maintain_order=True)
    by_seed = pl.col("seed_id")
    raw = scan("raw_generations", "seed_id", "kind").filter(pl.col("kind") != "seed_review")
    cleaned = scan("cleaned_set", "seed_id", "drop_reason").filter(pl.col("drop_reason").is_null())
    reviewed = scan("reviewed_set", "row_id", "seed_id", "kind", "review_score").filter(pl.col("kind") != "seed")
    origin = reviewed.select("row_id", "seed_id")
    sft = scan("sft_set", "source_id", "source_round").filter(pl.col("source_round") == round_key)
    accepted = sft.join(origin, left_on="source_id", right_on="row_id")
    pairs = scan("preference_pairs", "chosen_id", "source_round").filter(pl.col("source_round") == round_key)
    # A seed may itself be the chosen one.
    ids = pl.concat([origin, seeds.select("row_id", pl.col("row_id").alias("seed_id"))]).unique("row_id")
    paired = pairs.join(ids, left_on="chosen_id", right_on="row_id")
    counted = seeds
    for name, rows in (("proposed", raw), ("kept", cleaned), ("accepted", accepted), ("paired", paired)):
        counts = rows.group_by(by_seed).agg(pl.len().alias(name))
        counted = counted.join(counts, left_on="row_id", right_on="seed_id", how="left", maintain_order="left")
    scores = reviewed.group_by(by_seed).agg(
        pl.len().alias("reviewed"), pl.col("review_score").mean().alias("mean_score")
    )
    counted = counted.join(scores, left_on="row_id", right_on="seed_id", how="left", maintain_order="left")
    # This round's review of the seed, where it has one; else the last one that an earlier round gave it.
    own = scan("reviewed_set", "row_id", "kind", "review_score").filter(pl.col("kind") == "seed")
    own = own.unique("row_id").select("row_id", pl.col("review_score").alias("own_score"))
    counted = counted.join(own, on="row_id", how="left", maintain_order="left").with_columns(
        review_score=pl.coalesce("own_score", "review_score")
    )
    zeros = [pl.col(name).fill_null(0) for name in ("proposed", "kept", "reviewed", "accepted", "paired")]
    return collect(counted.with_columns(zeros))


def show_seeds(asked: Asked) -> Page:
    """The seeds of a round, ordered by what a person asks for.

    Raises:
        BadQueryError: there is no such column, or no such page.
    """
    shelf, name, key = asked.shelf, asked.experiment, asked.round_key
    sort = asked.get("sort") or "proposed"
    if sort not in COLUMNS:
        raise BadQueryError(f"sort: seeds are not ordered by {sort!r}; choose one of {', '.join(COLUMNS)}")
    states = tuple(shelf.find_state(name, key, table) for table in shelf.list_tables(name, key))
    counted = shelf.keep(("seeds", states), lambda: count_seeds(shelf, name, key))
    is_rising = asked.get("rising") is not None
    ordered = counted.sort(sort, descending=not is_rising, nulls_last=True, maintain_order=True)
    page = _read_page(asked)
    rows = ordered.slice((page - 1) * PER_PAGE, PER_PAGE).to_dicts()
    totals: dict[str, Any] = {
        each: counted[each].sum() for each in ("proposed", "kept", "reviewed", "accepted", "paired")
    }
    content = {"rows": rows, "columns": COLUMNS, "sort": sort, "is_rising": is_rising, "totals": totals, "page": page}
    content |= {"num_seeds": len(counted), "last_page": max(1, -(-len(counted) // PER_PAGE))}
    idle = counted.filter(pl.col("proposed") == 0).height
    return Page("seeds.html", f"Seeds of {name} {key}", content | {"idle": idle})


def _read_page(asked: Asked) -> int:
    text = asked.get("page") or "1"
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) < 10**8):
        raise BadQueryError(f"page must be a whole number from 1, got {text!r}")
    return int(text)


VIEW = View(
    "seeds",
    "Seeds",
    "What did each seed propose, and what came of it?",
    (Way("/e/{experiment}/{round_key}/seeds", show_seeds),),
)
