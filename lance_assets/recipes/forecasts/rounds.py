"""What the forecasts of recipes have in common: a round's own rows, and which rows of earlier rounds it trains on.

A recipe says what a round brings by itself; `add_rounds` adds what the axis `trains_on` keeps of the rounds before. A
forecast is made twice: under the shares that are expected, and at most, where everything can be read and is kept and
every sample fills its limit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast, StageForecast
from lance_assets.algorithms.measures.progress import format_round
from lance_assets.recipes.axes import AxisSettings, RecipeSettings, TrainsOn
from lance_assets.recipes.contract import Forecast

S = TypeVar("S", bound=AxisSettings)

MEASURED = "measured on the mini experiment's r0001 and r0002 of 2026-11-28"
ASSUMED = "assumed for other prompt profiles, where no round was counted"


@dataclass(frozen=True)
class Shares:
    """What the rules of a recipe leave open. Each recipe reads those that it has a use for."""

    kept: float
    """Share of what models wrote that cleaning keeps; in [0, 1]."""
    accepted: float
    """Rows or pairs to train on for each kept row, or for each prompt where a recipe pairs; 0 or more."""
    review_tokens: float
    """Tokens of a review or verdict."""
    thought_tokens: float
    """Tokens that a new prompt takes beside itself."""
    completion_ratio: float
    """Length of a completion over that of the seeds'."""


MEANINGS = {
    "kept": "share of what was written that cleaning keeps",
    "accepted": "rows or pairs to train on, of each kept row or prompt",
    "review_tokens": "tokens of a review or verdict",
    "thought_tokens": "tokens before a new prompt",
    "completion_ratio": "length of a completion over the seeds'",
}


def list_shares(expected: Mapping[str, Shares], profile: str, used: Sequence[str]) -> list[str]:
    """The shares of a prompt profile that a recipe uses, with their source, as lines to print."""
    values = vars(expected[profile])
    source = MEASURED if profile == "compact" else ASSUMED
    return [source, *(f"  {name} {values[name]:g}: {MEANINGS[name]}" for name in used)]


def for_profiles(compact: Shares, *, review_tokens: float, thought_tokens: float) -> dict[str, Shares]:
    """The shares of every profile: those that were measured with `compact`, and longer words in the others."""
    other = replace(compact, review_tokens=review_tokens, thought_tokens=thought_tokens, completion_ratio=1.0)
    return {"compact": compact, "full": other, "full_zh": other, "small": replace(other, thought_tokens=0.0)}


def find_limit(settings: RecipeSettings, stage: str) -> int:
    """Tokens after which a stage's samples are cut."""
    own = settings.stages[stage].max_new_tokens if stage in settings.stages else None
    return own or settings.max_new_tokens


def build_stage(
    name: str,
    noun: str,
    rows: float,
    *,
    asked: float,
    written: float,
    num_samples: int = 1,
    role: str | None = None,
) -> StageForecast:
    """A stage from the tokens of one row, asked and written."""
    return StageForecast(name, noun, role, rows, num_samples, rows * asked, rows * written)


def lengthen(lengths: Lengths, limit: float) -> Lengths:
    """Lengths at most: every text that is shown fills the limit."""
    asked = {step: max(tokens, lengths.templates[step] + 2 * limit) for step, tokens in lengths.longest_asked.items()}
    prompt, completion = max(lengths.prompt, limit), max(lengths.completion, limit)
    return replace(lengths, asked=asked, prompt=prompt, completion=completion, text=max(lengths.text, limit))


@dataclass(frozen=True)
class Own:
    """What a round brings by itself."""

    stages: tuple[StageForecast, ...] = ()
    """Of asking and reading."""
    kept: tuple[float, float] = (0.0, 0.0)
    """Texts that are kept and embedded, and their tokens."""
    num_reviewed: float = 0.0
    """Rows that are reviewed."""
    sft: tuple[float, float] = (0.0, 0.0)
    """New SFT rows, and their tokens."""
    pairs: tuple[float, float] = (0.0, 0.0)
    """New pairs, and the tokens of both sides."""
    label: tuple[float, float] = (0.0, 0.0)
    """Rows that the label model is trained on, and their tokens."""


