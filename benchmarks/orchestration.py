"""How much time Dagster adds to a round of the demo, compared with the same functions called in one script.

    python -m benchmarks.orchestration [--quick]

Both sides make round r0001 of `mini_lance` from copies of the same finished r0000, in a process of their own each,
alternating: one calls the nine `make_*` functions, the other executes the round's job with its checks, events and
step processes in an instance on disk. Imports are part of both. The last line is one JSON object; `fixed_seconds` is
the difference of the medians, `overhead_ratio` their ratio.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import dagster as dg

from lance_assets.assets.graph import build_experiment
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.study import make_round
from lance_assets.settings.experiment import ExperimentSettings

PROJECT_ROOT = Path(__file__).parents[1]


def build_plan(is_quick: bool) -> Plan:
    """The demo's experiment, with fewer seeds and held-out problems when quick."""
    plan = find_plan("mini_lance")
    if not is_quick:
        return plan
    settings = plan.settings.model_dump()
    settings["parameters"]["max_seeds"] = 8
    settings["evaluation"]["world"]["per_stratum"] = 1
    return Plan(plan.name, plan.folder, ExperimentSettings.model_validate(settings))


def build_job(is_quick: bool, data_root: str) -> dg.JobDefinition:
    """The round's job as the project wires it, on data of its own; built again in the process of each step."""
    from lance_assets.assets.running.executor import build_executor

    executor = build_executor(Path(data_root))
    wiring = dg.Definitions(resources={"platform": PlatformResource(data_root=data_root)}, executor=executor)
    return dg.Definitions.merge(build_experiment(build_plan(is_quick)), wiring).resolve_job_def("mini_lance_round")


def make_through_dagster(is_quick: bool, data_root: Path, key: str) -> None:
    """One round as Dagster makes it."""
    with dg.DagsterInstance.local_temp(str(data_root)) as instance:
        instance.add_dynamic_partitions("mini_lance_round", ["r0000", key])
        job = dg.build_reconstructable_job(
            "benchmarks.orchestration", "build_job", cast("tuple[object]", (is_quick, str(data_root)))
        )
        with dg.execute_job(job, instance=instance, tags={"dagster/partition": key}, raise_on_error=True) as result:
            assert result.success, f"{key} failed through Dagster"


def measure(side: str, is_quick: bool, start: Path, folder: Path) -> float:
    """Seconds that one side takes in a process of its own, on a copy of the data after r0000."""
    shutil.copytree(start, folder)
    command = [sys.executable, "-m", "benchmarks.orchestration", "--side", side, "--data-root", str(folder)]
    began = time.monotonic()
    subprocess.run(
        command + (["--quick"] if is_quick else []),
        check=True,
        cwd=PROJECT_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - began


def main() -> None:
    """Measure both sides in turn and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer seeds and held-out problems, one repeat")
    parser.add_argument("--repeats", type=int, default=2, help="rounds on each side")
    parser.add_argument("--side", choices=("functions", "dagster"), help="run one side once; what the benchmark starts")
    parser.add_argument("--data-root", type=Path, help="where that side's data lies")
    arguments = parser.parse_args()
    if arguments.side == "functions":
        return make_round(build_plan(arguments.quick), arguments.data_root, "r0001", log=lambda _: None)
    if arguments.side == "dagster":
        return make_through_dagster(arguments.quick, arguments.data_root, "r0001")
    seconds: dict[str, list[float]] = {"functions": [], "dagster": []}
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        start.mkdir()
        make_round(build_plan(arguments.quick), start, "r0000", log=lambda _: None)
        for repeat in range(1 if arguments.quick else arguments.repeats):
            for side, taken in seconds.items():
                taken.append(measure(side, arguments.quick, start, Path(folder) / f"{side}_{repeat}"))
                print(f"{side}: {taken[-1]:.1f} s", flush=True)
    functions, dagster = (statistics.median(seconds[side]) for side in ("functions", "dagster"))
    figures = {
        "overhead_ratio": round(dagster / functions, 3),
        "fixed_seconds": round(dagster - functions, 1),
        "functions_seconds": round(functions, 1),
        "dagster_seconds": round(dagster, 1),
    }
    return print(json.dumps(figures))


if __name__ == "__main__":
    main()
