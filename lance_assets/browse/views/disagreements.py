"""Where judgements of a round differ: reviews of one row among themselves, and reviews from a rule or a gold answer."""

from typing import Any

import polars as pl

from lance_assets.browse.contract import Asked, Page, View, Way
from lance_assets.browse.deciding import read_deciding
from lance_assets.browse.shelf import ROW_NUMBER, Shelf, collect
from lance_assets.rounds.gold import find_right
from lance_assets.rounds.round import Round

MAX_ROWS = 50
"""Rows of each list."""
MAX_JUDGED = 20_000
"""Reviewed rows that are held against the rule: it runs in Python, some thousands of rows a second."""


def show_disagreements(asked: Asked) -> Page:
    """The rows whose reviews spread most, those that the rule judges otherwise, and pairs the reviewer turned round."""
    shelf, name, key = asked.shelf, asked.experiment, asked.round_key
    spread, num_spread = find_spread(shelf, name, key)
    content: dict[str, Any] = {"spread": spread, "num_spread": num_spread}
    content |= find_otherwise(shelf, name, key)
    content["turned"] = find_turned_pairs(shelf, name, key)
    judged = shelf.read_if_there(name, key, "pair_judgements", ["outcome"])["outcome"]
    content["judged"] = dict(judged.filter(judged.is_in(["rejected", "flipped"])).value_counts().iter_rows())
    content["has_reviews"] = shelf.has(name, key, "reviewed_set") and shelf.count_rows(name, key, "reviewed_set") > 0
    return Page("disagreements.html", f"Disagreements of {name} {key}", content)


def find_spread(shelf: Shelf, experiment: str, round_key: str) -> tuple[list[dict[str, Any]], int]:
    """The reviewed rows whose scores are farthest apart, with `spread`, and how many rows have scores that differ."""
    if not shelf.has(experiment, round_key, "reviewed_set"):
        return [], 0
    scores = pl.col("scores")
    apart = (scores.list.max() - scores.list.min()).alias("spread")
    measured = collect(shelf.scan(experiment, round_key, "reviewed_set").select(ROW_NUMBER, apart))
    differing = measured.filter(pl.col("spread") > 0)
    widest = differing.sort("spread", descending=True, maintain_order=True).head(MAX_ROWS)
    rows = shelf.fetch(experiment, round_key, "reviewed_set", widest[ROW_NUMBER])
    return rows.with_columns(widest["spread"]).to_dicts(), len(differing)


def find_otherwise(shelf: Shelf, experiment: str, round_key: str) -> dict[str, Any]:
    """Rows beside the seeds that the rule or a gold answer judges otherwise than their reviews.

    A review says that a row is good where its score is above the round's own threshold of the SFT set, and where it has
    none, above the median of the rows that are known.
    """
    nothing: dict[str, Any] = {"praised": [], "blamed": [], "num_known": 0, "bar": None, "why": "", "num_right": 0}
    nothing |= {"num_praised": 0, "num_blamed": 0, "is_cut": False}
    plan = shelf.find_plan(experiment)
    if plan is None or not shelf.has(experiment, round_key, "reviewed_set"):
        return nothing | {
            "why": "the experiment's file, which names the rule, is gone or broken" if plan is None else ""
        }
    this_round = Round(plan, shelf.platform, round_key, lambda _: None)
    reviewed = shelf.read(experiment, round_key, "reviewed_set").head(MAX_JUDGED)
    known = reviewed.with_columns(is_right=pl.Series(find_right(this_round, reviewed), dtype=pl.Boolean))
    # A seed is trained on whatever its score is.
    known = known.filter(pl.col("kind") != "seed").filter(
        pl.col("is_right").is_not_null() & pl.col("review_score").is_not_null()
    )
    if not len(known):
        return nothing | {
            "why": "no reviewed row but the seeds has a rule or a gold answer that tells whether it is right"
        }
    deciding = read_deciding(shelf, experiment, round_key, "sft_set")
    named = [(setting, value) for setting, value in deciding.items() if "threshold" in setting]
    bar, why = (named[0][1], named[0][0]) if named else (known["review_score"].median(), "the median")
    praised = known.filter(~pl.col("is_right") & (pl.col("review_score") > bar))
    blamed = known.filter(pl.col("is_right") & (pl.col("review_score") <= bar))
    return {
        "praised": praised.sort("review_score", descending=True, maintain_order=True).head(MAX_ROWS).to_dicts(),
        "blamed": blamed.sort("review_score", maintain_order=True).head(MAX_ROWS).to_dicts(),
        "num_praised": len(praised),
        "num_blamed": len(blamed),
        "num_known": len(known),
        "num_right": int(known["is_right"].sum()),
        "bar": bar,
        "why": why,
        "is_cut": shelf.count_rows(experiment, round_key, "reviewed_set") > MAX_JUDGED,
    }


def find_turned_pairs(shelf: Shelf, experiment: str, round_key: str) -> dict[str, Any]:
    """The balanced pairs of r0000 of which the reviewer scored the worse completion at least as high as the better."""
    columns = ["row_id", "kind", "prompt", "better", "worse", "better_score", "worse_score"]
    pairs = shelf.read_if_there(experiment, round_key, "review_signal", columns)
    scored = pairs.filter(pl.col("better_score").is_not_null() & pl.col("worse_score").is_not_null())
    turned = scored.filter(pl.col("worse_score") >= pl.col("better_score"))
    widest = turned.sort(pl.col("better_score") - pl.col("worse_score"), maintain_order=True)
    return {"rows": widest.head(MAX_ROWS).to_dicts(), "number": len(turned), "of": len(scored)}


VIEW = View(
    "disagreements",
    "Disagreements",
    "Where do reviews differ among themselves, or from what is known to be right?",
    (Way("/e/{experiment}/{round_key}/disagreements", show_disagreements),),
)