def start(lengths: Lengths, *, num_trained: float, stages: Sequence[StageForecast] = ()) -> Own:
    """What r0000 trains on: so many seeds. The EFT rows are no round's own."""
    return Own(tuple(stages), sft=(num_trained, num_trained * (lengths.chat + lengths.prompt + lengths.completion)))


def measure_reviewer(lengths: Lengths, pool: Pool, *, num_reviews: int, written: float) -> tuple[StageForecast, ...]:
    """What r0000 asks its reviewer to be measured by: of each prompt four completions, or five with gold answers."""
    rows = min(pool.num_signal_pairs, pool.num_seeds) * (4 + pool.has_answers) * num_reviews
    named = ("reviews to measure", "review_signal", rows)
    stage = build_stage(
        *named, asked=lengths.asked["review"], written=written, num_samples=num_reviews, role="reviewer"
    )
    return (stage,) if rows else ()


def add_rounds(
    trains_on: TrainsOn,
    pool: Pool,
    own: Callable[[int, Sequence[RoundForecast]], tuple[float, Own]],
    *,
    num_rounds: int,
    trains_sft: bool = True,
) -> list[RoundForecast]:
    """r0000 and the rounds after it, each with the earlier rows that it trains on.

    Args:
        trains_on: the axis.
        pool: what there is before r0000.
        own: of a round's number and the forecasts of the rounds before, its seeds and what it brings.
        num_rounds: after r0000.
        trains_sft: whether rounds after r0000 train on SFT rows at all.
    """
    brought: list[Own] = []
    rounds: list[RoundForecast] = []
    for number in range(num_rounds + 1):
        num_seeds, mine = own(number, rounds)
        brought.append(mine)
        reach = {"all": len(brought), "last_two": 2, "latest": 1}[trains_on]
        kept = brought[-reach:]
        has_sft = trains_sft or number == 0
        eft = (pool.num_eft, pool.eft_tokens) if has_sft else (0, 0.0)
        sft = [sum(one.sft[part] for one in kept) * has_sft + eft[part] for part in (0, 1)]
        pairs = [sum(one.pairs[part] for one in kept) for part in (0, 1)]
        rounds.append(
            RoundForecast(
                key=format_round(number),
                num_seeds=num_seeds,
                stages=mine.stages,
                num_kept=mine.kept[0],
                kept_tokens=mine.kept[1],
                num_reviewed=mine.num_reviewed,
                num_sft=sft[0],
                sft_tokens=sft[1],
                num_pairs=pairs[0],
                pair_tokens=pairs[1],
                num_label_rows=mine.label[0],
                label_tokens=mine.label[1],
            )
        )
    return rounds


def build_forecast(
    expected: Mapping[str, Shares],
    compute: Callable[[S, Shares, Lengths, Pool, int], list[RoundForecast]],
    *,
    find_most: Callable[[S, Lengths], tuple[Shares, Lengths]],
    used: Sequence[str],
    words: Mapping[str, str] | None = None,
) -> Forecast[S]:
    """A recipe's forecast, as expected and at most.

    Args:
        expected: the recipe's shares by prompt profile.
        compute: r0000 and so many rounds after it, under some shares.
        find_most: the shares and lengths where everything can be read and is kept, and every sample fills its limit.
        used: the shares that the recipe reads.
        words: the role in whose words a prompt step is asked, by step; the others are asked in the round's own.
    """

    def expect(settings: S, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int) -> list[RoundForecast]:
        return compute(settings, expected[profile], lengths, pool, num_rounds)

    def bound(settings: S, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int) -> list[RoundForecast]:
        most, longest = find_most(settings, lengths)
        rounds = compute(settings, most, longest, pool, num_rounds)
        # What r0000 trains on is known; what is sampled there may be as long as anywhere.
        known = replace(compute(settings, most, lengths, pool, 0)[0], stages=rounds[0].stages)
        # Later rounds train on r0000's rows too, whose lengths are counted as the longest: a bound all the same.
        return [known, *rounds[1:]]

    return Forecast(expect, bound, lambda profile: list_shares(expected, profile, used), words or {})
