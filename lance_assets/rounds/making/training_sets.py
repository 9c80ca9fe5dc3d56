"""What a round trains on and how varied it is: sft_set, preference_pairs and diversity_report."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import polars as pl

from lance_assets.algorithms.measures.diversity import (
    DiversityFloors,
    DiversityReport,
    compute_cluster_entropy,
    compute_distinct_n,
    compute_length_drift,
    compute_novelty,
    compute_score_length_correlation,
    compute_seed_share,
    compute_vendi_rate,
    compute_vendi_score,
    find_collapse,
)
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.algorithms.reviews.pairwise import summarise_verdicts
from lance_assets.algorithms.similarity.words import count_words
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.steps.judging import drop_judged_pairs
from lance_assets.records import DIVERSITY_REPORT
from lance_assets.rounds.alike.kept_texts import require_history
from lance_assets.rounds.alike.likeness_to_people import compare_with_people
from lance_assets.rounds.deciding.applying import build_decided_pairs, build_decided_sft_set
from lance_assets.rounds.filtering.generators import describe_generators
from lance_assets.rounds.making.rewarding import list_reward_prompts
from lance_assets.rounds.plan import asks_people
from lance_assets.rounds.report import (
    SUMMARY,
    Histogram,
    Judged,
    Made,
    Measures,
    Report,
    Rows,
    Trends,
    count_values,
    round_measure,
)
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.bars import list_bars
from lance_assets.rounds.shown.samples import sample_rows
from lance_assets.rounds.shown.sentences import explain_no_pairs, say_number, say_pairs, say_sft
from lance_assets.settings.checks import CheckSettings
from resources.readers.seed_files import open_seeds, read_eft


def make_sft_set(this_round: Round) -> Made:
    """In r0000 the seeds and EFT rows; afterwards what the review accepted, with the earlier set."""
    plan = this_round.plan
    if this_round.is_start:
        eft = read_eft(plan.settings.seeds, plan.folder)
        inputs = this_round.build_inputs(read_places=lambda: open_seeds(plan.settings.seeds, plan.folder).places)
        table = plan.recipe.start_sft_set(inputs, this_round.read("seed_set"), eft)
    else:
        table = build_sft_rows(this_round, this_round.build_inputs(seeds=this_round.read("seed_set")))
    facts: Report = {"vendi_score": round(measure_vendi(this_round, table), 3)} if plan.recipe.reports_vendi else {}
    return Made(table, others=list_reward_prompts(this_round, table), facts=facts)


def build_sft_rows(this_round: Round, inputs: RoundInputs[Any]) -> pl.DataFrame:
    """What the review and people accepted, with the earlier set. Schema `SFT_SET`."""
    recipe, given = this_round.plan.recipe, (inputs, this_round.read("reviewed_set"))
    earlier = this_round.read_grown("sft_set")
    if asks_people(this_round.plan):
        return build_decided_sft_set(recipe, *given, this_round.read("decision_set"), earlier)
    return recipe.build_sft_set(*given, earlier)


def measure_vendi(this_round: Round, table: pl.DataFrame) -> float:
    """DiverseEvol's Vendi score of an SFT set without its EFT rows: by the base model's mean states, L2-normalised."""
    ask, rows = this_round.plan.templates.build_messages, table.filter(pl.col("source") != "eft")
    texts = rows.select("prompt", "completion").iter_rows()
    with closing(this_round.read_states(of_base=True)) as reader:
        states = reader.embed([(ask(prompt), completion) for prompt, completion in texts])
    return compute_vendi_score(states / np.linalg.norm(states, axis=1, keepdims=True))


def report_sft_set(this_round: Round) -> Report:
    """How many rows are new, from which source and round the rows come, and some of them."""
    table = this_round.read("sft_set")
    new = table.filter((pl.col("source_round") == this_round.key) & (pl.col("source") != "eft"))
    is_new = pl.col("source_round") == this_round.key
    scored = table.drop_nulls("review_score")
    accepted = {
        name: scored.filter(rows)["review_score"].to_list()
        for name, rows in ((f"accepted in {this_round.key}", is_new), ("accepted before", ~is_new))
    }
    columns = ("row_id", "source", "source_round", "prompt", "completion", "review_score", "source_id")
    too_short = count_too_short(this_round, "sft_set")
    return {
        SUMMARY: say_sft(table, new, key=this_round.key, num_too_short=too_short.get("num_too_short", 0)),
        "dagster/row_count": len(table),
        "num_new": len(new),
        **too_short,
        "sources": count_values(table["source"], of="source"),
        "rounds": count_values(table["source_round"], of="round"),
        "scores": Histogram(
            accepted,
            title="Review scores of the accepted rows",
            x_label="review score (points)",
            thresholds=list_bars(this_round.plan.settings.parameters),
        ),
        "preview": sample_rows(
            new if len(new) else table, columns, over=("source", "review_score"), salt=this_round.key
        ),
    }


def count_too_short(this_round: Round, noun: str) -> dict[str, int]:
    """How many new rows or pairs only the shortest text of `min_chars` keeps out; nothing where a recipe has none."""
    recipe, parameters = this_round.plan.recipe, this_round.plan.settings.parameters
    if this_round.is_start or "min_chars" not in recipe.settings_of_step.get(noun, ()):
        return {}
    build = build_sft_rows if noun == "sft_set" else build_new_pairs
    # Pairs are built of the reviewed set alone, and an asset reads what it is declared to be made from.
    inputs = this_round.build_inputs(seeds=this_round.read("seed_set") if noun == "sft_set" else None)
    every = replace(inputs, settings=parameters.model_copy(update={"min_chars": 0}))
    is_new = pl.col("source_round") == this_round.key
    with_all, with_own = (build(this_round, one).filter(is_new).height for one in (every, inputs))
    return {"num_too_short": with_all - with_own}


def no_evaluation_overlap(this_round: Round) -> Judged:
    """Whether no prompt of the set belongs to the evaluation, and no completion quotes one that does."""
    rows, guard = this_round.read("sft_set"), this_round.guard
    row_ids, prompts = rows["row_id"].to_list(), rows["prompt"].to_list()
    leaked = pl.concat([guard.find(row_ids, prompts), guard.find_in_completions(row_ids, rows["completion"].to_list())])
    facts: Report = {"num_rows": len(rows)} | guard.describe(leaked, prompts)
    found = (
        f"{leaked['row_id'].n_unique()} of {len(rows)} rows ask or quote one of {len(guard.known_prompts)} evaluation "
        "prompts; none may."
    )
    return Judged(passed=leaked.is_empty(), facts=facts, description=say_leaked(leaked, rows), found=found)


def say_leaked(leaked: pl.DataFrame, rows: pl.DataFrame) -> str | None:
    """How many rows of an SFT set give evaluation prompts away, from where, one of them, and what helps."""
    if leaked.is_empty():
        return None
    own = rows.filter(pl.col("row_id").is_in(leaked["row_id"].implode()))
    sources = ", ".join(f"{source} {number}" for source, number in own["source"].value_counts(sort=True).iter_rows())
    first = leaked.row(0, named=True)
    return (
        f"{len(own)} of {len(rows)} rows ({sources}) ask or quote prompts of the evaluation. By rule {first['rule']}: "
        f"{first['prompt'][:160]!r}. Remove such rows from seeds.path or seeds.eft_path; for rows of source generated "
        "materialize cleaned_set again"
    )


NOT_JUDGED = "not judged"
"""Shown where no pair was judged."""


def make_preference_pairs(this_round: Round) -> Made:
    """Pair the reviewed completions of each prompt, and have some pairs judged; nothing in r0000."""
    if this_round.is_start:
        return Made(
            this_round.empty("preference_pairs"), others={"pair_judgements": this_round.empty("pair_judgements")}
        )
    built = build_new_pairs(this_round, this_round.build_inputs())
    # Pairs of earlier rounds were judged when they were new.
    judgements = judge_new_pairs(this_round, built.filter(pl.col("source_round") == this_round.key))
    return Made(drop_judged_pairs(built, judgements), others={"pair_judgements": judgements})


def build_new_pairs(this_round: Round, inputs: RoundInputs[Any]) -> pl.DataFrame:
    """What the reviews and people's decisions pair, with the earlier pairs. Schema `PREFERENCE_PAIRS`."""
    recipe, given = this_round.plan.recipe, (inputs, this_round.read("reviewed_set"))
    earlier = this_round.read_grown("preference_pairs")
    if asks_people(this_round.plan):
        return build_decided_pairs(recipe, *given, this_round.read("decision_set"), earlier)
    return recipe.build_pairs(*given, earlier)


