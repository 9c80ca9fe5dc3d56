"""seed_set: what a round proposes from."""

import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.rounds.contamination import find_contaminated
from lance_assets.rounds.report import Histogram, Made, Report, Rows
from lance_assets.rounds.round import Round
from resources.readers.seed_files import read_seeds


def make(this_round: Round) -> Made:
    """Read the experiment's seeds, add what earlier rounds reviewed, and take the round's share."""
    plan = this_round.plan
    file_seeds, leaked = leave_out_evaluation(this_round, read_seeds(plan.settings.seeds, plan.folder))
    earlier = {key: this_round.read("reviewed_set", key) for key in this_round.earlier_keys if key != START_ROUND}
    if this_round.is_start:
        seeds, counts = file_seeds, {"num_pool": len(file_seeds)}
    else:
        seeds, counts = plan.recipe.build_seed_set(
            file_seeds, earlier, settings=plan.settings.parameters, identity=this_round.identity
        )
    overlap = Rows(leaked, ("rule", "similarity", "prompt", "evaluation_prompt"))
    facts: Report = {**counts, "num_evaluation_overlap": len(leaked), "preview_evaluation_overlap": overlap}
    return Made(seeds, facts=facts)


def leave_out_evaluation(this_round: Round, seeds: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The seeds that are no evaluation prompts, and what the others match: training on them would make scores a lie.

    Raises:
        ValueError: no seed is left.
    """
    leaked = find_contaminated(this_round, seeds["row_id"].to_list(), seeds["prompt"].to_list())
    leaked = leaked.unique("row_id", keep="first", maintain_order=True)
    kept = seeds.filter(~pl.col("row_id").is_in(leaked["row_id"].implode()))
    if len(leaked):
        this_round.log(f"{len(leaked)} of {len(seeds)} seeds are evaluation prompts and are left out")
    if kept.is_empty():
        raise ValueError(f"all {len(seeds)} seeds are evaluation prompts; give other seeds, or another evaluation")
    return kept, leaked


def report(this_round: Round) -> Report:
    """Some seeds, the share that the file has of them, and the scores they carry."""
    seeds = this_round.read("seed_set")
    scores = {str(source): rows["review_score"].drop_nulls().to_list() for (source,), rows in seeds.group_by("source")}
    return {
        "dagster/row_count": len(seeds),
        "seed_rate": seeds.filter(pl.col("source") == "seed").height / max(len(seeds), 1),
        "preview": Rows(seeds, ("prompt", "completion", "source", "review_score")),
        "scores": Histogram(scores, title="Review scores the pool carries", x_label="review score"),
    }
