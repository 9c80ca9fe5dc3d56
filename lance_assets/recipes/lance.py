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
2.  The round's own model scores the seeds again in each round (the paper's figure). Their code scores them once:
    `review_seeds_each_round=False`.
3.  SFT and preference data accumulate over all rounds, as in both; `trains_on` has other choices.
4.  A review is read tolerantly and the last score statement counts; their code reads one spelling and the first
    statement. Where the engine can constrain, a grammar makes the review end in a score.
5.  A review that cannot be read is unscored. In their code it becomes 0, which sends a seed to the low branch and makes
    a completion the rejected one.
6.  A completion cut at the token limit is dropped (`cut_off`); their code trains on it with an end-of-turn token.
7.  Prompt cleaning applies also when a single new prompt was read; their code skips it.
8.  ROUGE-L is the plain one on words; their code has the summary-level variant on sets, which fails on long texts.
9.  Beyond near-duplicates among one seed's rows: exact copies of any seed's prompt or of another row, near-duplicates
    by embedding in the round and of anything earlier rounds kept, and evaluation prompts are dropped.
10. Degraded completions join the pool, as in their code (`grow_with_degraded=False` leaves them out).
11. The pool is sampled down to the experiment's `max_seeds` a round; their scripts have no cap, and would grow up to
    16-fold.
12. SFT and DPO rows carry the same system message; in their code only SFT rows do. An experiment may have another one,
    or none.
13. Every sample has its own sampling seed; their code has none.
14. EFT rows (examples of reviewing and proposing) are mixed into every round's SFT where the experiment has them; their
    code mixes them into the first round's.
15. `score_from="expected"` takes a review's score as the mean over the probabilities of the scores (G-Eval, arXiv
    2303.16634) in place of the one that was sampled; their code has only the sampled one.
    "yes_no", "likelihood", "mutual_information" and "ifd" take another signal on the same scale
    (`steps/signal_reviews.py`).
16. `num_judged_pairs` has the reviewer judge new pairs in both orders (MT-Bench, arXiv 2306.05685), which shows how
    often its preference follows the position; `drop_flipped_pairs` leaves out of training each judged pair that is not
    preferred twice. Their code builds pairs by score alone.
17. A review that was cut or has no score is made to end in one: the model goes on from "score: ", and the probabilities
    of the scale's numbers there count (`force_ending: false` leaves it unscored). In their code it becomes 0.
18. Completions that are alike stay where they say something else, such as another number (`similarity.contrast`), and
    a degraded completion may be like its seed's. Their rule drops both; `near_duplicates.keeps_contrast: false` does.
19. The shortest completion goes by the seeds' lengths; in their code it has 10 words.
20. `proposals="magpie"` has the model write new prompts as the user's turn of its chat (`steps/user_turns.py`).

Switches make the controls that the method is measured against (`docs/self-evolution.md`): `reviewer="random"`
draws every review score at random, `reviewer="none"` accepts everything that cleaning kept and makes no pairs (a
Self-Instruct loop), `losses="sft"` trains without preference pairs, and `propose=False` trains on the seeds again.

Unknown, and chosen by the experiment: learning rates, beta, epochs, LoRA or full. The reference model is M after SFT.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import list_word_filters
from lance_assets.algorithms.reviews.review_parsing import ReviewResult, Unscored, combine_reviews
from lance_assets.algorithms.selection.pairing import (
    build_preference_pairs,
    grow_seed_set,
    select_sft_rows,
    split_by_score,
    take_seeds,
)
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import keep_rounds
from lance_assets.recipes.contract import Recipe, RoundInputs
from lance_assets.recipes.lance_forecast import FORECAST
from lance_assets.recipes.lance_settings import SETTINGS_OF_STEP, STAGES, LanceSettings, list_prompts
from lance_assets.recipes.steps.judging import judge_pairs_in_both_orders
from lance_assets.recipes.steps.no_pairs import explain_no_branch_pairs
from lance_assets.recipes.steps.reviewing import (
    build_review_requests,
    force_endings,
    read_recorded,
    record_expected,
    review_rows,
)
from lance_assets.recipes.steps.rows import (
    CleanedRow,
    Generation,
    RowReviews,
    Seed,
    Shown,
    build_reviewed_row,
    build_table,
    complete_new_prompts,
    find_kept,
    originate,
    propose_from_seeds,
    read_rows,
    record_samples,
)
from lance_assets.recipes.steps.sets import start_sft_set
from lance_assets.recipes.steps.signal_reviews import READ_SIGNALS, read_signals, review_by_reading, review_by_yes_no
from lance_assets.recipes.steps.user_turns import propose_user_turns
from lance_assets.recipes.steps.verifying import verifies_alone, verify_reviews
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

Inputs = RoundInputs[LanceSettings]