def judge_new_pairs(this_round: Round, new: pl.DataFrame) -> pl.DataFrame:
    """The verdicts on the round's new pairs; the model is opened only where there is something to judge."""
    plan = this_round.plan
    if plan.recipe.judge_pairs is None or not plan.settings.parameters.judges_pairs or new.is_empty():
        return this_round.empty("pair_judgements")
    with this_round.asking("preference_pairs", this_round.start_path()) as ask:
        return plan.recipe.judge_pairs(this_round.build_inputs(ask=ask), new)


def report_preference_pairs(this_round: Round) -> Report:
    """How many pairs are new, their score gaps, some of them, and what was judged."""
    table = this_round.read("preference_pairs")
    new = table.filter(pl.col("source_round") == this_round.key)
    gaps = {"pairs": table["score_gap"].drop_nulls().to_list()}
    parameters = this_round.plan.settings.parameters
    bars = {"paired above": float(parameters.score_gap)} if hasattr(parameters, "score_gap") else {}
    columns = ("row_id", "prompt", "chosen", "rejected", "chosen_score", "rejected_score")
    shown, too_short = new if len(new) else table, count_too_short(this_round, "preference_pairs")
    num_too_short = too_short.get("num_too_short", 0)
    why_none = "" if len(new) else explain_none(this_round, num_too_short=num_too_short)
    facts: Report = {
        SUMMARY: say_pairs(table, new, key=this_round.key, why_none=why_none, num_too_short=num_too_short),
        "dagster/row_count": len(table),
        "num_new": len(new),
        **too_short,
        "rounds": count_values(table["source_round"], of="round"),
        "gaps": Histogram(
            gaps, title="Score gaps of the pairs", x_label="chosen minus rejected (points)", thresholds=bars
        ),
        "preview": sample_rows(shown, columns, over=("score_gap",), salt=this_round.key),
    }
    judgements = this_round.read("pair_judgements")
    return facts | (describe_judgements(judgements) if parameters.judges_pairs or len(judgements) else {})


