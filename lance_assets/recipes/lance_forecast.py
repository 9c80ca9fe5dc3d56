"""How many rows and tokens each stage of LANCE's rounds asks, before any is run.

The counts follow the recipe's own rules (`recipes/lance.py`); what they leave open, as the share of seeds that score
low, is an assumption with a name and a source. A forecast is made twice: as expected, and at most. At most, every
sample fills `max_new_tokens`, everything can be read and is kept, and each stage is counted in the round that asks
most of it (all seeds low, or all high), so that no round reaches all of its bounds at once.
"""

from dataclasses import dataclass, replace

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast, StageForecast, take_larger
from lance_assets.algorithms.measures.progress import format_round
from lance_assets.recipes.contract import ROUND_MODEL, Forecast
from lance_assets.recipes.lance_settings import STAGES, LanceSettings

MEASURED = "measured on mini_lance: README's four rounds, and r0001 and r0002 of 2026-11-25"
ASSUMED = "assumed for instruction-tuned models, not measured"

NAMES_OF_STAGES = {
    "seed_review": ("seed reviews", "raw_generations"),
    "new_prompt": ("new prompts", "raw_generations"),
    "completion": ("completions", "raw_generations"),
    "degraded_completion": ("degraded completions", "raw_generations"),
    "review": ("reviews", "reviewed_set"),
    "judge_pair": ("judged pairs", "preference_pairs"),
}
"""The name that each stage of asking is shown by, and the asset it belongs to."""


@dataclass(frozen=True)
class Assumptions:
    """What the recipe's rules leave open; rates in [0, 1]."""

    low_rate: float
    """Share of the seeds that score at or below branch_threshold."""
    readable_rate: float
    """Share of the new prompts that can be read and were not cut."""
    kept_prompt_rate: float
    """Share of the new prompts that cleaning keeps."""
    kept_completion_rate: float
    """Share of the completions that cleaning keeps, with their prompts."""
    kept_degraded_rate: float
    """Share of the degraded completions that cleaning keeps."""
    accepted_rate: float
    """Share of the reviewed completions that score above sft_threshold."""
    pairs_per_high_seed: float
    """Preference pairs of a seed that scores high."""
    review_tokens: float
    """Tokens of a review."""
    thought_tokens: float
    """Tokens that a new prompt or a degraded completion takes beside itself: the thought before it."""
    completion_ratio: float
    """Length of a completion over that of the seeds'."""


_FULL = Assumptions(
    low_rate=0.82,
    readable_rate=0.9,
    kept_prompt_rate=0.9,
    kept_completion_rate=0.8,
    kept_degraded_rate=0.8,
    accepted_rate=0.38,
    pairs_per_high_seed=1.1,
    review_tokens=140.0,
    thought_tokens=60.0,
    completion_ratio=1.0,
)

EXPECTED: dict[str, Assumptions] = {
    "compact": Assumptions(
        low_rate=0.82,
        readable_rate=1.0,
        kept_prompt_rate=0.66,
        kept_completion_rate=0.21,
        kept_degraded_rate=0.56,
        accepted_rate=0.38,
        pairs_per_high_seed=1.1,
        review_tokens=53.0,
        thought_tokens=14.0,
        completion_ratio=1.2,
    ),
    "full": _FULL,
    # Taken from English: no round was run in Chinese.
    "full_zh": _FULL,
    "small": Assumptions(
        low_rate=0.82,
        readable_rate=0.97,
        kept_prompt_rate=0.7,
        kept_completion_rate=0.6,
        kept_degraded_rate=0.6,
        accepted_rate=0.38,
        pairs_per_high_seed=1.1,
        review_tokens=40.0,
        thought_tokens=0.0,
        completion_ratio=1.5,
    ),
}
"""By prompt profile. The rates of scores of `full`, `full_zh` and `small` are mini_lance's, for want of others."""

_OF_SCORES = ("low_rate", "accepted_rate", "pairs_per_high_seed")
_MEANINGS = {
    "low_rate": "share of seeds that score at or below branch_threshold",
    "readable_rate": "share of new prompts that can be read",
    "kept_prompt_rate": "share of new prompts that cleaning keeps",
    "kept_completion_rate": "share of completions that cleaning keeps",
    "kept_degraded_rate": "share of degraded completions that cleaning keeps",
    "accepted_rate": "share of reviewed completions above sft_threshold",
    "pairs_per_high_seed": "preference pairs of a seed that scores high",
    "review_tokens": "tokens of a review",
    "thought_tokens": "tokens before a new prompt or a degraded completion",
    "completion_ratio": "length of a completion over the seeds'",
}


