"""Keep or drop every generated prompt and completion, with the reason.

Source: LANCE (arXiv 2412.15151), `filter_data.py` of the authors' code: lengths in words, and ROUGE-L against the seed
and the earlier siblings, scanned from the last sibling to the first. A row is dropped when it is like any earlier
sibling of allowed length, also one that is dropped itself later in the scan.

Differences from the authors' code:

1. Prompts are cleaned also where a single one was read; theirs skips it.
2. ROUGE-L is plain, on words (see `rouge_l`); theirs is the summary-level variant on sets.
3. A sample that failed, that was cut at the token limit or that could not be read is dropped with that reason.
4. Prompts of the evaluation, and exact duplicates in the round (after `normalise_text`), are dropped. Of equal ones
   the smallest row id is kept, and a prompt only counts as kept when it has a completion left.
5. Chinese and Japanese characters count as words; theirs splits at spaces, which makes such texts one word long.

A row has one reason, the first that applies: `generation_failed`, `cut_off`, `unparsed`, `prompt_dropped` (as far as
known then), lengths, `evaluation_overlap`, `like_seed`, `like_sibling`; then, over the round, `no_completion`,
`duplicate_in_round` and what follows from it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import polars as pl

from lance_assets.algorithms.filters.cleaning_rules import (
    Candidate,
    check_length,
    check_sample,
    group_siblings,
    mark_duplicates,
    mark_near_duplicates,
    mark_orphans,
    read_candidates,
)
from lance_assets.algorithms.similarity.decontamination import normalise_text
from lance_assets.algorithms.similarity.rouge_l import tokenize_words
from lance_assets.records import CLEANED_SET

DROP_REASONS = {
    "generation_failed": "the engine failed on this row",
    "cut_off": "cut at the token limit, so not complete",
    "unparsed": "the prompt or completion could not be read out of what the model wrote",
    "prompt_dropped": "the new prompt it belongs to was dropped",
    "prompt_too_short": "fewer words than min_prompt_words",
    "prompt_too_long": "more words than max_prompt_words",
    "completion_too_short": "fewer words than min_completion_words",
    "completion_too_long": "more words than max_completion_words",
    "evaluation_overlap": "its prompt is one of the evaluation's",
    "like_seed": "near-duplicate of the seed's prompt (new prompts) or completion (completions)",
    "like_sibling": "near-duplicate of an earlier sample: prompts of one seed, completions of one prompt",
    "duplicate_in_round": "the same prompt, or prompt and completion, is kept elsewhere in this round",
    "evaluation_neighbour": "its prompt is too like one of the evaluation's, by embedding",
    "like_history": "near-duplicate, in one of the three tiers, of a text that an earlier round kept",
    "like_in_round": "near-duplicate, in one of the three tiers, of a text kept in this round",
    "no_completion": "a new prompt of which no completion was kept",
    "same_as_seed": "the seed's own completion",
}
"""Why a row is dropped, in the order in which reasons are shown."""


@dataclass(frozen=True)
class CleaningSettings:
    """The bounds of what is kept; the defaults are the paper's."""

    min_prompt_words: int = 5
    """Shortest new prompt."""
    max_prompt_words: int = 4096
    """Longest new prompt."""
    min_completion_words: int = 10
    """Shortest completion."""
    max_completion_words: int = 4096
    """Longest completion."""
    rouge_l_threshold: float = 0.70
    """Near-duplicates are above it on precision, recall or F; 0..1."""


def clean_generations(
    generations: pl.DataFrame,
    seeds: pl.DataFrame,
    *,
    settings: CleaningSettings,
    is_evaluation_prompt: Callable[[str], bool],
) -> pl.DataFrame:
    """Decide about every generated prompt and completion of a round.

    Cost: linear in the rows, with one ROUGE-L for each row and seed and each two siblings.

    Args:
        generations: schema `RAW_GENERATIONS`; rows of kind "seed_review" are no candidates.
        seeds: schema `SEED_SET`, every seed the generations name.
        settings: the bounds.
        is_evaluation_prompt: whether a prompt belongs to the evaluation; asked once for each different prompt.

    Returns:
        Schema `CLEANED_SET`: one row for each candidate, in the order of the input. `similarity` is the largest of
        ROUGE-L's three to the seed and the earlier siblings, for every row that was compared, so that the threshold can
        be moved later; `nearest_id` is set for duplicates and may itself be dropped.

    Raises:
        ValueError: a row names a seed or new prompt that is not there.
    """
    seed_texts = {row_id: texts for row_id, *texts in seeds.select("row_id", "prompt", "completion").iter_rows()}
    rows = read_candidates(generations, set(seed_texts))
    prompts = {row.row_id: row for row in rows if row.kind == "new_prompt"}
    completions = [row for row in rows if row.kind != "new_prompt"]
    is_evaluation_prompt = cache(is_evaluation_prompt)
    bounds = {
        True: {"lowest": settings.min_prompt_words, "highest": settings.max_prompt_words},
        False: {"lowest": settings.min_completion_words, "highest": settings.max_completion_words},
    }

    def check_alone(row: Candidate) -> str | None:
        reason = check_sample(row)
        if reason is None and row.kind == "completion" and prompts[row.parent_id].drop_reason is not None:
            reason = "prompt_dropped"
        reason = reason or check_length(row, **bounds[row.kind == "new_prompt"])
        return reason or ("evaluation_overlap" if is_evaluation_prompt(row.prompt or "") else None)

    for stage in (list(prompts.values()), completions):
        for row in stage:
            row.drop_reason = check_alone(row)
        for siblings in group_siblings(stage):
            prompt, completion = seed_texts[siblings[0].seed_id]
            seed_words = tokenize_words((prompt if siblings[0].kind == "new_prompt" else completion) or "")
            mark_near_duplicates(siblings, seed_words, settings.rouge_l_threshold)
    mark_orphans(prompts, completions)
    seed_prompts = {(normalise_text(seed["prompt"]), ""): seed["row_id"] for seed in seeds.iter_rows(named=True)}
    for stage in (list(prompts.values()), completions):
        mark_duplicates(stage, seed_prompts)
        mark_orphans(prompts, completions)
    fields = [[getattr(row, name) for name in CLEANED_SET] for row in rows]
    return pl.DataFrame(fields, schema=CLEANED_SET, orient="row")


