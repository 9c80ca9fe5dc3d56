"""How many rows and tokens CLLM's rounds ask, before any is run.

Texts are counted exactly; how long they are, and how many rows can be used and are curated, is assumed. At most every
text fills `max_new_tokens` with rows of a token each, or `max_rows` is reached.
"""

from dataclasses import dataclass

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast, StageForecast
from lance_assets.algorithms.measures.progress import format_round
from lance_assets.recipes.cllm.settings import CllmSettings
from lance_assets.recipes.contract import Forecast


@dataclass(frozen=True)
class Assumptions:
    """What the settings leave open."""

    rows_per_text: float
    """Rows that a text has, mean."""
    usable_rate: float
    """Share of the rows that can be read and repeat nothing, 0..1."""
    curated_rate: float
    """Share of the usable rows that curation keeps, 0..1."""
    shows_rows: bool = True
    """Whether requests show real rows."""


ASSUMED = Assumptions(rows_per_text=10.0, usable_rate=0.7, curated_rate=0.8)
"""Of instruction-tuned models; not measured."""
COMPACT = Assumptions(rows_per_text=1.0, usable_rate=0.7, curated_rate=0.75, shows_rows=False)
"""Of the packaged small model, which is shown no row and writes one."""


def list_assumptions(profile: str) -> list[str]:
    """Every assumption of a prompt profile, with its source."""
    found, source = (COMPACT, "measured on mini_cllm") if profile == "compact" else (ASSUMED, "assumed, not measured")
    return [
        source,
        f"  rows_per_text {found.rows_per_text:g}: rows that a text has",
        f"  usable_rate {found.usable_rate:g}: share of the rows that can be read and repeat nothing",
        f"  curated_rate {found.curated_rate:g}: share of these that curation keeps",
    ]


def _forecast(
    settings: CllmSettings, lengths: Lengths, pool: Pool, *, num_rounds: int, found: Assumptions, most: float | None
) -> list[RoundForecast]:
    """Each round; `most` tokens a text for an upper bound, None for what is expected."""
    shown = min(settings.num_examples, pool.num_seeds) if found.shows_rows else 0
    # A row is written in about as many tokens as its features and label have in the seeds.
    row_tokens = lengths.prompt + lengths.completion
    read = lengths.templates["rows"] + shown * row_tokens
    written = min(settings.max_new_tokens, found.rows_per_text * row_tokens) if most is None else most
    if most is not None:
        read = max(read, *lengths.longest_asked.values()) + shown * row_tokens
    num_texts = float(settings.num_requests * settings.num_samples)
    num_rows = num_texts * (found.rows_per_text if most is None else most)
    num_kept = min(num_rows * found.usable_rate, settings.max_rows or num_rows)
    num_curated = num_kept * found.curated_rate
    stage = StageForecast(
        *("rows", "raw_generations", None, num_texts, settings.num_samples, num_texts * read, num_texts * written)
    )
    row_length = row_tokens if most is None else most + read
    length = row_length + (read if settings.teaches == "rows" else 0.0)
    own = float(pool.num_seeds) if settings.sft_on_seeds else 0.0
    rounds = []
    for number in range(num_rounds + 1):
        times = number if settings.trains_on == "all" else min(number, 2 if settings.trains_on == "last_two" else 1)
        keeps_own = number == 0 or settings.trains_on == "all" or (settings.trains_on == "last_two" and number == 1)
        num_sft = times * num_curated + (own if keeps_own else 0.0)
        is_later = number > 0
        rounds.append(
            RoundForecast(
                key=format_round(number),
                num_seeds=pool.num_seeds,
                stages=(stage,) if is_later else (),
                num_kept=num_kept if is_later else 0.0,
                kept_tokens=num_kept * row_length if is_later else 0.0,
                num_reviewed=num_kept if is_later else 0.0,
                num_sft=num_sft + pool.num_eft if settings.trains_model else 0.0,
                sft_tokens=num_sft * length + pool.eft_tokens if settings.trains_model else 0.0,
                num_pairs=0.0,
                pair_tokens=0.0,
            )
        )
    return rounds


def forecast_rounds(
    settings: CllmSettings, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """Each round as it is expected: rows are as long as the seeds'."""
    found = COMPACT if profile == "compact" else ASSUMED
    return _forecast(settings, lengths, pool, num_rounds=num_rounds, found=found, most=None)


def bound_rounds(
    settings: CllmSettings, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """Upper bounds of every figure of each round."""
    most = float(max(settings.max_new_tokens, *(own.max_new_tokens or 0 for own in settings.stages.values()), 0))
    found = Assumptions(0.0, 1.0, 1.0, shows_rows=profile != "compact")
    return _forecast(settings, lengths, pool, num_rounds=num_rounds, found=found, most=most)


FORECAST: Forecast[CllmSettings] = Forecast(forecast_rounds, bound_rounds, list_assumptions)
"""What the platform forecasts CLLM's rounds with."""
