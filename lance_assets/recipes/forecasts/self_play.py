"""The rounds of SPIN: a completion of each seed's prompt, and pairs of it with the seed's own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast
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
    start,
)

SPIN = for_profiles(Shares(0.28, 1.0, 0.0, 0.0, 1.0), review_tokens=0.0, thought_tokens=0.0)
"""Of 160 own completions 50 and 39 were not the seeds' own, and each of these makes a pair."""
STAGE = "own_completion"
S = TypeVar("S", bound=RecipeSettings)


def forecast_self_play(max_seeds: Callable[[S], int | None]) -> Forecast[S]:
    """The forecast of SPIN, given which of its settings says how many seeds are completed."""

    def compute(settings: S, shares: Shares, lengths: Lengths, pool: Pool, num_rounds: int) -> list[RoundForecast]:
        def bring(number: int, before: Sequence[RoundForecast]) -> tuple[float, Own]:
            if not number:
                return pool.num_seeds, start(lengths, num_trained=pool.num_seeds if settings.sft_on_seeds else 0)
            num_seeds = min(max_seeds(settings) or pool.num_seeds, pool.num_seeds)
            completion = min(float(find_limit(settings, STAGE)), lengths.completion * shares.completion_ratio)
            asked = lengths.chat + lengths.prompt
            new = num_seeds * shares.kept * shares.accepted
            return num_seeds, Own(
                (build_stage("own completions", "raw_generations", num_seeds, asked=asked, written=completion),),
                kept=(new, new * (lengths.prompt + completion)),
                pairs=(new, new * (2 * asked + completion + lengths.completion)),
            )

        return add_rounds(settings.trains_on, pool, bring, num_rounds=num_rounds, trains_sft=False)

    def find_most(settings: S, lengths: Lengths) -> tuple[Shares, Lengths]:
        longest = max(lengths.completion, float(find_limit(settings, STAGE)))
        return Shares(1.0, 1.0, 0.0, 0.0, 1.0), replace(lengths, completion=longest)

    return build_forecast(SPIN, compute, find_most=find_most, used=("kept", "completion_ratio"))
