"""Steps that recipes share: sample and record, propose from seeds, complete prompts, review, and start the SFT set."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import polars as pl

from lance_assets.algorithms.filters.cleaning import CleaningSettings, clean_generations
from lance_assets.algorithms.reviews.review_parsing import ReviewResult, combine_reviews
from lance_assets.algorithms.selection.pairing import take_seeds
from lance_assets.prompts import render_prompt
from lance_assets.recipes.asking import RoundIdentity, build_requests, read_final
from lance_assets.recipes.reviewing import Rubric, ScoreFrom, build_review_requests, build_review_sampling, read_review
from lance_assets.records import (
    PREFERENCE_PAIRS,
    REVIEWED_SET,
    SFT_SET,
    Ask,
    Request,
    Sample,
    SamplingSettings,
    derive_row_id,
)


class TakesSeeds(Protocol):
    """Settings of a recipe that proposes from the file's seeds."""

    @property
    def max_seeds(self) -> int | None:
        """Seeds of a round; None for all."""
        ...


class BoundsWords(Protocol):
    """Settings of a recipe that cleans new prompts and completions as LANCE does."""

    @property
    def min_prompt_words(self) -> int:
        """Shortest new prompt."""
        ...

    @property
    def min_completion_words(self) -> int:
        """Shortest completion."""
        ...

    @property
    def max_words(self) -> int:
        """Longest prompt or completion."""
        ...

    @property
    def rouge_l_threshold(self) -> float:
        """Two texts above it are near-duplicates."""
        ...


