"""LLM2LLM: a teacher writes variants of the seeds that the student gets wrong (arXiv 2403.15042).

One round, with the student S, which the round before trained:

    try         S answers everything it was trained on, greedily
    signal      its answer against the gold one; a seed with a wrong answer is shown to the teacher
    propose     the teacher writes `num_lessons` new problems for each, in its format, unlike all data so far
    train       SFT of the base model on everything: the seeds and all problems of all rounds

Round r0000 is SFT on the seeds. Constants are those of the authors' code (SqueezeAILab/LLM2LLM, commit bcbcb1a).

Switches that are ablations of the paper: `augment_source="all"` shows the teacher generated problems too,
`starts_from="previous"` goes on from the last checkpoint, and one round with a larger `num_lessons` is one-shot
augmentation. `targeted=False` takes every seed, as the code's `--no_filter` does, and `show_mistake` shows the teacher
what the student wrote, for which theirs has no place.

Differences from the authors' code:

1.  Training and trying use one prompt; theirs differ.
2.  The student answers greedily, with room for the longest answer; theirs is sampled at 0.7 and cut at 100 tokens.
3.  Answers are matched with their sign, as fractions, at the last mark (`algorithms.answer_matching`).
4.  A new problem is compared with all data, not with this step's wrong seeds and new problems alone
    (`algorithms.lessons`).
5.  The teacher is asked at most `max_attempts` times about a seed, for what it still lacks and one more each time;
    theirs is asked without end, for all it wants and one more each time.
6.  `teacher_writes="prompt_then_completion"` asks for the new prompt and its completion one after the other, for
    teachers too small for the format; of `num_votes` completions the first with the commonest answer counts, where
    at least `min_agreement` agree. The authors check no answer.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from lance_assets.algorithms.filters.cleaning import mark_unusable
from lance_assets.algorithms.reviews.answer_matching import match_answers
from lance_assets.algorithms.selection.wrong_seeds import AugmentSource, choose_lesson_sources, sample_seeds
from lance_assets.recipes import steps
from lance_assets.recipes.asking import RoundIdentity, build_requests
from lance_assets.recipes.axes import Losses, RecipeSettings, StartsFrom, keep_rounds
from lance_assets.recipes.steps import (
    describe_parent,
    record_samples,
    reviewed_as_sft_rows,
    seeds_as_sft_rows,
)
from lance_assets.recipes.teaching import Teaching, read_answer
from lance_assets.records import (
    RAW_GENERATIONS,
    SFT_SET,
    Ask,
    SamplingSettings,
)


class Llm2LlmSettings(RecipeSettings):
    """LLM2LLM's parameters; the defaults are the authors' constants where the differences do not say otherwise."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "base"
    trains_on: Literal["all"] = Field(
        "all", description="The seeds and all lessons: a seed that is not trained on would not be tried again."
    )
    losses: Losses = "sft"
    temperature: float = Field(1.0, ge=0, le=5, description="Sampling temperature of the teacher.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass of the teacher.")
    max_new_tokens: int = Field(2149, ge=1, description="Tokens after which the teacher is cut.")
    student_max_new_tokens: int = Field(256, ge=1, description="Tokens after which the student's answer is cut.")
    seed_share: float = Field(1.0, gt=0, le=1, description="Share of the seed file that is used.")
    num_lessons: int = Field(1, ge=1, le=64, description="New problems for each seed shown to the teacher (k).")
    max_attempts: int = Field(5, ge=1, le=50, description="Times the teacher is asked about a seed in a round.")
    rouge_l_threshold: float = Field(0.95, ge=0, le=1, description="ROUGE-L F above which a problem is a copy.")
    augment_source: AugmentSource = Field("seed", description="Whether only seeds are shown, or all wrong rows.")
    targeted: bool = Field(True, description="Whether only rows answered wrong are shown; false takes every one.")
    show_mistake: bool = Field(False, description="Whether the teacher sees what the student wrote.")
    answer_mark: str = Field("####", min_length=1, description="What announces the final answer in a completion.")
    teacher_writes: Literal["lesson", "prompt_then_completion"] = Field(
        "lesson", description="Problem and answer in one text, or first the prompt and then its completion."
    )
    num_votes: int = Field(1, ge=1, le=32, description="Completions sampled for a prompt the teacher wrote alone.")
    min_agreement: float = Field(0.5, ge=0, le=1, description="Share of them that must have the commonest answer.")

    @model_validator(mode="after")
    def _reads_what_is_set(self) -> Self:
        if self.show_mistake and self.teacher_writes != "lesson":
            raise ValueError(
                f"show_mistake needs teacher_writes: lesson, got {self.teacher_writes}, whose prompt shows no mistake"
            )
        for name in ("num_votes", "min_agreement"):
            value, default = getattr(self, name), type(self).model_fields[name].default
            if self.teacher_writes == "lesson" and value != default:
                raise ValueError(
                    f"{name}: {value} needs teacher_writes: prompt_then_completion; a lesson has one completion"
                )
        return self

    @property
    def has_reviews(self) -> bool:
        """Nothing is reviewed: the gold answer is the signal."""
        return False

    @property
    def student_sampling(self) -> SamplingSettings:
        """How the student is tried."""
        return SamplingSettings(0.0, 1.0, self.student_max_new_tokens)