def mark_unusable(
    generations: pl.DataFrame, seeds: pl.DataFrame, *, is_evaluation_prompt: Callable[[str], bool]
) -> pl.DataFrame:
    """Drop only what nothing can be made of, for recipes whose candidates may well be alike.

    Args:
        generations: schema `RAW_GENERATIONS`, candidates of any kind with prompt and completion.
        seeds: schema `SEED_SET`; a candidate that repeats its seed's completion is dropped.
        is_evaluation_prompt: whether a prompt belongs to the evaluation.

    Returns:
        Schema `CLEANED_SET`, in the order of the input.
    """
    own = {row_id: normalise_text(text) for row_id, text in seeds.select("row_id", "completion").iter_rows()}
    columns = ("row_id", "kind", "seed_id", "parent_id", "sample_number", "prompt", "completion", "finish_reason")
    rows = [Candidate(*row) for row in generations.select(columns).iter_rows()]
    for row in rows:
        row.drop_reason = check_sample(row)
        if row.drop_reason is None and is_evaluation_prompt(row.prompt or ""):
            row.drop_reason = "evaluation_overlap"
        if row.drop_reason is None and own.get(row.seed_id) == normalise_text(row.completion or ""):
            row.drop_reason, row.nearest_id, row.tier, row.similarity = "same_as_seed", row.seed_id, "exact", 1.0
    fields = [[getattr(row, name) for name in CLEANED_SET] for row in rows]
    return pl.DataFrame(fields, schema=CLEANED_SET, orient="row")


def mark_dropped(cleaned: pl.DataFrame, dropped: pl.DataFrame, *, reason: str) -> pl.DataFrame:
    """Drop kept rows for what was found outside this module, and what hangs on them.

    Args:
        cleaned: schema `CLEANED_SET`.
        dropped: `row_id`, `nearest_id`, `tier`, `similarity` (-1..1) of rows to drop, at most one for each row.
        reason: one of `DROP_REASONS`.

    Returns:
        `cleaned` with further `drop_reason`s: the given one with nearest id, tier and similarity; "prompt_dropped" for
        completions of such a prompt, "no_completion" for prompts of which none is left. Rows that were dropped before
        keep their reason.

    Raises:
        ValueError: a row is named twice in `dropped`, or a similarity is NaN.
    """
    twice = dropped.filter(pl.col("row_id").is_duplicated())["row_id"]
    if len(twice):
        raise ValueError(f"dropped must have one row for each row_id, {twice[0]} has several")
    similarity = dropped["similarity"].cast(pl.Float64)
    if similarity.is_nan().any():
        raise ValueError("dropped has a similarity that is NaN: was a zero vector compared?")
    found = dropped.select("row_id", found=True, found_id="nearest_id", found_tier="tier", found_similarity=similarity)
    joined = cleaned.join(found, on="row_id", how="left", maintain_order="left")
    is_found = pl.col("drop_reason").is_null() & pl.col("found").is_not_null()
    marked = joined.with_columns(
        drop_reason=pl.when(is_found).then(pl.lit(reason)).otherwise("drop_reason"),
        nearest_id=pl.when(is_found).then("found_id").otherwise("nearest_id"),
        tier=pl.when(is_found).then("found_tier").otherwise("tier"),
        similarity=pl.when(is_found).then("found_similarity").otherwise("similarity"),
    )
    is_kept, kind = pl.col("drop_reason").is_null(), pl.col("kind")
    dropped_prompts = marked.filter((kind == "new_prompt") & ~is_kept)["row_id"].implode()
    of_dropped = is_kept & (kind == "completion") & pl.col("parent_id").is_in(dropped_prompts)
    marked = marked.with_columns(
        drop_reason=pl.when(of_dropped).then(pl.lit("prompt_dropped")).otherwise("drop_reason")
    )
    with_completion = marked.filter(is_kept & (kind == "completion"))["parent_id"].implode()
    is_orphan = is_kept & (kind == "new_prompt") & ~pl.col("row_id").is_in(with_completion)
    marked = marked.with_columns(drop_reason=pl.when(is_orphan).then(pl.lit("no_completion")).otherwise("drop_reason"))
    return marked.select(CLEANED_SET.names()).cast(CLEANED_SET)


def count_drop_reasons(cleaned: pl.DataFrame) -> dict[str, int]:
    """How many rows are "kept" and how many are dropped for each reason that occurs; the counts add up to the rows.

    A recipe's own reasons come after those of this module.

    >>> count_drop_reasons(pl.DataFrame({"drop_reason": [None, "cut_off", None]}))
    {'kept': 2, 'cut_off': 1}
    """
    counts = Counter(cleaned["drop_reason"].to_list())
    others = sorted(reason for reason in counts if reason is not None and reason not in DROP_REASONS)
    return {"kept": counts[None]} | {reason: counts[reason] for reason in [*DROP_REASONS, *others] if counts[reason]}
