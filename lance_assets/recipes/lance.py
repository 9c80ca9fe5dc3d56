"""LANCE: a model reviews its seeds, proposes what is missing, reviews that too, and trains on it (arXiv 2412.15151).

One round, with the round's model M and a pool of seeds:

    review      M scores every seed 0 to 10, three times; the mean is its review score
    split       score > 7: high branch; score <= 7: low branch; never scored: neither
    low         M writes 4 new prompts like the seed's, and 4 completions of each
    high        M writes 4 deliberately worse completions of the seed's prompt
    clean       lengths, near-duplicates by ROUGE-L, and what only this platform adds (below)
    review      M scores everything that was kept, three times
    SFT set     completions of new prompts that scored above 8
    pairs       per high seed: every candidate more than 2 points above the lowest one, against that one
                (where asked for: M judges some of them, shown in both orders)
    train       SFT, then DPO, from the round's start checkpoint, on the sets of all rounds
    grow        the pool gains everything that was reviewed

Round r0000 is SFT on the seeds alone (the paper's iteration 0). Constants are those of the authors' code
(Control-derek/LANCE, commit dd0266b), which the paper's figures agree with.

Differences from the authors' code:

1.  Seeds of the next round are the old pool and the new rows (the paper's figure). Their code drops the old pool in
    the first round and afterwards adds the original seeds only: `seed_growth="code"`.
2.  Seeds are scored anew each round by the round's own model (the paper's figure). Their code scores them once:
    `review_seeds_each_round=False`.
3.  SFT and preference data accumulate over all rounds, as in both; `trains_on` has other choices.
4.  A review is read tolerantly and the last score statement counts; theirs reads one spelling and the first. Where the
    engine can constrain, a grammar makes the review end in a score.
5.  A review that cannot be read is unscored. Theirs becomes 0, which sends a seed to the low branch and makes a
    completion the rejected one.
6.  A completion cut at the token limit is dropped (`cut_off`); theirs trains on it with an end-of-turn token.
7.  Prompt cleaning applies also when a single new prompt was read; theirs skips it.
8.  ROUGE-L is the plain one on words; theirs is the summary-level variant on sets, which fails on long texts.
9.  Beyond near-duplicates among one seed's rows: exact copies of any seed's prompt or of another row, near-duplicates
    by embedding in the round and of anything earlier rounds kept, and evaluation prompts are dropped.
10. Degraded completions join the pool, as in their code (`grow_with_degraded=False` leaves them out).
11. The pool is sampled down to the experiment's `max_seeds` a round; their scripts have no cap, and would grow up to
    16-fold.
12. SFT and DPO rows carry the same system message; theirs only SFT rows do.
13. Every sample has its own sampling seed; theirs has none.
14. EFT rows (examples of reviewing and proposing) are mixed into every round's SFT where the experiment has them;
    theirs into the first round's.
15. `score_from="expected"` takes a review's score as the mean over the probabilities of the scores (G-Eval, arXiv
    2303.16634) in place of the one that was sampled; theirs has the latter alone.
16. `num_judged_pairs` has the reviewer judge new pairs in both orders (MT-Bench, arXiv 2306.05685), which shows how
    often its preference follows the position; `drop_flipped_pairs` trains on none that is not preferred twice. Theirs
    has pairs by score alone.

Switches make the controls that the method is measured against (`docs/self-evolution.md`): `reviewer="random"`
draws every review score by lot, `reviewer="none"` accepts everything that cleaning kept and makes no pairs (a
Self-Instruct loop), `losses="sft"` trains without preference pairs, and `propose=False` trains on the seeds again.

Unknown, and chosen by the experiment: learning rates, beta, epochs, LoRA or full. The reference model is M after SFT.
"""

import random
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from lance_assets.algorithms.filters.cleaning import CleaningSettings, clean_generations
from lance_assets.algorithms.reviews.review_parsing import ReviewResult, combine_reviews
from lance_assets.algorithms.selection.pairing import (
    build_preference_pairs,
    grow_seed_set,
    select_sft_rows,
    split_by_score,
    take_seeds,
)
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import Losses, RecipeSettings, keep_rounds
from lance_assets.recipes.judging import judge_pairs_in_both_orders
from lance_assets.recipes.reviewing import (
    Rubric,
    ScoreFrom,
    build_review_requests,
    build_review_sampling,
    read_recorded,
    record_expected,
)
from lance_assets.recipes.steps import (
    build_reviewed_row,
    complete_new_prompts,
    describe_parent,
    propose_from_seeds,
    record_samples,
    review_rows,
)
from lance_assets.recipes.steps import (
    start_sft_set as start_sft_set,
)
from lance_assets.records import (
    PREFERENCE_PAIRS,
    RAW_GENERATIONS,
    REVIEWED_SET,
    SEED_SET,
    Ask,
    Request,
    Sample,
    SamplingSettings,
)

