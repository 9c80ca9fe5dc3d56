"""What a recipe forecasts of a round: rows and tokens of every stage, before any is run."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Lengths:
    """Tokens of the experiment's seeds as they are asked."""

    chat: float
    """Of a chat without any words: system message and marks of turns."""
    templates: Mapping[str, float]
    """Of a step's chat about empty texts, by step: "review", "new_prompt", "degrade", "judge_pair" and so on."""
    asked: Mapping[str, float]
    """Of a step's chat about a seed, mean over the seeds; "judge_pair" is not asked about seeds."""
    longest_asked: Mapping[str, float]
    """The same, of the longest seed."""
    prompt: float
    """Of a seed's prompt, mean."""
    completion: float
    """Of a seed's completion, mean."""


@dataclass(frozen=True)
class StageForecast:
    """What one stage of asking takes."""

    name: str
    """In words."""
    noun: str
    """The asset it belongs to."""
    role: str | None
    """Whose job it is, where not the round's model's."""
    rows: float
    """Samples."""
    num_samples: int
    """Samples of one prompt."""
    prompt_tokens: float
    """Of all rows."""
    completion_tokens: float
    """Of all rows."""


@dataclass(frozen=True)
class RoundForecast:
    """What one round takes."""

    key: str
    """The round."""
    num_seeds: float
    """Seeds it takes."""
    stages: tuple[StageForecast, ...]
    """In the order they are asked; in r0000 those that measure its reviewer."""
    num_kept: float
    """Texts that cleaning keeps: what is embedded."""
    kept_tokens: float
    """Tokens of those texts."""
    num_reviewed: float
    """Generated rows that are reviewed, and may be seeds of later rounds."""
    num_sft: float
    """Rows SFT trains on."""
    sft_tokens: float
    """Their tokens, one pass."""
    num_pairs: float
    """Pairs DPO trains on."""
    pair_tokens: float
    """Their tokens, both sides, one pass."""


@dataclass(frozen=True)
class Pool:
    """What there is before the first round."""

    num_seeds: int
    """Seeds of the experiment's file."""
    num_eft: int = 0
    """EFT rows."""
    eft_tokens: float = 0.0
    """Their tokens, all together."""
    num_signal_pairs: int = 0
    """Pairs of each kind that r0000 measures its reviewer on; 0: it is not measured."""
    has_answers: bool = False
    """Whether the seeds have gold answers."""


def take_larger(one: RoundForecast, other: RoundForecast) -> RoundForecast:
    """The larger of every figure."""
    stages = tuple(max(pair, key=lambda stage: stage.rows) for pair in zip(one.stages, other.stages, strict=True))
    numbers = {
        field.name: max(getattr(one, field.name), getattr(other, field.name))
        for field in fields(RoundForecast)
        if field.name not in ("key", "stages")
    }
    return replace(one, stages=stages, **numbers)
