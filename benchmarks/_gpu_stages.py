"""One stage of `benchmarks.gpu_check` in a process of its own: `python -m benchmarks._gpu_stages STAGE JOB`.

JOB is a JSON file: `model` (a folder), `engine` ("transformers" or "vllm"), `num_rows` and `folder` (for what is
written). The last line is JSON: `throughput` in `unit`, `planned` in the same unit (null where the plan knows no rate),
`peak_gib` (of the GPU, or of the machine where there is none) and `note`. A process of its own gives all memory back,
and a crash of a library ends no other stage.
"""

import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks._round_requests import draw_mixed_seeds
from benchmarks._whole_round_site import SMALL_TASKS, Site, write_experiment, write_small_tasks
from lance_assets.algorithms.forecast.machine_rates import add_known
from lance_assets.algorithms.forecast.round_forecast import StageForecast
from lance_assets.forecast.build import build_forecast
from lance_assets.forecast.engine import Host
from lance_assets.forecast.table import NOT_ASKED
from lance_assets.forecast.throughput import Machine, read_throughput
from lance_assets.forecast.trainer import Trainer
from lance_assets.records import PREFERENCE_PAIRS, SFT_SET, Request, SamplingSettings
from lance_assets.rounds.making.training import StepClock
from lance_assets.settings.engines import EngineSettings
from lance_assets.settings.training import TrainingSettings
from lance_assets.small_world import WORLD
from resources.engines.contract import Engine, sample_in_order
from resources.machine.processes import MemoryPeak
from resources.models.model_shapes import find_model
from resources.training.gpu.settings import GpuSettings
from resources.training.stage_settings import DpoSettings, LoraSettings, SftSettings
from resources.training.trainer import TrainJob, train_checkpoint

MAX_LENGTH = 256
BATCH_SIZE = 16
NEW_TOKENS = 128
MISSING = "missing: "
"""What a stage's error begins with that cannot run because a library is not installed."""
Found = dict[str, Any]


def find_machine() -> Machine:
    """This machine as the plan knows it: the row of its GPU where the table has one, or two CPU cores."""
    import torch

    table = read_throughput()
    if not torch.cuda.is_available():
        return table.find_machine("cpu2")
    words = torch.cuda.get_device_name(0).lower().replace(" ", "").replace("-", "")
    for machine in table.machines:
        if machine.device == "cuda" and machine.num_devices == 1 and machine.name.removesuffix("x1") in words:
            return machine
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    given = {"name": "unknown", "description": words, "device": "cuda", "num_devices": 1, "memory_gib": memory}
    return Machine.model_validate(given | {"start_seconds": 60, "source": "no row of the table"})


def choose_peak(peak: MemoryPeak) -> float:
    """GiB of the GPU, or of the machine where no GPU was used."""
    return round(peak.gpu_gib or peak.host_gib, 2)


