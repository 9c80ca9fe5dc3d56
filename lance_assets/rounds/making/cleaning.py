"""cleaned_set: every candidate, kept or dropped with its reason; kept texts join the history in LanceDB.

A round's kept texts are compared with all rounds before it, then with each other (`rounds.making.comparing`).
"""

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from lance_assets.algorithms.filters.contract import count_drop_reasons
from lance_assets.algorithms.filters.rules import mark_dropped
from lance_assets.algorithms.similarity.near_duplicates import choose_survivors
from lance_assets.prompts import Templates
from lance_assets.rounds.making.comparing import compare_all, open_comparer, read_thresholds
from lance_assets.rounds.making.kept_texts import list_texts, tabulate_vectors
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import Counts, Judged, Made, Report, Rows, count_values
from lance_assets.rounds.round import Round


@dataclass(frozen=True)
class Deduplicated:
    """What comparing a round with itself and all rounds before gave."""

    cleaned: pl.DataFrame
    """The cleaned set with further drops, schema `CLEANED_SET`."""
    pairs: pl.DataFrame
    """The pairs of like texts that are kept, schema `NEAR_DUPLICATES`."""
    kept: pl.DataFrame
    """The rows that stay: row_id, text."""
    vectors: np.ndarray
    """Their vectors, float32 [num_kept, dim], L2-normalised."""


def drop_near_duplicates(this_round: Round, cleaned: pl.DataFrame) -> Deduplicated:
    """Drop texts like those of earlier rounds, then new prompts like each other, then completions like each other.

    In this order a row is compared only with rows that stay: rows that depend on a dropped prompt are dropped with it
    before completions are compared.
    """
    recipe, comparer = this_round.plan.recipe, open_comparer(this_round)
    thresholds = read_thresholds(comparer.settings)
    texts = list_texts(recipe, cleaned, this_round.key)
    vectors = this_round.embed(texts["text"].to_list())
    all_kinds = [kind for kinds in recipe.compared_together for kind in kinds]
    compared = cleaned.filter(pl.col("kind").is_in(all_kinds))["row_id"]
    is_compared = texts["row_id"].is_in(compared.implode())
    rows = texts.filter(is_compared)
    # Earlier rounds come first: a row that is dropped for that must not drop another row of this round.
    found = [comparer.compare_with_earlier(rows, vectors[is_compared.to_numpy()])]
    dropped = choose_survivors(rows["row_id"].to_list(), found[0], thresholds=thresholds)
    cleaned = mark_dropped(cleaned, dropped, reason="like_history")
    for kinds in recipe.compared_together:
        kept = cleaned.filter(pl.col("drop_reason").is_null() & pl.col("kind").is_in(kinds))["row_id"]
        is_in = texts["row_id"].is_in(kept.implode())
        rows = texts.filter(is_in)
        found.append(comparer.compare_within(rows, vectors[is_in.to_numpy()]))
        dropped = choose_survivors(rows["row_id"].to_list(), found[-1], thresholds=thresholds)
        cleaned = mark_dropped(cleaned, dropped, reason="like_in_round")
    stays = texts["row_id"].is_in(cleaned.filter(pl.col("drop_reason").is_null())["row_id"].implode())
    pairs = pl.concat(found).sort("row_id", "other_id", "tier")
    return Deduplicated(cleaned, pairs, texts.filter(stays).select("row_id", "text"), vectors[stays.to_numpy()])


TOLERANCE = 1e-5
"""By how much a cosine may move between two ways of computing it."""


def make_cleaned_set(this_round: Round) -> Made:
    """Clean by the recipe and the experiment's filters, then against the evaluation's neighbours and the history."""
    plan = this_round.plan
    cleaned = plan.recipe.clean(
        this_round.build_inputs(is_evaluation_prompt=this_round.guard.is_evaluation_prompt),
        this_round.read("raw_generations"),
        this_round.read("seed_set"),
        added=plan.settings.filters,
        keeps_contrast=plan.settings.near_duplicates.keeps_contrast,
        shown=[text for words in (plan.templates, *plan.role_templates.values()) for text in list_shown(plan, words)],
    )
    found = drop_near_duplicates(this_round, drop_evaluation_neighbours(this_round, cleaned))
    history, model_hash = this_round.platform.history, this_round.embedder.model_hash
    # A round that is made again replaces its texts, so it is never compared with its own former rows.
    history.replace_round(plan.name, this_round.key, found.kept, found.vectors, model_hash=model_hash)
    health = {f"history/{name}": value for name, value in asdict(history.maintain()).items()}
    stored = tabulate_vectors(found.kept, found.vectors, model_hash=model_hash)
    return Made(found.cleaned, others={"near_duplicates": found.pairs, "kept_vectors": stored}, facts=health)


