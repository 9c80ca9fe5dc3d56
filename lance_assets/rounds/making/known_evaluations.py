"""Weights that were evaluated before in the same way: their rows are taken, and nothing is asked again.

A round that trains nothing keeps its start checkpoint, and after a rollback two rounds may end with the same weights.
Every round asks the same prompts with the same draws, so what the evaluation found of these weights is what it would
find again. Taken is only what was found with the same identity (settings, prompts, judge, code and libraries) and
beside the same base model, whose completions a judge may compare with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lance_assets.records import EVALUATED_MODELS
from lance_assets.rounds.round import Round

Tables = Mapping[str, pl.DataFrame]
"""The tables of an evaluation by name, each with a column `model`."""


@dataclass(frozen=True)
class Taken:
    """An evaluation of the same weights."""

    round_key: str
    """The round whose evaluation it is."""
    model: str
    """What that round calls the weights: "checkpoint" or "backbone"."""


def find_taken(this_round: Round, models: Mapping[str, Path]) -> dict[str, Taken]:
    """Which of the models need not be asked, and where their rows are.

    Args:
        this_round: the round that is evaluated.
        models: folders by the name of the model; of two with the same weights the last is asked.
    """
    evaluated_with, found = identify_evaluating(this_round), {}
    hashes = {model: this_round.platform.checkpoints.hash_checkpoint(path) for model, path in models.items()}
    known = {content_hash: Taken(this_round.key, model) for model, content_hash in hashes.items()}
    for key in this_round.earlier_keys:
        # A round that an older version evaluated has no such table, and its eval_report may be gone.
        if not (this_round.has("evaluated_models", key) and this_round.has("eval_report", key)):
            continue
        same = this_round.read("evaluated_models", key).filter(evaluated_with=evaluated_with)
        known |= {row["content_hash"]: Taken(key, row["model"]) for row in same.to_dicts()}
    for model, content_hash in hashes.items():
        if (taken := known[content_hash]) != Taken(this_round.key, model):
            found[model] = taken
    return found


def identify_evaluating(this_round: Round) -> str:
    """What decides an evaluation beside the weights: its identity, and the base model."""
    base = this_round.platform.checkpoints.hash_checkpoint(this_round.model_path(None))
    return f"{this_round.compute_fingerprint('eval_report')}-{base[:16]}"


def tabulate_models(this_round: Round, models: Mapping[str, Path], taken: Mapping[str, Taken]) -> pl.DataFrame:
    """Which weights were evaluated in which way, schema `EVALUATED_MODELS`."""
    rows = [
        {
            "model": model,
            "content_hash": this_round.platform.checkpoints.hash_checkpoint(path),
            "evaluated_with": identify_evaluating(this_round),
            "taken_from": f"{taken[model].model} of {taken[model].round_key}" if model in taken else None,
        }
        for model, path in models.items()
    ]
    return pl.DataFrame(rows, schema=EVALUATED_MODELS)


def add_taken(this_round: Round, made: Tables, taken: Mapping[str, Taken]) -> dict[str, pl.DataFrame]:
    """The tables of what was asked with the rows that are taken, under their name in this round, first."""
    added = {}
    for name, table in made.items():
        parts = []
        for model, source in taken.items():
            # Of two models of this round with the same weights one has been asked just now.
            known = table if source.round_key == this_round.key else this_round.read(name, source.round_key)
            parts.append(known.filter(model=source.model).with_columns(model=pl.lit(model)))
        added[name] = pl.concat([*parts, table])
    return added


def describe_taken(this_round: Round) -> dict[str, str]:
    """The fact that says in words what was taken, and from where; none where everything was asked."""
    if not this_round.has("evaluated_models", this_round.key):
        return {}
    rows = this_round.read("evaluated_models").filter(pl.col("taken_from").is_not_null()).to_dicts()
    told = [f"the {row['model']} has the weights of the {row['taken_from']}" for row in rows]
    return {"not_asked_again": "; ".join(told) + ": its evaluation is taken, with the same settings"} if told else {}
