"""sft_set: what supervised fine-tuning trains on."""

from contextlib import closing

import dagster as dg
import numpy as np
import polars as pl

from lance_assets.algorithms.measures.diversity import compute_vendi_score
from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import count_table, plot_histogram, preview_rows
from lance_assets.prompts import build_messages
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round
from resources.readers.seed_files import read_eft


def make_sft_set(this_round: Round) -> Made:
    """In r0000 the seeds and EFT rows; afterwards what the review accepted, with the earlier set."""
    plan = this_round.plan
    if this_round.is_start:
        eft = read_eft(plan.settings.seeds, plan.folder)
        table = plan.recipe.start_sft_set(
            this_round.read("seed_set"), eft, settings=plan.settings.parameters, identity=this_round.identity
        )
    else:
        table = plan.recipe.build_sft_set(
            this_round.read("reviewed_set"),
            this_round.read("sft_set", this_round.earlier_keys[-1]),
            settings=plan.settings.parameters,
            round_key=this_round.key,
        )
    version = this_round.write("sft_set", table)
    new = table.filter((pl.col("source_round") == this_round.key) & (pl.col("source") != "eft"))
    metadata = {
        "dagster/row_count": len(table),
        "num_new": len(new),
        "sources": count_table(dict(table["source"].value_counts().iter_rows()), of="source"),
        "rounds": count_table(dict(table["source_round"].value_counts().iter_rows()), of="round"),
        "scores": plot_histogram(
            {"accepted": table["review_score"].drop_nulls().to_list()}, title="Accepted", x_label="review score"
        ),
        "preview": preview_rows(new if len(new) else table, ("source", "prompt", "completion", "review_score")),
    }
    if getattr(plan.recipe, "REPORTS_VENDI", False):
        metadata["vendi_score"] = round(measure_vendi(this_round, table), 3)
    return Made(version.content_hash, metadata)


def measure_vendi(this_round: Round, table: pl.DataFrame) -> float:
    """DiverseEvol's Vendi score of an SFT set without its EFT rows: by the base model's mean states, L2-normalised."""
    profile, rows = this_round.plan.settings.prompt_profile, table.filter(pl.col("source") != "eft")
    texts = rows.select("prompt", "completion").iter_rows()
    with closing(this_round.read_states(of_base=True)) as reader:
        states = reader.embed([(build_messages(profile, prompt), completion) for prompt, completion in texts])
    return compute_vendi_score(states / np.linalg.norm(states, axis=1, keepdims=True))


def build_sft_set(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""
    reads = getattr(plan.recipe, "REPORTS_VENDI", False)

    @dg.asset(**plan.asset_arguments("sft_set", kinds={"polars", "parquet"}, uses_model=reads))
    def sft_set(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """What SFT trains on: completions that scored above the threshold, each pointing to the row it came from."""
        return make_noun(context, platform, plan, "sft_set", make_sft_set)

    return sft_set
