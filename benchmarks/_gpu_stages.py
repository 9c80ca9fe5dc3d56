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
from lance_assets.forecast.engine import Host
from lance_assets.forecast.throughput import Machine, read_throughput
from lance_assets.forecast.trainer import Trainer
from lance_assets.records import PREFERENCE_PAIRS, SFT_SET, Request, SamplingSettings
from lance_assets.rounds.making.training import StepClock
from lance_assets.settings.engines import EngineSettings
from lance_assets.settings.training import TrainingSettings
from resources.engines.contract import Engine, sample_in_order
from resources.machine.processes import MemoryPeak
from resources.models.model_shapes import find_model
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
    """Trained tokens a second, of SFT, DPO or SFT with adapters."""
    folder, clock = Path(job["folder"]), StepClock()
    sft, pairs = write_rows(job["num_rows"], folder)
    is_dpo, lora = kind == "dpo", LoraSettings(r=16, alpha=32) if kind == "lora" else None
    result = train_checkpoint(
        TrainJob(
            start_checkpoint=Path(job["model"]),
            staging=folder / "staging",
            sft_path=None if is_dpo else sft,
            pairs_path=pairs if is_dpo else None,
            sft=SftSettings(batch_size=BATCH_SIZE, max_length=MAX_LENGTH, learning_rate=1e-5),
            dpo=DpoSettings(batch_size=BATCH_SIZE, max_length=MAX_LENGTH, learning_rate=1e-6),
            lora=lora,
            save_every_minutes=None,
        ),
        log=lambda line: clock.note(line, time.monotonic()),
    )
    losses = result.dpo_losses if is_dpo else result.sft_losses
    computed_in = ", ".join(result.computed_in.values())
    given = {"lora": lora.model_dump() if lora is not None else None}
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
    """Trained tokens a second of adapters on weights in four bits, by PEFT and bitsandbytes alone.

    The platform itself trains no quantized weights.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RuntimeError(f"{MISSING}bitsandbytes is not installed (pip install bitsandbytes)")
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from resources.models.foreign_code import WEIGHTS

    if not torch.cuda.is_available():
        raise RuntimeError(f"{MISSING}there is no GPU, and four bits need one")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], quantization_config=config, device_map={"": 0}, local_files_only=True, **WEIGHTS
    )
    adapters = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(prepare_model_for_kbit_training(model), adapters).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    rows = torch.randint(model.config.get_text_config().vocab_size, (BATCH_SIZE, MAX_LENGTH)).to("cuda")

    def step() -> float:
        loss = model(input_ids=rows, labels=rows, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    first = step()
    torch.cuda.synchronize()
    started, number = time.perf_counter(), 5
    last = [step() for _ in range(number)][-1]
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {
        **{"throughput": number * rows.numel() / seconds, "unit": "tokens/s", "planned": None},
        "peak_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "note": f"{number} steps of {BATCH_SIZE} rows of {MAX_LENGTH} tokens, loss {first:.3f} to {last:.3f}",
    }


def check_evaluation(job: Found) -> Found:
    """Items a second of the harness, with the platform's own loops."""
    from benchmarks._whole_round_site import SMALL_TASKS, write_small_tasks
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
    return {
        **{"throughput": items / max(found.seconds, 1e-6), "unit": "items/s", "planned": None},
        # The harness's process says nothing of its GPU memory.
        "peak_gib": round(measure_peak_of_children().host_gib, 2),
        "note": f"{scores}; {time.monotonic() - started:.1f} s with its start",
    }


def check_round(job: Found) -> Found:
    """Rows a second of a LANCE round through Dagster, r0000 not counted."""
    from benchmarks._whole_round_site import Site, write_experiment
    from lance_assets.rounds.shown.overhead import split_round

    site = Site(Path(job["folder"]))
    site.experiments.mkdir()
    num_seeds = max(4, job["num_rows"] // 16)
    write_experiment(site.experiments, num_seeds=num_seeds, num_items=8, engine={"kind": job["engine"]})
    site.run("run", site.plan.name, "--rounds", "0")
    seconds = site.run("run", site.plan.name, "--rounds", "1")
    this_round = site.find_round("r0001")
    costs, split = this_round.read_costs(), split_round(this_round.read_costs(), total=seconds)
    peaks = [MemoryPeak(cost.peak_host_gib, cost.peak_gpu_gib) for cost in costs.values()]
    return {
        "throughput": sum(cost.num_samples for cost in costs.values()) / seconds,
        "unit": "samples/s",
        "planned": None,
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
