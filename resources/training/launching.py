"""How the training process is started as several: by torchrun on this machine, or as an accelerate configuration says.

Whatever starts it (`training.launcher`), the command that follows is `-m resources.training.train_worker job.json`,
with the number of processes and the rank of each in torchrun's variables `WORLD_SIZE` and `RANK`. The process is the
same one that trains alone; `resources.training.sharing` says how several share a batch.
"""

import os
import re
import signal
import sys
from collections import deque
from pathlib import Path

import yaml

_KILLED_RANK = re.compile(rf"exitcode\s*:\s*-{int(signal.SIGKILL)}\b")
"""In torchrun's report of the first process that failed."""


_REPORT = re.compile(r"torch/distributed/elastic/multiprocessing/api\.py:\d+\] failed")
"""The line with which torchrun's report of a failure begins; its own traceback follows, of some forty lines."""


class OwnLines:
    """The last lines of the training processes themselves, without the report of what started them."""

    def __init__(self, num_lines: int) -> None:
        """Keep so many."""
        self._kept: deque[str] = deque(maxlen=num_lines)
        self._has_report = False

    def note(self, line: str) -> None:
        """Take the next line."""
        self._has_report = self._has_report or bool(_REPORT.search(line))
        if not self._has_report:
            self._kept.append(line)

    def put_before(self, tail: str) -> str:
        """The lines, and behind them the end of the whole log where that has a report."""
        return "\n".join([*self._kept, tail]) if self._has_report else tail


def count_processes() -> int:
    """The processes that train together, by torchrun's variable; 1 where none was started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def build_launcher(config: Path) -> tuple[str, ...]:
    """What starts the worker in the processes of an accelerate configuration: FSDP, several GPUs or machines."""
    return (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config))


def read_processes(config: Path) -> tuple[int, bool]:
    """The number of processes of an accelerate configuration, and whether FSDP shards the model over them.

    Raises:
        ValueError: the file is no such configuration.
    """
    try:
        said = yaml.safe_load(config.read_text(encoding="utf-8"))
        return int(said["num_processes"]), said["distributed_type"] == "FSDP"
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{config} (training.accelerate_config) is no configuration of accelerate with num_processes and "
            f"distributed_type ({type(error).__name__}: {error}); write it by `accelerate config`"
        ) from error


def launch_processes(num_processes: int) -> tuple[str, ...]:
    """What starts the worker in so many processes of this machine, which find each other at a port that is free."""
    run = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    # A process that failed would fail again; what killed it may have been memory, and Dagster tries the step again.
    return (*run, "--nproc-per-node", str(num_processes), "--max-restarts", "0")


def was_killed(code: int, tail: str) -> bool:
    r"""Whether the training process, or one of those that a launcher started, was ended by SIGKILL.

    Args:
        code: of what was started, negative for a signal.
        tail: its last lines.

    >>> was_killed(-9, "")
    True
    >>> was_killed(1, "  rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: 7)")
    True
    >>> was_killed(1, "  exitcode  : 1 (pid: 7)")
    False
    """
    return code in (-signal.SIGKILL, 128 + signal.SIGKILL) or (code != 0 and bool(_KILLED_RANK.search(tail)))
