"""The rounds of I-SHEEP and Self-Rewarding: new prompts after seeds, completions of them, and their reviews."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast
from lance_assets.recipes.axes import ProposingSettings
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
    measure_reviewer,
    start,
)

USED = ("kept", "accepted", "review_tokens", "thought_tokens", "completion_ratio")
# I-SHEEP keeps all of what the small model writes and accepts a quarter to a third. Of Self-Rewarding's completions a
# third are kept, and of four prompts one gives a pair.
I_SHEEP = for_profiles(Shares(1.0, 0.32, 51.0, 14.0, 1.2), review_tokens=140.0, thought_tokens=60.0)
SELF_REWARDING = for_profiles(Shares(0.34, 0.22, 51.0, 14.0, 1.2), review_tokens=140.0, thought_tokens=60.0)


@dataclass(frozen=True)
class Proposing:
    """What a recipe's settings say of a round, where the two name it in ways of their own."""

    max_seeds: int | None
    """Seeds that prompts are modelled on; None for all."""
    num_prompts: int
    """New prompts of each seed."""
    num_completions: int
    """Completions of each prompt."""
    num_reviews: int
    """Reviews of each completion."""
    prompter: str | None = None
    """The role that writes the prompts; None for the round's model."""


S = TypeVar("S", bound=ProposingSettings)


def forecast_proposing(
    expected: Mapping[str, Shares], describe: Callable[[S], Proposing], *, pairs: bool, words: Mapping[str, str]
) -> Forecast[S]:
    """The forecast of one of the two.

    Args:
        expected: its shares by profile.
        describe: what its settings say.
        pairs: whether it trains on pairs of completions, or on the accepted ones.
        words: the role in whose words a step is asked, by step.
    """

    def compute(settings: S, shares: Shares, lengths: Lengths, pool: Pool, num_rounds: int) -> list[RoundForecast]:
        own = describe(settings)

        def bring(number: int, before: Sequence[RoundForecast]) -> tuple[float, Own]:
            if number:
                num_seeds = min(own.max_seeds or pool.num_seeds, pool.num_seeds)
                return num_seeds, propose(settings, own, shares, lengths, num_seeds, pairs=pairs)
            trained = pool.num_seeds if settings.sft_on_seeds else 0
            written = min(find_limit(settings, "review"), shares.review_tokens)
            measured = measure_reviewer(lengths, pool, num_reviews=own.num_reviews, written=written)
            return pool.num_seeds, start(lengths, num_trained=trained, stages=measured)

        return add_rounds(settings.trains_on, pool, bring, num_rounds=num_rounds, trains_sft=not pairs)

    def find_most(settings: S, lengths: Lengths) -> tuple[Shares, Lengths]:
        limit = float(max(find_limit(settings, stage) for stage in ("new_prompt", "completion", "review")))
        return Shares(1.0, 1.0, limit, limit, 1.0), lengthen(lengths, limit)

    return build_forecast(expected, compute, find_most=find_most, used=USED, words=words)


def propose(
    settings: ProposingSettings, own: Proposing, shares: Shares, lengths: Lengths, num_seeds: float, *, pairs: bool
) -> Own:
    """What a round brings."""
    number = num_seeds * own.num_prompts
    prompt = min(float(find_limit(settings, "new_prompt")), lengths.prompt)
    completion = min(float(find_limit(settings, "completion")), lengths.completion * shares.completion_ratio)
    kept = number * own.num_completions * shares.kept
    stages = (
        build_stage(
            *("new prompts", "raw_generations", number),
            asked=lengths.asked["new_prompt"] if settings.proposals == "template" else lengths.chat,
            written=min(find_limit(settings, "new_prompt"), prompt + shares.thought_tokens),
            num_samples=own.num_prompts,
            role=own.prompter,
        ),
        build_stage(
            *("completions", "raw_generations", number * own.num_completions),
            asked=lengths.chat + prompt,
            written=completion,
            num_samples=own.num_completions,
        ),
        build_stage(
            *("reviews", "reviewed_set", kept * own.num_reviews),
            asked=lengths.templates["review"] + prompt + completion,
            written=min(find_limit(settings, "review"), shares.review_tokens),
            num_samples=own.num_reviews,
            role="reviewer",
        ),
    )
    row = lengths.chat + prompt + completion
    new = (number if pairs else kept) * shares.accepted
    return Own(
        stages,
        kept=(number + kept, number * prompt + kept * (prompt + completion)),
        num_reviewed=kept,
        sft=(0.0, 0.0) if pairs else (new, new * row),
        pairs=(new, 2 * new * row) if pairs else (0.0, 0.0),
    )
