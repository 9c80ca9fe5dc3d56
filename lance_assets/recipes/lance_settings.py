"""LANCE's parameters, the stages in which it asks models, and which step depends on which parameter."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from lance_assets.prompts import PromptStep
from lance_assets.recipes.axes import ON_REWARDS, SFT_THEN_PAIRS, Losses, ProposingSettings
from lance_assets.recipes.contract import Stage
from lance_assets.recipes.steps.judging import build_verdict_ending_sampling, build_verdict_sampling, follow_verdicts
from lance_assets.recipes.steps.reviewing import (
    Rubric,
    ScoreFrom,
    build_ending_sampling,
    build_review_sampling,
    follow_reviews,
)
from lance_assets.recipes.steps.signal_reviews import READ_SIGNALS, ScaledSignal
from lance_assets.records import FollowUp, SamplingSettings

RUBRIC = Rubric("lance/review", 0, 10)
"""The paper's: five points for the prompt, five for the completion. A judge of the evaluation has it always."""


class LanceSettings(ProposingSettings):
    """LANCE's parameters; the defaults are the paper's constants, but for the shortest texts."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft", *SFT_THEN_PAIRS, *ON_REWARDS)
    scores: ClassVar[tuple[str, ...]] = ("branch_threshold", "sft_threshold")
    gaps: ClassVar[tuple[str, ...]] = ("score_gap",)

    branch_threshold: float = Field(
        7.0, ge=0, le=10, description="Seeds scoring above it go to the high branch (the threshold valve V)."
    )
    num_prompts: int = Field(4, ge=1, le=64, description="New prompts sampled for each low seed (N).")
    num_examples: int = Field(
        3,
        ge=0,
        le=32,
        description="Other seeds given to the proposing templates; those of the profile small show them.",
    )
    num_completions: int = Field(
        4, ge=1, le=64, description="Completions sampled for each new prompt, and degraded ones for each high seed (M)."
    )
    num_reviews: int = Field(3, ge=1, le=16, description="Reviews of each row; the mean is its review score.")
    sft_threshold: float = Field(8.0, ge=0, le=10, description="Completions scoring above it enter the SFT set.")
    score_gap: float = Field(
        2.0, ge=0, le=10, description="A chosen completion scores more than this above the rejected one."
    )
    min_chars: int | None = Field(
        None,
        ge=0,
        description="A trained prompt or completion has more characters than this (paper: 5). None: as the own of the "
        "round's seeds, just below the 5th percentile of their texts, at most 5.",
    )
    rouge_l_threshold: float = Field(
        0.70, ge=0, le=1, description="Two texts above it on recall, precision or F are near-duplicates."
    )
    min_prompt_words: int = Field(5, ge=0, description="Shortest new prompt, in words.")
    max_prompt_words: int = Field(4096, ge=1, description="Longest new prompt, in words.")
    min_completion_words: int | None = Field(
        None,
        ge=0,
        description="Shortest completion, in words (paper: 10). None: as the seeds' own, the 5th percentile of their "
        "completions, at most 10.",
    )
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
        "model", description="Who scores: the round's model; a control that draws random scores; nobody."
    )
    propose: bool = Field(True, description="Whether anything is proposed, or each round trains on the seeds again.")
    score_from: Literal["text", "expected", ScaledSignal] = Field(
        "text",
        description="A review's score: as written, or the mean by the probabilities of the scores there. Or another "
        "signal on the rubric's scale: yes_no, the probability of yes to a plain question; or what the round's own "
        "model reads: likelihood and ifd, placed among the round's seeds, or mutual_information, by how much the "
        "prompt explains the completion (docs/signals.md).",
    )
    num_judged_pairs: int = Field(
        0, ge=0, description="New pairs a round that the reviewer judges in both orders; 0 judges none."
    )
    drop_flipped_pairs: bool = Field(
        False, description="Whether judged pairs train only where the chosen completion is preferred in both orders."
    )

    @model_validator(mode="after")
    def _has_rows_to_train_on(self) -> Self:
        if not self.propose and not self.sft_on_seeds:
            raise ValueError("propose: false trains on the seeds alone, and sft_on_seeds: false leaves them out")
        return self

    @property
    def rubric(self) -> Rubric:
        """What a review is asked for."""
        return Rubric(RUBRIC.step, self.lowest_score, self.highest_score)

    @property
    def judges_pairs(self) -> bool:
        """Whether any new pair is judged in both orders."""
        return self.num_judged_pairs > 0 and self.builds_pairs

    @property
    def has_reviews(self) -> bool:
        """Whether anything is reviewed."""
        return self.reviewer != "none" and self.propose

    @property
    def trains_without_news(self) -> bool:
        """Whether each round trains on the seeds again."""
        return not self.propose

    @property
    def counted_score(self) -> ScoreFrom:
        """What counts of a review as it is recorded; random scores and signals are written as text."""
        return "expected" if self.reviewer == "model" and self.score_from == "expected" else "text"

    @property
    def forces_endings(self) -> bool:
        """Whether a written review without a score is made to end in one; other signals are not written."""
        return self.force_ending and self.reviewer == "model" and self.signal is None

    @property
    def signal(self) -> ScaledSignal | None:
        """The signal that stands in place of written reviews, where one does."""
        if self.reviewer != "model" or self.score_from == "text" or self.score_from == "expected":
            return None
        return self.score_from

    @property
    def reviews_by_reading(self) -> bool:
        """Whether reviews are likelihoods that the round's model finds."""
        return self.signal in READ_SIGNALS

    @property
    def reads_states(self) -> bool:
        """Whether seeds are reviewed by reading."""
        return self.reviews_by_reading and self.has_reviews


