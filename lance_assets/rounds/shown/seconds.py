"""How long a round took: its steps, and what was waited between them.

Between two steps a process starts, a check runs, and a step that holds a model waits for the one before it on the
machine. Where only the steps are added up, a round of a person's afternoon seems to have taken minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Timed(Protocol):
    """What one step took."""

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        ...

    @property
    def ended(self) -> float:
        """When it ended, in seconds since 1970; 0 where that is not known."""
        ...


@dataclass(frozen=True)
class RoundSeconds:
    """How long a round took."""

    steps: float
    """Of all steps together."""
    waited: float | None
    """Between the start of the first step and the end of the last one, with no step at work; None where the times are
    not known of every step."""

    @property
    def total(self) -> float:
        """From the first step's start to the last one's end; the steps alone where what was waited is not known."""
        return self.steps + (self.waited or 0.0)


def measure_round(costs: Mapping[str, Timed]) -> RoundSeconds:
    """How long a round took, by what its steps took.

    Args:
        costs: of each step, by noun.

    >>> from lance_assets.rounds.asking import Cost
    >>> measure_round({"a": Cost(seconds=5.0, ended=105.0), "b": Cost(seconds=10.0, ended=118.0)})
    RoundSeconds(steps=15.0, waited=3.0)
    """
    steps = sum(cost.seconds for cost in costs.values())
    spans = sorted((cost.ended - cost.seconds, cost.ended) for cost in costs.values())
    if not spans or min(cost.ended for cost in costs.values()) <= 0:
        return RoundSeconds(steps, None)
    idle, until = 0.0, spans[0][0]
    for start, end in spans:
        idle += max(0.0, start - until)
        until = max(until, end)
    return RoundSeconds(steps, idle)


def say_seconds(seconds: float) -> str:
    """A time in the unit that a person would say it in.

    >>> say_seconds(4.26), say_seconds(100), say_seconds(1100), say_seconds(9000)
    ('4.3 s', '100 s', '18 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def say_round(found: RoundSeconds) -> str:
    """How long a round took, in words, with what was waited where that is a part of it that a person notices.

    >>> say_round(RoundSeconds(600.0, 300.0)), say_round(RoundSeconds(600.0, 3.0))
    ('15 min, of which 5 min were waited between steps', '10 min')
    """
    waited = found.waited or 0.0
    noticed = waited > 0.1 * found.total
    return say_seconds(found.total) + (f", of which {say_seconds(waited)} were waited between steps" if noticed else "")
