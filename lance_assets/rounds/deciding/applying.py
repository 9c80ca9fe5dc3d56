"""What follows from decisions: what of a reviewed set goes on, and the training sets that are made of it.

* A rejected row goes nowhere: into no SFT set, no pair, and no later round's seeds.
* An edited completion goes on in place of the reviewed one. Without a score of the person's it has the highest, and it
  is never the rejected side of a pair: a person wrote it to be trained on.
* A scored row goes by the person's score wherever the recipe goes by scores.
* An accepted row is in the SFT set whatever its review says, as far as the recipe takes rows of its kind at all. In
  pairs it goes by its review, since there a score stands against another.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from lance_assets.recipes.contract import AnyRecipe, RoundInputs
from lance_assets.records import DECISION_SET, PREFERENCE_PAIRS, REVIEWED_SET, SFT_SET
from lance_assets.rounds.deciding.decisions import Decision, Ledger, Scale, find_scale

Inputs = RoundInputs[Any]

OWN_KIND = "seed"
"""Rows of this kind stood in the round's seed set: nobody is asked about them, since they were decided before."""


def list_decidable(reviewed: pl.DataFrame) -> pl.DataFrame:
    """The rows of a reviewed set that people may be asked about: with a completion, and not left out already."""
    is_new = (pl.col("kind") != OWN_KIND) & pl.col("drop_reason").is_null() & pl.col("completion").is_not_null()
    return reviewed.filter(is_new)


def find_outcomes(recipe: AnyRecipe, inputs: Inputs, reviewed: pl.DataFrame) -> dict[str, str]:
    """What becomes of the rows of a reviewed set by the recipe's rules: "sft", "chosen" or "rejected".

    Args:
        recipe: whose rules.
        inputs: the round.
        reviewed: schema `REVIEWED_SET`.

    Returns:
        By row id; a row that is trained on in no way is absent.
    """
    sft = recipe.build_sft_set(inputs, reviewed, pl.DataFrame(schema=SFT_SET))
    pairs = recipe.build_pairs(inputs, reviewed, pl.DataFrame(schema=PREFERENCE_PAIRS))
    sides = dict.fromkeys(pairs["rejected_id"], "rejected") | dict.fromkeys(pairs["chosen_id"], "chosen")
    return sides | dict.fromkeys(sft["source_id"], "sft")


def find_verdicts(recipe: AnyRecipe, inputs: Inputs, reviewed: pl.DataFrame, scale: Scale | None) -> dict[str, bool]:
    """Whether each row is good by its score alone: in the SFT set, or of a recipe without one the chosen of a pair.

    Args:
        recipe: whose rules.
        inputs: the round.
        reviewed: schema `REVIEWED_SET`.
        scale: the reviewer's; None where the recipe goes by no scores.

    Returns:
        By row id. Rows without a score, and rows whose score decides nothing, such as a completion that was asked to be
        worse, are absent.
    """
    if scale is None:
        return {}
    outcomes = find_outcomes(recipe, inputs, reviewed)
    best = find_outcomes(recipe, inputs, reviewed.with_columns(review_score=pl.lit(scale[1], pl.Float64)))
    candidates = {row_id for row_id, outcome in best.items() if outcome == "sft"}
    scored = set(list_decidable(reviewed).drop_nulls("review_score")["row_id"])
    if candidates:
        return {row_id: outcomes.get(row_id) == "sft" for row_id in candidates & scored}
    return {row_id: outcome == "chosen" for row_id, outcome in outcomes.items() if row_id in scored}


def build_decision_set(recipe: AnyRecipe, inputs: Inputs, reviewed: pl.DataFrame, ledger: Ledger) -> pl.DataFrame:
    """What people decided of a round's rows, with what the model's review and the person make of each.

    Args:
        recipe: the experiment's.
        inputs: the round.
        reviewed: schema `REVIEWED_SET`.
        ledger: every decision of the experiment.

    Returns:
        Schema `DECISION_SET`, in the order of the reviewed set.
    """
    decided = [
        (row, found)
        for row in reviewed.to_dicts()
        if row["completion"] is not None and (found := ledger.find(row["prompt"], row["completion"])) is not None
    ]
    scale = find_scale(inputs.settings)
    of_model = find_verdicts(recipe, inputs, reviewed, scale) if decided else {}
    scores = {row["row_id"]: found.score for row, found in decided if found.action == "score"}
    of_people = find_verdicts(recipe, inputs, give_scores(reviewed, scores), scale) if scores else {}
    rows = [
        {
            **{"row_id": row["row_id"], "kind": row["kind"], "decision": found.action, "completion": found.edited},
            **{"score": found.score, "model_score": row["review_score"]},
            **compare(row, found, of_model, of_people),
            **{"decided_by": found.who, "decided_at": found.at, "note": found.note},
            "earlier": [one.describe() for one in ledger.list_earlier(found)],
        }
        for row, found in decided
    ]
    return pl.DataFrame(rows, schema=DECISION_SET)