def sample_reviews(settings: LanceSettings) -> SamplingSettings:
    """How seeds and completions are reviewed."""
    return build_review_sampling(settings.sampling, settings.rubric, score_from=settings.counted_score)


def sample_endings(settings: LanceSettings) -> SamplingSettings:
    """How the endings of reviews are forced."""
    return build_ending_sampling(settings.rubric)


def follow(stage: str, settings: LanceSettings) -> FollowUp | None:
    """The endings of a stage's reviews, where they are forced."""
    return follow_reviews(
        stage, settings.rubric, force_ending=settings.forces_endings, score_from=settings.counted_score
    )


def sample_verdicts(settings: LanceSettings) -> SamplingSettings:
    """How pairs are judged."""
    return build_verdict_sampling(settings.sampling)


def sample_verdict_endings(settings: LanceSettings) -> SamplingSettings:
    """How the endings of comparisons are forced."""
    return build_verdict_ending_sampling()


STAGES: tuple[Stage[LanceSettings], ...] = (
    Stage(
        "seed_review",
        role="reviewer",
        sampling=sample_reviews,
        follow_up=lambda settings: follow("seed_review", settings),
        asked_in="raw_generations",
    ),
    Stage("seed_review_ending", role="reviewer", sampling=sample_endings, asked_in="raw_generations"),
    Stage("new_prompt", asked_in="raw_generations"),
    Stage("completion", asked_in="raw_generations", mixes=True),
    Stage("degraded_completion", asked_in="raw_generations"),
    Stage(
        "review",
        role="reviewer",
        sampling=sample_reviews,
        follow_up=lambda settings: follow("review", settings),
        asked_in="reviewed_set",
    ),
    Stage("review_ending", role="reviewer", sampling=sample_endings, asked_in="reviewed_set"),
    Stage(
        "judge_pair",
        role="reviewer",
        sampling=sample_verdicts,
        follow_up=lambda settings: follow_verdicts("judge_pair", force_ending=settings.force_ending),
        asked_in="preference_pairs",
    ),
    Stage("judge_pair_ending", role="reviewer", sampling=sample_verdict_endings, asked_in="preference_pairs"),
)


def list_prompts(settings: LanceSettings) -> tuple[PromptStep, ...]:
    """What the round's model and the reviewer are asked with."""
    both, reviews = ("prompt", "completion"), settings.reviewer == "model" and settings.signal is None
    reviewed_in = ("raw_generations", "reviewed_set")
    high, low = settings.branches != "low", settings.branches != "high"
    asks = settings.proposals == "template"
    pair, others = ("prompt", "completion_a", "completion_b"), ("completion", "examples")
    return (
        PromptStep("review", reviewed_in, both, (), settings.rubric.scale, reviews),
        PromptStep("new_prompt", ("raw_generations",), ("prompt",), others, {}, settings.propose and low and asks),
        PromptStep("degrade", ("raw_generations",), both, ("examples",), {}, settings.propose and high),
        PromptStep("judge_pair", ("preference_pairs",), pair, (), {}, settings.judges_pairs),
        PromptStep("yes_no", reviewed_in, both, (), {}, settings.signal == "yes_no"),
    )


SETTINGS_OF_STEP: dict[str, tuple[str, ...]] = {
    "seed_set": ("seed_growth", "grow_with_degraded", "max_seeds", "reviewer"),
    "raw_generations": (
        *("branch_threshold", "num_prompts", "num_examples", "num_completions", "num_reviews", "branches"),
        *("review_seeds_each_round", "reviewer", "propose", "score_from", "lowest_score", "highest_score"),
        *("force_ending", "proposals"),
    ),
    "cleaned_set": (
        *("rouge_l_threshold", "min_prompt_words", "max_prompt_words", "min_completion_words", "max_completion_words"),
    ),
    "reviewed_set": (
        *("branch_threshold", "num_reviews", "reviewer", "score_from", "lowest_score", "highest_score", "force_ending"),
    ),
    "sft_set": ("sft_threshold", "min_chars", "trains_on", "reviewer", "sft_on_seeds"),
    "checkpoint": ("starts_from",),
    "preference_pairs": (
        *("score_gap", "min_chars", "trains_on", "reviewer", "losses", "num_judged_pairs", "drop_flipped_pairs"),
    ),
}
"""Which settings each step reads: what a change of one marks as out of date, and nothing else."""