def take_file_seeds(
    file_seeds: pl.DataFrame, _: dict[str, pl.DataFrame], *, settings: TakesSeeds, identity: RoundIdentity
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The seeds of a round: the file's, sampled down to `max_seeds`, and counts."""
    number = settings.max_seeds or max(len(file_seeds), 1)
    taken, left = take_seeds(file_seeds, max_seeds=number, rng_seed=identity.rng_seed, round_key=identity.round_key)
    return taken, {"num_pool": len(file_seeds), "num_not_taken": len(left)}


def clean_by_words(
    raw_generations: pl.DataFrame,
    seeds: pl.DataFrame,
    *,
    settings: BoundsWords,
    is_evaluation_prompt: Callable[[str], bool],
) -> pl.DataFrame:
    """Keep or drop every candidate with a reason, schema `CLEANED_SET`."""
    rules = CleaningSettings(
        min_prompt_words=settings.min_prompt_words,
        max_prompt_words=settings.max_words,
        min_completion_words=settings.min_completion_words,
        max_completion_words=settings.max_words,
        rouge_l_threshold=settings.rouge_l_threshold,
    )
    return clean_generations(raw_generations, seeds, settings=rules, is_evaluation_prompt=is_evaluation_prompt)


def record_samples(kind: str, parents: Sequence[dict], requests: list[Request], samples: list[Sample]) -> list[dict]:
    """raw_generations rows; `parents` holds seed_id, parent_id, sample_number, prompt and completion of each sample."""
    return [
        {
            "row_id": request.row_id,
            "kind": kind,
            **parent,
            "raw_text": sample.text,
            "finish_reason": sample.finish_reason,
            "error": sample.error,
            "prompt_tokens": sample.prompt_tokens,
            "completion_tokens": sample.completion_tokens,
            "sampling_seed": request.sampling_seed,
            "expected_score": None,
            "unscored_reason": None,
            "value": None,
            "refused_reason": None,
        }
        for parent, request, sample in zip(parents, requests, samples, strict=True)
    ]


def describe_parent(seed: Mapping, number: int, *, prompt: str | None, completion: str | None) -> dict:
    """What a sample that starts from a seed has beside itself."""
    return {
        "seed_id": seed["row_id"],
        "parent_id": seed["row_id"],
        "sample_number": number,
        "prompt": prompt,
        "completion": completion,
    }


def propose_from_seeds(
    identity: RoundIdentity, ask: Ask, seeds: Sequence[dict], *, kind: str, step: str, num_samples: int
) -> list[dict]:
    """Ask one proposing step's template about each seed and record every sample."""
    asked = [
        (
            seed["row_id"],
            render_prompt(identity.prompt_profile, step, prompt=seed["prompt"], completion=seed["completion"]),
        )
        for seed in seeds
    ]
    requests = build_requests(identity, kind, asked, num_samples)
    samples = ask(kind, requests)
    parents = []
    for index, sample in enumerate(samples):
        seed, final = seeds[index // num_samples], read_final(sample)
        prompt, completion = (final, None) if kind == "new_prompt" else (seed["prompt"], final)
        parents.append(describe_parent(seed, index % num_samples, prompt=prompt, completion=completion))
    return record_samples(kind, parents, requests, samples)


def propose_in_manner_of(
    identity: RoundIdentity, ask: Ask, seeds: Sequence[dict], *, step: str, num_examples: int, num_samples: int
) -> list[dict]:
    """Ask for new prompts with some seeds shown as examples, and record every sample.

    Each seed is once the first of the examples, beside others drawn by the round, the same ones whatever the order of
    the seeds; the template is given `examples`, numbered, and the first one's `prompt` and `completion`.
    """
    asked, drawn_from = [], sorted(seeds, key=lambda row: row["row_id"])
    for seed in seeds:
        rng = random.Random(derive_row_id(identity.rng_seed, identity.round_key, seed["row_id"]))
        others = [other for other in drawn_from if other["row_id"] != seed["row_id"]]
        shown = [seed, *rng.sample(others, min(num_examples - 1, len(others)))]
        examples = "\n".join(f"{number}. {row['prompt']}" for number, row in enumerate(shown, start=1))
        texts = {"prompt": seed["prompt"], "completion": seed["completion"], "examples": examples}
        asked.append((seed["row_id"], render_prompt(identity.prompt_profile, step, **texts)))
    requests = build_requests(identity, "new_prompt", asked, num_samples)
    samples = ask("new_prompt", requests)
    parents = [
        describe_parent(seeds[index // num_samples], index % num_samples, prompt=read_final(sample), completion=None)
        for index, sample in enumerate(samples)
    ]
    return record_samples("new_prompt", parents, requests, samples)


def complete_new_prompts(
    identity: RoundIdentity, ask: Ask, new_prompts: Sequence[dict], num_samples: int, *, stage: str = "completion"
) -> list[dict]:
    """Sample completions of every new prompt that could be read."""
    readable = [row for row in new_prompts if row["prompt"] is not None and row["finish_reason"] == "stop"]
    requests = build_requests(identity, stage, [(row["row_id"], row["prompt"]) for row in readable], num_samples)
    samples = ask(stage, requests)
    parents = [
        {
            "seed_id": (row := readable[index // num_samples])["seed_id"],
            "parent_id": row["row_id"],
            "sample_number": index % num_samples,
            "prompt": row["prompt"],
            "completion": sample.text.strip() or None,
        }
        for index, sample in enumerate(samples)
    ]
    return record_samples("completion", parents, requests, samples)


def review_rows(
    identity: RoundIdentity,
    ask: Ask,
    rows: Sequence[dict],
    *,
    rubric: Rubric,
    num_reviews: int,
    sampling: SamplingSettings,
    score_from: ScoreFrom = "text",
) -> list[tuple[list[str], ReviewResult]]:
    """The reviews of each row, as written and as read."""
    requests = build_review_requests(identity, "review", rows, rubric=rubric, num_reviews=num_reviews)
    samples = ask("review", requests, build_review_sampling(sampling, rubric, score_from=score_from))
    reviews = [read_review(sample, rubric=rubric, score_from=score_from) for sample in samples]
    texts = [sample.text for sample in samples]
    return [
        (texts[first : first + num_reviews], combine_reviews(reviews[first : first + num_reviews]))
        for first in (place * num_reviews for place in range(len(rows)))
    ]


def describe_reviews(texts: list[str], result: ReviewResult) -> dict:
    """The columns of a reviewed_set row that its reviews fill."""
    return {
        "reviews": texts,
        "scores": result.scores,
        "unscored_reasons": result.unscored_reasons,
        "review_score": result.review_score,
    }


def build_reviewed_row(row: Mapping, *, branch: str, texts: list[str], result: ReviewResult, **others: object) -> dict:
    """One reviewed_set row of a cleaned or seed row."""
    fields = {name: row[name] for name in ("row_id", "kind", "seed_id", "prompt", "completion")}
    blank = dict.fromkeys(REVIEWED_SET.names())
    return blank | fields | {"branch": branch} | describe_reviews(texts, result) | others


def review_without_scores(
    cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame, **_: object
) -> pl.DataFrame:
    """The rows that cleaning kept, for recipes whose signal is no review. Schema `REVIEWED_SET`."""
    del seeds, raw_generations
    kept = cleaned.filter(pl.col("drop_reason").is_null()).to_dicts()
    nothing = ReviewResult([], [], None)
    rows = [build_reviewed_row(row, branch="low", texts=[], result=nothing) for row in kept]
    return pl.DataFrame(rows, schema=REVIEWED_SET)


def build_no_sft_rows(reviewed: pl.DataFrame, earlier: pl.DataFrame, **_: object) -> pl.DataFrame:
    """No row, for recipes that train by DPO alone after r0000. Schema `SFT_SET`."""
    del reviewed, earlier
    return pl.DataFrame(schema=SFT_SET)


def build_no_pairs(reviewed: pl.DataFrame, earlier: pl.DataFrame, **_: object) -> pl.DataFrame:
    """No pair, for recipes that train by SFT alone. Schema `PREFERENCE_PAIRS`."""
    del reviewed, earlier
    return pl.DataFrame(schema=PREFERENCE_PAIRS)


def seeds_as_sft_rows(seeds: pl.DataFrame, *, round_key: str) -> pl.DataFrame:
    """Seeds as rows to train on, schema `SFT_SET`."""
    return seeds.select(
        "row_id",
        "prompt",
        "completion",
        pl.lit("seed").alias("source"),
        pl.lit(round_key).alias("source_round"),
        pl.col("row_id").alias("source_id"),
        pl.lit(None, pl.Float64).alias("review_score"),
    ).cast(SFT_SET)


def start_sft_set(
    seeds: pl.DataFrame, eft: pl.DataFrame, *, settings: object = None, identity: RoundIdentity
) -> pl.DataFrame:
    """Round r0000's SFT set: the seeds, and the EFT rows where the experiment has them. Schema `SFT_SET`."""
    del settings
    return pl.concat([seeds_as_sft_rows(seeds, round_key=identity.round_key), eft])


def reviewed_as_sft_rows(rows: pl.DataFrame, *, round_key: str) -> pl.DataFrame:
    """Rows of a reviewed set as rows to train on, schema `SFT_SET`."""
    ids = [derive_row_id("sft_set", round_key, row_id) for row_id in rows["row_id"]]
    return rows.select(
        pl.Series("row_id", ids, pl.String),
        "prompt",
        "completion",
        pl.lit("generated").alias("source"),
        pl.lit(round_key).alias("source_round"),
        pl.col("row_id").alias("source_id"),
        "review_score",
    ).cast(SFT_SET)
