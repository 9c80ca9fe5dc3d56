"""The rounds of DiverseEvol: a model reads the whole pool, and some items of it are taken."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast
from lance_assets.recipes.axes import AxisSettings
from lance_assets.recipes.contract import Forecast
from lance_assets.recipes.forecasts.rounds import (
    Own,
    Shares,
    add_rounds,
    build_forecast,
    build_stage,
    for_profiles,
    start,
)

DIVERSE_EVOL = for_profiles(Shares(1.0, 1.0, 0.0, 0.0, 1.0), review_tokens=0.0, thought_tokens=0.0)
"""People wrote the pool, and nothing of it is dropped."""
S = TypeVar("S", bound=AxisSettings)


def forecast_pool_reading(sizes: Callable[[S], tuple[int, int | None]]) -> Forecast[S]:
    """The forecast of DiverseEvol, given which settings say the items of r0000 and those of each later round."""

    def compute(settings: S, shares: Shares, lengths: Lengths, pool: Pool, num_rounds: int) -> list[RoundForecast]:
        num_first, num_picks = sizes(settings)
        item = lengths.chat + lengths.prompt + lengths.completion

        def bring(number: int, before: Sequence[RoundForecast]) -> tuple[float, Own]:
            if not number:
                return pool.num_seeds, start(lengths, num_trained=min(num_first, pool.num_seeds))
            # All that is left is taken in r0001, after which nothing is.
            left = max(pool.num_seeds - num_first, 0) if number == 1 else 0
            picked = (left if num_picks is None else num_picks) * shares.kept
            read = pool.num_seeds if settings.reads_states else 0
            return pool.num_seeds, Own(
                (build_stage("items read", "raw_generations", read, asked=item, written=0.0),),
                kept=(picked, picked * (lengths.prompt + lengths.completion)),
                sft=(picked, picked * item),
            )

        return add_rounds(settings.trains_on, pool, bring, num_rounds=num_rounds)

    return build_forecast(DIVERSE_EVOL, compute, find_most=lambda _, lengths: (DIVERSE_EVOL["full"], lengths), used=())
