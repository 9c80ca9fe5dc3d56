"""cleaned_set: every candidate, kept or dropped with its reason; kept texts join the history in LanceDB.

A round's kept texts are compared with all rounds before it, then with each other (`rounds.alike.comparing`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from lance_assets.algorithms.filters.contract import count_drop_reasons
from lance_assets.algorithms.filters.rules import mark_dropped
from lance_assets.algorithms.similarity.near_duplicates import EXACT_ROWS, choose_survivors
from lance_assets.prompts import Templates
from lance_assets.rounds.alike.comparing import open_comparer, read_thresholds
from lance_assets.rounds.alike.kept_texts import list_texts, tabulate_vectors
from lance_assets.rounds.filtering.models import look_up
from lance_assets.rounds.making.varying import kept_rows as kept_rows  # a check of this noun
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import SUMMARY, Counts, Judged, Made, Report, Rows, count_values
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.likeness import LIKE, join_likeness
from lance_assets.rounds.shown.samples import sample_rows
from lance_assets.rounds.shown.sentences import say_cleaned


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
    row_ids, key = rows["row_id"].to_list(), this_round.key
    dropped = choose_survivors(row_ids, found[0], thresholds=thresholds, round_key=key)
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
NUM_SAMPLED = 200
"""Kept texts of each group of kinds that the check compares anew."""


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
        look_up=look_up(this_round) if plan.settings.filters else {},
    )
    cleaned = drop_quotes(this_round, drop_evaluation_neighbours(this_round, cleaned))
    found = drop_near_duplicates(this_round, cleaned)
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


def drop_quotes(this_round: Round, cleaned: pl.DataFrame) -> pl.DataFrame:
    """Drop rows whose completion quotes a prompt of the evaluation."""
    kept = cleaned.filter(pl.col("drop_reason").is_null())
    found = this_round.guard.find_in_completions(kept["row_id"].to_list(), kept["completion"].to_list())
    nothing = {"nearest_id": pl.String, "tier": pl.String, "similarity": pl.Float64}
    dropped = found.select("row_id", *(pl.lit(None, dtype).alias(name) for name, dtype in nothing.items()))
    return mark_dropped(cleaned, dropped, reason="evaluation_in_completion")


def report_cleaned_set(this_round: Round) -> Report:
    """How many rows were kept and why the others were dropped, with rows of each."""
    cleaned, pairs = this_round.read("cleaned_set"), this_round.read("near_duplicates")
    is_kept = pl.col("drop_reason").is_null()
    kept, dropped = (cleaned.filter(rows) for rows in (is_kept, ~is_kept))
    by_kind = cleaned.group_by("kind").agg(pl.len().alias("rows"), is_kept.sum().alias("kept"))
    nearest = pairs.filter(pl.col("tier") != "contrast").sort("similarity", "row_id", descending=[True, False])
    bars = list_thresholds(this_round)
    others = pl.concat(
        table.select("row_id", "prompt", "completion") for table in (cleaned, this_round.read("seed_set"))
    )
    like = join_likeness(dropped, pairs=pairs, others=others, thresholds=bars)
    return {
        SUMMARY: say_cleaned(cleaned, is_start=this_round.is_start),
        "dagster/row_count": len(cleaned),
        "num_kept": len(kept),
        "keep_rate": round(len(kept) / len(cleaned), 4) if len(cleaned) else 0.0,
        "drop_reasons": Counts("reason", count_drop_reasons(cleaned)),
        "kinds": Rows(by_kind.sort("kind"), ("kind", "rows", "kept")),
        "preview_kept": sample_rows(
            kept, ("row_id", "kind", "prompt", "completion", "parent_id"), over=("kind",), salt=this_round.key
        ),
        "preview_too_like": sample_rows(like, LIKE, over=("drop_reason", "kind", "tier"), salt=this_round.key),
        "preview_dropped": sample_rows(
            dropped.filter(pl.col("tier").is_null()),
            ("row_id", "drop_reason", "kind", "prompt", "completion"),
            over=("drop_reason", "kind"),
            salt=this_round.key,
        ),
        "near_duplicates": count_values(pairs["tier"], of="tier"),
        "preview_near_duplicates": Rows(
            nearest,
            ("row_id", "text", "other_text", "other_id", "other_round", "tier", "similarity"),
            num_rows=8,
            note="The pairs that are most alike; near-duplicates are those that are "
            f"{say_thresholds(read_thresholds(this_round.plan.settings.near_duplicates))}.",
        ),
    }


def say_thresholds(bars: Mapping[str, float]) -> str:
    """When two texts are near-duplicates, in words; equal texts are, whatever the number."""
    return ", ".join(tier if tier == "exact" else f"{tier} above {bar:g}" for tier, bar in bars.items())


def list_thresholds(this_round: Round) -> dict[str, dict[str, float]]:
    """By drop reason and tier the similarity above which a row is dropped, as the experiment sets it."""
    settings = this_round.plan.settings
    own, of_texts = settings.near_duplicates, settings.parameters
    compared = read_thresholds(own)
    found = {reason: compared for reason in ("like_history", "like_in_round")}
    if hasattr(of_texts, "rouge_l_threshold"):
        lexical = {"lexical": float(of_texts.rouge_l_threshold)}
        found |= {reason: lexical for reason in ("like_seed", "like_sibling", "copied_example")}
    if (bar := settings.evaluation.max_similarity) is not None:
        found["evaluation_neighbour"] = {"embedding": bar}
    return found


def near_duplicates(this_round: Round) -> Judged:
    """Whether no kept text is a near-duplicate of another of this round or of an earlier one.

    The pairs that cleaning found are read from their table and not searched again, so that the check takes a time that
    is linear in the rows. It verifies, by rules of its own and against the tables as they are now:

    1. of no stored pair above its threshold are both rows kept: survivors were chosen rightly, and kept since;
    2. no two kept texts are equal, and none equals a kept text of an earlier round: all of them are compared anew;
    3. `NUM_SAMPLED` kept texts, evenly over the row ids, have no near-duplicate by embedding or by words among all kept
       texts: the search missed nothing. Above `EXACT_ROWS` the search by embedding is approximate, and may have missed
       one row in a hundred.
    """
    settings, cleaned = this_round.plan.settings.near_duplicates, this_round.read("cleaned_set")
    kept = cleaned.filter(pl.col("drop_reason").is_null())
    # A cosine is computed in another order here than in cleaning, hence the tolerance.
    bars = read_thresholds(settings, TOLERANCE)
    left = find_kept_pairs(this_round.read("near_duplicates"), kept["row_id"], bars, key=this_round.key)
    comparer, missed, num_compared, num_sampled, may_miss = open_comparer(this_round), [left.clear()], 0, 0, 0
    for kinds in this_round.plan.recipe.compared_together:
        texts = list_texts(this_round.plan.recipe, kept.filter(pl.col("kind").is_in(kinds)), this_round.key)
        if texts.is_empty():
            continue
        places = np.unique(np.linspace(0, len(texts) - 1, NUM_SAMPLED).astype(int))
        vectors = this_round.embed(texts["text"].to_list())
        left = pl.concat([left, comparer.find_equal_kept(texts)])
        found = comparer.compare_sample(texts, vectors, places)
        missed.append(find_kept_pairs(found, kept["row_id"], bars, key=this_round.key))
        num_compared, num_sampled = num_compared + len(texts), num_sampled + len(places)
        may_miss += len(places) // 100 if len(texts) > EXACT_ROWS else 0
    overlooked = pl.concat(missed).join(left, on=["row_id", "other_id", "tier"], how="anti")
    num_overlooked = overlooked["row_id"].n_unique()
    examples, row_ids, key = pl.concat([left, overlooked]), kept["row_id"].to_list(), this_round.key
    num_left = len(choose_survivors(row_ids, examples, thresholds=bars, round_key=key))
    limits = say_thresholds(read_thresholds(settings))
    return Judged(
        passed=left.is_empty() and num_overlooked <= may_miss,
        description=None if num_compared else "This round has no rows of a kind that is compared.",
        found=f"{num_left} of {num_compared} compared rows are near-duplicates that were kept ({limits}); of "
        f"{num_sampled} compared anew {num_overlooked} had been overlooked, and {may_miss} may be.",
        facts={
            "num_rows": len(kept),
            "num_compared": num_compared,
            # Rows that were to be dropped; a pair of the sample may be named from both sides.
            "num_left": num_left,
            "num_sampled": num_sampled,
            "num_overlooked": num_overlooked,
            "bars": read_thresholds(settings),
            "examples": Rows(examples, examples.columns),
        },
    )


def find_kept_pairs(pairs: pl.DataFrame, kept: pl.Series, bars: Mapping[str, float], *, key: str) -> pl.DataFrame:
    """The pairs above their tier's bar of which neither row was dropped.

    Args:
        pairs: schema `NEAR_DUPLICATES`.
        kept: the ids of the round's kept rows; those of earlier rounds in `pairs` were kept.
        bars: by tier, the similarity that a pair must be strictly above.
        key: the round.
    """
    bar = pl.col("tier").replace_strict(bars, default=None, return_dtype=pl.Float64)
    stays = pl.col("row_id").is_in(kept.implode())
    other_stays = pl.col("other_id").is_in(kept.implode()) | (pl.col("other_round") != key)
    return pairs.filter(stays & other_stays & (pl.col("similarity") > bar))
