"""The rounds of Kun: a prompt is named for each text, judged, and its completion polished."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    lengthen,
    start,
)

KUN = for_profiles(Shares(1.0, 1.0, 13.0, 0.0, 1.0), review_tokens=60.0, thought_tokens=0.0)
"""The small model was trained to keep and accept every text; of real ones a share is dropped, which is not known."""
S = TypeVar("S", bound=RecipeSettings)


@dataclass(frozen=True)
class Labelling:
    """What the recipe's settings say of a round."""

    max_texts: int | None
    """Texts of one round; None for all in r0001."""
    signal: str
    """The stage in which M judges."""
    step: str
    """The prompt step of the signal."""
    polishes: bool
    """Whether M writes a completion of its own."""


def forecast_labelling(describe: Callable[[S], Labelling]) -> Forecast[S]:
    """The forecast of Kun, given what its settings say."""

    def compute(settings: S, shares: Shares, lengths: Lengths, pool: Pool, num_rounds: int) -> list[RoundForecast]:
        own = describe(settings)

        def bring(number: int, before: Sequence[RoundForecast]) -> tuple[float, Own]:
            if number:
                taken = 0.0 if own.max_texts is None else (number - 1) * own.max_texts
                return pool.num_seeds, label(own, min(own.max_texts or pool.num_texts, pool.num_texts - taken))
            mine = start(lengths, num_trained=pool.num_seeds if settings.sft_on_seeds else 0)
            tokens = lengths.templates["label"] + lengths.completion + lengths.prompt
            return pool.num_seeds, Own(sft=mine.sft, label=(pool.num_seeds, pool.num_seeds * tokens))

        def label(own: Labelling, num_texts: float) -> Own:
            texts = max(0.0, num_texts)
            prompt = min(float(find_limit(settings, "label")), lengths.prompt)
            polished = min(float(find_limit(settings, "polish")), lengths.text * shares.completion_ratio)
            kept, accepted = texts * shares.kept, texts * shares.kept * shares.accepted
            judged = min(find_limit(settings, own.signal), shares.review_tokens)
            completion = polished if own.polishes else lengths.text
            stages = (
                build_stage(
                    *("named prompts", "raw_generations", texts),
                    asked=lengths.asked["label"],
                    written=prompt,
                    role="label",
                ),
                build_stage(
                    *("verdicts", "reviewed_set", kept),
                    asked=lengths.asked[own.step],
                    written=judged,
                    role="reviewer",
                ),
                build_stage(
                    *("polished completions", "reviewed_set", accepted * own.polishes),
                    asked=lengths.asked["polish"],
                    written=polished,
                ),
            )
            return Own(
                stages,
                kept=(kept, kept * (prompt + lengths.text)),
                num_reviewed=kept,
                sft=(accepted, accepted * (lengths.chat + prompt + completion)),
            )

        return add_rounds(settings.trains_on, pool, bring, num_rounds=num_rounds)

    def find_most(settings: S, lengths: Lengths) -> tuple[Shares, Lengths]:
        limit = float(max(find_limit(settings, stage) for stage in ("label", "polish", describe(settings).signal)))
        return Shares(1.0, 1.0, limit, 0.0, 1.0), lengthen(lengths, limit)

    words = {"label": "label", "verdict": "reviewer", "review_pair": "reviewer"}
    used = ("kept", "accepted", "review_tokens", "completion_ratio")
    return build_forecast(KUN, compute, find_most=find_most, used=used, words=words)
