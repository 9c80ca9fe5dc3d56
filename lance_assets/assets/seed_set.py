"""seed_set: what a round proposes from."""

import dagster as dg
import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import plot_histogram, preview_rows
from lance_assets.rounds.contamination import find_contaminated
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round
from resources.readers.seed_files import read_seeds


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


def make_seed_set(this_round: Round) -> Made:
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
    version = this_round.write("seed_set", seeds)
    scores = {str(source): rows["review_score"].drop_nulls().to_list() for (source,), rows in seeds.group_by("source")}
    metadata = {
        "dagster/row_count": len(seeds),
        "seed_rate": seeds.filter(pl.col("source") == "seed").height / max(len(seeds), 1),
        **counts,
        "num_evaluation_overlap": len(leaked),
        "preview_evaluation_overlap": preview_rows(leaked, ("rule", "similarity", "prompt", "evaluation_prompt")),
        "preview": preview_rows(seeds, ("prompt", "completion", "source", "review_score")),
        "scores": plot_histogram(scores, title="Review scores the pool carries", x_label="review score"),
    }
    return Made(version.content_hash, metadata)


def build_seed_set(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(**plan.asset_arguments("seed_set", kinds={"polars", "parquet"}))
    def seed_set(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """The experiment's seeds and what earlier rounds added, sampled down to the round's size."""
        return make_noun(context, platform, plan, "seed_set", make_seed_set)

    return seed_set
