"""What a tracker is given of a round, and what it has to do: write it as one run.

A tracker is a function. It is called in a process of its own (`tracker_worker`), so that one that hangs or breaks stops
no loop, and once for each round, when that is finished. A further tracker is one more function and its line in
`TRACKERS`, or a person's own, named as `my_package.my_module:NAME`.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

_ROOM = "resources.tracking"
TRACKERS = {
    "trackio": (f"{_ROOM}.trackio_runs:write_run", "trackio"),
    "wandb": (f"{_ROOM}.wandb_runs:write_run", "wandb"),
    "mlflow": (f"{_ROOM}.mlflow_runs:write_run", "mlflow"),
}
"""The function of each tracker with a short name, and the library that it needs, which is also the extra's name."""


class TrackedRound(BaseModel):
    """A finished round in numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    experiment: str
    """The experiment's name."""
    round_key: str
    """The round."""
    config: Mapping[str, str | float | int | bool | None]
    """What it was made with, by name."""
    series: Mapping[str, Sequence[float]]
    """By name the values of each step, from 1: losses and measures of DPO."""
    values: Mapping[str, float]
    """By name one number of the round: scores, counts and costs. Costs begin with `cost/`."""

    @property
    def version(self) -> str:
        """A hash of what the round gave, costs left out: the same result has the same version, 16 hex digits."""
        kept = {name: value for name, value in self.values.items() if not name.startswith("cost/")}
        text = json.dumps([self.experiment, self.round_key, dict(self.series), kept], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def run_name(self) -> str:
        """What its run is called: a round that is made again with another result has a run of its own."""
        return f"{self.experiment}-{self.round_key}-{self.version[:8]}"

    def list_steps(self) -> list[dict[str, float]]:
        """The series by step, the first step first; numbers that are none are left out."""
        longest = max((len(values) for values in self.series.values()), default=0)
        steps = [
            {name: values[place] for name, values in self.series.items() if place < len(values)}
            for place in range(longest)
        ]
        return [{name: value for name, value in step.items() if math.isfinite(value)} for step in steps]


class TrackingJob(BaseModel):
    """Where a round is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    tracker: str
    """One of `TRACKERS`, or a dotted name."""
    project: str
    """What the tracker calls the project."""
    folder: Path
    """The folder on this machine that the tracker may write in."""
    server: str | None = None
    """Where it is sent; None: nothing leaves this machine."""
    is_online: bool = False
    """Whether anything may leave this machine."""
    round: TrackedRound
    """What is written."""


class WriteRun(Protocol):
    """Writes a round."""

    def __call__(self, job: TrackingJob) -> str:
        """Write a round as one run, in place of what an earlier try left of it that was broken off.

        Returns:
            Where it can be seen, in words.
        """
        ...