def explain_none(this_round: Round, *, num_too_short: int = 0) -> str:
    """Why a round brought no pair.

    Args:
        this_round: the round.
        num_too_short: pairs that a text of too few characters kept out.
    """
    plan = this_round.plan
    if not plan.settings.parameters.builds_pairs:
        return "this experiment builds none, by its parameters"
    if this_round.is_start:
        return "r0000 reviews nothing"
    reviewed, judged = this_round.read("reviewed_set"), this_round.read("pair_judgements")
    if num_left_out := judged["drop_reason"].count():
        return f"the judgements left out {num_left_out} of {len(judged)} judged pairs"
    if num_too_short:
        return f"the scores gave {say_number(num_too_short, 'pair')}, each with a text that is too short (min_chars)"
    own = plan.recipe.explain_no_pairs
    return explain_no_pairs(reviewed) if own is None else own(this_round.build_inputs(), reviewed)


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
    """Whether the pairs can teach: different texts, a real gap, nothing of the evaluation, and enough of them."""
    pairs, settings = this_round.read("preference_pairs"), this_round.plan.settings
    num_equal = pairs.filter((pl.col("chosen") == pl.col("rejected")) | (pl.col("score_gap") <= 0)).height
    num_new = pairs.filter(pl.col("source_round") == this_round.key).height
    builds_none = not settings.parameters.builds_pairs
    # r0000 has no reviews, so it cannot have pairs.
    fewest = 0 if builds_none or this_round.is_start else settings.checks.min_pairs
    enough = num_new >= fewest
    guard, row_ids = this_round.guard, pairs["row_id"].to_list()
    quoting = [guard.find_in_completions(row_ids, pairs[side].to_list()) for side in ("chosen", "rejected")]
    leaked = pl.concat([guard.find(row_ids, pairs["prompt"].to_list()), *quoting])
    num_leaked = leaked["row_id"].n_unique()
    return Judged(
        passed=num_equal == 0 and enough and num_leaked == 0,
        is_error=bool(num_equal or num_leaked),
        description="This experiment builds no pairs, by its parameters." if builds_none else None,
        found=f"There are {num_new} new pairs, and there should be at least {fewest}. {num_equal} of {len(pairs)} have "
        f"equal sides or no gap, and {num_leaked} give an evaluation prompt away; none may.",
        facts={
            "num_equal": num_equal,
            "num_new": num_new,
            "min_pairs": settings.checks.min_pairs,
            "num_overlapping_evaluation": num_leaked,
            "matches": Rows(leaked, ("rule", "similarity", "prompt", "evaluation_prompt")),
        },
    )