RUBRIC = Rubric("lance/review", 0, 10)
"""The paper's: five points for the prompt, five for the completion."""


class LanceSettings(RecipeSettings):
    """LANCE's parameters; the defaults are the paper's constants."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft", "sft_then_dpo")

    branch_threshold: float = Field(
        7.0, ge=0, le=10, description="Seeds scoring above it go to the high branch (the threshold valve V)."
    )
    num_prompts: int = Field(4, ge=1, le=64, description="New prompts sampled for each low seed (N).")
    num_completions: int = Field(
        4, ge=1, le=64, description="Completions sampled for each new prompt, and degraded ones for each high seed (M)."
    )
    num_reviews: int = Field(3, ge=1, le=16, description="Reviews of each row; the mean is its review score.")
    sft_threshold: float = Field(8.0, ge=0, le=10, description="Completions scoring above it enter the SFT set.")
    score_gap: float = Field(
        2.0, ge=0, le=10, description="A chosen completion scores more than this above the rejected one."
    )
    min_chars: int = Field(5, ge=0, description="A trained prompt or completion has more characters than this.")
    rouge_l_threshold: float = Field(
        0.70, ge=0, le=1, description="Two texts above it on recall, precision or F are near-duplicates."
    )
    min_prompt_words: int = Field(5, ge=0, description="Shortest new prompt, in words.")
    max_prompt_words: int = Field(4096, ge=1, description="Longest new prompt, in words.")
    min_completion_words: int = Field(10, ge=0, description="Shortest completion, in words.")
    max_completion_words: int = Field(4096, ge=1, description="Longest completion, in words.")
    branches: Literal["both", "low", "high"] = Field(
        "both", description="The paper's ablation: low alone trains SFT, high alone pairs."
    )
    seed_growth: Literal["paper", "code"] = Field(
        "paper",
        description="What the next pool holds beside the new rows: the old pool, or as the authors' code has it.",
    )
    grow_with_degraded: bool = Field(True, description="Whether degraded completions join the pool.")
    review_seeds_each_round: bool = Field(
        True, description="Whether seeds that have a score are scored again by the round's model."
    )
    max_seeds: int | None = Field(None, ge=1, description="Seeds taken from the pool each round; none takes all.")
    reviewer: Literal["model", "random", "none"] = Field(
        "model", description="Who scores: the round's model; a control that draws scores by lot; nobody."
    )
    propose: bool = Field(True, description="Whether anything is proposed, or each round trains on the seeds again.")
    score_from: ScoreFrom = Field(
        "text", description="A review's score: as written, or the mean by the probabilities of the scores there."
    )
    num_judged_pairs: int = Field(
        0, ge=0, description="New pairs a round that the reviewer judges in both orders; 0 judges none."
    )
    drop_flipped_pairs: bool = Field(
        False, description="Whether judged pairs train only where the chosen completion is preferred in both orders."
    )

    @property
    def judges_pairs(self) -> bool:
        """Whether any new pair is judged in both orders."""
        return self.num_judged_pairs > 0

    @property
    def has_reviews(self) -> bool:
        """Whether anything is reviewed."""
        return self.reviewer != "none" and self.propose

    @property
    def trains_without_news(self) -> bool:
        """Whether each round trains on the seeds again."""
        return not self.propose


SETTINGS = LanceSettings
"""What the file's `parameters` are read as."""


ROLES = ("reviewer",)
"""Jobs that a second model may do; without one the round's own model does them."""

ROLE_OF_STAGE = {"seed_review": "reviewer", "review": "reviewer", "judge_pair": "reviewer"}
"""Whose job a stage of asking is, where it is not the round's model's."""

