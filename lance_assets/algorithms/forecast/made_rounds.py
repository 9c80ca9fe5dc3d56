"""A plan whose rows and tokens follow a round that was made, in place of what was assumed of the model.

How many seeds score low, how many rows cleaning keeps and how long completions are is assumed before the first round.
The rounds after it are much like it, so each figure of theirs is multiplied by what it was over what was expected.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lance_assets.algorithms.forecast.round_forecast import RoundForecast, StageForecast


@dataclass(frozen=True)
class MadeStep:
    """What a step of a round that asks a model really took."""

    rows: float
    """Samples, all stages of the step together."""
    read_tokens: float
    """Prompt tokens that the model read: those that it had read before do not count."""
    completion_tokens: float
    """Of all samples."""


@dataclass(frozen=True)
class MadeRound:
    """What a round really took."""

    key: str
    """The round."""
    steps: Mapping[str, MadeStep]
    """By the asset that the step makes."""
    num_kept: float | None = None
    """Texts that were embedded; None for unknown."""
    num_sft: float | None = None
    """Rows that SFT trained on."""
    num_pairs: float | None = None
    """Preference pairs."""
    trained_tokens: float | None = None
    """Tokens that all stages of training trained on, all passes."""


def divide(made: float | None, expected: float) -> float:
    """What a figure is to be multiplied by; 1 where one of the two is not known or nothing was expected.

    >>> divide(30.0, 20.0), divide(None, 20.0), divide(3.0, 0.0)
    (1.5, 1.0, 1.0)
    """
    return made / expected if made is not None and expected > 0 else 1.0


def count_read(stage: StageForecast) -> float:
    """Prompt tokens of a stage that are read: those of one sample for each prompt."""
    return stage.prompt_tokens / stage.num_samples


def follow(
    expected: RoundForecast, like: RoundForecast, made: MadeRound, *, passes: tuple[float, float]
) -> RoundForecast:
    """The forecast of a round, by what another one really took.

    Args:
        expected: of the round.
        like: of the round that was made, from the same plan.
        made: that round.
        passes: over the rows of SFT, and over the pairs.

    Returns:
        A forecast whose stages have the rows and tokens of that round, in the proportions of `expected`. A step of
        which nothing was expected stays as it is.
    """
    stages = []
    for stage in expected.stages:
        mine, step = [one for one in like.stages if one.noun == stage.noun], made.steps.get(stage.noun)
        if step is None:
            stages.append(stage)
            continue
        stages.append(
            replace(
                stage,
                rows=stage.rows * divide(step.rows, sum(one.rows for one in mine)),
                prompt_tokens=stage.prompt_tokens * divide(step.read_tokens, sum(map(count_read, mine))),
                completion_tokens=stage.completion_tokens
                * divide(step.completion_tokens, sum(one.completion_tokens for one in mine)),
            )
        )
    kept, sft, pairs = (
        divide(getattr(made, name), getattr(like, name)) for name in ("num_kept", "num_sft", "num_pairs")
    )
    # By the rows alone first; what is left of the difference is that rows are longer or shorter.
    by_rows = like.sft_tokens * sft * passes[0] + like.pair_tokens * pairs * passes[1]
    longer = divide(made.trained_tokens, by_rows)
    return replace(
        expected,
        stages=tuple(stages),
        num_kept=expected.num_kept * kept,
        kept_tokens=expected.kept_tokens * kept,
        num_sft=expected.num_sft * sft,
        sft_tokens=expected.sft_tokens * sft * longer,
        num_pairs=expected.num_pairs * pairs,
        pair_tokens=expected.pair_tokens * pairs * longer,
    )
