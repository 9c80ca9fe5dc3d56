"""How many rows and tokens SELF-GUIDE's rounds ask, before any is run.

Inputs and annotations are counted exactly; how many inputs pass the filters, and how many of those agree, is assumed.
At most every input is accepted, agreed on and kept, and every sample fills `max_new_tokens`.
"""

from dataclasses import dataclass

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast, StageForecast
from lance_assets.algorithms.measures.progress import format_round
from lance_assets.recipes.contract import Forecast
from lance_assets.recipes.self_guide.settings import SelfGuideSettings


@dataclass(frozen=True)
class Assumptions:
    """What the settings leave open; rates in [0, 1]."""

    accepted_rate: float
    """Share of the inputs that pass the filters and are annotated."""
    agreed_rate: float
    """Share of those on which enough annotations agree, and which cleaning keeps."""
    shown_inputs: float
    """Earlier inputs that a request shows, mean."""


ASSUMED = Assumptions(accepted_rate=0.8, agreed_rate=0.8, shown_inputs=5.5)
"""Of instruction-tuned models; not measured."""
COMPACT = Assumptions(accepted_rate=0.9, agreed_rate=0.8, shown_inputs=0.0)
"""Of the packaged small model, whose template shows one input alone."""


def list_assumptions(profile: str) -> list[str]:
    """Every assumption of a prompt profile, with its source."""
    found, source = (
        (COMPACT, "measured on mini_self_guide") if profile == "compact" else (ASSUMED, "assumed, not measured")
    )
    return [
        source,
        f"  accepted_rate {found.accepted_rate:g}: share of the inputs that pass the filters",
        f"  agreed_rate {found.agreed_rate:g}: share of those that become rows to train on",
        f"  shown_inputs {found.shown_inputs:g}: earlier inputs that a request shows",
    ]


def _forecast(
    settings: SelfGuideSettings,
    assumptions: Assumptions,
    lengths: Lengths,
    pool: Pool,
    *,
    num_rounds: int,
    input_tokens: float,
    output_tokens: float,
    longest: bool,
) -> list[RoundForecast]:
    asked = lengths.longest_asked if longest else lengths.asked
    num_inputs = float(settings.num_waves * settings.wave_size)
    num_kept = num_inputs * assumptions.accepted_rate
    num_trained, num_asked = num_kept * assumptions.agreed_rate, num_kept * settings.num_annotations
    read_input = asked["input"] + assumptions.shown_inputs * input_tokens
    read_annotation = lengths.templates["annotate"] + input_tokens
    stages = (
        ("inputs", num_inputs, 1, read_input, input_tokens),
        ("annotations", num_asked, settings.num_annotations, read_annotation, output_tokens),
    )
    found = tuple(
        StageForecast(name, "raw_generations", None, rows, samples, rows * read, rows * written)
        for name, rows, samples, read, written in stages
    )
    rounds = [
        RoundForecast(
            key=format_round(0),
            num_seeds=pool.num_seeds,
            stages=(),
            num_kept=0.0,
            kept_tokens=0.0,
            num_reviewed=0.0,
            num_sft=pool.num_eft,
            sft_tokens=pool.eft_tokens,
            num_pairs=0.0,
            pair_tokens=0.0,
        )
    ]
    for number in range(1, num_rounds + 1):
        times = number if settings.trains_on == "all" else min(number, 2 if settings.trains_on == "last_two" else 1)
        rounds.append(
            RoundForecast(
                key=format_round(number),
                num_seeds=settings.num_demos,
                stages=found,
                num_kept=2 * num_trained,
                kept_tokens=num_trained * (2 * input_tokens + output_tokens),
                num_reviewed=num_trained,
                num_sft=times * num_trained + pool.num_eft,
                sft_tokens=times * num_trained * (read_annotation + output_tokens) + pool.eft_tokens,
                num_pairs=0.0,
                pair_tokens=0.0,
            )
        )
    return rounds


def forecast_rounds(
    settings: SelfGuideSettings, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """Each round as it is expected: inputs and outputs are as long as the demonstrations'."""
    limit = settings.max_new_tokens
    return _forecast(
        settings,
        COMPACT if profile == "compact" else ASSUMED,
        lengths,
        pool,
        num_rounds=num_rounds,
        input_tokens=min(limit, lengths.prompt),
        output_tokens=min(limit, lengths.completion),
        longest=False,
    )


def bound_rounds(
    settings: SelfGuideSettings, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """Upper bounds of every figure of each round."""
    most = float(max(settings.max_new_tokens, *(own.max_new_tokens or 0 for own in settings.stages.values())))
    return _forecast(
        settings,
        Assumptions(1.0, 1.0, float(settings.max_shown)),
        lengths,
        pool,
        num_rounds=num_rounds,
        input_tokens=most,
        output_tokens=most,
        longest=True,
    )


FORECAST: Forecast[SelfGuideSettings] = Forecast(forecast_rounds, bound_rounds, list_assumptions)
"""What the platform forecasts SELF-GUIDE's rounds with."""
