"""preference_pairs: what preference training trains on, and what the reviewer says of pairs in both orders."""

import polars as pl

from lance_assets.algorithms.reviews.pairwise import summarise_verdicts
from lance_assets.recipes.judging import drop_judged_pairs
from lance_assets.rounds.contamination import find_contaminated
from lance_assets.rounds.report import Histogram, Judged, Made, Report, Rows, count_values, round_measure
from lance_assets.rounds.round import Round

NOT_JUDGED = "not judged"
"""Shown where no pair was judged."""


def make(this_round: Round) -> Made:
    """Pair the reviewed completions of each prompt, and have some pairs judged; nothing in r0000."""
    plan = this_round.plan
    if this_round.is_start:
        return Made(
            this_round.empty("preference_pairs"), others={"pair_judgements": this_round.empty("pair_judgements")}
        )
    built = plan.recipe.build_pairs(
        this_round.read("reviewed_set"),
        this_round.read("preference_pairs", this_round.earlier_keys[-1]),
        settings=plan.settings.parameters,
        round_key=this_round.key,
    )
    judgements = judge_new_pairs(this_round, built.filter(pl.col("source_round") == this_round.key))
    return Made(drop_judged_pairs(built, judgements), others={"pair_judgements": judgements})


def judge_new_pairs(this_round: Round, new: pl.DataFrame) -> pl.DataFrame:
    """The verdicts on the round's new pairs; the model is opened only where there is something to judge."""
    plan = this_round.plan
    if not plan.settings.parameters.judges_pairs or new.is_empty():
        return this_round.empty("pair_judgements")
    with this_round.asking("preference_pairs", this_round.start_path()) as ask:
        judgements: pl.DataFrame = plan.recipe.judge_pairs(
            new, settings=plan.settings.parameters, identity=this_round.identity, ask=ask
        )
    return judgements


def report(this_round: Round) -> Report:
    """How many pairs are new, their score gaps, some of them, and what was judged."""
    table = this_round.read("preference_pairs")
    new = table.filter(pl.col("source_round") == this_round.key)
    gaps = {"pairs": table["score_gap"].drop_nulls().to_list()}
    facts: Report = {
        "dagster/row_count": len(table),
        "num_new": len(new),
        "rounds": count_values(table["source_round"], of="round"),
        "gaps": Histogram(gaps, title="Score gaps", x_label="chosen minus rejected"),
        "preview": Rows(new, ("prompt", "chosen", "chosen_score", "rejected", "rejected_score")),
    }
    return facts | describe_judgements(this_round.read("pair_judgements"))


def describe_judgements(judgements: pl.DataFrame) -> Report:
    """Flip rate, position bias and agreement with the review scores."""
    if judgements.is_empty():
        names = ("flip_rate", "first_shown_rate", "agreement")
        return {"num_judged": 0, **{f"judging/{name}": NOT_JUDGED for name in names}}
    found = summarise_verdicts(judgements.select("chosen_first_verdict", "rejected_first_verdict").rows())
    first, agreement = found.first_interval, found.agreement_interval
    return {
        "num_judged": found.num_pairs,
        "judging/flip_rate": round_measure(found.flip_rate),
        "judging/first_shown_rate": round_measure(found.first_rate),
        "judging/first_shown_interval": f"{first[0]:.4f} to {first[1]:.4f}",
        "judging/agreement": round_measure(found.agreement),
        "judging/agreement_interval": f"{agreement[0]:.4f} to {agreement[1]:.4f}",
        "judging/num_left_out": judgements["drop_reason"].count(),
        "judging/outcomes": count_values(judgements["outcome"], of="outcome"),
    }


def pairs_differ(this_round: Round) -> Judged:
    """Whether the pairs can teach: different texts, a real gap, no evaluation prompt, and enough of them."""
    pairs, settings = this_round.read("preference_pairs"), this_round.plan.settings
    num_equal = pairs.filter((pl.col("chosen") == pl.col("rejected")) | (pl.col("score_gap") <= 0)).height
    num_new = pairs.filter(pl.col("source_round") == this_round.key).height
    builds_none = not settings.parameters.builds_pairs
    enough = builds_none or this_round.is_start or num_new >= settings.checks.min_pairs
    leaked = find_contaminated(this_round, pairs["row_id"].to_list(), pairs["prompt"].to_list())
    num_leaked = leaked["row_id"].n_unique()
    return Judged(
        passed=num_equal == 0 and enough and num_leaked == 0,
        is_error=bool(num_equal or num_leaked),
        description="This experiment builds no pairs, by its parameters." if builds_none else None,
        facts={
            "num_equal": num_equal,
            "num_new": num_new,
            "min_pairs": settings.checks.min_pairs,
            "num_overlapping_evaluation": num_leaked,
            "matches": Rows(leaked, ("rule", "similarity", "prompt", "evaluation_prompt")),
        },
    )
