"""start_checkpoint: what a round begins with. The edge between rounds that Dagster cannot declare is resolved here."""

import hashlib

import polars as pl

from lance_assets.algorithms.measures.progress import choose_parent_round
from lance_assets.records import START_CHECKPOINT
from lance_assets.rounds.nouns import list_handed_over
from lance_assets.rounds.outcomes import read_outcomes
from lance_assets.rounds.report import Judged, Made, Report
from lance_assets.rounds.round import Round
from resources.models.model_folders import require_chat_template, validate_model_folder

BASE_MODEL = "none: the base model"
"""What is shown in place of a parent round."""


def make(this_round: Round) -> Made:
    """Choose the parent round and record its checkpoint and everything it hands over.

    Raises:
        ValueError: the folder of the parent's checkpoint does not hold what was recorded.
    """
    parent = None
    if not this_round.is_start:
        outcomes = read_outcomes(this_round, this_round.earlier_keys)
        rule = this_round.plan.settings.stop.on_regression
        parent = choose_parent_round(outcomes, before=this_round.key, on_regression=rule)
    path = this_round.model_path(parent)
    validate_model_folder(path)
    require_chat_template(path)
    content_hash = this_round.platform.checkpoints.hash_checkpoint(path)
    if parent is not None and this_round.read("checkpoint", parent)["content_hash"][0] != content_hash:
        raise ValueError(
            f"the folder of {parent}'s checkpoint ({path}) does not hold what was recorded; "
            f"materialize checkpoint of {parent} again"
        )
    digest = hashlib.sha256(content_hash.encode())
    for key in this_round.earlier_keys:
        for noun in list_handed_over(this_round.plan):
            digest.update(this_round.platform.tables.hash(this_round.plan.name, key, noun).encode())
    handover = digest.hexdigest()
    row = {"parent_round": parent, "content_hash": content_hash, "handover_hash": handover}
    return Made(pl.DataFrame([row], schema=START_CHECKPOINT), version=handover)


def report(this_round: Round) -> Report:
    """The folder, its content and the parent round."""
    row = this_round.read("start_checkpoint").row(0, named=True)
    return {
        "path": this_round.model_path(row["parent_round"]),
        "content_hash": row["content_hash"],
        "parent_round": row["parent_round"] or BASE_MODEL,
    }


def is_newest(this_round: Round) -> Judged:
    """Whether the parent's checkpoint has been trained again since this round began."""
    row = this_round.read("start_checkpoint").row(0, named=True)
    parent = row["parent_round"]
    newest = this_round.platform.checkpoints.hash_checkpoint(this_round.model_path(parent))
    return Judged(
        passed=newest == row["content_hash"],
        is_error=False,
        facts={"parent_round": parent or BASE_MODEL, "started_from": row["content_hash"], "newest": newest},
    )
