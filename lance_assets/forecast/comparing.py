"""The plan of a round beside what the round took, step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lance_assets.algorithms.forecast.machine_rates import add_known
from lance_assets.forecast.build import Forecast
from lance_assets.rounds.shown.seconds import Timed, say_seconds


@dataclass(frozen=True)
class Compared:
    """One step of a round."""

    noun: str
    """The asset that it makes."""
    planned: float | None
    """Seconds, as expected; None where the plan does not know."""
    measured: float
    """Seconds that it took."""
    planned_tokens: float | None = None
    """Tokens that models write in it, as expected; None for unknown."""

    @property
    def error(self) -> float | None:
        """By how much the plan is off, as a share of what was measured, below 0 for too little; None for unknown."""
        return None if self.planned is None or self.measured <= 0 else self.planned / self.measured - 1

    def describe(self) -> str:
        """In words.

        >>> Compared("checkpoint", 12.0, 15.0).describe()
        'checkpoint: planned 12 s, took 15 s (-20%)'
        """
        planned = "unknown" if self.planned is None else say_seconds(self.planned)
        off = "" if self.error is None else f" ({self.error:+.0%})"
        return f"{self.noun}: planned {planned}, took {say_seconds(self.measured)}{off}"


def compare_round(forecast: Forecast, round_key: str, costs: Mapping[str, Timed]) -> list[Compared]:
    """The plan of a round beside its costs, for each step that the plan has seconds for.

    Args:
        forecast: of the experiment.
        round_key: a round of the plan.
        costs: what each step of the finished round took, by noun.

    Raises:
        ValueError: the plan has no such round.
    """
    if round_key not in forecast.rounds:
        raise ValueError(
            f"the plan of {forecast.plan.name} ends with {list(forecast.rounds)[-1]} and has no {round_key}; raise "
            "stop.max_rounds"
        )
    rows = forecast.rounds[round_key]
    compared = []
    for noun in dict.fromkeys(row.noun for row in rows):
        mine = [row for row in rows if row.noun == noun]
        hours, tokens = add_known(*(row.hours for row in mine)), add_known(*(row.completion_tokens for row in mine))
        if noun in costs and hours != 0:
            seconds = None if hours is None else 3600 * hours
            compared.append(Compared(noun, seconds, costs[noun].seconds, tokens))
    return compared


@dataclass(frozen=True)
class PlanError:
    """How far a plan was from a round."""

    largest: float | None
    """The largest error of the steps that the plan knows, without its sign; None where it knows none."""
    unknown: tuple[str, ...]
    """The steps that it knows nothing of, by noun: no error says anything of them."""


def find_largest_error(compared: Sequence[Compared]) -> PlanError:
    """The largest error of any step, and the steps that have none since the plan does not know them."""
    errors = [abs(one.error) for one in compared if one.error is not None]
    return PlanError(max(errors, default=None), tuple(one.noun for one in compared if one.planned is None))
