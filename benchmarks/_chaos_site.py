"""One run of the tiny experiment of `benchmarks.chaos`: what starts it, what is at work in it, and what it did."""

import collections
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from resources.machine.claims import Claim, Claims

PROJECT_ROOT = Path(__file__).parents[1]
SOURCE = PROJECT_ROOT / "lance_assets" / "experiments" / "mini_lance"
NAME = "tiny"
COUNTING = Path(__file__).with_name("_chaos_counting")
_ROUND = re.compile(r"r[0-9]{4}")
_TRAINER, _CODE_SERVER = "train_worker", "grpc"
"""What the command lines of processes have that hold no claim."""


def write_experiment(folder: Path, *, num_rounds: int) -> None:
    """Write `mini_lance` with so few seeds, samples and problems that a round takes seconds."""
    shutil.copytree(SOURCE, folder / NAME, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / NAME / "defs.yaml"
    said = yaml.safe_load(file.read_text())
    settings = said["attributes"]
    settings["parameters"] |= {"max_seeds": 6, "max_new_tokens": 96, "num_prompts": 2, "num_completions": 2}
    settings["parameters"] |= {"num_reviews": 1, "sft_threshold": 0.0, "score_gap": 0.0}
    settings["engine"] |= {"batch_size": 8, "flush_seconds": 0, "device": "cpu"}
    # A state after each step, in place of one in ten minutes: the trainer goes on from it.
    settings["training"] |= {"token_budget": 4000, "num_threads": 1, "save_every_minutes": 0}
    for stage in ("sft", "dpo"):
        settings["training"][stage] |= {"batch_size": 4, "max_length": 256}
    settings["evaluation"]["world"] |= {"per_stratum": 1, "max_new_tokens": 64}
    settings["checks"] = {"max_unscored_rate": 1.0, "min_pairs": 0}
    settings["stop"] = {"max_rounds": num_rounds}
    file.write_text(yaml.safe_dump(said))
    for name, num_rows in (("seeds.jsonl", 32), ("eft.jsonl", 8)):
        rows = (folder / NAME / name).read_text().splitlines(keepends=True)
        (folder / NAME / name).write_text("".join(rows[:num_rows]))


@dataclass(frozen=True)
class AtWork:
    """A step at work: once it is tried again, it is another one."""

    stage: str
    """The round and the step."""
    run: str
    """The run's id."""
    pid: int
    """The number of its process."""


@dataclass
class Site:
    """One run of the experiment, with a home of its own."""

    home: Path
    experiments: Path
    way: str
    num_rounds: int
    started: int = 0
    """How often the command was started."""

    @property
    def data(self) -> Path:
        """The folder of its data."""
        return self.home / "data"

    @property
    def claims(self) -> Claims:
        """Of its runs and steps."""
        return Claims(self.data / "running")

    def start(self, **variables: str) -> subprocess.Popen[bytes]:
        """Start what runs the rounds, always by the same command.

        Args:
            variables: of the environment, beside those of this process.
        """
        environment = (
            os.environ
            | variables
            | {
                "LANCE_HOME": str(self.home),
                "DAGSTER_HOME": str(self.home / "dagster"),
                "LANCE_EXPERIMENTS": str(self.experiments),
                "LANCE_CHAOS_COUNTS": str(self.home),
                "PYTHONPATH": f"{PROJECT_ROOT}{os.pathsep}{COUNTING}",
                "PYTHONUNBUFFERED": "1",
                "OMP_NUM_THREADS": "1",
            }
        )
        (self.home / "dagster").mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT_ROOT / "lance_assets" / "assets" / "dagster.yaml", self.home / "dagster")
        if self.way == "command":
            run = "from lance_assets.cli.app import main; import sys; sys.argv[0] = 'lance'; main()"
            command = ["-c", run, "run", NAME, "--rounds", str(self.num_rounds)]
        else:
            if not self.started:
                switch_on(environment)
            command = ["-m", "dagster._daemon", "run", "-w", "workspace.yaml"]
        self.started += 1
        with (self.home / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=PROJECT_ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def is_finished(self) -> bool:
        """Whether the last round has its evaluation, and nothing is at work."""
        last = self.data / "tables" / NAME / f"r{self.num_rounds:04d}" / "eval_report.parquet"
        return last.is_file() and not self.claims.list_alive()

    def list_at_work(self) -> set[AtWork]:
        """The steps at work."""
        return {
            AtWork(f"{claim.scopes[0].split()[-1]} {step}", run, claim.pid)
            for claim in self.claims.list_alive()
            for run, _, step in [claim.name.partition(".")]
            if _is_step(claim) and claim.scopes
        }

    def list_targets(self, target: str, main: subprocess.Popen[bytes]) -> list[int]:
        """The processes of a kind, to kill one of them."""
        if target in ("group", "daemon"):
            return [main.pid] if main.poll() is None else []
        if target == "run":
            return [claim.pid for claim in self.claims.list_alive() if "." not in claim.name]
        if target == "step":
            return [claim.pid for claim in self.claims.list_alive() if _is_step(claim)]
        if target == "trainer":
            pid, num_steps = self.find_trainer()
            return [pid] if num_steps else []
        return [
            process.pid
            for process in psutil.process_iter(["cmdline", "environ"])
            if _CODE_SERVER in (process.info["cmdline"] or ())
            and (process.info["environ"] or {}).get("LANCE_HOME") == str(self.home)
        ]

    def find_trainer(self) -> tuple[int, int]:
        """The process of the trainer that made the last step, and how many it has made; two zeros once it has ended."""
        pids = [int(line.split()[0]) for line in self._read_lines("train_steps.txt")]
        try:
            is_there = bool(pids) and any(_TRAINER in part for part in psutil.Process(pids[-1]).cmdline())
        except psutil.NoSuchProcess:
            is_there = False
        return (pids[-1], pids.count(pids[-1])) if is_there else (0, 0)

    def count_samples(self) -> int:
        """Samples that engines gave, the lost ones included."""
        return len(self._read_lines("samples.txt"))

    def count_train_steps(self) -> int:
        """Steps that trainers made, the lost ones included."""
        return len(self._read_lines("train_steps.txt"))

    def count_steps_by_round(self) -> collections.Counter[str]:
        """Steps that trainers made, by round."""
        # The path of the job names the round below the home of this run.
        places = (line.replace(str(self.home), "") for line in self._read_lines("train_steps.txt"))
        return collections.Counter(_ROUND.findall(place)[-1] for place in places)

    def _read_lines(self, name: str) -> list[str]:
        file = self.home / name
        return file.read_text().splitlines() if file.is_file() else []

    def end(self, main: subprocess.Popen[bytes]) -> None:
        """End everything that is left."""
        code_servers = self.list_targets("code_server", main)
        for pid in [main.pid, *(claim.pid for claim in self.claims.list_alive()), *code_servers]:
            try:
                (os.killpg if pid == main.pid else os.kill)(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        main.wait()


def _is_step(claim: Claim) -> bool:
    """Whether a claim is a step's; the others are a run's and the command's."""
    return "." in claim.name and not claim.name.startswith("command.")


def switch_on(environment: dict[str, str]) -> None:
    """Switch the sensor of the loop on, as a person does once in the UI."""
    code = (
        "from pathlib import Path; import dagster as dg; from lance_assets.assets.location import find_repository\n"
        "from dagster._core.scheduler.instigation import *\n"
        "with dg.DagsterInstance.get() as instance:\n"
        f"    origin = find_repository(instance, Path.cwd()).get_instigator_origin('{NAME}_next_round')\n"
        "    if not any(one.instigator_name == origin.instigator_name for one in instance.all_instigator_state()):\n"
        "        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING,"
        " SensorInstigatorData(min_interval=30)))\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=PROJECT_ROOT, check=True)
