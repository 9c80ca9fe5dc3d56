"""Debian's own Slurm on this machine: munge, a controller and nodes, one of which can be lost as a machine is lost.

They are started as root. A container has no cgroups of its own, so a job's processes are found by their parents
(`proctrack/linuxproc`), and cores are counted and not fenced (`task/none`).
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.assets.ray_nodes import find_free_port, kill_family

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
NEEDED = "Debian's Slurm is not here: apt-get install slurmctld slurmd slurm-client munge"
START_SECONDS = 120
NODE = "SLURMD_NODENAME"
"""The variable that Slurm gives every process of a job."""
CONFIGURATION = """
ClusterName=lance
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=10
SlurmdParameters=config_overrides
MpiDefault=none
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_installed() -> bool:
    """Whether its programs are here, and this process may start them."""
    return os.geteuid() == 0 and all(find_program(name) for name in PROGRAMS)


def find_program(name: str) -> str | None:
    """A program; Debian puts what serves beside the folders of a user's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


@dataclass
class SlurmNodes:
    """A controller and its nodes, as processes of this one."""

    folder: Path
    names: tuple[str, ...]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def configuration(self) -> Path:
        """What SLURM_CONF names."""
        return self.folder / "slurm.conf"

    def start(self) -> None:
        """Start everything, and wait until the nodes are idle."""
        for name in ("state", "log", *(f"spool.{node}" for node in self.names)):
            (self.folder / name).mkdir()
        # munge refuses folders that others may write.
        self.folder.chmod(0o755)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={find_free_port()} "
            f"CPUs={os.cpu_count()} RealMemory=8000 State=UNKNOWN"
            for name in self.names
        )
        values = {"host": socket.gethostname(), "folder": self.folder, "port": find_free_port(), "nodes": nodes}
        self.configuration.write_text(CONFIGURATION.format(**values))
        self._start(
            *("munged", "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket"),
            *(f"--key-file={self.folder}/munge.key", f"--pid-file={self.folder}/munged.pid"),
            *(f"--log-file={self.folder}/log/munge", f"--seed-file={self.folder}/munge.seed"),
        )
        self._wait((self.folder / "munge.socket").exists)
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.configuration))
        for name in self.names:
            self._start_node(name)
        self._wait(lambda: set(self.names) <= self._list("idle"))

    def lose(self, pid: int) -> str | None:
        """Kill the node that a process runs on with all of its job; its name, None where it runs on none."""
        node = psutil.Process(pid).environ().get(NODE)
        if node not in self.processes:
            return None
        # The process that watches a job is no child of the node's.
        (watcher,) = [one.pid for one in psutil.Process(pid).parents() if one.name().startswith("slurmstepd")][-1:]
        daemon = self.processes.pop(node)
        daemon.kill()
        daemon.wait()
        kill_family(watcher)
        return node

    def replace(self, node: str) -> None:
        """Start a lost node again, once the controller has found that it is gone."""
        self._wait(lambda: node in self._list("down"))
        self._start_node(node)

    def stop(self) -> None:
        """End everything."""
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_node(self, name: str) -> None:
        self._start(name, "slurmd", "-D", "-N", name, "-f", str(self.configuration))

    def _start(self, name: str, program: str, *arguments: str) -> None:
        with (self.folder / "log" / name).open("ab") as log:
            command = [find_program(program) or program, *arguments]
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def _list(self, state: str) -> set[str]:
        """The nodes in a state."""
        asked = ["sinfo", "--noheader", "--Node", f"--states={state}", "--format=%N"]
        return set(subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split())

    def _wait(self, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + START_SECONDS
        while not is_so():
            if time.monotonic() > until:
                said = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in (self.folder / "log").iterdir())
                pytest.fail(f"Slurm is not as it should be after {START_SECONDS} s: {said}")
            time.sleep(0.2)


@contextlib.contextmanager
def open_slurm(folder: Path, *names: str) -> Iterator[SlurmNodes]:
    """Slurm with nodes of these names on this machine, which Slurm's commands then speak to."""
    nodes = SlurmNodes(folder, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(nodes.configuration))
        try:
            nodes.start()
            yield nodes
        finally:
            nodes.stop()
