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
what the student wrote, for which their prompt has no place.

Differences from the authors' code:

1.  Training and trying use one prompt; their code has two.
2.  The student answers greedily, with room for the longest answer; their code samples
    at 0.7 and cuts at 100 tokens.
3.  Answers are matched with their sign, as fractions, at the last mark (`algorithms.reviews.answer_matching`). Their
    code is for GSM8K alone. `answer_kind` says what another task's answers are: one of some `labels`, for
    classification as in the paper's TREC, SNIPS, SST-2 and CaseHOLD, or a few words; lessons are asked for accordingly
    (`algorithms.reviews.answer_kinds`). A lesson that names no single label is dropped (`no_label`).
4.  A new problem is compared with all data, not with this step's wrong seeds and new problems alone
    (`algorithms.selection.lessons`).
5.  The teacher is asked at most `max_attempts` times about a seed, for what it still lacks and one more each time;
    their code asks it without end, for all it wants and one more each time.
6.  `teacher_writes="prompt_then_completion"` asks for the new prompt and its completion one after the other, for
    teachers too small for the format; of `num_votes` completions the first with the commonest answer counts, where
    at least `min_agreement` agree. The authors check no answer. `teacher_writes="prompt"` asks for another text of the
    seed's own label, so that a teacher need not know the labels; nothing checks that it kept to it.
7.  Seeds whose own completion does not give their gold answer are counted (`num_against_gold` of seed_set): the student
    is wrong for learning them. Where no seed gives its own, the settings cannot be right, and r0000 fails.
"""

from dataclasses import replace

import polars as pl

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap, Refused
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.algorithms.selection.wrong_seeds import choose_lesson_sources, sample_seeds
from lance_assets.conversations import show_prompt
from lance_assets.prompts import PromptStep
from lance_assets.recipes.axes import keep_rounds
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.forecasts.teaching import Lessons, forecast_teaching
from lance_assets.recipes.llm2llm_settings import Llm2LlmSettings
from lance_assets.recipes.steps.rows import (
    Example,
    Generation,
    SftRow,
    build_table,
    complete_prompts,
    read_rows,
    sort_pool,
)
from lance_assets.recipes.steps.sets import (
    build_no_pairs,
    review_without_scores,
    reviewed_as_sft_rows,
    seeds_as_sft_rows,
)
from lance_assets.recipes.steps.teaching import Source, Teaching
from lance_assets.records import RAW_GENERATIONS, SFT_SET, SamplingSettings

Inputs = RoundInputs[Llm2LlmSettings]

TRIED = SFT_SET | {"is_correct": pl.Boolean(), "mistake": pl.String()}
"""Rows that the student was tried on: whether its answer was right, and what it wrote where it was wrong, else ""."""


def build_seed_set(
    inputs: Inputs, file_seeds: pl.DataFrame, earlier_reviewed: dict[str, pl.DataFrame]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The share of the file that is used, the same in every round, and how many seeds speak against their gold answer.

    The student is wrong for learning such a seed, and is taught about it in every round, so a person has to see them.
    """
    taken = sample_seeds(len(file_seeds), inputs.settings.seed_share, inputs.identity.rng_seed)
    counts = {"num_pool": len(file_seeds), "num_not_taken": len(file_seeds) - len(taken)}
    num_against = len(find_against_gold(inputs.settings, file_seeds[taken]))
    return file_seeds[taken], counts | ({"num_against_gold": num_against} if num_against else {})


def start_sft_set(inputs: Inputs, seeds: pl.DataFrame, eft: pl.DataFrame) -> pl.DataFrame:
    """The same share of the seeds, and the EFT rows where the experiment has them. Schema `SFT_SET`.

    Raises:
        ValueError: no seed's own completion gives its gold answer, so that no student could be right.
    """
    settings = inputs.settings
    taken = seeds[sample_seeds(len(seeds), settings.seed_share, inputs.identity.rng_seed)]
    against = find_against_gold(settings, taken)
    if len(against) == len(taken):
        row = against.row(0, named=True)
        raise ValueError(
            f"none of {len(taken)} seeds gives its gold answer itself; the first, {row['row_id']}, ends "
            f"{row['completion'][-60:]!r}, and its gold answer is {row['answer']!r}. Correct answer_mark "
            f"({settings.answer_mark!r}), answer_kind ({settings.answer_kind}) or labels, or the seeds"
        )
    return pl.concat([seeds_as_sft_rows(taken, round_key=inputs.round_key), eft])


def find_against_gold(settings: Llm2LlmSettings, seeds: pl.DataFrame) -> pl.DataFrame:
    """The seeds of which the own completion does not give the gold answer, or that have none at all.

    Raises:
        ValueError: a gold answer is none of the labels.
    """
    rule, is_against = settings.answers, []
    for completion, answer in seeds.select("completion", "answer").iter_rows():
        own = rule.read(completion)
        gold = own if answer is None else answer
        is_against.append(gold is None or not rule.match(gold, own))
    return seeds.filter(pl.Series(is_against, dtype=pl.Boolean))


def sample_student(settings: Llm2LlmSettings) -> SamplingSettings:
    """How the student is tried."""
    return settings.student_sampling


