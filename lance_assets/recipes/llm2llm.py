"""LLM2LLM: a teacher writes variants of the seeds that the student gets wrong (arXiv 2403.15042).

One round, with the student S, which the round before trained:

    try         S answers everything it was trained on, greedily
    signal      its answer against the gold one; a seed with a wrong answer is shown to the teacher
    propose     the teacher writes `num_lessons` new problems for each, in its format, unlike all data so far
    train       SFT of the base model on everything: the seeds and all problems of all rounds

Round r0000 is SFT on the seeds. Constants are those of the authors' code (SqueezeAILab/LLM2LLM, commit bcbcb1a).

Switches, each an ablation of the paper: `augment_source="all"` shows the teacher generated problems too,
`starts_from="previous"` goes on from the last checkpoint, one round with a larger `num_lessons` is one-shot
augmentation, `targeted=False` takes every seed, and `show_mistake` shows the teacher what the student wrote.

Differences from the authors' code:

1.  Training and trying use one prompt; theirs differ.
2.  The student answers greedily, with room for the longest answer; theirs is sampled at 0.7 and cut at 100 tokens.
3.  Answers are matched with their sign, as fractions, at the last mark (`algorithms.answer_matching`).
4.  A new problem is compared with all data, not with this step's wrong seeds alone (`algorithms.lessons`).
5.  The teacher is asked again at most `max_attempts` times; theirs asks without end.
6.  `teacher_writes="prompt_then_completion"` asks for the new prompt and its completion one after the other, for
    teachers too small for the format; of `num_votes` completions the first with the commonest answer counts, where
    at least `min_agreement` agree. The authors check no answer.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from lance_assets.algorithms.answer_matching import extract_final_answer, match_answers, parse_number
from lance_assets.algorithms.cleaning import mark_unusable
from lance_assets.algorithms.lessons import Lesson, accept_lessons, parse_lessons
from lance_assets.algorithms.wrong_seeds import AugmentSource, choose_lesson_sources, sample_seeds
from lance_assets.prompts import render_prompt
from lance_assets.recipes import steps
from lance_assets.recipes.asking import RoundIdentity, build_requests, read_final
from lance_assets.recipes.axes import Losses, RecipeSettings, StartsFrom, TrainsOn, keep_rounds
from lance_assets.recipes.steps import (
    describe_parent,
    record_samples,
    reviewed_as_sft_rows,
    seeds_as_sft_rows,
)
from lance_assets.records import (
    RAW_GENERATIONS,
    SFT_SET,
    Ask,
    Sample,
    SamplingSettings,
    derive_row_id,
)

_UNREAD = {"stop": "unparsed", "length": "cut_off", "error": "generation_failed"}
"""Why a new prompt that the teacher was asked for alone is none, by how its sample ended."""


class Llm2LlmSettings(RecipeSettings):
    """LLM2LLM's parameters; the defaults are the authors' constants where the differences do not say otherwise."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "base"
    trains_on: TrainsOn = "all"
    losses: Losses = "sft"
    temperature: float = Field(1.0, ge=0, le=5, description="Sampling temperature of the teacher.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass of the teacher.")
    max_new_tokens: int = Field(1024, ge=1, description="Tokens after which the teacher is cut.")
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
    def _can_show_mistakes(self) -> Self:
        if self.show_mistake and self.teacher_writes != "lesson":
            raise ValueError(
                f"show_mistake needs teacher_writes: lesson, got {self.teacher_writes}, whose prompt shows no mistake"
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
    "sft_set": ("trains_on",),
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


def read_answer(completion: str, mark: str) -> str | None:
    """The final answer of a completion, without the stop that ends its sentence.

    >>> read_answer("4 + 3 = 7. The answer is 7.", "The answer is")
    '7'
    """
    answer = extract_final_answer(completion, mark)
    return None if answer is None else answer.rstrip(" .") or None


def try_student(
    trained: pl.DataFrame, seeds: pl.DataFrame, *, settings: Llm2LlmSettings, identity: RoundIdentity, ask: Ask
) -> tuple[list[dict], pl.DataFrame]:
    """The student's answers as raw rows, and the trained rows with `is_correct` and `mistake`.

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
        judged.append(row | {"is_correct": is_correct, "mistake": sample.text.strip()})
    schema = SFT_SET | {"is_correct": pl.Boolean(), "mistake": pl.String()}
    return recorded, pl.DataFrame(judged, schema=schema)


@dataclass
class Teaching:
    """One round's lessons: what the teacher is still to be asked about, and what it wrote."""

    settings: Llm2LlmSettings
    identity: RoundIdentity
    ask: Ask
    known_prompts: list[str]
    """Everything that a new prompt must be unlike, grown by what is accepted."""
    num_accepted: Counter[str] = field(default_factory=Counter)
    """By source."""
    rows: list[dict] = field(default_factory=list)
    """raw_generations rows: the teacher's texts, and a lesson each for what was read of them."""

    def teach(self, sources: Sequence[dict]) -> None:
        """Ask about every source until it has its lessons, or `max_attempts` times."""
        for attempt in range(1, self.settings.max_attempts + 1):
            waiting = [row for row in sources if self.num_accepted[row["row_id"]] < self.settings.num_lessons]
            if not waiting:
                return
            writes = self._write_lessons if self.settings.teacher_writes == "lesson" else self._write_in_turn
            self._decide(writes(waiting, attempt))

    def _write_lessons(self, waiting: Sequence[dict], attempt: int) -> list[tuple[dict, dict, Lesson]]:
        """Lessons read from texts that hold problem and answer."""
        asked = [(row["row_id"], self._render(row, attempt)) for row in waiting]
        stage = f"lesson{attempt}"
        requests = build_requests(self.identity, stage, asked, 1)
        samples = self.ask(stage, requests, self.settings.sampling)
        parents = [describe_parent(row, attempt, prompt=None, completion=None) for row in waiting]
        texts = record_samples("lesson_text", parents, requests, samples)
        self.rows += texts
        found = []
        for row, text, sample in zip(waiting, texts, samples, strict=True):
            was_cut = sample.finish_reason == "length"
            parsed = parse_lessons(sample.text, was_cut=was_cut, mark=self.settings.answer_mark)
            found += [(row, text, lesson) for lesson in parsed.lessons]
            for number, (reason, piece) in enumerate(parsed.rejected):
                self._record(row, text, Lesson("", piece, ""), f"unread{number}", reason)
        return found

    def _render(self, row: dict, attempt: int) -> str:
        settings = self.settings
        kept = [
            raw["prompt"]
            for raw in self.rows
            if raw["seed_id"] == row["row_id"] and raw["kind"] == "lesson" and raw["refused_reason"] is None
        ]
        return render_prompt(
            self.identity.prompt_profile,
            "llm2llm/lesson",
            prompt=row["prompt"],
            completion=row["completion"],
            mistake=row["mistake"] if settings.show_mistake else "",
            kept=" | ".join(kept) if attempt % 2 == 0 else "",
            number=str(min(settings.num_lessons - self.num_accepted[row["row_id"]] + attempt - 1, 10)),
        )

    def _write_in_turn(self, waiting: Sequence[dict], attempt: int) -> list[tuple[dict, dict, Lesson]]:
        """Lessons of a new prompt and the completion that most of its samples agree on."""
        settings, readable = self.settings, self._write_prompts(waiting, attempt)
        stage = f"lesson_completion{attempt}"
        asked = [(raw["row_id"], raw["prompt"]) for _, raw in readable]
        requests = build_requests(self.identity, stage, asked, settings.num_votes)
        samples = self.ask(stage, requests, settings.sampling)
        found = []
        for place, (row, raw) in enumerate(readable):
            own = slice(place * settings.num_votes, (place + 1) * settings.num_votes)
            votes = samples[own]
            parents = [
                describe_parent(row, number, prompt=raw["prompt"], completion=sample.text.strip() or None)
                | {"parent_id": raw["row_id"]}
                for number, sample in enumerate(votes)
            ]
            self.rows += record_samples("lesson_completion", parents, requests[own], votes)
            chosen, agreement = choose_by_vote(votes, settings.answer_mark)
            if chosen is None or agreement < settings.min_agreement:
                lesson = Lesson(raw["prompt"], votes[0].text, "")
                self._record(row, raw, lesson, "disagreed", "teacher_disagrees", value=agreement)
            else:
                answer = read_answer(chosen.text, settings.answer_mark) or ""
                found.append((row, raw, Lesson(raw["prompt"], chosen.text.strip(), answer)))
        return found

    def _write_prompts(self, waiting: Sequence[dict], attempt: int) -> list[tuple[dict, dict]]:
        """A new prompt for each lesson that a source still lacks: those that can be read, with their source."""
        wanted = [row for row in waiting for _ in range(self.settings.num_lessons - self.num_accepted[row["row_id"]])]
        stage, profile = f"lesson_prompt{attempt}", self.identity.prompt_profile
        asked = [
            (
                f"{row['row_id']}:{number}",
                render_prompt(profile, "llm2llm/new_prompt", prompt=row["prompt"], completion=row["completion"]),
            )
            for number, row in enumerate(wanted)
        ]
        requests = build_requests(self.identity, stage, asked, 1)
        samples = self.ask(stage, requests, self.settings.sampling)
        parents = [
            describe_parent(row, attempt, prompt=read_final(sample), completion=None)
            for row, sample in zip(wanted, samples, strict=True)
        ]
        prompts = record_samples("lesson_text", parents, requests, samples)
        self.rows += prompts
        readable = []
        for row, raw in zip(wanted, prompts, strict=True):
            if raw["prompt"] is not None and raw["finish_reason"] == "stop":
                readable.append((row, raw))
            else:
                reason = _UNREAD[raw["finish_reason"]]
                self._record(row, raw, Lesson("", raw["raw_text"], ""), "unread", reason)
        return readable

    def _decide(self, found: Sequence[tuple[dict, dict, Lesson]]) -> None:
        """Accept what is unlike all data, and record every lesson with its decision."""
        decisions = accept_lessons(
            [(row["row_id"], lesson) for row, _, lesson in found],
            self.known_prompts,
            threshold=self.settings.rouge_l_threshold,
            per_source=self.settings.num_lessons,
            num_accepted=self.num_accepted,
        )
        for number, ((row, raw, lesson), decision) in enumerate(zip(found, decisions, strict=True)):
            self._record(row, raw, lesson, f"read{number}", decision.drop_reason, value=decision.similarity)
            if decision.drop_reason is None:
                self.num_accepted[row["row_id"]] += 1
                self.known_prompts.append(lesson.prompt)

    def _record(
        self, row: dict, raw: dict, lesson: Lesson, name: str, reason: str | None, *, value: float | None = None
    ) -> None:
        fields = {"row_id": derive_row_id(raw["row_id"], name), "kind": "lesson", "parent_id": raw["row_id"]}
        texts = {"prompt": lesson.prompt or None, "completion": lesson.completion or None}
        free = {"prompt_tokens": 0, "completion_tokens": 0, "finish_reason": "stop", "error": None}
        self.rows.append(
            raw | fields | texts | free | {"seed_id": row["row_id"], "refused_reason": reason, "value": value}
        )


def _normalise_answer(answer: str) -> Fraction | str:
    """What answers that `match_answers` calls equal have in common."""
    number = parse_number(answer)
    return " ".join(answer.casefold().split()) if number is None else number


def choose_by_vote(samples: Sequence[Sample], mark: str) -> tuple[Sample | None, float]:
    """The first sample with the commonest answer, and the share of all samples that have it; None where none has one.

    >>> texts = ["The answer is 3.", "I think the answer is unclear", "so The answer is 3."]
    >>> chosen, share = choose_by_vote([Sample(str(i), t, "stop", 1, 1) for i, t in enumerate(texts)], "The answer is")
    >>> chosen.row_id, round(share, 2)
    ('0', 0.67)
    """
    read = [read_answer(sample.text, mark) if sample.finish_reason == "stop" else None for sample in samples]
    answers = [None if answer is None else _normalise_answer(answer) for answer in read]
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None, 0.0
    answer, votes = counts.most_common(1)[0]
    return samples[answers.index(answer)], votes / len(samples)


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
    teaching = Teaching(settings, identity, ask, judged["prompt"].to_list())
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