NUM_CLUSTERS = 16
"""Clusters over which the evenness of a round's texts is measured."""


FLOORS = tuple(field.name for field in fields(DiversityFloors))
"""The settings of `checks` that are floors of the diversity report."""


def make_diversity_report(this_round: Round) -> Made:
    """Measure the round."""
    row = {"round": this_round.key, **asdict(measure_diversity(this_round))}
    return Made(pl.DataFrame([row], schema=DIVERSITY_REPORT))


def measure_diversity(this_round: Round) -> DiversityReport:
    """Every measure of one round, from its tables and the vectors that cleaning stored.

    Raises:
        LostHistoryError: the history does not hold them any more.
    """
    require_history(this_round, [this_round.key])
    rows, vectors = this_round.platform.history.read_round(this_round.plan.name, this_round.key)
    reviewed, sft = this_round.read("reviewed_set"), this_round.read("sft_set")
    cleaned = this_round.read("cleaned_set").filter(pl.col("drop_reason").is_null())
    new = reviewed.filter(pl.col("kind") == "completion")
    texts = rows["text"].to_list()
    rng_seed = this_round.plan.settings.rng_seed
    return DiversityReport(
        num_rows=len(rows),
        novelty=compute_novelty(read_history_similarities(this_round, rows["row_id"])),
        vendi_score=compute_vendi_score(vectors) if len(rows) else None,
        vendi_rate=compute_vendi_rate(vectors, rng_seed=rng_seed),
        distinct_1=compute_distinct_n(texts, 1) if texts else None,
        distinct_2=compute_distinct_n(texts, 2) if texts else None,
        cluster_entropy=compute_cluster_entropy(vectors, num_clusters=NUM_CLUSTERS, rng_seed=rng_seed),
        length_drift=compute_length_drift(
            read_lengths(cleaned.filter(pl.col("kind") == "completion")),
            # Drift is measured from what people wrote, so from the seeds before any round added to them.
            read_lengths(this_round.read("seed_set", START_ROUND)),
        ),
        score_length_correlation=compute_score_length_correlation(
            new["review_score"].to_list(), [count_words(text) for text in new["completion"]]
        ),
        seed_share=compute_seed_share(sft["source"].to_list()),
        human_likeness=compare_with_people(this_round, cleaned, rows["row_id"].to_list(), vectors),
    )


def read_lengths(table: pl.DataFrame) -> list[int]:
    """Words of each completion."""
    return [count_words(text) for text in table["completion"].drop_nulls()]


def read_history_similarities(this_round: Round, row_ids: pl.Series) -> np.ndarray:
    """The cosine of each kept text to its nearest one of an earlier round; none in the first round with texts."""
    pairs = this_round.read("near_duplicates")
    # By embedding each row has its nearest text there, also below the threshold; the other tiers list near-duplicates
    # alone.
    to_earlier = pl.col("tier").is_in(["embedding", "contrast"]) & (pl.col("other_round") != this_round.key)
    return pairs.filter(to_earlier & pl.col("row_id").is_in(row_ids.implode()))["similarity"].to_numpy()


def report_diversity_report(this_round: Round) -> Report:
    """The measures of this round, and of all rounds so far."""
    table = this_round.read("diversity_report")
    keys = [key for key in this_round.earlier_keys if this_round.has("diversity_report", key)]
    rounds = pl.concat([*(this_round.read("diversity_report", key) for key in keys), table])
    measures = table.drop("round").row(0, named=True)
    title = f"{this_round.plan.name}: how varied each round's data is"
    floors = list_floors(this_round.plan.settings.checks)
    return {
        SUMMARY: say_diversity(measures),
        **{name: round(value, 4) for name, value in measures.items() if value is not None},
        "rounds": Measures(list_measures(rounds)),
        "over_rounds": Trends(rounds, title=title, units=UNITS, floors=floors),
        **_describe_writers(this_round),
    }