def try_student(inputs: Inputs, trained: pl.DataFrame, seeds: pl.DataFrame) -> tuple[list[Generation], pl.DataFrame]:
    """The student's answers, and the rows it was trained on with how it answered, schema `TRIED`.

    Raises:
        ValueError: a seed has no gold answer, in its own field or behind the mark.
    """
    rule, gold = inputs.settings.answers, dict(seeds.select("row_id", "answer").iter_rows())
    rows = trained.filter(pl.col("source") != "eft")
    tried = read_rows(SftRow, rows)
    recorded, verdicts, mistakes = [], [], []
    for row, raw in zip(
        tried, complete_prompts(inputs.identity, inputs.ask, tried, stage="student_answer"), strict=True
    ):
        answer = gold.get(row.source_id) or rule.read(row.completion)
        if answer is None:
            raise ValueError(
                f"row {row.row_id} has no gold answer: name seeds.answer_field, or an answer_mark that its "
                f"completion has; got answer_mark={rule.mark!r} and {row.completion[-60:]!r}"
            )
        written = rule.read(raw.raw_text) if raw.finish_reason == "stop" else None
        is_correct = rule.match(answer, written)
        recorded.append(replace(raw, is_correct=is_correct))
        verdicts.append(is_correct)
        mistakes.append("" if is_correct else strip_thinking(raw.raw_text).strip())
    judged = rows.with_columns(
        is_correct=pl.Series(verdicts, dtype=pl.Boolean), mistake=pl.Series(mistakes, dtype=pl.String)
    )
    return recorded, judged.cast(TRIED)


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """Try the student on its data, and let the teacher write for what it gets wrong. Schema `RAW_GENERATIONS`."""
    settings = inputs.settings
    recorded, judged = try_student(inputs, trained, seeds)
    sources = choose_lesson_sources(judged, augment_source=settings.augment_source, targeted=settings.targeted)
    known_prompts = list(map(show_prompt, judged["prompt"]))
    pool = sort_pool(read_rows(Example, judged.filter(pl.col("source") == "seed")))
    teaching = Teaching(settings, inputs.identity.of_role("teacher"), inputs.ask, known_prompts, pool)
    teaching.teach(read_rows(Source, sources))
    return build_table(recorded + teaching.rows, RAW_GENERATIONS)


def describe_generations(inputs: Inputs, raw_generations: pl.DataFrame) -> dict[str, float | int]:
    """How many rows the student got wrong, and how many lessons were accepted."""
    tried = raw_generations.filter(pl.col("kind") == "student_answer")
    lessons = raw_generations.filter(pl.col("kind") == "lesson")
    return {
        "student/num_tried": len(tried),
        "student/num_wrong": int((~tried["is_correct"]).sum()),
        "lessons/num_read": len(lessons),
        "lessons/num_accepted": lessons["refused_reason"].null_count(),
    }


def list_filters(settings: Llm2LlmSettings) -> list[Filter]:
    """Drop lessons that were refused as soon as they were read, with that reason, and evaluation prompts."""
    return [Refused(), Complete(), EvaluationOverlap()]


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """This round's lessons, then everything before. Schema `SFT_SET`."""
    kept = keep_rounds(earlier, trains_on=inputs.settings.trains_on, round_key=inputs.round_key)
    return pl.concat([reviewed_as_sft_rows(reviewed, round_key=inputs.round_key), kept]).cast(SFT_SET)


def list_prompts(settings: Llm2LlmSettings) -> tuple[PromptStep, ...]:
    """What the teacher is asked with; the student is asked the prompts as they are."""
    writes_lessons, completes = (settings.teacher_writes == name for name in ("lesson", "prompt_then_completion"))
    kind, others = {"kind": settings.answer_kind}, ("completion", "examples")
    asked = kind | {"label_stays": settings.label_stays}
    chosen = {"labels": ", ".join(settings.labels), "mark": settings.answer_mark or ""}
    lesson, told = ("prompt", "completion"), ("mistake", "kept", "examples")
    given = {"number": str(settings.num_lessons)} | kind | chosen
    return (
        PromptStep("lesson", ("raw_generations",), lesson, told, given, writes_lessons),
        PromptStep("new_prompt", ("raw_generations",), ("prompt",), others, asked, not writes_lessons),
        PromptStep(
            *("label", ("raw_generations",), ("prompt",), others[1:], chosen),
            completes and settings.answer_kind == "label",
        ),
    )


def describe(settings: Llm2LlmSettings) -> Lessons:
    """What a plan reads of the settings."""
    num_votes = {"lesson": None, "prompt_then_completion": settings.num_votes, "prompt": 0}[settings.teacher_writes]
    sizes = (settings.seed_share, settings.num_lessons, settings.max_attempts, num_votes)
    return Lessons(*sizes, settings.student_max_new_tokens, not settings.targeted)


RECIPE: Recipe[Llm2LlmSettings] = Recipe(
    name="llm2llm",
    settings=Llm2LlmSettings,
    stages=(
        Stage("student_answer", sampling=sample_student, asked_in="raw_generations"),
        Stage("lesson", role="teacher", numbered=True, asked_in="raw_generations", kind="lesson_text"),
        Stage("lesson_prompt", role="teacher", numbered=True, asked_in="raw_generations", kind="lesson_text"),
        Stage("lesson_completion", role="teacher", numbered=True, asked_in="raw_generations"),
    ),
    settings_of_step={
        "seed_set": ("seed_share", "answer_mark", "answer_kind", "labels"),
        "raw_generations": (
            *("student_max_new_tokens", "num_lessons", "num_examples", "max_attempts"),
            *("rouge_l_threshold", "augment_source", "targeted", "show_mistake", "answer_mark", "teacher_writes"),
            *("num_votes", "min_agreement", "answer_kind", "labels"),
        ),
        "sft_set": ("seed_share", "trains_on", "sft_on_seeds", "answer_mark", "answer_kind", "labels"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
    },
    build_seed_set=build_seed_set,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    candidate_kinds=("lesson",),
    review=review_without_scores,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
    describe_generations=describe_generations,
    list_prompts=list_prompts,
    forecast=forecast_teaching(describe),
)
