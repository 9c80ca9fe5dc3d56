"""sft_set: what supervised fine-tuning trains on."""

from contextlib import closing

import numpy as np
import polars as pl

from lance_assets.algorithms.measures.diversity import compute_vendi_score
from lance_assets.prompts import build_messages
from lance_assets.rounds.contamination import describe_contamination, find_contaminated
from lance_assets.rounds.report import Histogram, Judged, Made, Report, Rows, count_values
from lance_assets.rounds.round import Round
from resources.readers.seed_files import read_eft


def make(this_round: Round) -> Made:
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
    reports_vendi = getattr(plan.recipe, "REPORTS_VENDI", False)
    return Made(table, facts={"vendi_score": round(measure_vendi(this_round, table), 3)} if reports_vendi else {})


def measure_vendi(this_round: Round, table: pl.DataFrame) -> float:
    """DiverseEvol's Vendi score of an SFT set without its EFT rows: by the base model's mean states, L2-normalised."""
    profile, rows = this_round.plan.settings.prompt_profile, table.filter(pl.col("source") != "eft")
    texts = rows.select("prompt", "completion").iter_rows()
    with closing(this_round.read_states(of_base=True)) as reader:
        states = reader.embed([(build_messages(profile, prompt), completion) for prompt, completion in texts])
    return compute_vendi_score(states / np.linalg.norm(states, axis=1, keepdims=True))


def report(this_round: Round) -> Report:
    """How many rows are new, from which source and round the rows come, and some of them."""
    table = this_round.read("sft_set")
    new = table.filter((pl.col("source_round") == this_round.key) & (pl.col("source") != "eft"))
    accepted = {"accepted": table["review_score"].drop_nulls().to_list()}
    return {
        "dagster/row_count": len(table),
        "num_new": len(new),
        "sources": count_values(table["source"], of="source"),
        "rounds": count_values(table["source_round"], of="round"),
        "scores": Histogram(accepted, title="Accepted", x_label="review score"),
        "preview": Rows(new if len(new) else table, ("source", "prompt", "completion", "review_score")),
    }


def no_evaluation_overlap(this_round: Round) -> Judged:
    """Whether no prompt of the set belongs to the evaluation."""
    rows = this_round.read("sft_set")
    prompts = rows["prompt"].to_list()
    leaked = find_contaminated(this_round, rows["row_id"].to_list(), prompts)
    facts: Report = {"num_rows": len(rows)} | describe_contamination(this_round, leaked, prompts)
    return Judged(passed=leaked.is_empty(), facts=facts)
