"""Parts of a computation on the nodes of a Ray cluster: the search for near-duplicates in a large round.

Ray's tasks are taken: it holds each array once on a node, gives a part to whatever core is free, and does those of a
lost node again. A part gives what it gives here, so the pairs are those of one machine, to the rounding of its
processor where a row lies between two buckets.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from lance_assets.algorithms.similarity.dividing import run_here
from resources.machine.ray_cluster import join_for, list_paths

MAX_RETRIES = 3
"""How often a part is done again whose process or node is lost, before the search fails."""


@dataclass(frozen=True)
class SpreadParts:
    """Does parts on the cluster that RAY_ADDRESS names, one core each (`RunParts`)."""

    num_at_once: int
    """Most parts underway, at least 1."""
    needed_by: str
    """The setting that asks for it, for the message."""

    def __call__(
        self, compute: Callable[..., Any], arrays: Sequence[np.ndarray], parts: Iterable[Any]
    ) -> Iterator[Any]:
        """What `compute(*arrays, part)` gives for each part, in their order.

        Raises:
            OSError: there is no Ray cluster.
        """
        waiting = iter(parts)
        first = list(islice(waiting, 2))
        # One part is done sooner here than the arrays are anywhere else.
        if len(first) < 2:
            yield from run_here(compute, arrays, first)
            return
        import ray

        join_for(self.needed_by)
        # One array may be there under two names, and Ray would hold it twice.
        held = {name: ray.put(array) for name, array in {id(array): array for array in arrays}.items()}
        task = ray.remote(num_cpus=1, max_retries=MAX_RETRIES, runtime_env={"env_vars": {"PYTHONPATH": list_paths()}})(
            compute_part
        )
        underway: deque[Any] = deque()
        for part in chain(first, waiting):
            underway.append(task.remote(compute, part, *(held[id(array)] for array in arrays)))
            if len(underway) >= self.num_at_once:
                yield ray.get(underway.popleft())
        while underway:
            yield ray.get(underway.popleft())


def compute_part(compute: Callable[..., Any], part: Any, *arrays: np.ndarray) -> Any:
    """One part, in a process of a node."""
    return compute(*arrays, part)
