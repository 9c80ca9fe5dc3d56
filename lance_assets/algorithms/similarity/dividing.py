"""A computation over large arrays, divided into parts that any process may do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np


class RunParts(Protocol):
    """Does the parts of a computation, here or elsewhere."""

    def __call__(
        self, compute: Callable[..., Any], arrays: Sequence[np.ndarray], parts: Iterable[Any]
    ) -> Iterator[Any]:
        """What `compute(*arrays, part)` gives for each part, in their order.

        Args:
            compute: a function of a module, or a partial of one, that changes no array.
            arrays: what each part needs.
            parts: what each one does; small beside the arrays.
        """
        ...


def run_here(compute: Callable[..., Any], arrays: Sequence[np.ndarray], parts: Iterable[Any]) -> Iterator[Any]:
    """One part after the other, in this process.

    >>> list(run_here(lambda rows, place: float(rows[place]), [np.float32([2, 3])], [1, 0]))
    [3.0, 2.0]
    """
    return (compute(*arrays, part) for part in parts)