SETTINGS_OF_STEP: dict[str, tuple[str, ...]] = {
    "seed_set": ("seed_growth", "grow_with_degraded", "max_seeds", "reviewer"),
    "raw_generations": (
        *("branch_threshold", "num_prompts", "num_completions", "num_reviews", "branches"),
        *("review_seeds_each_round", "temperature", "top_p", "max_new_tokens", "reviewer", "propose", "score_from"),
    ),
    "cleaned_set": (
        *("rouge_l_threshold", "min_prompt_words", "max_prompt_words", "min_completion_words", "max_completion_words"),
    ),
    "reviewed_set": (
        *("branch_threshold", "num_reviews", "temperature", "top_p", "max_new_tokens", "reviewer", "score_from"),
    ),
    "sft_set": ("sft_threshold", "min_chars", "trains_on", "reviewer"),
    "checkpoint": ("starts_from",),
    "preference_pairs": (
        *("score_gap", "min_chars", "trains_on", "reviewer", "losses", "num_judged_pairs", "drop_flipped_pairs"),
    ),
}
"""Which settings each step reads: what a change of one marks as out of date, and nothing else."""

SETTINGS_OF_JUDGING = ("temperature", "top_p", "max_new_tokens")
"""What preference_pairs reads beside, where pairs are judged."""


def _score_from(settings: LanceSettings) -> ScoreFrom:
    """What counts as a score; drawn ones are text."""
    return "text" if settings.reviewer == "random" else settings.score_from


def _review_seeds(identity: RoundIdentity, ask: Ask, seeds: list[dict], settings: LanceSettings) -> list[dict]:
    """Review each seed and record every sample."""
    score_from, number = _score_from(settings), settings.num_reviews
    requests = build_review_requests(identity, "seed_review", seeds, rubric=RUBRIC, num_reviews=number)
    sampling = build_review_sampling(settings.sampling, RUBRIC, score_from=score_from)
    samples = ask("seed_review", requests, sampling)
    parents = [
        describe_parent(seed, index, prompt=seed["prompt"], completion=seed["completion"])
        for seed in seeds
        for index in range(number)
    ]
    rows = record_samples("seed_review", parents, requests, samples)
    return [
        row | record_expected(sample, rubric=RUBRIC, score_from=score_from)
        for row, sample in zip(rows, samples, strict=True)
    ]