def list_shown(plan: Plan, words: Templates) -> list[str]:
    """What the templates of the recipe's steps show by themselves, which a model may give back."""
    steps = [f"{plan.settings.recipe}/{step.name}" for step in plan.prompt_steps if step.is_asked]
    return [text for step in steps if words.has(step) for text in words.list_shown(step)]


def drop_evaluation_neighbours(this_round: Round, cleaned: pl.DataFrame) -> pl.DataFrame:
    """Drop rows whose prompt has an embedding neighbour in the evaluation; the recipe dropped the n-gram matches."""
    if this_round.plan.settings.evaluation.max_similarity is None:
        return cleaned
    kept = cleaned.filter(pl.col("drop_reason").is_null())
    found = this_round.guard.find(kept["row_id"].to_list(), kept["prompt"].to_list())
    # A row may match by several rules; the similarity of the strongest match is kept with it.
    found = found.sort("similarity", descending=True).unique("row_id", keep="first", maintain_order=True)
    dropped = found.select(
        "row_id", nearest_id=pl.lit(None, pl.String), tier=pl.lit("embedding"), similarity="similarity"
    )
    return mark_dropped(cleaned, dropped, reason="evaluation_neighbour")


def report_cleaned_set(this_round: Round) -> Report:
    """How many rows were kept and why the others were dropped, with rows of each."""
    cleaned, pairs = this_round.read("cleaned_set"), this_round.read("near_duplicates")
    is_kept = pl.col("drop_reason").is_null()
    kept, dropped = (cleaned.filter(rows) for rows in (is_kept, ~is_kept))
    by_kind = cleaned.group_by("kind").agg(pl.len().alias("rows"), is_kept.sum().alias("kept"))
    nearest = pairs.sort("similarity", "row_id", descending=[True, False])
    return {
        "dagster/row_count": len(cleaned),
        "num_kept": len(kept),
        "keep_rate": round(len(kept) / len(cleaned), 4) if len(cleaned) else 0.0,
        "drop_reasons": Counts("reason", count_drop_reasons(cleaned)),
        "kinds": Rows(by_kind.sort("kind"), ("kind", "rows", "kept")),
        "preview_kept": Rows(
            kept.group_by("kind", maintain_order=True).head(3), ("kind", "prompt", "completion"), num_rows=9
        ),
        "preview_dropped": Rows(
            dropped.unique("drop_reason", maintain_order=True),
            ("drop_reason", "kind", "prompt", "completion", "similarity"),
            num_rows=8,
        ),
        "near_duplicates": count_values(pairs["tier"], of="tier"),
        "preview_near_duplicates": Rows(
            nearest, ("tier", "similarity", "other_round", "text", "other_text"), num_rows=8
        ),
    }


def near_duplicates(this_round: Round) -> Judged:
    """Whether no kept text is a near-duplicate of another of this round or of an earlier one."""
    settings, cleaned = this_round.plan.settings.near_duplicates, this_round.read("cleaned_set")
    kept = cleaned.filter(pl.col("drop_reason").is_null())
    compared = [kept.filter(pl.col("kind").is_in(kinds)) for kinds in this_round.plan.recipe.compared_together]
    found = compare_all(this_round, compared)
    num_compared = sum(map(len, compared))
    # The check computes cosines in another order than cleaning did, hence the tolerance.
    left = choose_survivors(kept["row_id"].to_list(), found, thresholds=read_thresholds(settings, TOLERANCE))
    examples = found.filter(pl.col("row_id").is_in(left["row_id"].implode()))
    return Judged(
        passed=left.is_empty(),
        description=None if num_compared else "This round has no rows of a kind that is compared.",
        facts={
            "num_rows": len(kept),
            "num_compared": num_compared,
            "num_left": len(left),
            "bars": read_thresholds(settings),
            "examples": Rows(examples, found.columns),
        },
    )
