"""Kills processes of a tiny experiment at random moments, starts the same command again, and compares what is left.

    python -m benchmarks.chaos [--kills N] [--quick] [--way command|daemon] [--rounds N] [--rng-seed N] [--minutes N]

One run is left alone. The other one is killed `--kills` times: a step's process, the process of the run, the trainer in
the middle of a stage of TRL, or the whole process group; with `--way daemon` also Dagster's daemon and its code server.
Whatever ended is started again by the same command, as a supervisor does, and nothing else is done. A run that is
finished before all kills are spent is compared and begun anew in another folder.

The models are the packaged ones and the training is real. The last line is one JSON object:

| key | what it is |
| --- | --- |
| `kills` | kills that hit a process; `kills_by_target` has them by what was killed |
| `lost_rows`, `doubled_rows` | rows of tables and vectors that the killed run lacks, or has more often |
| `differences` | tables, files of checkpoints and rounds of vectors whose bytes differ; `compared` is their number |
| `overhead_ratio` | rows sampled and steps trained, those that a kill lost included, over those of the run left alone |
| `samples_ratio`, `train_steps_ratio` | the two parts of it |
| `manual_steps` | times that the rounds stood still for `--patience` seconds, so that a person would have to help |
| `longest_block_seconds` | the longest time from a kill to the next step at work, starting again included |
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from benchmarks._chaos_results import compare
from resources.machine.claims import Claims

PROJECT_ROOT = Path(__file__).parents[1]
SOURCE = PROJECT_ROOT / "lance_assets" / "experiments" / "mini_lance"
NAME = "tiny"
COUNTING = Path(__file__).with_name("_chaos_counting")
POLL_SECONDS = 0.05
TARGETS = {
    "command": ("step", "run", "trainer", "group"),
    "daemon": ("step", "run", "trainer", "group", "daemon", "code_server"),
}
"""What is killed, by who runs the rounds."""
TRAIN_STEP = re.compile(r"(?:sft|dpo): step \d+ of \d+")


def write_experiment(folder: Path, *, num_rounds: int) -> None:
    """Write `mini_lance` with so few seeds, samples and problems that a round takes seconds."""
    shutil.copytree(SOURCE, folder / NAME, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / NAME / "defs.yaml"
    said = yaml.safe_load(file.read_text())
    settings = said["attributes"]
    settings["parameters"] |= {"max_seeds": 6, "max_new_tokens": 96, "num_prompts": 2, "num_completions": 2}
    settings["parameters"] |= {"num_reviews": 1, "sft_threshold": 0.0, "score_gap": 0.0}
    settings["engine"] |= {"batch_size": 8, "flush_seconds": 0, "device": "cpu"}
    settings["training"] |= {"token_budget": 4000, "num_threads": 1}
    for stage in ("sft", "dpo"):
        settings["training"][stage] |= {"batch_size": 4, "max_length": 256}
    settings["evaluation"]["world"] |= {"per_stratum": 1, "max_new_tokens": 64}
    settings["checks"] = {"max_unscored_rate": 1.0, "min_pairs": 0}
    settings["stop"] = {"max_rounds": num_rounds}
    file.write_text(yaml.safe_dump(said))
    for name, num_rows in (("seeds.jsonl", 32), ("eft.jsonl", 8)):
        rows = (folder / NAME / name).read_text().splitlines(keepends=True)
        (folder / NAME / name).write_text("".join(rows[:num_rows]))


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

    def start(self) -> subprocess.Popen[bytes]:
        """Start what runs the rounds, always by the same command."""
        environment = os.environ | {
            "LANCE_HOME": str(self.home),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "LANCE_EXPERIMENTS": str(self.experiments),
            "LANCE_CHAOS_SAMPLES": str(self.home / "samples.txt"),
            "PYTHONPATH": f"{PROJECT_ROOT}{os.pathsep}{COUNTING}",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
        }
        (self.home / "dagster").mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT_ROOT / "lance_assets" / "assets" / "dagster.yaml", self.home / "dagster")
        if self.way == "command":
            run = "from lance_assets.cli.app import main; import sys; sys.argv[0] = 'lance'; main()"
            command = ["-c", run, "run", NAME, "--rounds", str(self.num_rounds)]
        else:
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
        """Whether the last round has its evaluation."""
        last = self.data / "tables" / NAME / f"r{self.num_rounds:04d}" / "eval_report.parquet"
        return last.is_file() and not self.claims.list_alive(prefix="")

    def list_steps(self) -> set[str]:
        """The claims of steps at work."""
        return {claim.name for claim in self.claims.list_alive() if "." in claim.name and "command" not in claim.name}

    def find_target(self, target: str, main: subprocess.Popen[bytes], rng: random.Random) -> int | None:
        """A process to kill; None where there is none of the kind now."""
        if target == "group":
            return main.pid
        alive = self.claims.list_alive()
        pids: list[int] = []
        if target == "run":
            pids = [claim.pid for claim in alive if "." not in claim.name]
        elif target == "step":
            pids = [claim.pid for claim in alive if "." in claim.name and not claim.name.startswith("command")]
        elif target == "daemon":
            pids = [main.pid]
        else:
            word = "train_worker" if target == "trainer" else "grpc"
            for process in psutil.process_iter(["cmdline", "environ"]):
                line = " ".join(process.info["cmdline"] or ())
                if word in line and (process.info["environ"] or {}).get("LANCE_HOME") == str(self.home):
                    pids.append(process.pid)
        return rng.choice(pids) if pids else None

    def count_samples(self) -> int:
        """Samples that engines gave, the lost ones included."""
        file = self.home / "samples.txt"
        return len(file.read_text().splitlines()) if file.is_file() else 0

    def count_train_steps(self) -> int:
        """Steps that the trainer logged, the lost ones included."""
        return len(TRAIN_STEP.findall((self.home / "log.txt").read_text(errors="replace")))

    def end(self, main: subprocess.Popen[bytes]) -> None:
        """End everything that is left."""
        for pid in [main.pid, *(claim.pid for claim in self.claims.list_alive())]:
            try:
                (os.killpg if pid == main.pid else os.kill)(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        main.wait()


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


@dataclass
class Tally:
    """What the kills did."""

    by_target: dict[str, int] = field(default_factory=lambda: collections.Counter())
    longest_block: float = 0.0
    manual_steps: int = 0
    lost: int = 0
    doubled: int = 0
    differences: list[str] = field(default_factory=list)
    compared: int = 0
    samples: int = 0
    train_steps: int = 0
    series: int = 0

    @property
    def kills(self) -> int:
        """All of them."""
        return sum(self.by_target.values())


def run_undisturbed(site: Site) -> float:
    """Run all rounds, or take what was run before in the same folder; the seconds that they took."""
    taken = site.home / "seconds.json"
    if taken.is_file():
        return float(taken.read_text())
    began = time.monotonic()
    main = site.start()
    try:
        while not site.is_finished():
            if main.poll() not in (None, 0):
                raise SystemExit(f"the run without kills ended with {main.poll()}; see {site.home / 'log.txt'}")
            time.sleep(0.5)
        if site.way == "command":
            main.wait()
    finally:
        site.end(main)
    seconds = time.monotonic() - began
    taken.write_text(f"{seconds:.1f}")
    return seconds


def run_with_kills(
    site: Site, tally: Tally, *, num_kills: int, until: float, seconds: float, patience: float, rng: random.Random
) -> bool:
    """Run all rounds under kills until `num_kills` are spent, and on to the end; whether the end was reached.

    Args:
        site: where.
        tally: takes what happened.
        num_kills: how many kills there are to spend.
        until: no kill comes after this moment of `time.monotonic`.
        seconds: what the rounds take undisturbed; a kill comes after up to a fifth of it.
        patience: seconds without a step at work after which the rounds stand.
        rng: draws moments and targets.
    """
    main, killed_at = site.start(), time.monotonic()
    waits_for_step, seen = True, set[str]()
    target, due = draw_kill(site.way, seconds, rng)
    while True:
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        steps = site.list_steps()
        if waits_for_step and steps - seen:
            tally.longest_block = max(tally.longest_block, now - killed_at)
            waits_for_step = False
            target, due = draw_kill(site.way, seconds, rng)
        if site.is_finished() and (site.way == "daemon" or main.poll() is not None):
            site.end(main)
            return True
        if waits_for_step and now - killed_at > patience:
            print(f"no step at work {patience:.0f} s after a kill; see {site.home / 'log.txt'}", flush=True)
            tally.manual_steps += 1
            site.end(main)
            return False
        if main.poll() is not None:
            main = site.start()
        if waits_for_step or tally.kills >= num_kills or now < due or now > until:
            continue
        if (pid := site.find_target(target, main, rng)) is None:
            # What is not there now may be in a moment; after a while another one is taken.
            if now > due + seconds:
                target, due = draw_kill(site.way, seconds, rng)
            continue
        try:
            (os.killpg if target == "group" else os.kill)(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        tally.by_target[target] += 1
        where = ", ".join(sorted(name.partition(".")[2] for name in steps)) or "no step"
        print(f"kill {tally.kills}: {target} (process {pid}) at {where}", flush=True)
        seen, waits_for_step, killed_at = steps, True, now


def draw_kill(way: str, seconds: float, rng: random.Random) -> tuple[str, float]:
    """What is killed next, and when."""
    return rng.choice(TARGETS[way]), time.monotonic() + rng.uniform(0, seconds / 5)


def main() -> None:
    """Run both, compare them, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12, help="how many kills there are")
    parser.add_argument("--quick", action="store_true", help="three kills of a single round")
    parser.add_argument("--way", choices=tuple(TARGETS), default="command", help="who runs the rounds")
    parser.add_argument("--rounds", type=int, default=1, help="rounds after r0000")
    parser.add_argument("--rng-seed", type=int, default=0, help="draws moments and targets")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds until the rounds count as standing")
    parser.add_argument("--minutes", type=float, default=1e6, help="no kill comes later than so many minutes")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where homes lie, by default one that is removed afterwards; a run left alone that lies there is taken",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        num_kills, num_rounds = (3, 0) if arguments.quick else (arguments.kills, arguments.rounds)
        if not (folder / "experiments").exists():
            write_experiment(folder / "experiments", num_rounds=num_rounds)

        def place(name: str) -> Site:
            return Site(folder / name, folder / "experiments", arguments.way, num_rounds)

        alone = place("alone")
        seconds = run_undisturbed(alone)
        print(
            f"left alone: {seconds:.0f} s, {alone.count_samples()} samples, {alone.count_train_steps()} steps",
            flush=True,
        )
        tally, rng = Tally(), random.Random(arguments.rng_seed)
        until = time.monotonic() + arguments.minutes * 60
        while tally.kills < num_kills and not tally.manual_steps and time.monotonic() < until:
            tally.series += 1
            site = place(f"killed_{tally.series}")
            told = run_with_kills(
                *(site, tally), num_kills=num_kills, until=until, seconds=seconds, patience=arguments.patience, rng=rng
            )
            if not told:
                break
            found = compare(alone.data, site.data, NAME)
            tally.lost, tally.doubled = tally.lost + found.num_lost, tally.doubled + found.num_doubled
            tally.differences += found.differences
            tally.compared += found.num_compared
            tally.samples += site.count_samples()
            tally.train_steps += site.count_train_steps()
            print(f"series {tally.series}: {found}; the command was started {site.started} times", flush=True)
        parts = [
            (done / (undisturbed * max(tally.series, 1)))
            for done, undisturbed in (
                (tally.samples, alone.count_samples()),
                (tally.train_steps, alone.count_train_steps()),
                (tally.samples + tally.train_steps, alone.count_samples() + alone.count_train_steps()),
            )
        ]
    figures = {
        "kills": tally.kills,
        "lost_rows": tally.lost,
        "doubled_rows": tally.doubled,
        "differences": len(tally.differences),
        "overhead_ratio": round(parts[2], 3),
        "samples_ratio": round(parts[0], 3),
        "train_steps_ratio": round(parts[1], 3),
        "manual_steps": tally.manual_steps,
        "longest_block_seconds": round(tally.longest_block, 1),
        "compared": tally.compared,
        "series": tally.series,
        "way": arguments.way,
        "undisturbed_seconds": round(seconds, 1),
        "kills_by_target": dict(tally.by_target),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
