"""Where a round's minutes went: models at work, and everything else.

Everything else is its overhead: processes that start, imports, loading of models, tables, hashes, embeddings, reports,
and what is waited between steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lance_assets.rounds.shown.seconds import Timed, measure_round, say_seconds


class Worked(Timed, Protocol):
    """What one step took, and what of it a model worked."""

    @property
    def model_seconds(self) -> float:
        """Of models at work, without starting and loading them."""
        ...


@dataclass(frozen=True)
class RoundSplit:
    """A round's seconds, split."""

    total: float
    """From the first step's start to the last one's end."""
    model: float
    """Of models at work; 0 where the round was made before that was counted."""

    @property
    def overhead(self) -> float:
        """All the rest."""
        return max(0.0, self.total - self.model)

    @property
    def overhead_ratio(self) -> float | None:
        """The rest over the model's seconds; None where no model is known to have worked."""
        return self.overhead / self.model if self.model > 0 else None

    def describe(self) -> str:
        """In words.

        >>> RoundSplit(70.0, 50.0).describe()
        '70 s, of which models worked 50 s; the other 20 s are 40% on top'
        """
        if self.overhead_ratio is None:
            return f"{say_seconds(self.total)}, of which nothing is known of models at work"
        return (
            f"{say_seconds(self.total)}, of which models worked {say_seconds(self.model)}; the other "
            f"{say_seconds(self.overhead)} are {self.overhead_ratio:.0%} on top"
        )


def split_round(costs: Mapping[str, Worked], *, total: float | None = None) -> RoundSplit:
    """A round's seconds by what its steps took.

    Args:
        costs: of each step, by noun.
        total: the round's seconds; None: from the first step's start to the last one's end.
    """
    seconds = measure_round(costs).total if total is None else total
    return RoundSplit(seconds, sum(cost.model_seconds for cost in costs.values()))