SETTINGS = Llm2LlmSettings
ROLES = ("teacher",)
ROLE_OF_STAGE = {
    f"{stage}{number}": "teacher"
    for stage in ("lesson", "lesson_prompt", "lesson_completion")
    for number in range(1, 51)
}
SETTINGS_OF_JUDGING = ()
SETTINGS_OF_STEP: dict[str, tuple[str, ...]] = {
    "seed_set": ("seed_share",),
    "raw_generations": (
        *("temperature", "top_p", "max_new_tokens", "student_max_new_tokens", "num_lessons", "max_attempts"),
        *("rouge_l_threshold", "augment_source", "targeted", "show_mistake", "answer_mark", "teacher_writes"),
        *("num_votes", "min_agreement"),
    ),
    "sft_set": ("seed_share", "trains_on"),
    "preference_pairs": ("losses",),
    "checkpoint": ("starts_from",),
}

review = steps.review_without_scores
build_pairs = steps.build_no_pairs


def build_seed_set(
    file_seeds: pl.DataFrame, _: dict[str, pl.DataFrame], *, settings: Llm2LlmSettings, identity: RoundIdentity
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The share of the file that is used, the same in every round."""
    taken = sample_seeds(len(file_seeds), settings.seed_share, identity.rng_seed)
    return file_seeds[taken], {"num_pool": len(file_seeds), "num_not_taken": len(file_seeds) - len(taken)}


def start_sft_set(
    seeds: pl.DataFrame, eft: pl.DataFrame, *, settings: Llm2LlmSettings, identity: RoundIdentity
) -> pl.DataFrame:
    """The same share of the seeds, and the EFT rows where the experiment has them. Schema `SFT_SET`."""
    taken = sample_seeds(len(seeds), settings.seed_share, identity.rng_seed)
    return pl.concat([seeds_as_sft_rows(seeds[taken], round_key=identity.round_key), eft])


def try_student(
    trained: pl.DataFrame, seeds: pl.DataFrame, *, settings: Llm2LlmSettings, identity: RoundIdentity, ask: Ask
) -> tuple[list[dict], pl.DataFrame]:
    """The student's answers as raw rows, and the trained rows with `is_correct` and, where it is wrong, `mistake`.

    Raises:
        ValueError: a seed has no gold answer, in its own field or behind the mark.
    """
    gold = dict(seeds.select("row_id", "answer").iter_rows())
    rows = trained.filter(pl.col("source") != "eft").to_dicts()
    requests = build_requests(identity, "student_answer", [(row["row_id"], row["prompt"]) for row in rows], 1)
    samples = ask("student_answer", requests, settings.student_sampling)
    parents = [
        describe_parent(row, 0, prompt=row["prompt"], completion=sample.text.strip() or None)
        for row, sample in zip(rows, samples, strict=True)
    ]
    recorded = record_samples("student_answer", parents, requests, samples)
    judged = []
    for row, raw, sample in zip(rows, recorded, samples, strict=True):
        answer = gold.get(row["source_id"]) or read_answer(row["completion"], settings.answer_mark)
        if answer is None:
            raise ValueError(
                f"row {row['row_id']} has no gold answer: name seeds.answer_field, or an answer_mark that its "
                f"completion has; got answer_mark={settings.answer_mark!r} and {row['completion'][-60:]!r}"
            )
        written = read_answer(sample.text, settings.answer_mark) if sample.finish_reason == "stop" else None
        is_correct = match_answers(answer, written)
        raw["value"] = float(is_correct)
        judged.append(row | {"is_correct": is_correct, "mistake": "" if is_correct else sample.text.strip()})
    schema = SFT_SET | {"is_correct": pl.Boolean(), "mistake": pl.String()}
    return recorded, pl.DataFrame(judged, schema=schema)


def generate(
    seeds: pl.DataFrame,
    *,
    settings: Llm2LlmSettings,
    identity: RoundIdentity,
    ask: Ask,
    trained: pl.DataFrame,
    **_: object,
) -> pl.DataFrame:
    """Try the student on its data, and let the teacher write for what it gets wrong. Schema `RAW_GENERATIONS`."""
    recorded, judged = try_student(trained, seeds, settings=settings, identity=identity, ask=ask)
    sources = choose_lesson_sources(judged, augment_source=settings.augment_source, targeted=settings.targeted)
    teaching = Teaching(settings, identity.of_role("teacher"), ask, judged["prompt"].to_list())
    teaching.teach(sources.to_dicts())
    return pl.DataFrame(recorded + teaching.rows, schema=RAW_GENERATIONS)


def describe_generations(raw_generations: pl.DataFrame) -> dict[str, float | int]:
    """How many rows the student got wrong, and how many lessons were accepted: what a person wants to see."""
    tried = raw_generations.filter(pl.col("kind") == "student_answer")
    lessons = raw_generations.filter(pl.col("kind") == "lesson")
    return {
        "student/num_tried": len(tried),
        "student/num_wrong": int((tried["value"] == 0.0).sum()),
        "lessons/num_read": len(lessons),
        "lessons/num_accepted": lessons["refused_reason"].null_count(),
    }


def clean(
    raw_generations: pl.DataFrame,
    seeds: pl.DataFrame,
    *,
    settings: Llm2LlmSettings,
    is_evaluation_prompt: Callable[[str], bool],
) -> pl.DataFrame:
    """The lessons, those that were refused with their reason, schema `CLEANED_SET`."""
    del settings
    lessons = raw_generations.filter(pl.col("kind") == "lesson")
    cleaned = mark_unusable(lessons, seeds.clear(), is_evaluation_prompt=is_evaluation_prompt)
    reason = pl.Series("refused", lessons["refused_reason"])
    return cleaned.with_columns(drop_reason=pl.coalesce(reason, "drop_reason"))


def build_sft_set(
    reviewed: pl.DataFrame, earlier: pl.DataFrame, *, settings: Llm2LlmSettings, round_key: str
) -> pl.DataFrame:
    """This round's lessons, then everything before. Schema `SFT_SET`."""
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    return pl.concat([reviewed_as_sft_rows(reviewed, round_key=round_key), kept]).cast(SFT_SET)