def compare(
    row: dict[str, Any], decision: Decision, of_model: dict[str, bool], of_people: dict[str, bool]
) -> dict[str, bool | None]:
    """Whether the model and the person would train on a row as it stood; both None where one of them says nothing.

    Args:
        row: of the reviewed set.
        decision: on it.
        of_model: the verdicts by the reviews.
        of_people: the verdicts by people's scores.
    """
    row_id, takes = row["row_id"], {"accept": True, "reject": False, "edit": False}
    # A text that a person wrote is no text that the model was judged on.
    is_own = decision.completion == row["completion"]
    person = takes[decision.action] if decision.action in takes else of_people.get(row_id)
    model = of_model.get(row_id)
    if not is_own or person is None or model is None:
        return {"model_takes": None, "person_takes": None}
    return {"model_takes": model, "person_takes": person}


def give_scores(reviewed: pl.DataFrame, scores: dict[str, float | None]) -> pl.DataFrame:
    """A reviewed set with other scores of some rows, by their ids."""
    given = [scores.get(row_id, score) for row_id, score in reviewed.select("row_id", "review_score").iter_rows()]
    return reviewed.with_columns(review_score=pl.Series(given, dtype=pl.Float64))


def apply_decisions(reviewed: pl.DataFrame, decided: pl.DataFrame, scale: Scale | None) -> pl.DataFrame:
    """A reviewed set as people left it.

    Args:
        reviewed: schema `REVIEWED_SET`.
        decided: schema `DECISION_SET`.
        scale: the reviewer's; None where the recipe goes by no scores.

    Returns:
        Schema `REVIEWED_SET`, without the rejected rows, in the same order.
    """
    own = decided.select("row_id", "decision", edited="completion", given="score")
    best = pl.lit(None if scale is None else scale[1], pl.Float64)
    is_edit = pl.col("decision").fill_null("") == "edit"
    return (
        reviewed.join(own, on="row_id", how="left", maintain_order="left")
        .filter(pl.col("decision").fill_null("") != "reject")
        .with_columns(
            completion=pl.coalesce("edited", "completion"),
            review_score=pl.coalesce("given", pl.when(is_edit).then(best), "review_score"),
        )
        .select(REVIEWED_SET.names())
    )


def build_decided_sft_set(
    recipe: AnyRecipe, inputs: Inputs, reviewed: pl.DataFrame, decided: pl.DataFrame, earlier: pl.DataFrame
) -> pl.DataFrame:
    """The SFT set of a round as people decided it, schema `SFT_SET`; arguments as of the recipe's step.

    The scores in it are those of the person, or else of the review, also where an accepted row has a low one.
    """
    scale = find_scale(inputs.settings)
    table = apply_decisions(reviewed, decided, scale)
    accepted = decided.filter(decision="accept")["row_id"].to_list()
    if scale is None or not accepted:
        return recipe.build_sft_set(inputs, table, earlier)
    lifted = give_scores(table, dict.fromkeys(accepted, scale[1]))
    built = recipe.build_sft_set(inputs, lifted, earlier)
    own = table.filter(pl.col("row_id").is_in(accepted)).select(source_id="row_id", own="review_score")
    joined = built.join(own, on="source_id", how="left", maintain_order="left")
    is_lifted = (pl.col("source_round") == inputs.round_key) & pl.col("source_id").is_in(accepted)
    scores = pl.when(is_lifted).then(pl.col("own")).otherwise(pl.col("review_score"))
    return joined.with_columns(review_score=scores).select(SFT_SET.names())


def build_decided_pairs(
    recipe: AnyRecipe, inputs: Inputs, reviewed: pl.DataFrame, decided: pl.DataFrame, earlier: pl.DataFrame
) -> pl.DataFrame:
    """The preference pairs of a round as people decided it, schema `PREFERENCE_PAIRS`; arguments as of the step."""
    table = apply_decisions(reviewed, decided, find_scale(inputs.settings))
    written = list_written(decided)
    return recipe.build_pairs(inputs, table, earlier).filter(~pl.col("rejected_id").is_in(written))


def list_written(decided: pl.DataFrame) -> Sequence[str]:
    """The rows whose text a person wrote without a score of it."""
    is_written = (pl.col("decision") == "edit") & pl.col("score").is_null()
    return decided.filter(is_written)["row_id"].to_list()
