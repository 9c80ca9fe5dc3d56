"""How the training process is started as several: by torchrun on this machine, or as an accelerate configuration says.

Whatever starts it (`training.launcher`), the command that follows is `-m resources.training.train_worker job.json`,
with the number of processes and the rank of each in torchrun's variables `WORLD_SIZE` and `RANK`. The process is the
same one that trains alone; `resources.training.sharing` says how several share a batch.

A launcher that starts one command on each of several machines, such as `srun`, may stand before an accelerate
configuration for as many. The command on each machine is then this module, which finds out which of them it is on and
becomes `accelerate launch`.
"""

import os
import re
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def build_launcher(config: Path, before: Sequence[str] | None = None) -> tuple[str, ...]:
    """What starts the worker in the processes of an accelerate configuration: FSDP, several GPUs or machines.

    Args:
        config: the configuration.
        before: a command that starts what follows it once on each machine; None for this machine alone.

    Raises:
        ValueError: the file is no such configuration, or is for several machines and nothing starts it on them.
    """
    if read_processes(config).num_machines == 1:
        return (*(before or ()), sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config))
    if before is None:
        raise ValueError(explain_unstarted(config))
    return (*before, sys.executable, "-m", "resources.training.launching", "--config_file", str(config))


def explain_unstarted(config: Path) -> str:
    """What is wrong with a configuration for several machines that has no launcher."""
    return (
        f"{config} (training.accelerate_config) has num_machines {read_processes(config).num_machines}, and one step "
        "starts processes on its own machine alone; add training.launcher with what starts a command on each machine, "
        "such as [srun], or write num_machines: 1"
    )


@dataclass(frozen=True)
class Processes:
    """The processes that an accelerate configuration starts."""

    num_processes: int
    """Of all machines together."""
    num_machines: int
    """That share them equally; 1 where the file has none."""
    is_sharded: bool
    """Whether FSDP divides the model over them."""


def read_processes(config: Path) -> Processes:
    """The processes of an accelerate configuration.

    Raises:
        ValueError: the file is no such configuration, or its machines do not share its processes equally.
    """
    try:
        said = yaml.safe_load(config.read_text(encoding="utf-8"))
        found = Processes(
            int(said["num_processes"]), int(said.get("num_machines", 1)), said["distributed_type"] == "FSDP"
        )
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{config} (training.accelerate_config) is no configuration of accelerate with num_processes and "
            f"distributed_type ({type(error).__name__}: {error}); write it by `accelerate config`"
        ) from error
    if found.num_machines < 1 or found.num_processes % found.num_machines:
        raise ValueError(
            f"{config} (training.accelerate_config) has num_processes {found.num_processes} and num_machines "
            f"{found.num_machines}; num_processes counts those of all machines, and is a multiple of num_machines"
        )
    return found


_RANK = ("NODE_RANK", "SLURM_NODEID")
"""Which machine this is, from 0: by a person's own launcher, or by `srun`."""
_FIRST = ("MASTER_ADDR", "SLURM_LAUNCH_NODE_IPADDR")
"""Where the first machine is reached; `srun` names the machine on which it was called, which is the step's."""
_PORT = "MASTER_PORT"


def describe_machine(config: Path, environment: Mapping[str, str]) -> list[str]:
    """What `accelerate launch` has to be told on each machine: which it is, and where the first one is.

    Args:
        config: the configuration; what it says of the first machine itself is left as it is.
        environment: of this machine's own command.

    Raises:
        ValueError: the variables are not set, or name no machine of the configuration.
    """
    ranks = [name for name in _RANK if environment.get(name)]
    if not ranks:
        raise ValueError(
            f"neither {' nor '.join(_RANK)} is set, so this machine does not know which of {config}'s it is; put srun "
            "into training.launcher, or have your own launcher set NODE_RANK to 0, 1, ... on the machines"
        )
    text, said = environment[ranks[0]], yaml.safe_load(config.read_text(encoding="utf-8"))
    num_machines = read_processes(config).num_machines
    if not text.isdecimal() or int(text) >= num_machines:
        raise ValueError(
            f"{ranks[0]} is {text!r}, and {config} (training.accelerate_config) has num_machines {num_machines}; "
            "start the command once on each of so many machines (num_nodes in the experiment's requests)"
        )
    told = ["--machine_rank", text]
    if not said.get("main_process_ip"):
        first = [environment[name] for name in _FIRST if environment.get(name)]
        if not first:
            raise ValueError(
                f"neither {' nor '.join(_FIRST)} is set, so this machine does not know where the first one is; set "
                f"MASTER_ADDR, or main_process_ip in {config}"
            )
        told += ["--main_process_ip", first[0]]
    if said.get("main_process_port") is None and environment.get(_PORT):
        told += ["--main_process_port", environment[_PORT]]
    return told


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


def main(arguments: Sequence[str]) -> None:
    """Become `accelerate launch` on this machine: `--config_file FILE` and what it is to start."""
    config = Path(arguments[1])
    told = describe_machine(config, os.environ)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *told, *arguments[2:]]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main(sys.argv[1:])
