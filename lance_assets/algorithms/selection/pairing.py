"""From reviewed rows to training sets: the branches, the SFT rows, the preference pairs and the next seeds.

Source: LANCE (arXiv 2412.15151), `preprocess.py` of the authors' code. All of it only reads scores, so that a
threshold can move without reviewing again.

Differences from the authors' code:

1. Unscored rows take no part anywhere; the authors' code gives them score 0, which makes them the rejected completion
   with a large gap.
2. Of several lowest candidates the one with the smallest row id is rejected; the authors' code takes the smallest text.
3. A pair never has the same text on both sides.
4. Scores are means of three, so comparisons forgive rounding errors of 1e-9: 8.33... - 6.33... is 2, not more than 2.
5. The shortest text may go by the seeds' own; the authors' code leaves out all of at most 5 characters, "24" and
   "Paris" among them.
"""

import hashlib
from collections.abc import Sequence

import polars as pl

from lance_assets.records import PREFERENCE_PAIRS, SEED_SET, SFT_SET, derive_row_id

_ROUNDING = 1e-9
"""Far above the rounding of a mean of a few scores, far below any difference between two such means."""

LANCE_MIN_CHARS = 5
"""A trained text of the authors' code has more characters than this."""


def find_min_chars(seeds: pl.Series) -> int:
    """How many characters a text has to have more of, by the seeds' own texts.

    The bound lies just below the 5th percentile of their lengths, and never above LANCE's 5: where seeds are labels or
    numbers, short texts are right, and seeds that are long say nothing against a short one.

    Args:
        seeds: the seeds' prompts, or their completions.

    Returns:
        0 to `LANCE_MIN_CHARS`; 0 where there are no seeds.

    >>> find_min_chars(pl.Series(["24", "7", "120"])), find_min_chars(pl.Series(["It is Paris."]))
    (0, 5)
    """
    lengths = seeds.drop_nulls().str.len_chars().sort().to_list()
    return max(0, min(LANCE_MIN_CHARS, lengths[len(lengths) // 20] - 1)) if lengths else 0


def _is_long_enough(reviewed: pl.DataFrame, min_chars: int | None, *, prompt: str, completions: list[str]) -> pl.Expr:
    """Whether a prompt and its completions all have more characters than the bound, or than the seeds' own gives."""
    seeds = reviewed.filter(kind="seed")
    of_prompt, of_completion = (
        find_min_chars(seeds[text]) if min_chars is None else min_chars for text in ("prompt", "completion")
    )
    bounds = {prompt: of_prompt} | dict.fromkeys(completions, of_completion)
    return pl.all_horizontal(pl.col(text).str.len_chars() > bound for text, bound in bounds.items())


def split_by_score(seeds: pl.DataFrame, *, branch_threshold: float) -> pl.DataFrame:
    """Add the column `branch`: "high" for a score above the threshold, "low" up to it, "unscored" without one.

    >>> split_by_score(pl.DataFrame({"review_score": [7.0, 7.5, None]}), branch_threshold=7.0)["branch"].to_list()
    ['low', 'high', 'unscored']
    """
    score = pl.col("review_score").cast(pl.Float64)
    branch = (
        pl.when(score > branch_threshold + _ROUNDING).then(pl.lit("high")).when(score.is_not_null()).then(pl.lit("low"))
    )
    return seeds.with_columns(branch.otherwise(pl.lit("unscored")).alias("branch"))


def _derive_ids(frame: pl.DataFrame, *parts: str, columns: list[str]) -> pl.Series:
    return pl.Series("row_id", [derive_row_id(*parts, *row) for row in frame.select(columns).iter_rows()], pl.String)


def select_sft_rows(
    reviewed: pl.DataFrame, *, sft_threshold: float | None = 8.0, min_chars: int | None = None, round_key: str
) -> pl.DataFrame:
    """The completions of new prompts that scored above the threshold.

    Args:
        reviewed: schema `REVIEWED_SET`.
        sft_threshold: 0..10, strict; None takes every completion, scored or not.
        min_chars: prompt and completion both have more characters than this; None goes by the rows of kind "seed"
            (`find_min_chars`).
        round_key: the round that accepts them.

    Returns:
        Schema `SFT_SET`, in the order of the input; empty where none passes.

    >>> reviewed = pl.DataFrame({
    ...     "row_id": ["a", "b"], "kind": "completion", "prompt": "Add 2 and 3.",
    ...     "completion": "2 + 3 = 5. The answer is 5.", "review_score": [8.0, 8.5],
    ... })
    >>> select_sft_rows(reviewed, round_key="r0001")["source_id"].to_list()
    ['b']
    """
    is_good = pl.lit(value=True) if sft_threshold is None else pl.col("review_score") > sft_threshold + _ROUNDING
    passed = reviewed.filter(
        (pl.col("kind") == "completion")
        & is_good
        & _is_long_enough(reviewed, min_chars, prompt="prompt", completions=["completion"])
    )
    return passed.select(
        _derive_ids(passed, "sft_set", round_key, columns=["row_id"]),
        "prompt",
        "completion",
        pl.lit("generated").alias("source"),
        pl.lit(round_key).alias("source_round"),
        pl.col("row_id").alias("source_id"),
        "review_score",
    ).cast(SFT_SET)


def build_preference_pairs(
    reviewed: pl.DataFrame, *, score_gap: float = 2.0, min_chars: int | None = None, round_key: str
) -> pl.DataFrame:
    """Pair each seed's lowest candidate with every candidate far enough above it.

    A seed's candidates are its own completion and its degraded ones, as far as they are scored. The seed's completion
    is not forced to be chosen. Only seeds of the high branch have degraded completions, so that seeds of the low one
    make no pair.

    Args:
        reviewed: schema `REVIEWED_SET`.
        score_gap: 0 or more; chosen scores more than this above rejected.
        min_chars: prompt, chosen and rejected all have more characters than this; None goes by the rows of kind "seed"
            (`find_min_chars`).
        round_key: the round that builds them.

    Returns:
        Schema `PREFERENCE_PAIRS`, in the order of the chosen rows in the input; empty where none passes. Ties for
        the lowest go to the smallest row id.

    >>> reviewed = pl.DataFrame({
    ...     "row_id": ["s", "d"], "kind": ["seed", "degraded_completion"], "seed_id": "s",
    ...     "prompt": "Add 2 and 3.", "completion": ["It is 5.", "It is 6."], "review_score": [9.0, 4.0],
    ... })
    >>> build_preference_pairs(reviewed, round_key="r0001").select("chosen", "rejected", "score_gap").row(0)
    ('It is 5.', 'It is 6.', 5.0)
    """
    # A row without a score is neither good nor bad, so it may be on no side of a pair.
    candidates = reviewed.filter(
        pl.col("kind").is_in(["seed", "degraded_completion"]) & pl.col("review_score").is_not_null()
    ).select("seed_id", "row_id", "prompt", "completion", "review_score")
    lowest = candidates.sort("review_score", "row_id").unique("seed_id", keep="first", maintain_order=True)
    pairs = candidates.join(lowest, on="seed_id", suffix="_low", maintain_order="left").select(
        "prompt",
        pl.col("completion").alias("chosen"),
        pl.col("completion_low").alias("rejected"),
        pl.col("row_id").alias("chosen_id"),
        pl.col("row_id_low").alias("rejected_id"),
        pl.col("review_score").alias("chosen_score"),
        pl.col("review_score_low").alias("rejected_score"),
        (pl.col("review_score") - pl.col("review_score_low")).alias("score_gap"),
        pl.lit(round_key).alias("source_round"),
    )
    kept = pairs.filter(
        (pl.col("score_gap") > score_gap + _ROUNDING)
        # Texts that differ in spaces alone have nothing to teach.
        & (pl.col("chosen").str.strip_chars() != pl.col("rejected").str.strip_chars())
        & _is_long_enough(reviewed, min_chars, prompt="prompt", completions=["chosen", "rejected"])
    )
    ids = _derive_ids(kept, "preference_pairs", round_key, columns=["chosen_id", "rejected_id"])
    return kept.with_columns(ids).select(PREFERENCE_PAIRS.names()).cast(PREFERENCE_PAIRS)


def build_self_play_pairs(reviewed: pl.DataFrame, *, round_key: str) -> pl.DataFrame:
    """The seed's completion against each of the model's own to the same prompt (SPIN, arXiv 2401.01335).

    Args:
        reviewed: schema `REVIEWED_SET`, kinds "seed" and "own_completion".
        round_key: the round that builds them.

    Returns:
        Schema `PREFERENCE_PAIRS` without scores, in the order of the own completions.
    """
    seeds = reviewed.filter(pl.col("kind") == "seed").select("seed_id", chosen="completion", chosen_id="row_id")
    pairs = (
        reviewed.filter(pl.col("kind") == "own_completion")
        .join(seeds, on="seed_id", maintain_order="left")
        .rename({"completion": "rejected", "row_id": "rejected_id"})
        .filter(pl.col("chosen").str.strip_chars() != pl.col("rejected").str.strip_chars())
    )
    return _complete_pairs(pairs, round_key=round_key)


def build_best_worst_pairs(
    reviewed: pl.DataFrame, *, round_key: str, kinds: Sequence[str] = ("completion",)
) -> pl.DataFrame:
    """Each prompt's best completion against its worst, unless they tie (Self-Rewarding, arXiv 2401.10020).

    Args:
        reviewed: schema `REVIEWED_SET`; rows without a score take no part.
        round_key: the round that builds them.
        kinds: the kinds of rows that take part.

    Returns:
        Schema `PREFERENCE_PAIRS`, at most one a prompt of a seed. Of equal scores the smallest row id counts.
    """
    scored = reviewed.filter(pl.col("kind").is_in(kinds) & pl.col("review_score").is_not_null())
    key = ["seed_id", "prompt"]
    best = scored.sort("review_score", "row_id", descending=[True, False]).unique(key, keep="first")
    worst = scored.sort("review_score", "row_id").unique(key, keep="first")
    pairs = (
        best.join(worst, on=key, suffix="_low")
        .with_columns(
            *(pl.col("completion").alias("chosen"), pl.col("row_id").alias("chosen_id")),
            *(pl.col("completion_low").alias("rejected"), pl.col("row_id_low").alias("rejected_id")),
            *(pl.col("review_score").alias("chosen_score"), pl.col("review_score_low").alias("rejected_score")),
        )
        .filter(
            (pl.col("chosen_score") > pl.col("rejected_score") + _ROUNDING)
            & (pl.col("chosen").str.strip_chars() != pl.col("rejected").str.strip_chars())
        )
        .sort("chosen_id")
    )
    return _complete_pairs(pairs, round_key=round_key)


def _complete_pairs(pairs: pl.DataFrame, *, round_key: str) -> pl.DataFrame:
    """Add ids, round, and the scores where there are none."""
    for name in ("chosen_score", "rejected_score"):
        if name not in pairs.columns:
            pairs = pairs.with_columns(pl.lit(None, pl.Float64).alias(name))
    return pairs.select(
        _derive_ids(pairs, "preference_pairs", round_key, columns=["chosen_id", "rejected_id"]),
        *("prompt", "chosen", "rejected", "chosen_id", "rejected_id", "chosen_score", "rejected_score"),
        score_gap=pl.col("chosen_score") - pl.col("rejected_score"),
        source_round=pl.lit(round_key),
    ).cast(PREFERENCE_PAIRS)


def grow_seed_set(
    seeds: pl.DataFrame, reviewed: pl.DataFrame, *, round_key: str, needs_score: bool = True
) -> tuple[pl.DataFrame, int]:
    """The rows a round adds to the pool: every reviewed completion, good or bad, new or degraded.

    Args:
        seeds: the pool so far, schema `SEED_SET`; rows already in it are not added again.
        reviewed: the round's rows, schema `REVIEWED_SET`.
        round_key: the round.
        needs_score: whether a row without a score stays out; a loop without reviews has none.

    Returns:
        The new rows, schema `SEED_SET`, and how many were left out because no review of them could be read.
    """
    # Seeds that were reviewed again are in the pool already.
    generated = reviewed.filter(pl.col("kind").is_in(["completion", "degraded_completion"])).join(
        seeds.select("row_id"), on="row_id", how="anti", maintain_order="left"
    )
    scored = generated.filter(pl.col("review_score").is_not_null()) if needs_score else generated
    rows = scored.select(
        "row_id",
        "prompt",
        "completion",
        pl.lit(None, pl.String).alias("answer"),
        pl.lit("generated").alias("source"),
        pl.lit(round_key).alias("source_round"),
        pl.col("row_id").alias("source_id"),
        "review_score",
    )
    return rows.cast(SEED_SET), len(generated) - len(scored)


def take_seeds(
    seeds: pl.DataFrame, *, max_seeds: int, rng_seed: int, round_key: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Sample at most `max_seeds` rows, the same ones whatever the order of the rows.

    Args:
        seeds: rows with unique `row_id`.
        max_seeds: at least 1.
        rng_seed: the experiment's.
        round_key: the round; each round draws other rows.

    Returns:
        (taken, left), both in the order of the input; taken are the rows with the smallest hashes of (rng_seed,
        round_key, row_id).

    Raises:
        ValueError: max_seeds is below 1.

    >>> taken, left = take_seeds(pl.DataFrame({"row_id": ["a", "b", "c"]}), max_seeds=2, rng_seed=0, round_key="r0001")
    >>> len(taken), len(left)
    (2, 1)
    """
    if max_seeds < 1:
        raise ValueError(f"max_seeds must be at least 1, got {max_seeds}")
    # Ranks of hashes rather than a shuffle: a row that joins the pool leaves the order of the others as it was.
    digests = [hashlib.sha256(f"{rng_seed}\x1f{round_key}\x1f{row_id}".encode()).digest() for row_id in seeds["row_id"]]
    ranks = pl.Series("rank", digests, pl.Binary).rank("ordinal")
    return seeds.filter(ranks <= max_seeds), seeds.filter(ranks > max_seeds)