def draw_scores(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
    """Reviews of the control `reviewer="random"`: no model, a whole score from 0 to 10 by each row's sampling seed."""
    del stage, sampling
    scores = [random.Random(request.sampling_seed).randint(0, 10) for request in requests]
    return [
        Sample(request.row_id, f"score: {score}", "stop", 0, 0) for request, score in zip(requests, scores, strict=True)
    ]


def score_seeds(raw_generations: pl.DataFrame, settings: LanceSettings) -> dict[str, ReviewResult]:
    """Each seed's reviews of this round as read, by seed id; seeds that were not reviewed again are absent."""
    reviews = raw_generations.filter(pl.col("kind") == "seed_review").group_by("seed_id", maintain_order=True)
    columns = ("raw_text", "finish_reason", "expected_score", "unscored_reason")
    return {
        seed_id: combine_reviews(
            [
                read_recorded(*row, rubric=RUBRIC, score_from=_score_from(settings))
                for row in rows.select(columns).iter_rows()
            ]
        )
        for (seed_id,), rows in reviews
    }


def _with_scores(seeds: pl.DataFrame, results: dict[str, ReviewResult]) -> pl.DataFrame:
    scores = [
        results[row_id].review_score if row_id in results else score
        for row_id, score in zip(seeds["row_id"], seeds["review_score"], strict=True)
    ]
    return seeds.with_columns(pl.Series("review_score", scores, pl.Float64))


def _split(seeds: pl.DataFrame, results: dict[str, ReviewResult], settings: LanceSettings) -> pl.DataFrame:
    """Seeds with their scores and branch; without a reviewer all are low: each may beget new prompts."""
    if settings.reviewer == "none":
        return seeds.with_columns(pl.lit("low").alias("branch"))
    return split_by_score(_with_scores(seeds, results), branch_threshold=settings.branch_threshold)


def generate(
    seeds: pl.DataFrame, *, settings: LanceSettings, identity: RoundIdentity, ask: Ask, **_: object
) -> pl.DataFrame:
    """Review the seeds, split them, and sample both branches.

    Args:
        seeds: the round's seed set, schema `SEED_SET`.
        settings: the recipe's parameters.
        identity: the round.
        ask: the round's model.

    Returns:
        Every sample, schema `RAW_GENERATIONS`.
    """
    if not settings.propose:
        return pl.DataFrame(schema=RAW_GENERATIONS)
    to_review = seeds if settings.review_seeds_each_round else seeds.filter(pl.col("review_score").is_null())
    ask_reviewer = draw_scores if settings.reviewer == "random" else ask
    reviews = _review_seeds(
        identity, ask_reviewer, to_review.to_dicts() if settings.reviewer != "none" else [], settings
    )
    reviewed = pl.DataFrame(reviews, schema=RAW_GENERATIONS)
    split = _split(seeds, score_seeds(reviewed, settings), settings)
    low = split.filter(pl.col("branch") == "low").to_dicts() if settings.branches != "high" else []
    high = split.filter(pl.col("branch") == "high").to_dicts() if settings.branches != "low" else []
    new_prompts = propose_from_seeds(
        identity, ask, low, kind="new_prompt", step="lance/new_prompt", num_samples=settings.num_prompts
    )
    completions = complete_new_prompts(identity, ask, new_prompts, settings.num_completions)
    degraded = propose_from_seeds(
        identity, ask, high, kind="degraded_completion", step="lance/degrade", num_samples=settings.num_completions
    )
    return pl.DataFrame(reviews + new_prompts + completions + degraded, schema=RAW_GENERATIONS)


def clean(
    raw_generations: pl.DataFrame,
    seeds: pl.DataFrame,
    *,
    settings: LanceSettings,
    is_evaluation_prompt: Callable[[str], bool],
) -> pl.DataFrame:
    """Keep or drop every candidate with a reason, schema `CLEANED_SET`."""
    rules = CleaningSettings(
        min_prompt_words=settings.min_prompt_words,
        max_prompt_words=settings.max_prompt_words,
        min_completion_words=settings.min_completion_words,
        max_completion_words=settings.max_completion_words,
        rouge_l_threshold=settings.rouge_l_threshold,
    )
    return clean_generations(raw_generations, seeds, settings=rules, is_evaluation_prompt=is_evaluation_prompt)


def review(
    cleaned: pl.DataFrame,
    seeds: pl.DataFrame,
    raw_generations: pl.DataFrame,
    *,
    settings: LanceSettings,
    identity: RoundIdentity,
    ask: Ask,
) -> pl.DataFrame:
    """Review every kept completion; seeds keep the reviews that split them. Schema `REVIEWED_SET`."""
    seed_results = score_seeds(raw_generations, settings)
    seed_texts = _group_reviews(raw_generations)
    split = _split(seeds, seed_results, settings)
    branch_of = dict(zip(split["row_id"], split["branch"], strict=True))
    rows = []
    for seed in split.to_dicts():
        row = seed | {"kind": "seed", "seed_id": seed["row_id"]}
        reviewed_now = seed["row_id"] in seed_results
        texts = seed_texts[seed["row_id"]] if reviewed_now else []
        result = seed_results[seed["row_id"]] if reviewed_now else ReviewResult([], [], seed["review_score"])
        rows.append(build_reviewed_row(row, branch=seed["branch"], texts=texts, result=result, answer=seed["answer"]))
    kept = cleaned.filter(pl.col("drop_reason").is_null() & (pl.col("kind") != "new_prompt")).to_dicts()
    for row, (texts, result) in zip(kept, _review_completions(identity, ask, kept, settings), strict=True):
        rows.append(build_reviewed_row(row, branch=branch_of[row["seed_id"]], texts=texts, result=result))
    return pl.DataFrame(rows, schema=REVIEWED_SET)


def _review_completions(
    identity: RoundIdentity, ask: Ask, kept: list[dict], settings: LanceSettings
) -> list[tuple[list[str], ReviewResult]]:
    """The reviews of each kept completion, as written and as read."""
    return review_rows(
        identity,
        draw_scores if settings.reviewer == "random" else ask,
        kept,
        rubric=RUBRIC,
        num_reviews=settings.num_reviews if settings.reviewer != "none" else 0,
        sampling=settings.sampling,
        score_from=_score_from(settings),
    )


def _group_reviews(raw_generations: pl.DataFrame) -> dict[str, list[str]]:
    reviews = raw_generations.filter(pl.col("kind") == "seed_review").group_by("seed_id", maintain_order=True)
    return {seed_id: rows["raw_text"].to_list() for (seed_id,), rows in reviews}


def build_sft_set(
    reviewed: pl.DataFrame, earlier: pl.DataFrame, *, settings: LanceSettings, round_key: str
) -> pl.DataFrame:
    """This round's accepted completions, then the earlier SFT set (EFT rows alone when not accumulating)."""
    threshold = settings.sft_threshold if settings.reviewer != "none" else None
    accepted = select_sft_rows(reviewed, sft_threshold=threshold, min_chars=settings.min_chars, round_key=round_key)
    eft = earlier.filter(pl.col("source") == "eft")
    kept = pl.concat([keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key), eft])
    return pl.concat([accepted, kept]).unique("row_id", maintain_order=True)


