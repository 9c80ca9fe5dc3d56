"""cleaned_set: every candidate, kept or dropped with its reason; kept texts join the history in LanceDB.

A round's kept texts are compared with all rounds before it, then with each other, in three tiers: equal texts, ROUGE-L,
and embeddings.
"""

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from lance_assets.algorithms.filters.contract import count_drop_reasons
from lance_assets.algorithms.filters.rules import mark_dropped
from lance_assets.algorithms.similarity.lexical_pairs import find_lexical_pairs
from lance_assets.algorithms.similarity.near_duplicates import choose_survivors, find_exact_pairs, find_similar_pairs
from lance_assets.algorithms.similarity.words import normalise_text
from lance_assets.conversations import show_prompt
from lance_assets.recipes.contract import AnyRecipe
from lance_assets.records import NEAR_DUPLICATES
from lance_assets.rounds.report import Counts, Judged, Made, Report, Rows, count_values
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import NearDuplicateSettings

TEXTS = pl.Schema({"row_id": pl.String, "round": pl.String, "text": pl.String})


@dataclass(frozen=True)
class Deduplicated:
    """What comparing a round with itself and all rounds before gave."""

    cleaned: pl.DataFrame
    """The cleaned set with further drops, schema `CLEANED_SET`."""
    pairs: pl.DataFrame
    """Every pair of like texts, schema `NEAR_DUPLICATES`."""
    kept: pl.DataFrame
    """The rows that stay: row_id, text."""
    vectors: np.ndarray
    """Their vectors, float32 [num_kept, dim], L2-normalised."""


def text_to_compare(recipe: AnyRecipe) -> pl.Expr:
    """What of a candidate is compared: a prompt that a model wrote, or a prompt with its completion."""
    return (
        pl.when(pl.col("kind").is_in(recipe.compared_prompts))
        .then("prompt")
        .otherwise(pl.col("prompt") + "\n" + pl.col("completion"))
    )


def list_texts(recipe: AnyRecipe, cleaned: pl.DataFrame, key: str) -> pl.DataFrame:
    """The kept texts of a cleaned set, schema `TEXTS`, by row id; conversations as transcripts."""
    shown = pl.col("prompt").map_elements(show_prompt, return_dtype=pl.String)
    kept = cleaned.filter(pl.col("drop_reason").is_null()).with_columns(shown)
    return kept.select("row_id", round=pl.lit(key, pl.String), text=text_to_compare(recipe)).cast(TEXTS).sort("row_id")


def name_pairs(found: pl.DataFrame, left: pl.DataFrame, right: pl.DataFrame, tier: str) -> pl.DataFrame:
    """Pairs of positions (left, right, similarity) as pairs of rows, schema `NEAR_DUPLICATES`."""
    rows = left.select(pl.all().gather(found["left"]))
    others = right.select(pl.all().gather(found["right"]))
    return pl.DataFrame(
        {
            "row_id": rows["row_id"],
            "other_id": others["row_id"],
            "other_round": others["round"],
            "tier": [tier] * len(found),
            "similarity": found["similarity"],
            "text": rows["text"],
            "other_text": others["text"],
        },
        schema=NEAR_DUPLICATES,
    )