def build_seed_set(
    inputs: Inputs, file_seeds: pl.DataFrame, earlier_reviewed: dict[str, pl.DataFrame]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The round's seed set: the pool that the rounds before left, sampled down to `max_seeds`.

    Args:
        inputs: the round.
        file_seeds: the experiment's seeds, schema `SEED_SET`.
        earlier_reviewed: the reviewed set of every round before this one that had any, oldest first.

    Returns:
        The seed set, and counts: the pool by source, how many reviewed rows could not join for want of a score, and how
        many of the pool were not taken.
    """
    settings, identity = inputs.settings, inputs.identity
    grown, left_out = [], []
    last_score: dict[str, float | None] = {}
    for round_key, reviewed in earlier_reviewed.items():
        usable = reviewed if settings.grow_with_degraded else reviewed.filter(pl.col("kind") != "degraded_completion")
        rows, num_unscored = grow_seed_set(
            file_seeds, usable, round_key=round_key, needs_score=settings.reviewer != "none"
        )
        grown.append(rows)
        left_out.append(num_unscored)
        seeds = reviewed.filter(pl.col("kind") == "seed")
        # Seeds are scored again in each round; the pool carries the newest score.
        last_score |= dict(zip(seeds["row_id"], seeds["review_score"], strict=True))
    # The authors' code drops the old pool in the first round alone (difference 1).
    from_file = settings.seed_growth == "paper" or len(earlier_reviewed) != 1
    if settings.seed_growth == "code":
        grown, left_out = grown[-1:], left_out[-1:]
    pool = pl.concat([file_seeds if from_file else file_seeds.clear(), *grown]).unique("row_id", maintain_order=True)
    scores = [
        last_score[i] if i in last_score else s for i, s in zip(pool["row_id"], pool["review_score"], strict=True)
    ]
    pool = pool.with_columns(pl.Series("review_score", scores, pl.Float64)).cast(SEED_SET)
    taken, left = take_seeds(
        pool,
        # The sample has at least one row, also of a pool that is empty.
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


def _review_seeds(identity: RoundIdentity, ask: Ask, seeds: list[Seed], settings: LanceSettings) -> list[Generation]:
    """Review each seed and record every sample."""
    rubric, score_from, number = settings.rubric, settings.counted_score, settings.num_reviews
    requests = build_review_requests(identity, "seed_review", seeds, rubric=rubric, num_reviews=number)
    samples = ask("seed_review", requests)
    if settings.forces_endings:
        samples = force_endings(ask, "seed_review", requests, samples, rubric=rubric, score_from=score_from)
    origins = [
        originate(seed, index, prompt=seed.prompt, completion=seed.completion)
        for seed in seeds
        for index in range(number)
    ]
    return [
        record_expected(generation, sample, rubric=rubric, score_from=score_from)
        for generation, sample in zip(record_samples("seed_review", origins, requests, samples), samples, strict=True)
    ]


def draw_scores(settings: LanceSettings) -> Ask:
    """Reviews of the control `reviewer="random"`: no model, a whole score of the scale by each row's sampling seed."""
    low, high = settings.lowest_score, settings.highest_score

    def draw(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        scores = [random.Random(request.sampling_seed).randint(low, high) for request in requests]
        return [
            Sample(request.row_id, f"score: {score}", "stop", 0, 0)
            for request, score in zip(requests, scores, strict=True)
        ]

    return draw


def choose_reviewer(inputs: Inputs, rows: Sequence[Shown]) -> Ask:
    """What reviews the rows: the model that is asked, or what stands in its place.

    The control and the signals go through recording and parsing like the method.
    """
    settings = inputs.settings
    if settings.reviewer == "random":
        return draw_scores(settings)
    if settings.signal is None:
        return inputs.ask
    if settings.signal == "yes_no":
        return review_by_yes_no(inputs.identity, inputs.ask, rows, settings.rubric)
    return review_by_reading(
        *(inputs.identity, inputs.read_states, rows, settings.rubric),
        signal=settings.signal,
        seeds=read_rows(Seed, inputs.seeds),
    )


def score_seeds(raw_generations: pl.DataFrame, settings: LanceSettings) -> dict[str, RowReviews]:
    """The reviews of each seed in this round, by seed id; a seed that was not reviewed again is absent."""
    reviews = raw_generations.filter(pl.col("kind") == "seed_review").group_by("seed_id", maintain_order=True)
    columns = ("raw_text", "finish_reason", "expected_score", "unscored_reason")
    found = {}
    for (seed_id,), rows in reviews:
        read = [
            read_recorded(*row, rubric=settings.rubric, score_from=settings.counted_score)
            for row in rows.select(columns).iter_rows()
        ]
        found[str(seed_id)] = RowReviews(tuple(rows["raw_text"]), combine_reviews(read))
    return found


def split_seeds(seeds: pl.DataFrame, reviews: dict[str, RowReviews], settings: LanceSettings) -> pl.DataFrame:
    """The seeds with this round's scores and the column `branch`.

    Without a reviewer every seed is low, so that new prompts are proposed from each.
    """
    if settings.reviewer == "none":
        return seeds.with_columns(pl.lit("low").alias("branch"))
    scores = [
        # A seed that was not reviewed in this round keeps the score that it came with.
        reviews[row_id].result.review_score if row_id in reviews else score
        for row_id, score in seeds.select("row_id", "review_score").iter_rows()
    ]
    scored = seeds.with_columns(pl.Series("review_score", scores, pl.Float64))
    return split_by_score(scored, branch_threshold=settings.branch_threshold)


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """Review the seeds, split them, and sample both branches. Schema `RAW_GENERATIONS`."""
    settings, identity, ask = inputs.settings, inputs.identity, inputs.ask
    inputs = replace(inputs, seeds=seeds)
    if not settings.propose:
        return pl.DataFrame(schema=RAW_GENERATIONS)
    to_review = seeds if settings.review_seeds_each_round else seeds.filter(pl.col("review_score").is_null())
    is_asked = settings.reviewer != "none" and not verifies_alone(inputs.verifier)
    rows = read_rows(Seed, to_review) if is_asked else []
    reviews = _review_seeds(identity, choose_reviewer(inputs, rows), rows, settings)
    scored = score_seeds(build_table(reviews, RAW_GENERATIONS), settings)
    if inputs.verifier is not None:
        scored = verify_reviews(inputs.verifier, read_rows(Seed, seeds), scored, scale=settings.scale)
    split = split_seeds(seeds, scored, settings)
    low = read_rows(Seed, split.filter(branch="low")) if settings.branches != "high" else []
    high = read_rows(Seed, split.filter(branch="high")) if settings.branches != "low" else []
    pool = read_rows(Seed, seeds)
    new_prompts = _propose(inputs, low, pool)
    completions = complete_new_prompts(identity, ask, new_prompts, settings.num_completions)
    degraded = _degrade(inputs, high, pool, num_samples=settings.num_completions)
    return build_table(reviews + new_prompts + completions + degraded, RAW_GENERATIONS)


def _propose(inputs: Inputs, low: Sequence[Seed], pool: Sequence[Seed]) -> list[Generation]:
    """New prompts like the low seeds', asked for or written as the user's turn."""
    settings = inputs.settings
    if settings.proposals == "template":
        return propose_from_seeds(
            inputs.identity,
            inputs.ask,
            low,
            kind="new_prompt",
            step="lance/new_prompt",
            num_samples=settings.num_prompts,
            pool=pool,
            num_examples=settings.num_examples,
        )
    return propose_user_turns(
        inputs.identity,
        inputs.ask,
        low,
        num_samples=settings.num_prompts,
        pool=pool,
        num_examples=settings.num_examples,
        is_seeded=settings.proposals == "magpie_seeded",
    )


def _degrade(inputs: Inputs, rows: Sequence[Seed], pool: Sequence[Seed], *, num_samples: int) -> list[Generation]:
    """Deliberately worse completions of the rows' own prompts."""
    return propose_from_seeds(
        inputs.identity,
        inputs.ask,
        rows,
        kind="degraded_completion",
        step="lance/degrade",
        num_samples=num_samples,
        pool=pool,
        num_examples=inputs.settings.num_examples,
    )


def write_worse(inputs: Inputs, seeds: pl.DataFrame) -> pl.DataFrame:
    """One deliberately worse completion of each seed, where rounds write such; schema `RAW_GENERATIONS`."""
    settings, rows = inputs.settings, read_rows(Seed, seeds)
    writes = settings.propose and settings.branches != "low" and settings.builds_pairs
    return build_table(_degrade(inputs, rows, rows, num_samples=1) if writes else [], RAW_GENERATIONS)


def list_filters(settings: LanceSettings) -> list[Filter]:
    """Lengths in words, evaluation prompts, near-duplicates by ROUGE-L and copies."""
    return list_word_filters(
        min_prompt_words=settings.min_prompt_words,
        max_prompt_words=settings.max_prompt_words,
        min_completion_words=settings.min_completion_words,
        max_completion_words=settings.max_completion_words,
        threshold=settings.rouge_l_threshold,
    )


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """Review every kept completion; seeds keep the reviews that split them. Schema `REVIEWED_SET`."""
    settings = inputs.settings
    of_seeds, rows = score_seeds(raw_generations, settings), []
    for seed in read_rows(Seed, seeds):
        # No review of this round exists, only the score that the pool carries.
        carried = RowReviews((), ReviewResult([], [], seed.review_score))
        rows.append(build_reviewed_row(seed, of_seeds[seed.row_id] if seed.row_id in of_seeds else carried))
    kept = find_kept(cleaned, kinds=("completion", "degraded_completion"))
    return pl.concat([build_table(rows, REVIEWED_SET), score_rows(replace(inputs, seeds=seeds), kept)])


def score_rows(inputs: Inputs, rows: pl.DataFrame) -> pl.DataFrame:
    """The reviewer on completions. Schema `REVIEWED_SET`."""
    settings, kept = inputs.settings, read_rows(CleanedRow, rows)
    reviews = review_rows(
        inputs.identity,
        choose_reviewer(inputs, kept),
        kept,
        rubric=settings.rubric,
        num_reviews=0 if settings.reviewer == "none" or verifies_alone(inputs.verifier) else settings.num_reviews,
        score_from=settings.counted_score,
        force_ending=settings.forces_endings,
    )
    reviewed = [build_reviewed_row(row, own) for row, own in zip(kept, reviews, strict=True)]
    return build_table(reviewed, REVIEWED_SET)


def read_other_signals(inputs: Inputs, rows: pl.DataFrame) -> pl.DataFrame:
    """What `score_from` offers in place of the reviewer and can be read: the row ids, and a column a signal."""
    found = read_signals(inputs.identity, inputs.read_states, read_rows(CleanedRow, rows))
    values = {
        name: [None if isinstance(score, Unscored) else score for score in scores] for name, scores in found.items()
    }
    return rows.select("row_id").with_columns(pl.Series(name, values[name], pl.Float64) for name in READ_SIGNALS)


def describe_reviews(inputs: Inputs, reviewed: pl.DataFrame) -> dict[str, float | int]:
    """How many seeds are in each branch."""
    branches = split_seeds(reviewed.filter(kind="seed"), {}, inputs.settings)["branch"]
    return {f"branches/{name}": int((branches == name).sum()) for name in ("low", "high", "unscored")}


def explain_no_pairs(inputs: Inputs, reviewed: pl.DataFrame) -> str:
    """Why the two branches gave no pair."""
    own = inputs.settings
    return explain_no_branch_pairs(
        reviewed, branches=own.branches, branch_threshold=own.branch_threshold, score_gap=own.score_gap
    )


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """This round's accepted completions, then the earlier SFT set as far as `trains_on` keeps it, and the EFT rows."""
    settings, round_key = inputs.settings, inputs.round_key
    threshold = settings.sft_threshold if settings.reviewer != "none" else None
    accepted = select_sft_rows(reviewed, sft_threshold=threshold, min_chars=settings.min_chars, round_key=round_key)
    # EFT rows belong to no round, so `trains_on` must not leave them out.
    eft = earlier.filter(pl.col("source") == "eft")
    kept = pl.concat([keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key), eft])
    return pl.concat([accepted, kept]).unique("row_id", maintain_order=True)


def build_pairs(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """This round's preference pairs, then the earlier ones that `trains_on` keeps. Schema `PREFERENCE_PAIRS`."""
    settings, round_key = inputs.settings, inputs.round_key
    if not settings.builds_pairs:
        return pl.DataFrame(schema=PREFERENCE_PAIRS)
    pairs = build_preference_pairs(
        reviewed, score_gap=settings.score_gap, min_chars=settings.min_chars, round_key=round_key
    )
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    return pl.concat([pairs, kept.cast(PREFERENCE_PAIRS)]).unique("row_id", maintain_order=True)


def judge_pairs(inputs: Inputs, pairs: pl.DataFrame) -> pl.DataFrame:
    """Let the reviewer judge some of the round's new pairs in both orders. Schema `PAIR_JUDGEMENTS`."""
    return judge_pairs_in_both_orders(
        pairs,
        num_pairs=inputs.settings.num_judged_pairs,
        drop_flipped=inputs.settings.drop_flipped_pairs,
        stage="judge_pair",
        step="lance/judge_pair",
        identity=inputs.identity,
        ask=inputs.ask,
        force_ending=inputs.settings.force_ending,
    )


RECIPE: Recipe[LanceSettings] = Recipe(
    name="lance",
    settings=LanceSettings,
    stages=STAGES,
    settings_of_step=SETTINGS_OF_STEP,
    build_seed_set=build_seed_set,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    candidate_kinds=("new_prompt", "completion", "degraded_completion"),
    compared_completions=("completion", "degraded_completion"),
    answering_kinds=("completion",),
    review=review,
    score_rows=score_rows,
    write_worse=write_worse,
    read_other_signals=read_other_signals,
    build_sft_set=build_sft_set,
    build_pairs=build_pairs,
    judge_pairs=judge_pairs,
    settings_of_judging=("force_ending",),
    describe_reviews=describe_reviews,
    explain_no_pairs=explain_no_pairs,
    forecast=FORECAST,
    list_prompts=list_prompts,
)
