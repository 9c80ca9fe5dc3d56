"""Kills processes of a tiny experiment in all its stages, starts the same command again, and compares what is left.

    python -m benchmarks.chaos [--kills N] [--quick] [--way command|daemon] [--rounds N] [--rng-seed N] [--minutes N]

One run is left alone: the command `lance run`. The other one is killed `--kills` times: a step's process, the process
of the run, the trainer in the middle of a stage of TRL, once it has made a step, or the whole process group; with
`--way daemon` Dagster's daemon runs the rounds, and it and its code server are killed too. `_chaos_plan` draws the
kills over all stages. Whatever ended is started again by the same command, as a supervisor does, and nothing else is
done. A run that is finished before all kills are spent is compared and begun anew in another folder.

The models are the packaged ones and the training is real. The last line is one JSON object:

| key | what it is |
| --- | --- |
| `kills` | kills that hit a process; `kills_by_target` and `kills_by_stage` have them by what was killed, and where |
| `lost_rows`, `doubled_rows` | rows of tables and vectors that the killed run lacks, or has more often |
| `differences` | tables, files of checkpoints and rounds of vectors whose bytes differ; `compared` is their number |
| `overhead_ratio` | samples that engines gave and steps that trainers made, lost ones included, over those of the run |
| | that was left alone. Seconds are not counted: they say more of a shared machine than of the work |
| `samples_ratio`, `train_steps_ratio` | the two parts of it |
| `manual_steps` | times that the rounds stood still for `--patience` seconds, so that a person would have to help |
| `failed_commands` | times that the command ended with an error although it was not killed; it was started again |
| `longest_block_seconds` | the longest time from a kill until work went on, starting again included |
"""

import argparse
import collections
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks._chaos_plan import TARGETS, Kill, Stage, draw_kills
from benchmarks._chaos_results import compare
from benchmarks._chaos_site import NAME, AtWork, Site, write_experiment

POLL_SECONDS = 0.1


MAX_MISSED = 4
"""Kills of the trainer that come too late and are made good in another run; later ones are of the step."""


@dataclass
class Tally:
    """What the kills did."""

    by_target: dict[str, int] = field(default_factory=lambda: collections.Counter())
    by_stage: dict[str, int] = field(default_factory=lambda: collections.Counter())
    longest_block: float = 0.0
    manual_steps: int = 0
    failed_commands: int = 0
    lost: int = 0
    doubled: int = 0
    differences: list[str] = field(default_factory=list)
    compared: int = 0
    samples: int = 0
    train_steps: int = 0
    series: int = 0
    started: int = 0
    missed: int = 0
    """Kills of the trainer that came too late, since it had ended."""
    owed: int = 0
    """Those of them that the next run shall have."""

    @property
    def kills(self) -> int:
        """All of them."""
        return sum(self.by_target.values())

    def add_run(self, alone: Site, site: Site) -> None:
        """Compare a run that is finished with the one left alone, and count what it did."""
        found = compare(alone.data, site.data, NAME)
        self.lost, self.doubled = self.lost + found.num_lost, self.doubled + found.num_doubled
        self.differences += found.differences
        self.compared += found.num_compared
        self.samples += site.count_samples()
        self.train_steps += site.count_train_steps()
        self.started += site.started
        print(f"series {self.series}: {found}; the command was started {site.started} times", flush=True)

    def describe(self, alone: Site) -> dict[str, object]:
        """The figures of the last line."""
        samples, steps = (count * max(self.series, 1) for count in (alone.count_samples(), alone.count_train_steps()))
        return {
            "kills": self.kills,
            "lost_rows": self.lost,
            "doubled_rows": self.doubled,
            "differences": len(self.differences),
            "overhead_ratio": round((self.samples + self.train_steps) / (samples + steps), 3),
            "samples_ratio": round(self.samples / samples, 3),
            "train_steps_ratio": round(self.train_steps / steps, 3),
            "manual_steps": self.manual_steps,
            "failed_commands": self.failed_commands,
            "longest_block_seconds": round(self.longest_block, 1),
            "compared": self.compared,
            "series": self.series,
            "started": self.started,
            "kills_by_target": dict(self.by_target),
            "kills_by_stage": dict(sorted(self.by_stage.items())),
        }


