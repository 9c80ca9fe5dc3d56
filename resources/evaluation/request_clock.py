"""The seconds in which a model answers the harness's requests, without imports, tasks and the loading of the model.

lm-evaluation-harness 0.4.13 gives the time of a whole evaluation alone (`total_evaluation_time_seconds`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
"""The kinds of requests that a model of the harness answers, by the names of its methods."""


@dataclass
class RequestClock:
    """Adds the seconds up in which any of a model's methods answers requests.

    >>> class Model:
    ...     def loglikelihood(self, requests): return self.generate_until(requests)
    ...     def loglikelihood_rolling(self, requests): return []
    ...     def generate_until(self, requests): return ["a" for _ in requests]
    >>> clock = RequestClock()
    >>> clock.watch(Model)
    >>> Model().loglikelihood([1, 2]), clock.depth, clock.seconds >= 0
    (['a', 'a'], 0, True)
    """

    seconds: float = 0.0
    """So far."""
    depth: int = 0
    """Methods that are at work: one may call another, whose time is the first one's."""

    def watch(self, model: type[Any]) -> None:
        """Time the methods of a class of models."""
        for kind in KINDS:
            setattr(model, kind, self._time(getattr(model, kind)))

    def _time(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(answer)
        def timed(*given: Any, **options: Any) -> Any:
            started = time.monotonic()
            self.depth += 1
            try:
                return answer(*given, **options)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += time.monotonic() - started

        return timed
