"""The rounds of R-Zero: questions after seeds, answers to each, and what of them is at the edge."""

from collections.abc import Sequence
from dataclasses import replace

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast
from lance_assets.recipes.axes import ON_PAIRS
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
    list_shares,
    start,
)
from lance_assets.recipes.r_zero.settings import RZeroSettings

SHARES = for_profiles(Shares(1.0, 0.3, 0.0, 14.0, 1.2), review_tokens=0.0, thought_tokens=60.0)
"""The share of questions at the edge is the one that is accepted."""
MEASURED = "measured on r0001 of benchmarks.r_zero, 2026-11-30: 39 of 128 and 82 of 256 questions at the edge"
USED = ("accepted", "thought_tokens", "completion_ratio")


def _bring(settings: RZeroSettings, shares: Shares, lengths: Lengths, num_seeds: float) -> Own:
    number = num_seeds * settings.num_prompts
    prompt = min(float(find_limit(settings, "new_prompt")), lengths.prompt)
    completion = min(float(find_limit(settings, "completion")), lengths.completion * shares.completion_ratio)
    at_edge = number * shares.accepted
    if settings.max_questions is not None:
        at_edge = min(at_edge, float(settings.max_questions))
    asked = lengths.asked["new_prompt"] if settings.proposals == "template" else lengths.chat
    written = min(find_limit(settings, "new_prompt"), prompt + shares.thought_tokens)
    stages = (
        build_stage(
            *("questions", "raw_generations", number),
            asked=asked,
            written=written,
            num_samples=settings.num_prompts,
            role="challenger",
        ),
        build_stage(
            *("answers", "raw_generations", number * settings.num_answers),
            asked=lengths.chat + prompt,
            written=completion,
            num_samples=settings.num_answers,
        ),
    )
    row = lengths.chat + prompt + completion
    of_answers = (at_edge, 2 * at_edge * row) if settings.builds_pairs else (0.0, 0.0)
    # A seed's best question against its worst.
    of_questions = num_seeds * settings.pairs_questions
    num_kept = at_edge * (1 + settings.num_answers)
    return Own(
        stages,
        kept=(num_kept, at_edge * (prompt + settings.num_answers * (prompt + completion))),
        num_reviewed=at_edge * settings.num_answers + number * settings.pairs_questions,
        sft=(at_edge, at_edge * row),
        pairs=(of_answers[0] + of_questions, of_answers[1] + 2 * of_questions * (asked + written)),
    )


def _compute(
    settings: RZeroSettings, shares: Shares, lengths: Lengths, pool: Pool, num_rounds: int
) -> list[RoundForecast]:
    def bring(number: int, before: Sequence[RoundForecast]) -> tuple[float, Own]:
        if not number:
            return pool.num_seeds, start(lengths, num_trained=pool.num_seeds if settings.sft_on_seeds else 0)
        num_seeds = min(settings.max_seeds or pool.num_seeds, pool.num_seeds)
        return num_seeds, _bring(settings, shares, lengths, num_seeds)

    trains_sft = settings.losses not in ON_PAIRS
    return add_rounds(settings.trains_on, pool, bring, num_rounds=num_rounds, trains_sft=trains_sft)


def _find_most(settings: RZeroSettings, lengths: Lengths) -> tuple[Shares, Lengths]:
    limit = float(max(find_limit(settings, stage) for stage in ("new_prompt", "completion")))
    return Shares(1.0, 1.0, 0.0, limit, 1.0), lengthen(lengths, limit)


def list_assumptions(profile: str) -> list[str]:
    """The shares of a prompt profile, with their source, as lines to print."""
    told = list_shares(SHARES, profile, USED)
    return [MEASURED, *told[1:]] if profile == "compact" else told


FORECAST: Forecast[RZeroSettings] = replace(
    build_forecast(SHARES, _compute, find_most=_find_most, used=USED, words={"new_prompt": "challenger"}),
    list_assumptions=list_assumptions,
)
"""What the platform forecasts R-Zero's rounds with."""
