"""What starting costs: CPU seconds of the processes of a round until they begin to work.

    python -m benchmarks.startup [--quick]

Each of these is measured in a process of its own, alternating, by the CPU seconds of that process, so that other work
on the machine moves it little: a process that asks a model, from its start until the packaged model is loaded; a step
in the process that the fork server gives it, until it can open the instance and plan its round; and the harness until
it knows its tasks, as lm-evaluation-harness starts by itself and as the platform starts it. The last line is one JSON
object.

    command_seconds   the command until it can begin a round
    step_seconds      a step, after the fork
    model_seconds     a model, with what Python imports for it, in a process that nothing was imported for
    forked_model_seconds  the same in a step's process, after the fork
    harness_seconds, bare_harness_seconds, harness_speedup    the harness
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PROJECT_ROOT = Path(__file__).parents[1]
TIMED = "import time; started = time.process_time()\n{}\nprint(time.process_time() - started)"
FORKED = """
import importlib
from lance_assets.step_processes import list_preloaded
list(map(importlib.import_module, list_preloaded()))
"""
STEP = """
import dagster as dg
from dagster._core.execution.api import create_execution_plan
from lance_assets.assets.loading import build_round_job
with dg.DagsterInstance.local_temp() as instance:
    instance.get_runs(limit=1)
    create_execution_plan(build_round_job("mini_lance"))
"""
MODEL = (
    "from lance_assets.small_world import SMALL_MODEL\n"
    "from resources.engines.transformers.engine import TransformersEngine\nTransformersEngine(SMALL_MODEL).load()"
)
PROGRAMS = {
    "command": TIMED.format(
        "from lance_assets.assets import run\nfrom lance_assets.assets.loading import build_round_job\n"
        "build_round_job('mini_lance')"
    ),
    "step": FORKED + TIMED.format(STEP),
    "model": TIMED.format(MODEL),
    "forked_model": FORKED + TIMED.format(MODEL),
    "bare_harness": TIMED.format(
        "import evaluate\nfrom lm_eval.models.huggingface import HFLM\n"
        "from lm_eval.tasks import TaskManager\nTaskManager()"
    ),
    "harness": TIMED.format(
        "from resources.evaluation.harness_worker import confine\nconfine(allows_code=False)\n"
        "from lm_eval.models.huggingface import HFLM\nfrom lm_eval.tasks import TaskManager\n"
        "from resources.evaluation.task_index import remember_tasks\nremember_tasks()\nTaskManager()"
    ),
}
"""What is run of each start; it prints its CPU seconds."""


def measure(program: str) -> float:
    """CPU seconds that a program says, in a process of its own."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure each start in turn and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each start once")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    # The first time also compiles, and writes down what is remembered.
    for repeat in range(2 if arguments.quick else 4):
        for name, program in PROGRAMS.items():
            taken = measure(program)
            print(f"{name}: {taken:.2f} CPU s{'' if repeat else ', not counted'}", flush=True)
            seconds[name] += [taken] if repeat else []
    figures = {f"{name}_seconds": round(statistics.median(taken), 2) for name, taken in seconds.items()}
    print(
        json.dumps(
            figures | {"harness_speedup": round(figures["bare_harness_seconds"] / figures["harness_seconds"], 2)}
        )
    )


if __name__ == "__main__":
    main()
