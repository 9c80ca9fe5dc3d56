"""Everything that a round does, once, on a machine with one GPU and no network, in at most ten minutes.

    python -m benchmarks.gpu_check [--quick] [--model DIR] [--minutes M] [--stages NAME ...]

Stages are generation (by vLLM where LANCE_VLLM_PYTHON or this environment has it, else by transformers), SFT, DPO, SFT
with adapters, QLoRA, the harness's evaluation and a whole round through Dagster. Each runs in a process of its own. A
stage that fails has its error in its row, the others go on, and the command ends with 1. One that cannot run here
because a library or the GPU is missing says so and is no failure. Without a GPU all of it runs on the CPU.

Before the last line comes a table for `docs/performance.md`: throughput, what the plan expects of the machine, and the
most memory of each stage. The packaged small model is far too small for a GPU to be busy with: `--model` names a folder
of a larger one, whose throughput says more. The last line is one JSON object.

    device   the GPU with its memory, or the CPU, and the versions that matter
    stages   by name: status ("ok", "missing" or "failed"), throughput, unit, planned, peak_gib, seconds, note
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.__main__ import describe_machine
from lance_assets.small_world import SMALL_MODEL

PROJECT_ROOT = Path(__file__).parents[1]
NAMES = ("generation", "sft", "dpo", "lora", "qlora", "evaluation", "round")
NUM_ROWS = {"generation": 1024, "sft": 256, "dpo": 128, "lora": 256, "qlora": 80, "evaluation": 80, "round": 256}
QUICK_ROWS = {"generation": 16, "sft": 16, "dpo": 16, "lora": 16, "qlora": 16, "evaluation": 8, "round": 64}
MISSING = "missing: "
_ASK_TORCH = """
import json, torch
found = torch.cuda.is_available()
gpu = torch.cuda.get_device_properties(0) if found else None
words = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}" if found else None
print(json.dumps({"gpu": words, "torch": torch.__version__}))
"""
Row = dict[str, Any]


def run_in_time(command: Sequence[str], seconds: float) -> tuple[int | None, str, str]:
    """Run a command from the project's root; its code (None: it took too long), output and log."""
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT_ROOT),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT_ROOT, env=environment, stdout=out, stderr=log, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            # Its engines and trainers are in sessions of their own, and end with their standard input.
            os.killpg(process.pid, 9)
            process.wait()
            code = None
        for file in (out, log):
            file.seek(0)
        return code, out.read(), log.read()


def read_row(code: int | None, output: str, log: str) -> Row:
    """What a stage's process found, or why it found nothing.

    >>> read_row(None, "", "")["note"]
    'took longer than there was time for'
    """
    if code is None:
        return {"status": "failed", "note": "took longer than there was time for"}
    if code == 0 and (lines := output.strip().splitlines()):
        try:
            return {"status": "ok", **json.loads(lines[-1])}
        except ValueError:
            return {"status": "failed", "note": f"its last line is no JSON: {lines[-1][:200]}"}
    # The last line that says something: the traceback's own.
    told = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "without a word")
    if MISSING in told:
        return {"status": "missing", "note": told.partition(MISSING)[2]}
    return {"status": "failed", "note": f"exit {code}: {told[:300]}"}


def run_stage(name: str, job: Mapping[str, object], *, seconds: float) -> Row:
    """Run one stage in a process of its own; what went wrong is in its row."""
    started = time.monotonic()
    if seconds <= 0:
        return {"status": "failed", "note": "not run: the minutes were over", "seconds": 0.0}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file, own = Path(folder) / "job.json", Path(folder) / "own"
        own.mkdir()
        file.write_text(json.dumps({**job, "folder": str(own)}))
        found = read_row(*run_in_time([sys.executable, "-m", "benchmarks._gpu_stages", name, str(file)], seconds))
    return found | {"seconds": round(time.monotonic() - started, 1)}


def describe_device() -> str:
    """The GPU or the CPU, and the versions that matter."""
    code, output, log = run_in_time([sys.executable, "-c", _ASK_TORCH], 120)
    if code != 0:
        return f"torch cannot be asked: {(log.strip().splitlines() or ['no word'])[-1][:200]}"
    asked = json.loads(output.strip().splitlines()[-1])
    versions = [f"torch {asked['torch']}"]
    for library in ("transformers", "trl", "vllm", "bitsandbytes"):
        if importlib.util.find_spec(library) is not None:
            versions.append(f"{library} {importlib.metadata.version(library)}")
    return f"{asked['gpu'] or describe_machine()}; {', '.join(versions)}"


def find_engine() -> str:
    """What generates: vLLM where an environment has it, else transformers."""
    has_vllm = os.environ.get("LANCE_VLLM_PYTHON") or importlib.util.find_spec("vllm") is not None
    return "vllm" if has_vllm else "transformers"


def tabulate(rows: Mapping[str, Row], *, model: str, device: str) -> str:
    """The rows as a table for `docs/performance.md`."""
    lines = [f"Model {model} on {device}.", "", "| stage | throughput | plan | peak GiB | seconds | what |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    for name, row in rows.items():
        unit = row.get("unit", "")
        rates = [f"{row[key]:,.1f} {unit}" if row.get(key) is not None else "" for key in ("throughput", "planned")]
        note = row["note"] if row["status"] == "ok" else f"{row['status']}: {row['note']}"
        cells = [name, *rates, str(row.get("peak_gib", "")), f"{row['seconds']:.0f}", note.replace("|", "/")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run every stage, print the table and the figures; returns 1 where a stage failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, as the tests run it on a CPU")
    parser.add_argument("--model", type=Path, default=SMALL_MODEL, help="folder of a model with a chat template")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all stages together")
    parser.add_argument("--stages", nargs="+", choices=NAMES, default=NAMES, help="these stages alone")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    device, engine = describe_device(), find_engine()
    print(f"{device}; {engine} generates", flush=True)
    sizes, rows = QUICK_ROWS if options.quick else NUM_ROWS, {}
    for name in options.stages:
        # A round asks for what only the packaged model's profile has words for.
        model = SMALL_MODEL if name == "round" else options.model.resolve()
        job = {"model": str(model), "engine": engine, "num_rows": sizes[name]}
        rows[name] = run_stage(name, job, seconds=ends - time.monotonic())
        print(f"{name}: {json.dumps(rows[name])}", flush=True)
        if rows[name]["status"] == "failed" and engine == "vllm" and name == "generation":
            engine = "transformers"
            print("generation by vLLM failed; the round is asked by transformers", flush=True)
    print(tabulate(rows, model=options.model.name, device=device))
    print(json.dumps({"device": device, "stages": rows}))
    return int(any(row["status"] == "failed" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
