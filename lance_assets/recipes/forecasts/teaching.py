"""The rounds of LLM2LLM: the student tries its data, and a teacher writes lessons for what it gets wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast, StageForecast
from lance_assets.recipes.axes import RecipeSettings
from lance_assets.recipes.contract import Forecast
from lance_assets.recipes.forecasts.rounds import (
    Own,
    Shares,
    add_rounds,
    build_forecast,
    build_stage,
    find_limit,
    for_profiles,
    lengthen,
    start,
)

LLM2LLM = for_profiles(Shares(0.98, 0.2, 0.0, 11.0, 2.2), review_tokens=0.0, thought_tokens=0.0)
"""Of 80 seeds the small student got 18 and 14 wrong; 64 of the teacher's 65 lessons were accepted at once."""
S = TypeVar("S", bound=RecipeSettings)


@dataclass(frozen=True)
class Lessons:
    """What the recipe's settings say of a round."""

    seed_share: float
    """Share of the seeds that is used."""
    num_lessons: int
    """Lessons for each row that was answered wrong."""
    max_attempts: int
    """Times that the teacher is asked about a row, at most."""
    num_votes: int | None
    """Completions of a prompt that the teacher wrote alone, 0 where its seed's is taken; None where a lesson is one
    text."""
    student_limit: int
    """Tokens after which the student is cut."""
    teaches_all: bool
    """Whether every row is taught about, right or wrong."""


def forecast_teaching(describe: Callable[[S], Lessons]) -> Forecast[S]:
    """The forecast of LLM2LLM, given what its settings say."""

    def compute(settings: S, shares: Shares, lengths: Lengths, pool: Pool, num_rounds: int) -> list[RoundForecast]:
        own = describe(settings)
        num_seeds = pool.num_seeds * own.seed_share

        def bring(number: int, before: Sequence[RoundForecast]) -> tuple[float, Own]:
            if not number:
                return pool.num_seeds, start(lengths, num_trained=num_seeds)
            tried = before[-1].num_sft - pool.num_eft
            wrong = num_seeds * (1.0 if own.teaches_all else shares.accepted)
            lessons = wrong * own.num_lessons
            answer = min(float(own.student_limit), lengths.completion)
            asked = lengths.chat + lengths.prompt
            trying = build_stage("the student's answers", "raw_generations", tried, asked=asked, written=answer)
            prompt, completion = size_lesson(settings, own, shares, lengths)
            new = lessons * min(1.0, shares.kept)
            return num_seeds, Own(
                (trying, *ask_teacher(own, shares, lengths, wrong=wrong, lesson=(prompt, completion))),
                kept=(new, new * (prompt + completion)),
                sft=(new, new * (lengths.chat + prompt + completion)),
            )

        return add_rounds(settings.trains_on, pool, bring, num_rounds=num_rounds)

    def find_most(settings: S, lengths: Lengths) -> tuple[Shares, Lengths]:
        own = describe(settings)
        stages = ("lesson",) if own.num_votes is None else ("lesson_prompt", "lesson_completion")
        limit = float(max(own.student_limit, *(find_limit(settings, stage) for stage in stages)))
        # Asked as often as it may be: no lesson is accepted before the last attempt.
        return Shares(float(own.max_attempts), 1.0, 0.0, 0.0, 1.0), lengthen(lengths, limit)

    words = {"lesson": "teacher", "new_prompt": "teacher", "label": "teacher"}
    used = ("kept", "accepted", "thought_tokens", "completion_ratio")
    return build_forecast(LLM2LLM, compute, find_most=find_most, used=used, words=words)


def size_lesson(settings: RecipeSettings, own: Lessons, shares: Shares, lengths: Lengths) -> tuple[float, float]:
    """Tokens of a lesson's prompt and completion."""
    prompt, completion = lengths.prompt, lengths.completion * shares.completion_ratio
    if own.num_votes is None:
        limit = float(find_limit(settings, "lesson"))
        return min(limit, prompt), min(limit, completion)
    limits = (float(find_limit(settings, stage)) for stage in ("lesson_prompt", "lesson_completion"))
    return min(next(limits), prompt), min(next(limits), completion)


def ask_teacher(
    own: Lessons, shares: Shares, lengths: Lengths, *, wrong: float, lesson: tuple[float, float]
) -> tuple[StageForecast, ...]:
    """What the teacher is asked: a text for each lesson, or a prompt and then its completions, if any."""
    # A share above 1 is a bound: the teacher is asked so many times.
    times = max(1.0, shares.kept)
    prompt, completion = lesson
    if own.num_votes is None:
        named, rows = ("lessons", "raw_generations"), wrong * times
        written = own.num_lessons * (prompt + completion + shares.thought_tokens)
        return (build_stage(*named, rows, asked=lengths.asked["lesson"], written=written, role="teacher"),)
    rows = wrong * own.num_lessons * times
    prompts = build_stage(
        *("the teacher's prompts", "raw_generations", rows),
        asked=lengths.asked["new_prompt"],
        written=prompt + shares.thought_tokens,
        role="teacher",
    )
    if not own.num_votes:
        return (prompts,)
    completions = build_stage(
        *("the teacher's completions", "raw_generations", rows * own.num_votes),
        asked=lengths.chat + prompt,
        written=completion,
        num_samples=own.num_votes,
        role="teacher",
    )
    return (prompts, completions)