def draw_requests(num_rows: int) -> list[Request]:
    """Questions of the small world, eight samples each."""
    seeds = draw_mixed_seeds(-(-num_rows // 8)).to_dicts()
    asked = [({"role": "user", "content": seed["prompt"]},) for seed in seeds for _ in range(8)][:num_rows]
    return [Request(str(place), messages, place) for place, messages in enumerate(asked)]


def open_engine(job: Found) -> Engine:
    """The engine that is measured."""
    from resources.engines.transformers.engine import TransformersEngine
    from resources.engines.vllm.engine import VllmEngine

    if job["engine"] == "vllm":
        python = os.environ.get("LANCE_VLLM_PYTHON", sys.executable)
        return VllmEngine(Path(job["model"]), python=python, max_model_len=512, max_num_seqs=256)
    return TransformersEngine(Path(job["model"]), batch_size=256)


def check_generation(job: Found) -> Found:
    """Completion tokens a second."""
    engine, requests = open_engine(job), draw_requests(job["num_rows"])
    sampling = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=NEW_TOKENS)
    # What runs for the first time takes longer.
    sample_in_order(engine, requests[:8], sampling)
    started = time.perf_counter()
    samples = sample_in_order(engine, requests, sampling)
    seconds = time.perf_counter() - started
    peak, start = engine.measure_peak(), engine.measure_start()
    engine.close()
    failed = [sample for sample in samples if sample.finish_reason == "error"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(samples)} rows failed; the first: {failed[0].error}")
    read, written = (sum(getattr(one, f"{kind}_tokens") for one in samples) for kind in ("prompt", "completion"))
    machine, table = find_machine(), read_throughput()
    settings = EngineSettings.model_validate({"kind": job["engine"], "batch_size": 256})
    host = Host(settings, find_model(job["model"]), machine, table, longest_asked=128, max_new_tokens=NEW_TOKENS)
    prefill, decode = host.find_rates((read + written) / len(samples))
    planned = written / (read / 8 / prefill + written / decode) if prefill and decode else None
    return {
        **{"throughput": written / seconds, "unit": "tokens/s", "planned": planned, "peak_gib": choose_peak(peak)},
        "note": f"{len(samples)} rows, {written} tokens in {seconds:.1f} s after a start of {start:.1f} s",
    }


def write_rows(num_rows: int, folder: Path) -> tuple[Path, Path]:
    """Tables of SFT rows and of preference pairs, from the small world's seeds."""
    seeds = draw_mixed_seeds(num_rows).to_dicts()
    rng = random.Random(0)
    rows, pairs = [], []
    for place, seed in enumerate(seeds):
        named = {"row_id": str(place), "prompt": seed["prompt"]}
        rows.append(dict.fromkeys(SFT_SET) | named | {"completion": seed["completion"]})
        sides = {"chosen": seed["completion"], "rejected": rng.choice(seeds)["completion"]}
        known = {name: value for name, value in (named | sides).items() if name in PREFERENCE_PAIRS}
        pairs.append(dict.fromkeys(PREFERENCE_PAIRS) | known)
    files = folder / "sft.parquet", folder / "pairs.parquet"
    pl.DataFrame(rows, schema=SFT_SET).write_parquet(files[0])
    pl.DataFrame(pairs, schema=PREFERENCE_PAIRS).write_parquet(files[1])
    return files


def check_training(job: Found, *, kind: str) -> Found:
    """Trained tokens a second, of SFT, DPO, or SFT with adapters on weights as they are or in four bits."""
    folder, clock = Path(job["folder"]), StepClock()
    sft, pairs = write_rows(job["num_rows"], folder)
    is_dpo, lora = kind == "dpo", LoraSettings(r=16, alpha=32) if kind in ("lora", "qlora") else None
    gpu = GpuSettings(quantization="4bit" if kind == "qlora" else "none")
    result = train_checkpoint(
        TrainJob(
            start_checkpoint=Path(job["model"]),
            staging=folder / "staging",
            sft_path=None if is_dpo else sft,
            pairs_path=pairs if is_dpo else None,
            sft=SftSettings(batch_size=BATCH_SIZE, max_length=MAX_LENGTH, learning_rate=1e-5),
            dpo=DpoSettings(batch_size=BATCH_SIZE, max_length=MAX_LENGTH, learning_rate=1e-6),
            lora=lora,
            gpu=gpu,
            save_every_minutes=None,
        ),
        log=lambda line: clock.note(line, time.monotonic()),
    )
    losses = result.dpo_losses if is_dpo else result.sft_losses
    computed_in = ", ".join(result.computed_in.values())
    given = {"lora": lora.model_dump() if lora is not None else None, "gpu": gpu.model_dump()}
    settings = TrainingSettings.model_validate(given)
    trainer = Trainer(settings, folder, find_model(job["model"]), find_machine(), read_throughput())
    stage = SftSettings(batch_size=BATCH_SIZE, max_length=MAX_LENGTH)
    return {
        "throughput": result.num_tokens / max(clock.seconds, 1e-6),
        "unit": "tokens/s",
        "planned": trainer.find_rate(trainer.describe(stage, is_preference=is_dpo)),
        "peak_gib": choose_peak(MemoryPeak(result.peak_host_gib, result.peak_gpu_gib)),
        "note": f"{len(losses)} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}, {computed_in}",
    }


def check_qlora(job: Found) -> Found:
    """Trained tokens a second of adapters on weights in four bits."""
    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        raise RuntimeError(f"{MISSING}bitsandbytes is not installed (pip install -c constraints.txt -e '.[gpu]')")
    if not torch.cuda.is_available():
        raise RuntimeError(f"{MISSING}there is no GPU, and four bits need one")
    return check_training(job, kind="qlora")


def plan_items(model: Path, num_generated: int, num_chosen: int) -> float | None:
    """Seconds that the plan expects of the two tasks' items; None where it knows no rates of this machine.

    Args:
        model: its folder.
        num_generated: problems that are completed.
        num_chosen: problems of which one of two completions is chosen: both are read.
    """
    assert WORLD.mean_tokens is not None, "the small world was measured"
    asked, completed = WORLD.mean_tokens
    settings = EngineSettings.model_validate({"kind": "transformers", "batch_size": 64})
    host = Host(settings, find_model(str(model)), find_machine(), read_throughput(), asked, round(completed))
    generated = StageForecast(
        "generation", "eval_report", None, num_generated, 1, asked * num_generated, completed * num_generated
    )
    read = 2 * num_chosen
    chosen = StageForecast("choice", "eval_report", None, read, 1, (asked + completed) * read, 0.0)
    hours = add_known(host.count_hours(generated), host.count_hours(chosen))
    return None if hours is None else 3600 * hours


def check_evaluation(job: Found) -> Found:
    """Items a second of the harness, with the platform's own loops."""
    from resources.evaluation.evaluator import HarnessRun, run_lm_eval
    from resources.machine.processes import measure_peak_of_children

    folder, number = Path(job["folder"]), min(job["num_rows"], 200)
    write_small_tasks(folder, number)
    started = time.monotonic()
    (found,) = run_lm_eval(
        Path(job["model"]),
        [HarnessRun(SMALL_TASKS)],
        model_name="checkpoint",
        log=lambda _: None,
        include_path=folder,
        batch_size=64,
    )
    scores = ", ".join(f"{row['benchmark']} {row['score']:.3f}" for row in found.report.to_dicts())
    items = int(found.report.group_by("benchmark").first()["num_items"].sum())
    expected = plan_items(Path(job["model"]), *(found.num_asked[name] for name in SMALL_TASKS))
    return {
        **{"throughput": items / max(found.seconds, 1e-6), "unit": "items/s"},
        "planned": None if expected is None else items / expected,
        "peak_gib": choose_peak(MemoryPeak(measure_peak_of_children().host_gib, found.peak_gpu_gib)),
        "note": f"{scores}; {time.monotonic() - started:.1f} s with its start",
    }


def plan_samples(site: Site, model: Path, num_items: int) -> float | None:
    """Samples a second that the plan expects of r0001, waiting between steps not counted; None where it knows no rate.

    Args:
        site: of the experiment.
        model: the folder of its model.
        num_items: of each of the two tasks, whose seconds a plan knows only where the harness was measured.
    """
    machine = find_machine()
    if machine.name not in [known.name for known in read_throughput().machines]:
        return None
    rows = build_forecast(site.plan, machine=machine.name, home=site.home).rounds["r0001"]
    harness = plan_items(model, num_items, num_items)
    seconds = add_known(harness, *(row.hours and 3600 * row.hours for row in rows if row.noun != "eval_report"))
    sampled = sum(row.rows or 0.0 for row in rows if row.noun != "eval_report" and row.name not in NOT_ASKED)
    return sampled / (seconds + machine.start_seconds) if seconds else None


def check_round(job: Found) -> Found:
    """Rows a second of a LANCE round through Dagster, r0000 not counted."""
    from lance_assets.rounds.shown.overhead import split_round

    site = Site(Path(job["folder"]))
    site.experiments.mkdir()
    num_seeds = max(4, job["num_rows"] // 16)
    num_items = 8
    write_experiment(site.experiments, num_seeds=num_seeds, num_items=num_items, engine={"kind": job["engine"]})
    site.run("run", site.plan.name, "--rounds", "0")
    seconds = site.run("run", site.plan.name, "--rounds", "1")
    this_round = site.find_round("r0001")
    costs, split = this_round.read_costs(), split_round(this_round.read_costs(), total=seconds)
    peaks = [MemoryPeak(cost.peak_host_gib, cost.peak_gpu_gib) for cost in costs.values()]
    return {
        "throughput": sum(cost.num_samples for cost in costs.values()) / seconds,
        "unit": "samples/s",
        "planned": plan_samples(site, this_round.model_path(None), num_items),
        "peak_gib": max(map(choose_peak, peaks)),
        "note": f"{num_seeds} seeds: {split.describe()}",
    }


STAGES: dict[str, Callable[[Found], Found]] = {
    "generation": check_generation,
    "sft": lambda job: check_training(job, kind="sft"),
    "dpo": lambda job: check_training(job, kind="dpo"),
    "lora": lambda job: check_training(job, kind="lora"),
    "qlora": check_qlora,
    "evaluation": check_evaluation,
    "round": check_round,
}
"""By name, the most telling first."""


def main(arguments: Sequence[str]) -> None:
    """Run one stage, and print what it found."""
    found = STAGES[arguments[0]](json.loads(Path(arguments[1]).read_text()))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