def run_undisturbed(site: Site) -> list[Stage]:
    """Run all rounds, or take what was run before in the same folder; the stages in their order."""
    taken = site.home / "stages.json"
    if taken.is_file():
        return [Stage(**stage) for stage in json.loads(taken.read_text())]
    main, began = site.start(), dict[str, float]()
    try:
        while main.poll() is None:
            for step in site.list_at_work():
                began.setdefault(step.stage, time.monotonic())
            time.sleep(POLL_SECONDS)
    finally:
        site.end(main)
    if main.returncode or not site.is_finished():
        raise SystemExit(f"the run without kills ended with {main.returncode}; see {site.home / 'log.txt'}")
    order, num_steps = sorted(began, key=lambda name: began[name]), site.count_steps_by_round()
    ends = [*(began[name] for name in order[1:]), time.monotonic()]
    trains = {f"{key} checkpoint": number for key, number in num_steps.items()}
    stages = [
        Stage(name, round(end - began[name], 3), trains.get(name, 0)) for name, end in zip(order, ends, strict=True)
    ]
    taken.write_text(json.dumps([vars(stage) for stage in stages], indent=1))
    return stages


class Killer:
    """Runs all rounds under kills until these are spent, and on to the end."""

    def __init__(self, site: Site, tally: Tally, stages: Sequence[Stage], kills: Sequence[Kill]) -> None:
        """Keep where it runs, what takes its figures, the stages of the run left alone, and the kills in order."""
        self.site, self.tally, self.stages = site, tally, stages
        self._kills, self._places = list(kills), {stage.name: place for place, stage in enumerate(stages)}
        self._main = site.start()
        self._killed_at, self._seen, self._is_blocked, self._is_first = time.monotonic(), set[AtWork](), True, True
        self._counted = 0
        self._due: float | None = None

    def run(self, *, until: float, patience: float, rng: random.Random) -> bool:
        """Whether the end was reached.

        Args:
            until: no kill comes after this moment of `time.monotonic`.
            patience: seconds without work after which the rounds stand.
            rng: draws one of several processes of a kind.
        """
        while True:
            time.sleep(POLL_SECONDS)
            now, at_work = time.monotonic(), self.site.list_at_work()
            self._look_for_work(at_work, now)
            is_over = self._main.poll() is not None
            if self.site.is_finished() and (self.site.way == "daemon" or is_over):
                self.site.end(self._main)
                return True
            if self._is_blocked and now - self._killed_at > patience:
                print(f"nothing at work {patience:.0f} s after a kill; see {self.site.home / 'log.txt'}", flush=True)
                self.tally.manual_steps += 1
                self.site.end(self._main)
                return False
            if is_over:
                self._start_again()
            elif self._kills and not self._is_blocked and now < until and self._is_due(at_work, now):
                self._kill(at_work, now, rng)

    def _look_for_work(self, at_work: set[AtWork], now: float) -> None:
        """End the block after a kill as soon as a step begins, or a step that went on does something."""
        counted = self.site.count_samples() + self.site.count_train_steps()
        if self._is_blocked and (at_work - self._seen or counted > self._counted):
            if not self._is_first:
                self.tally.longest_block = max(self.tally.longest_block, now - self._killed_at)
            self._is_blocked, self._is_first = False, False

    def _start_again(self) -> None:
        """Start the command again, after a kill or an error of its own."""
        if self._main.returncode not in (0, -signal.SIGKILL):
            print(f"the command ended with {self._main.returncode}; see {self.site.home / 'log.txt'}", flush=True)
            self.tally.failed_commands += 1
        self._main = self.site.start()

    def _is_due(self, at_work: set[AtWork], now: float) -> bool:
        """Whether the next kill comes now: so much of its stage, or of a later one that is at work, is over."""
        kill, places = self._kills[0], [self._places.get(step.stage, -1) for step in at_work]
        place = max(places, default=-1)
        if place < kill.stage:
            return False
        stage = self.stages[place]
        if kill.target != "trainer":
            # From when its stage was first seen, since a short one may be over by then.
            self._due = self._due or now + kill.share * stage.seconds
            return now >= self._due
        if place > kill.stage:
            # What was trained was taken as it was.
            self.tally.missed += 1
            if self.tally.missed <= MAX_MISSED:
                self.tally.owed += 1
                self._kills.pop(0)
            else:
                self._kills[0] = replace(kill, target="step")
            return False
        return self.site.find_trainer()[1] >= 1 + int(kill.share * (stage.num_train_steps - 1))

    def _kill(self, at_work: set[AtWork], now: float, rng: random.Random) -> None:
        """Kill a process of the kind that is next; where there is none at this moment, a later call does."""
        target = self._kills[0].target
        pids = self.site.list_targets(target, self._main)
        if not pids:
            return
        pid = rng.choice(pids)
        try:
            (os.killpg if target == "group" else os.kill)(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._kills.pop(0)
        self.tally.by_target[target] += 1
        where = max(at_work, key=lambda step: self._places.get(step.stage, -1)).stage
        self.tally.by_stage[where] += 1
        print(f"kill {self.tally.kills}: {target} (process {pid}) at {where}", flush=True)
        self._counted = self.site.count_samples() + self.site.count_train_steps()
        self._seen, self._is_blocked, self._killed_at, self._due = at_work, True, now, None


def read_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12, help="how many kills there are")
    parser.add_argument("--quick", action="store_true", help="three kills of a single round")
    parser.add_argument("--way", choices=tuple(TARGETS), default="command", help="who runs the rounds that are killed")
    parser.add_argument("--rounds", type=int, default=1, help="rounds after r0000")
    parser.add_argument("--kills-a-run", type=int, default=12, help="kills until another run is begun")
    parser.add_argument("--rng-seed", type=int, default=0, help="draws moments and targets")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds until the rounds count as standing")
    parser.add_argument("--minutes", type=float, default=1e6, help="no kill comes later than so many minutes")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where homes lie, by default one that is removed afterwards; a run left alone that lies there is taken",
    )
    return parser.parse_args()


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Run both, compare them, and give the figures."""
    num_kills, num_rounds = (3, 0) if arguments.quick else (arguments.kills, arguments.rounds)
    if not (folder / "experiments").exists():
        write_experiment(folder / "experiments", num_rounds=num_rounds)
    alone = Site(folder / "alone", folder / "experiments", "command", num_rounds)
    began = time.monotonic()
    stages = run_undisturbed(alone)
    print(
        f"left alone: {sum(stage.seconds for stage in stages):.0f} s in {len(stages)} stages, "
        f"{alone.count_samples()} samples, {alone.count_train_steps()} training steps",
        flush=True,
    )
    tally, rng = Tally(), random.Random(arguments.rng_seed)
    until = time.monotonic() + arguments.minutes * 60
    while tally.kills < num_kills and time.monotonic() < until:
        tally.series += 1
        site = replace(alone, home=folder / f"killed_{arguments.way}_{tally.series}", way=arguments.way, started=0)
        num_left = min(num_kills - tally.kills, arguments.kills_a_run)
        kills = draw_kills(stages, arguments.way, num_left, rng, num_owed=min(tally.owed, num_left))
        tally.owed = 0
        if not Killer(site, tally, stages, kills).run(until=until, patience=arguments.patience, rng=rng):
            break
        tally.add_run(alone, site)
    return tally.describe(alone) | {"way": arguments.way, "seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    """Print the figures."""
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure((arguments.folder or Path(temporary)).resolve(), arguments)))


if __name__ == "__main__":
    main()