def list_assumptions(profile: str) -> list[str]:
    """Every assumption of a prompt profile by its source: name, value and meaning.

    >>> list_assumptions("compact")[:2]
    ["measured on mini_lance: README's four rounds, and r0001 and r0002 of 2026-11-25", \
'  low_rate 0.82: share of seeds that score at or below branch_threshold']
    """
    values = vars(EXPECTED[profile])
    measured = [name for name in values if profile == "compact" or name in _OF_SCORES]
    lines = []
    for source, names in ((MEASURED, measured), (ASSUMED, [name for name in values if name not in measured])):
        if names:
            lines += [source, *(f"  {name} {values[name]:g}: {_MEANINGS[name]}" for name in names)]
    return lines


def forecast_rounds(
    settings: LanceSettings, assumptions: Assumptions, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """Forecast r0000 and the rounds after it, as expected.

    Args:
        settings: the recipe's parameters.
        assumptions: what they leave open.
        lengths: of the seeds.
        pool: what there is at the start.
        num_rounds: after r0000.
    """
    rounds = [_forecast_start(settings, assumptions, lengths, pool)]
    for number in range(1, num_rounds + 1):
        this = _forecast_round(settings, assumptions, lengths, number, _count_seeds(settings, pool, rounds))
        rounds.append(_accumulate(settings, pool, this, rounds[-1]))
    return rounds


def forecast_at_most(settings: LanceSettings, lengths: Lengths, pool: Pool, *, num_rounds: int) -> list[RoundForecast]:
    """An upper bound of every figure of every round: the larger of all seeds low and all seeds high.

    Args:
        settings: the recipe's parameters.
        lengths: of the seeds.
        pool: what there is at the start.
        num_rounds: after r0000.
    """
    limit = float(max(_find_limit(settings, stage.name) for stage in STAGES))
    asked = {step: max(tokens, lengths.templates[step] + 2 * limit) for step, tokens in lengths.longest_asked.items()}
    longest = replace(
        lengths, asked=asked, prompt=max(lengths.prompt, limit), completion=max(lengths.completion, limit)
    )
    rest = (1.0, 1.0, 1.0, 1.0, 1.0, float(settings.num_completions), limit, limit, 1.0)
    most = Assumptions(1.0, *rest)
    # The rows that r0000 trains on are known; what is sampled there may be as long as anywhere.
    signal = _forecast_signal(settings, most, longest, pool)
    rounds = [replace(_forecast_start(settings, most, lengths, pool), stages=signal)]
    for number in range(1, num_rounds + 1):
        num_seeds = _count_seeds(settings, pool, rounds)
        low, high = (
            _forecast_round(settings, Assumptions(low_rate, *rest), longest, number, num_seeds)
            for low_rate in (1.0, 0.0)
        )
        rounds.append(_accumulate(settings, pool, take_larger(low, high), rounds[-1]))
    return rounds


def _forecast_start(settings: LanceSettings, assumptions: Assumptions, lengths: Lengths, pool: Pool) -> RoundForecast:
    """Round r0000: SFT on all seeds, unless they are left out, and on the EFT rows; and what proves its reviewer."""
    num_trained = pool.num_seeds if settings.sft_on_seeds else 0
    seed_tokens = lengths.chat + lengths.prompt + lengths.completion
    return RoundForecast(
        key=format_round(0),
        num_seeds=pool.num_seeds,
        stages=_forecast_signal(settings, assumptions, lengths, pool),
        num_kept=0.0,
        kept_tokens=0.0,
        num_reviewed=0.0,
        num_sft=num_trained + pool.num_eft,
        sft_tokens=num_trained * seed_tokens + pool.eft_tokens,
        num_pairs=0.0,
        pair_tokens=0.0,
    )


def _forecast_signal(
    settings: LanceSettings, assumptions: Assumptions, lengths: Lengths, pool: Pool
) -> tuple[StageForecast, ...]:
    """What measures r0000's reviewer: completions written worse, reviews of each completion of the pairs, and verdicts.

    A prompt has its own completion, another seed's, a degraded and a truncated one, and one more where there are gold
    answers. What is only read has no row.
    """
    number = min(pool.num_signal_pairs, pool.num_seeds)
    if not number:
        return ()
    writes = settings.propose and settings.branches != "low" and settings.builds_pairs
    thought, review = assumptions.thought_tokens, min(_find_limit(settings, "review"), assumptions.review_tokens)
    _, completion = _size_texts(settings, assumptions, lengths)
    worse = min(_find_limit(settings, "degraded_completion"), completion + thought)
    is_asked = settings.reviewer == "model" and not settings.reviews_by_reading
    texts = number * (4 + pool.has_answers + writes) * is_asked
    num_reviews = settings.num_reviews if settings.signal is None else 1
    # Each pair has the seed's completion and one of the others, and is judged in both orders.
    verdicts = 2 * min(settings.num_judged_pairs, number * (3 + pool.has_answers + writes))
    compared = lengths.templates["judge_pair"] + lengths.prompt + 2 * completion
    verdict = min(_find_limit(settings, "judge_pair"), assumptions.review_tokens)
    stages = (
        ("worse completions to measure by", None, number * writes, 1, lengths.asked["degrade"], worse),
        ("reviews to measure", "reviewer", texts * num_reviews, num_reviews, lengths.asked["review"], review),
        *([("verdicts to measure", "reviewer", verdicts, 1, compared, verdict)] if settings.judges_pairs else []),
    )
    return tuple(
        StageForecast(name, "review_signal", role, rows, samples, rows * read, rows * written)
        for name, role, rows, samples, read, written in stages
    )


def _count_seeds(settings: LanceSettings, pool: Pool, rounds: list[RoundForecast]) -> float:
    """Seeds of the next round."""
    grown = [this.num_reviewed for this in rounds[1:]]
    if settings.seed_growth == "code":
        size = (0 if len(grown) == 1 else pool.num_seeds) + sum(grown[-1:])
    else:
        size = pool.num_seeds + sum(grown)
    return min(settings.max_seeds or size, size)


def _accumulate(settings: LanceSettings, pool: Pool, this: RoundForecast, before: RoundForecast) -> RoundForecast:
    """Add the sets of the rounds before, as the recipe trains on them."""
    if settings.trains_on == "all":
        return replace(
            this,
            num_sft=this.num_sft + before.num_sft,
            sft_tokens=this.sft_tokens + before.sft_tokens,
            num_pairs=this.num_pairs + before.num_pairs,
            pair_tokens=this.pair_tokens + before.pair_tokens,
        )
    return replace(this, num_sft=this.num_sft + pool.num_eft, sft_tokens=this.sft_tokens + pool.eft_tokens)


def _split(settings: LanceSettings, assumptions: Assumptions, num_seeds: float) -> tuple[float, float]:
    """Seeds of the low and of the high branch that anything is proposed from."""
    low_rate = 1.0 if settings.reviewer == "none" else assumptions.low_rate
    low = num_seeds * low_rate if settings.propose and settings.branches != "high" else 0.0
    high = num_seeds * (1 - low_rate) if settings.propose and settings.branches != "low" else 0.0
    return low, high


def _forecast_round(
    settings: LanceSettings, assumptions: Assumptions, lengths: Lengths, number: int, num_seeds: float
) -> RoundForecast:
    """One round's own rows, without the sets of the rounds before."""
    low, high = _split(settings, assumptions, num_seeds)
    readable = low * settings.num_prompts * assumptions.readable_rate
    kept = readable * settings.num_completions * assumptions.kept_completion_rate
    kept_degraded = high * settings.num_completions * assumptions.kept_degraded_rate
    reviewed = kept + kept_degraded
    is_reviewing = settings.reviewer == "model" and settings.propose
    is_first = number == 1
    rows = {
        "seed_review": num_seeds if is_reviewing and (is_first or settings.review_seeds_each_round) else 0.0,
        "new_prompt": low,
        "completion": readable,
        "degraded_completion": high,
        "review": reviewed if is_reviewing else 0.0,
    }
    pairs = high * min(assumptions.pairs_per_high_seed, settings.num_completions) if settings.builds_pairs else 0.0
    # both orders of each
    rows["judge_pair"] = 2 * min(settings.num_judged_pairs, pairs)
    prompt, completion = _size_texts(settings, assumptions, lengths)
    kept_prompts = readable * assumptions.kept_prompt_rate
    accepted = kept * (1.0 if settings.reviewer == "none" else assumptions.accepted_rate)
    return RoundForecast(
        key=format_round(number),
        num_seeds=num_seeds,
        stages=_build_stages(settings, assumptions, lengths, rows),
        num_kept=kept_prompts + reviewed,
        kept_tokens=kept_prompts * prompt + reviewed * (prompt + completion),
        num_reviewed=kept + (kept_degraded if settings.grow_with_degraded else 0.0),
        num_sft=accepted,
        sft_tokens=accepted * (lengths.chat + prompt + completion),
        num_pairs=pairs,
        pair_tokens=pairs * 2 * (lengths.chat + lengths.prompt + completion),
    )


def _size_texts(settings: LanceSettings, assumptions: Assumptions, lengths: Lengths) -> tuple[float, float]:
    """Tokens of a new prompt and of a completion."""
    prompt, completion = (_find_limit(settings, stage) for stage in ("new_prompt", "completion"))
    return min(prompt, lengths.prompt), min(completion, lengths.completion * assumptions.completion_ratio)


def _find_limit(settings: LanceSettings, stage: str) -> int:
    """Tokens after which a stage's samples are cut."""
    own = settings.stages[stage].max_new_tokens if stage in settings.stages else None
    return own or settings.max_new_tokens


def _size_proposing(settings: LanceSettings, lengths: Lengths, written: float) -> tuple[float, float]:
    """Tokens that a new prompt is asked with, and what is written for it."""
    if settings.proposals == "template":
        return lengths.asked["new_prompt"], written
    # The user's turn is written without a thought.
    own = min(written, lengths.prompt)
    exchanges = (settings.num_examples + 1) * (lengths.prompt + lengths.completion)
    return lengths.chat + (exchanges if settings.proposals == "magpie_seeded" else 0.0), own


def _build_stages(
    settings: LanceSettings, assumptions: Assumptions, lengths: Lengths, rows: dict[str, float]
) -> tuple[StageForecast, ...]:
    """Every stage, from how many different prompts it asks."""
    thought, expected = assumptions.thought_tokens, assumptions.review_tokens
    limit = {stage.name: _find_limit(settings, stage.name) for stage in STAGES}
    prompt, completion = _size_texts(settings, assumptions, lengths)
    samples = {"completion": settings.num_completions, "degraded_completion": settings.num_completions}
    samples |= {"new_prompt": settings.num_prompts, "judge_pair": 1}
    asked = {
        "seed_review": (lengths.asked["review"], min(limit["seed_review"], expected)),
        "new_prompt": _size_proposing(settings, lengths, min(limit["new_prompt"], prompt + thought)),
        "completion": (lengths.chat + prompt, completion),
        "degraded_completion": (lengths.asked["degrade"], min(limit["degraded_completion"], completion + thought)),
        "review": (lengths.templates["review"] + prompt + completion, min(limit["review"], expected)),
        "judge_pair": (
            lengths.templates["judge_pair"] + lengths.prompt + 2 * completion,
            min(limit["judge_pair"], expected),
        ),
    }
    stages, role_of_stage = [], {stage.name: stage.role for stage in STAGES}
    for stage, (name, noun) in NAMES_OF_STAGES.items():
        num_samples = samples[stage] if stage in samples else settings.num_reviews
        num_rows = rows[stage] * num_samples
        prompt_tokens, completion_tokens = asked[stage]
        role = role_of_stage[stage] if role_of_stage[stage] != ROUND_MODEL else None
        stages.append(
            StageForecast(
                name, noun, role, num_rows, num_samples, num_rows * prompt_tokens, num_rows * completion_tokens
            )
        )
    return tuple(stages)


def _forecast_expected(
    settings: LanceSettings, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """`forecast_rounds` under the assumptions of a prompt profile."""
    return forecast_rounds(settings, EXPECTED[profile], lengths, pool, num_rounds=num_rounds)


def _forecast_bounds(
    settings: LanceSettings, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """`forecast_at_most`, which assumes nothing of the profile."""
    return forecast_at_most(settings, lengths, pool, num_rounds=num_rounds)


FORECAST: Forecast[LanceSettings] = Forecast(
    _forecast_expected, _forecast_bounds, list_assumptions, {"review": "reviewer", "judge_pair": "reviewer"}
)
"""What the platform forecasts LANCE's rounds with."""