def find_equal(texts: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """Positions of equal texts after normalisation: each row with the first of its equals in an earlier round."""
    first: dict[str, int] = {}
    for position, text in enumerate(earlier["text"]):
        first.setdefault(normalise_text(text), position)
    found = [
        (row, first[normal], 1.0) for row, text in enumerate(texts["text"]) if (normal := normalise_text(text)) in first
    ]
    return pl.DataFrame(found, schema={"left": pl.Int64, "right": pl.Int64, "similarity": pl.Float64}, orient="row")


def compare_with_earlier(this_round: Round, texts: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
    """Pairs of this round's texts with those that earlier rounds kept; by embedding the nearest one of each row.

    Rounds whose data is left out are not compared with: nothing later trains on it.
    """
    settings, history = this_round.plan.settings.near_duplicates, this_round.platform.history
    recipe, keys = this_round.plan.recipe, this_round.kept_keys
    earlier = pl.concat(
        # The empty table gives the columns where there is no earlier round.
        [texts.clear(), *(list_texts(recipe, this_round.read("cleaned_set", key), key) for key in keys)]
    )
    pairs = [pl.DataFrame(schema=NEAR_DUPLICATES)]
    if settings.exact:
        pairs.append(name_pairs(find_equal(texts, earlier), texts, earlier, "exact"))
    if settings.lexical_threshold is not None:
        lexical = find_lexical_pairs(
            texts["text"].to_list(), threshold=settings.lexical_threshold, against=earlier["text"].to_list()
        )
        pairs.append(name_pairs(lexical, texts, earlier, "lexical"))
    if settings.embedding_threshold is not None:
        # The table of vectors also holds this round where it is made again, so only earlier ones are searched.
        nearest = history.find_nearest(
            vectors,
            experiment=this_round.plan.name,
            before_round=this_round.key,
            model_hash=this_round.embedder.model_hash,
            without=this_round.left_out,
        )
        # There is no neighbour while no earlier round has kept a text.
        named = pl.concat([texts.select("row_id", "text"), nearest], how="horizontal").drop_nulls("nearest_id")
        named = named.rename({"nearest_id": "other_id", "nearest_round": "other_round"}).join(
            earlier.select(other_id="row_id", other_text="text"), on="other_id", how="left", maintain_order="left"
        )
        pairs.append(named.with_columns(tier=pl.lit("embedding")).select(NEAR_DUPLICATES.names()).cast(NEAR_DUPLICATES))
    return pl.concat(pairs)


def compare_within(settings: NearDuplicateSettings, texts: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
    """Pairs of like texts of one round, each naming the row with the smaller id as the other."""
    pairs = [pl.DataFrame(schema=NEAR_DUPLICATES)]
    if settings.exact:
        exact = find_exact_pairs(texts["row_id"].to_list(), texts["text"].to_list())
        named = exact.join(texts.select("row_id", "text"), on="row_id", maintain_order="left").join(
            texts.select(other_id="row_id", other_round="round", other_text="text"),
            on="other_id",
            maintain_order="left",
        )
        pairs.append(named.select(NEAR_DUPLICATES.names()))
    if settings.lexical_threshold is not None:
        lexical = find_lexical_pairs(texts["text"].to_list(), threshold=settings.lexical_threshold)
        pairs.append(
            name_pairs(lexical.select(left="right", right="left", similarity="similarity"), texts, texts, "lexical")
        )
    if settings.embedding_threshold is not None:
        similar = find_similar_pairs(vectors, threshold=settings.embedding_threshold)
        pairs.append(
            name_pairs(similar.select(left="right", right="left", similarity="similarity"), texts, texts, "embedding")
        )
    return pl.concat(pairs)


def compare_kept(this_round: Round, kept: pl.DataFrame) -> pl.DataFrame:
    """All pairs of like texts that kept rows of a cleaned set have, with each other and with earlier rounds."""
    texts = list_texts(this_round.plan.recipe, kept, this_round.key)
    vectors = this_round.embed(texts["text"].to_list())
    within = compare_within(this_round.plan.settings.near_duplicates, texts, vectors)
    return pl.concat([compare_with_earlier(this_round, texts, vectors), within])


def read_thresholds(settings: NearDuplicateSettings, tolerance: float = 0.0) -> dict[str, float]:
    """The threshold of each tier that is on, cosines with a tolerance; equal texts have the similarity 1."""
    bars = {
        "exact": 0.0 if settings.exact else None,
        "lexical": settings.lexical_threshold,
        "embedding": None if settings.embedding_threshold is None else settings.embedding_threshold + tolerance,
    }
    return {tier: bar for tier, bar in bars.items() if bar is not None}


def drop_near_duplicates(this_round: Round, cleaned: pl.DataFrame) -> Deduplicated:
    """Drop texts like those of earlier rounds, then new prompts like each other, then completions like each other.

    In this order a row is compared only with rows that stay: rows that depend on a dropped prompt are dropped with it
    before completions are compared.
    """
    recipe, settings = this_round.plan.recipe, this_round.plan.settings.near_duplicates
    thresholds = read_thresholds(settings)
    texts = list_texts(recipe, cleaned, this_round.key)
    vectors = this_round.embed(texts["text"].to_list())
    all_kinds = [kind for kinds in recipe.compared_together for kind in kinds]
    compared = cleaned.filter(pl.col("kind").is_in(all_kinds))["row_id"]
    is_compared = texts["row_id"].is_in(compared.implode())
    rows = texts.filter(is_compared)
    # Earlier rounds come first: a row that is dropped for that must not drop another row of this round.
    found = [compare_with_earlier(this_round, rows, vectors[is_compared.to_numpy()])]
    dropped = choose_survivors(rows["row_id"].to_list(), found[0], thresholds=thresholds)
    cleaned = mark_dropped(cleaned, dropped, reason="like_history")
    for kinds in recipe.compared_together:
        kept = cleaned.filter(pl.col("drop_reason").is_null() & pl.col("kind").is_in(kinds))["row_id"]
        is_in = texts["row_id"].is_in(kept.implode())
        rows = texts.filter(is_in)
        found.append(compare_within(settings, rows, vectors[is_in.to_numpy()]))
        dropped = choose_survivors(rows["row_id"].to_list(), found[-1], thresholds=thresholds)
        cleaned = mark_dropped(cleaned, dropped, reason="like_in_round")
    stays = texts["row_id"].is_in(cleaned.filter(pl.col("drop_reason").is_null())["row_id"].implode())
    pairs = pl.concat(found).sort("row_id", "other_id", "tier")
    return Deduplicated(cleaned, pairs, texts.filter(stays).drop("round"), vectors[stays.to_numpy()])


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
    )
    found = drop_near_duplicates(this_round, drop_evaluation_neighbours(this_round, cleaned))
    history, model_hash = this_round.platform.history, this_round.embedder.model_hash
    # A round that is made again replaces its texts, so it is never compared with its own former rows.
    history.replace_round(plan.name, this_round.key, found.kept, found.vectors, model_hash=model_hash)
    health = {f"history/{name}": value for name, value in asdict(history.maintain()).items()}
    return Made(found.cleaned, others={"near_duplicates": found.pairs}, facts=health)


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
    found = pl.concat(compare_kept(this_round, rows) for rows in compared)
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
