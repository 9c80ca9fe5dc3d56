"""How far two who judge the same rows agree: the rate, and Cohen's kappa, which takes out what chance would give.

Source: Cohen 1960, "A Coefficient of Agreement for Nominal Scales". Hand-written: scikit-learn's `cohen_kappa_score`
gives NaN with a warning where both give every row one verdict, which is a common round, and has no table of the four
cases beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """How two agree on some rows, each of which both take or leave."""

    num_rows: int
    """Rows that both judged."""
    num_both_take: int
    """Rows that both take."""
    num_both_leave: int
    """Rows that both leave out."""
    num_first_alone: int
    """Rows that only the first takes."""
    num_second_alone: int
    """Rows that only the second takes."""

    @property
    def rate(self) -> float | None:
        """The share of rows on which they agree, 0 to 1; None without rows."""
        return (self.num_both_take + self.num_both_leave) / self.num_rows if self.num_rows else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa, -1 to 1: 1 is full agreement and 0 is what chance gives.

        None without rows, and where each of them gives all rows one and the same verdict: chance then agrees fully too.
        """
        if (rate := self.rate) is None:
            return None
        first = (self.num_both_take + self.num_first_alone) / self.num_rows
        second = (self.num_both_take + self.num_second_alone) / self.num_rows
        by_chance = first * second + (1 - first) * (1 - second)
        return None if by_chance == 1 else (rate - by_chance) / (1 - by_chance)


def measure_agreement(first: Sequence[bool], second: Sequence[bool]) -> Agreement:
    """Count the four cases of two verdicts on the same rows.

    Args:
        first: whether the first takes each row.
        second: whether the second does, in the same order.

    Raises:
        ValueError: the two differ in length.

    >>> found = measure_agreement([True, True, False, False], [True, False, False, False])
    >>> found.rate, found.kappa
    (0.75, 0.5)
    """
    if len(first) != len(second):
        raise ValueError(f"both must judge the same rows, got {len(first)} and {len(second)} verdicts")
    pairs = list(zip(first, second, strict=True))
    return Agreement(
        num_rows=len(pairs),
        num_both_take=sum(one and other for one, other in pairs),
        num_both_leave=sum(not one and not other for one, other in pairs),
        num_first_alone=sum(one and not other for one, other in pairs),
        num_second_alone=sum(other and not one for one, other in pairs),
    )
