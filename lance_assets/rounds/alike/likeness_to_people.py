"""How far a round's texts can be told from the seeds, by the vectors that the history holds: a part of its report."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from lance_assets.algorithms.filters.contract import Candidate, list_written
from lance_assets.algorithms.measures.human_likeness import FEWEST, measure_human_likeness
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.conversations import show_prompt
from lance_assets.rounds.round import Round

MOST_COMPARED = 512
"""Seeds that texts are compared with: more tell hardly more, and each is embedded once."""


def compare_with_people(
    this_round: Round, cleaned: pl.DataFrame, row_ids: Sequence[str], vectors: np.ndarray
) -> float | None:
    """How far the round's texts can be told from the seeds that people wrote; None where that cannot be measured.

    Prompts that a model wrote are compared with the seeds' prompts, where there are no completions; otherwise the rows
    of which a model wrote the completion are, with seeds and their completions.

    Args:
        this_round: the round.
        cleaned: its kept rows, schema `CLEANED_SET`.
        row_ids: of the texts that have vectors.
        vectors: float32 [num_texts, dim], theirs.
    """
    prompts = this_round.plan.recipe.compared_prompts
    pairs = cleaned.filter(~pl.col("kind").is_in(prompts))
    compared = pairs if len(pairs) else cleaned
    is_ours = [bool(list_written(Candidate("", kind, "", "", "prompt", "completion"))) for kind in compared["kind"]]
    own = dict(compared.filter(pl.Series(is_ours, dtype=pl.Boolean)).select("row_id", "prompt").iter_rows())
    places = [place for place, row_id in enumerate(row_ids) if row_id in own]
    # Seeds before any round added to them, which people wrote.
    seeds = this_round.read("seed_set", START_ROUND)
    if min(len(places), len(seeds)) < FEWEST:
        return None
    seeds = seeds.gather_every(-(-len(seeds) // MOST_COMPARED))
    shown = [show_prompt(prompt) for prompt in seeds["prompt"]]
    texts = [f"{prompt}\n{completion}" for prompt, completion in zip(shown, seeds["completion"], strict=True)]
    return measure_human_likeness(
        this_round.embed(texts if len(pairs) else shown),
        vectors[places],
        human_groups=seeds["prompt"].to_list(),
        generated_groups=[own[row_ids[place]] for place in places],
    )