def _describe_writers(this_round: Round) -> Report:
    """Which share of the round's kept and accepted completions each generator wrote, where there are several."""
    if not this_round.plan.settings.generators:
        return {}
    kept = this_round.read("cleaned_set").filter(pl.col("drop_reason").is_null())["row_id"].to_list()
    trained = this_round.read("sft_set").filter(source_round=this_round.key)["source_id"].drop_nulls().to_list()
    return describe_generators(this_round, kept, of="kept") | describe_generators(this_round, trained, of="trained_on")


MAX_SHOWN = 8
"""Rounds that the table of measures shows side by side; of more the last ones."""


def list_measures(rounds: pl.DataFrame) -> list[dict[str, float | str | None]]:
    """A line for each measure and a column for each of the last rounds: ten measures side by side are too wide.

    Args:
        rounds: schema `DIVERSITY_REPORT`, a row a round.
    """
    shown = rounds.tail(MAX_SHOWN)
    return [
        {"measure": name, "in": UNITS[name], **dict(zip(shown["round"], map(_as_number, shown[name]), strict=True))}
        for name in UNITS
    ]


def _as_number(value: float | None) -> float | None:
    return None if value is None else float(value)


UNITS = {
    "num_rows": "kept texts",
    "novelty": "1 - cosine",
    "vendi_score": "texts",
    "vendi_rate": "share of texts",
    "distinct_1": "share of words",
    "distinct_2": "share of word pairs",
    "cluster_entropy": "evenness, 0 to 1",
    "length_drift": "log ratio to seeds",
    "score_length_correlation": "Spearman's rho",
    "seed_share": "share of SFT rows",
    "human_likeness": "chance, 0.5 is like seeds",
}
"""What each measure of `DIVERSITY_REPORT` is counted in."""


def list_floors(checks: CheckSettings) -> dict[str, float]:
    """The bars that an experiment sets on the measures, by name."""
    return {name: float(bar) for name in FLOORS if (bar := getattr(checks, name)) is not None}


def say_diversity(measures: Mapping[str, float | None]) -> str:
    """How varied a round's texts are.

    Args:
        measures: a row of `DIVERSITY_REPORT`.
    """
    if not measures["num_rows"]:
        return "No texts were kept, so there is no variety to measure"
    told = [f"{measures['num_rows']:,} kept texts"]
    if measures["vendi_score"] is not None:
        told.append(f"as varied as {measures['vendi_score']:.3g} texts that have nothing in common")
    if measures["novelty"] is not None:
        told.append(f"{measures['novelty']:.3g} away from the nearest earlier text on average (1 - cosine)")
    return ", ".join(told)


def no_collapse(this_round: Round) -> Judged:
    """Whether every measure keeps the floor that the experiment sets for it."""
    row = this_round.read("diversity_report").drop("round").row(0, named=True)
    checks = this_round.plan.settings.checks
    floors = DiversityFloors(**{name: getattr(checks, name) for name in FLOORS})
    breached = find_collapse(DiversityReport(**row), floors)
    bars = {name: bar for name in FLOORS if (bar := getattr(floors, name)) is not None}
    # A floor is named min_ or max_ and its measure.
    not_measurable = [name for name in bars if row[name[4:]] is None]
    facts: Report = {"breached": breached, "not_measurable": not_measurable, **bars}
    measured = {name: bar for name, bar in bars.items() if row[name[4:]] is not None}
    held = ", ".join(f"{name[4:]} {row[name[4:]]:.3g} ({name[:3]} {bar:g})" for name, bar in measured.items())
    unknown = f"{', '.join(not_measurable)} could not be measured" if not_measurable else ""
    found = "; ".join(part for part in (held, unknown) if part) or "This experiment sets no floors."
    return Judged(passed=not breached, description="; ".join(breached) or None, facts=facts, found=found)
