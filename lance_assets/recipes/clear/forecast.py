"""How many rows and tokens CLEAR's rounds ask, before any is run: they follow from the number of seeds.

How many seeds `seeds.confidence` leaves out, how many completions differ from the set's, and how many replace them is
assumed. At most every seed is kept, differs, and fills `max_new_tokens`.
"""

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast, StageForecast
from lance_assets.algorithms.measures.progress import format_round
from lance_assets.recipes.clear.settings import ClearSettings
from lance_assets.recipes.contract import Forecast

DIFFERING_RATE = 0.9
"""Share of the own completions that are not the set's own, word for word; assumed."""
VERDICT_TOKENS = 100.0
"""Of a comparison or a review; assumed."""


def list_assumptions(profile: str) -> list[str]:
    """Every assumption, with its source; they are the same in every prompt profile."""
    return [
        "assumed, not measured",
        f"  differing_rate {DIFFERING_RATE:g}: share of own completions that are not the set's",
        f"  verdict_tokens {VERDICT_TOKENS:g}: tokens of a comparison or a review",
        "  left_out_rate 0: seeds that seeds.confidence leaves out",
    ]


def _forecast(
    settings: ClearSettings,
    lengths: Lengths,
    pool: Pool,
    *,
    num_rounds: int,
    differing: float,
    written: float,
    judged: float,
    asked: float,
) -> list[RoundForecast]:
    number, compared = float(pool.num_seeds), pool.num_seeds * differing
    step, sides = ("judge_pair", 2) if settings.compares_by == "verdict" else ("review", 1)
    read = max(asked, lengths.templates[step] + lengths.prompt + sides * written)
    votes = 2 * settings.num_votes * compared
    completions = (number, 1, number * (lengths.chat + lengths.prompt), number * written)
    judging = (votes, settings.num_votes, votes * read, votes * judged)
    stages = (
        StageForecast("own completions", "raw_generations", None, *completions),
        StageForecast("votes", "reviewed_set", "reviewer", *judging),
    )
    trained = number * (lengths.chat + lengths.prompt + max(lengths.completion, written)) + pool.eft_tokens
    return [
        RoundForecast(
            key=format_round(place),
            num_seeds=number,
            stages=stages if place else (),
            num_kept=compared if place else 0.0,
            kept_tokens=compared * (lengths.prompt + written) if place else 0.0,
            num_reviewed=compared if place else 0.0,
            num_sft=number + pool.num_eft,
            sft_tokens=trained,
            num_pairs=0.0,
            pair_tokens=0.0,
        )
        for place in range(num_rounds + 1)
    ]


def forecast_rounds(
    settings: ClearSettings, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """Each round as it is expected: own completions are as long as the seeds'."""
    limit = settings.max_new_tokens
    return _forecast(
        settings,
        lengths,
        pool,
        num_rounds=num_rounds,
        differing=DIFFERING_RATE,
        written=min(limit, lengths.completion),
        judged=min(limit, VERDICT_TOKENS),
        asked=0.0,
    )


def bound_rounds(
    settings: ClearSettings, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """Upper bounds of every figure of each round."""
    most = float(max(settings.max_new_tokens, *(own.max_new_tokens or 0 for own in settings.stages.values())))
    longest = max(lengths.longest_asked.values()) + most
    return _forecast(
        settings, lengths, pool, num_rounds=num_rounds, differing=1.0, written=most, judged=most, asked=longest
    )


FORECAST: Forecast[ClearSettings] = Forecast(forecast_rounds, bound_rounds, list_assumptions)
"""What the platform forecasts CLEAR's rounds with."""
