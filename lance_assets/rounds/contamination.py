"""Prompts against every evaluation task: the world's rule, then n-grams, then embedding neighbours, with the pairs."""

from collections.abc import Sequence

import polars as pl

from lance_assets.algorithms.similarity.decontamination import find_contamination, find_nearest_evaluation
from lance_assets.rounds.report import Report, Rows
from lance_assets.rounds.round import Round


def find_contaminated(this_round: Round, row_ids: Sequence[str], prompts: Sequence[str]) -> pl.DataFrame:
    """Every prompt that belongs to the evaluation, with what it matches.

    Args:
        this_round: whose evaluation.
        row_ids: of the rows.
        prompts: theirs, as many.

    Returns:
        The columns of `find_contamination`, one row a match. Rule "held_out" is the world's own: the prompt asks a
        held-out problem, in whatever words. It takes the place of n-grams there, since problems share their wording.
    """
    evaluation = this_round.plan.settings.evaluation
    bar = evaluation.max_similarity
    found = find_contamination(row_ids, prompts, this_round.worded_prompts, ngram=evaluation.ngram)
    if bar is not None:
        known = this_round.evaluation_prompts
        vectors, known_vectors = this_round.embed(prompts), this_round.embed(known)
        near = find_contamination(
            row_ids, prompts, known, vectors=vectors, evaluation_vectors=known_vectors, max_similarity=bar
        )
        found = pl.concat([found, near.filter(pl.col("rule") == "embedding")])
    told = set(found["row_id"])
    held_out = [
        {"row_id": row_id, "prompt": prompt, "rule": "held_out", "similarity": 1.0}
        for row_id, prompt in zip(row_ids, prompts, strict=True)
        if row_id not in told and this_round.is_evaluation_prompt(prompt)
    ]
    return pl.concat([found, pl.DataFrame(held_out, schema=found.schema)]).sort("row_id", "rule")


def describe_contamination(this_round: Round, contaminated: pl.DataFrame, prompts: Sequence[str]) -> Report:
    """The matching pairs, and with a bar for embeddings the nearest pairs, even where nothing matches."""
    known = this_round.evaluation_prompts
    found: Report = {
        "num_overlapping": contaminated["row_id"].n_unique(),
        "num_evaluation_prompts": len(known),
        "matches": Rows(
            contaminated, ("rule", "similarity", "prompt", "evaluation_prompt", "shared_text"), num_rows=20
        ),
    }
    different = sorted(set(prompts))
    if different and known and this_round.plan.settings.evaluation.max_similarity is not None:
        places, similarities = find_nearest_evaluation(this_round.embed(different), this_round.embed(known))
        nearest = pl.DataFrame(
            {
                "similarity": similarities,
                "prompt": different,
                "evaluation_prompt": [known[place] for place in places],
            }
        ).sort("similarity", "prompt", descending=[True, False])
        found["nearest"] = Rows(nearest, ("similarity", "prompt", "evaluation_prompt"))
        found["highest_similarity"] = float(nearest["similarity"][0])
    return found
