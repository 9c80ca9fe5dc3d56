"""Run every benchmark in a process of its own and print one table of their figures.

    python -m benchmarks [--quick] [--data DIR] [--model DIR] [--out FILE] [NAME ...]

With `--out` the table is also written to a Markdown file, with date, commit and machine. The command exits with 1 when
a benchmark failed; it prints the figures of the others all the same. A benchmark that needs real data or a real model
and finds none has a row with the reason, and is no failure.
"""

import argparse
import datetime
import json
import os
import pkgutil
import platform
import subprocess
import sys
import time
from pathlib import Path


def list_benchmarks() -> list[str]:
    """The names of all benchmarks, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name[0] != "_")


def run_benchmark(name: str, arguments: list[str]) -> dict | None:
    """Run one benchmark and pass its output on.

    Returns:
        The object on its last line; None when it failed or printed none.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    if process.returncode:
        return None
    try:
        figures = json.loads(last)
    except json.JSONDecodeError:
        return None
    return figures if isinstance(figures, dict) else None


def format_figure(figure: object) -> str:
    """A figure as text: floats with four significant digits."""
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


def format_table(results: dict[str, dict | None], seconds: dict[str, float]) -> str:
    """A Markdown table with one row for each figure; nested objects are only in the benchmark's own output."""
    rows = ["| benchmark | figure | value |", "| --- | --- | --- |"]
    for name, figures in results.items():
        if figures is None:
            rows.append(f"| {name} | FAILED | |")
            continue
        flat = {key: figure for key, figure in figures.items() if not isinstance(figure, dict | list)}
        rows += [f"| {name} | {key} | {format_figure(figure)} |" for key, figure in flat.items()]
        rows.append(f"| {name} | (ran for) | {seconds[name]:.0f} s |")
    return "\n".join(rows)


def read_first(command: list[str], default: str) -> str:
    """The first line that a command prints, or the default if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return default
    return done.stdout.strip().split("\n")[0] or default


def describe_machine() -> str:
    """Date, commit and machine of a measurement, in one line."""
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").exists()
        else iter(()),
        platform.processor(),
    )
    commit = read_first(["git", "rev-parse", "--short", "HEAD"], "unknown")
    day = datetime.datetime.now(tz=datetime.UTC).date()
    return f"{day}, commit {commit}, {os.cpu_count()} cores of {processor}, Python {platform.python_version()}"


REAL_MODEL = (
    *("endings", "evaluation", "real_evolution", "real_model", "real_proposals", "real_teaching", "training"),
    "whole_round",
)
"""The benchmarks that a real model is for; the others measure a packaged one, or need a study's."""


def choose_arguments(name: str, *, quick: bool, data: Path | None, model: Path | None = None) -> list[str]:
    """The arguments of a benchmark; those that can use real data or a real model get it."""
    source = (Path(__file__).parent / f"{name}.py").read_text()
    arguments = ["--quick"] if quick and '"--quick"' in source else []
    if data is not None and '"--data"' in source:
        arguments += ["--data", str(data)]
    # A round of a real model has no seeds without data.
    if model is not None and name in REAL_MODEL and (data is not None or name != "whole_round"):
        arguments += ["--model", str(model)]
    corpus = None if data is None else data / "t0_train_50k.parquet"
    if corpus is not None and corpus.exists() and '"--corpus"' in source:
        arguments += ["--corpus", str(corpus)]
    return arguments


def main() -> int:
    """Run the benchmarks named on the command line, or all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; all when none is named")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, about a minute each")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of real data, for benchmarks that take some")
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of a real model, likewise")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file that the table is written to as well")
    options = parser.parse_args()
    known = list_benchmarks()
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    results: dict[str, dict | None] = {}
    seconds: dict[str, float] = {}
    for name in options.names or known:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        arguments = choose_arguments(name, quick=options.quick, data=options.data, model=options.model)
        results[name] = run_benchmark(name, arguments)
        seconds[name] = time.monotonic() - started
    table = format_table(results, seconds)
    print("\n" + table)
    if options.out is not None:
        options.out.write_text(f"Measured on {describe_machine()}.\n\n{table}\n")
    return int(any(figures is None for figures in results.values()))


if __name__ == "__main__":
    sys.exit(main())