def build_pairs(
    reviewed: pl.DataFrame, earlier: pl.DataFrame, *, settings: LanceSettings, round_key: str
) -> pl.DataFrame:
    """This round's preference pairs, then the earlier ones where the recipe accumulates. Schema `PREFERENCE_PAIRS`."""
    if not settings.builds_pairs:
        return pl.DataFrame(schema=PREFERENCE_PAIRS)
    pairs = build_preference_pairs(
        reviewed, score_gap=settings.score_gap, min_chars=settings.min_chars, round_key=round_key
    )
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    return pl.concat([pairs, kept.cast(PREFERENCE_PAIRS)]).unique("row_id", maintain_order=True)


def judge_pairs(pairs: pl.DataFrame, *, settings: LanceSettings, identity: RoundIdentity, ask: Ask) -> pl.DataFrame:
    """Judge some of the round's new pairs in both orders; the reviewer's. Schema `PAIR_JUDGEMENTS`."""
    return judge_pairs_in_both_orders(
        pairs,
        num_pairs=settings.num_judged_pairs,
        drop_flipped=settings.drop_flipped_pairs,
        stage="judge_pair",
        step="lance/judge_pair",
        sampling=settings.sampling,
        identity=identity,
        ask=ask,
    )


def build_seed_set(
    file_seeds: pl.DataFrame,
    earlier_rounds: dict[str, pl.DataFrame],
    *,
    settings: LanceSettings,
    identity: RoundIdentity,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The round's seed set: the pool the rounds before left, sampled down to `max_seeds`.

    Args:
        file_seeds: the experiment's seeds, schema `SEED_SET`.
        earlier_rounds: the reviewed set of every round before this one that had any, oldest first.
        settings: the recipe's parameters.
        identity: the round.

    Returns:
        The seed set, and counts: the pool by source, how many reviewed rows could not join for want of a score, and how
        many of the pool were not taken.
    """
    grown, left_out = [], []
    last_score: dict[str, float | None] = {}
    for round_key, reviewed in earlier_rounds.items():
        usable = reviewed if settings.grow_with_degraded else reviewed.filter(pl.col("kind") != "degraded_completion")
        rows, num_unscored = grow_seed_set(
            file_seeds, usable, round_key=round_key, needs_score=settings.reviewer != "none"
        )
        grown.append(rows)
        left_out.append(num_unscored)
        seeds = reviewed.filter(pl.col("kind") == "seed")
        last_score |= dict(zip(seeds["row_id"], seeds["review_score"], strict=True))
    from_file = settings.seed_growth == "paper" or len(earlier_rounds) != 1
    if settings.seed_growth == "code":
        grown, left_out = grown[-1:], left_out[-1:]
    pool = pl.concat([file_seeds if from_file else file_seeds.clear(), *grown]).unique("row_id", maintain_order=True)
    scores = [
        last_score[i] if i in last_score else s for i, s in zip(pool["row_id"], pool["review_score"], strict=True)
    ]
    pool = pool.with_columns(pl.Series("review_score", scores, pl.Float64)).cast(SEED_SET)
    taken, left = take_seeds(
        pool,
        max_seeds=settings.max_seeds or max(len(pool), 1),
        rng_seed=identity.rng_seed,
        round_key=identity.round_key,
    )
    counts = {
        "num_pool": len(pool),
        "num_pool_generated": pool.filter(pl.col("source") == "generated").height,
        "num_unscored_left_out": sum(left_out),
        "num_not_taken": len(left),
    }
    return taken, counts
