"""The engines against the ways they replace, on a LANCE round's requests over 500 seeds.

    python -m benchmarks.engine [--quick]        (with LANCE_VLLM_PYTHON set; `make bench-engine` sees to it)

The requests are those of a real round on the packaged small model: reviews of the seeds, new prompts, completions,
degraded completions and reviews of all of them. Rates are completion tokens per second with the model loaded. The sides
run in turn, several times, and the medians are compared.

    vllm_vs_authors       our vLLM engine, what is finished stored on disk, over one `LLM.generate` a prompt with n
    vllm_vs_bare          the same over one bare `LLM.generate` of all prompts at once
    transformers_vs_loop  our transformers engine, stored likewise, over one `model.generate` a row
    openai_vs_bare        our client, stored likewise, over a bare asyncio client of the same vLLM server
    transformers_vs_continuous_batching  the same over transformers' own `generate_batch`
    crash_overhead        seconds of a stage killed at its half and taken up, over an uninterrupted one's

The figures that need vLLM are null without LANCE_VLLM_PYTHON. The last line is one JSON object.
"""

import argparse
import json
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from benchmarks._bare_client import SERVED, drive_barely, serve_vllm
from benchmarks._round_requests import SAMPLING, record_round
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import Engine
from resources.engines.durable_stage import run_durably
from resources.engines.openai.engine import OpenAIEngine
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.vllm.engine import VllmEngine
from resources.models.chat_format import encode_messages
from resources.models.foreign_code import WEIGHTS

Stages = dict[str, list[Request]]

VLLM: dict[str, Any] = {"dtype": "float32", "max_model_len": 512, "max_num_seqs": 512, "block_size": 32}
"""The same for both sides; every side has both cores, ours as two copies of one thread each."""
BARE = VLLM | {"enforce_eager": True, "enable_prefix_caching": True}
SERVER = [
    "--dtype",
    "float32",
    "--enforce-eager",
    "--max-model-len",
    "512",
    "--max-num-seqs",
    "128",
    "--block-size",
    "32",
]
# vLLM's seeds fail on a CPU where a prompt is read in parts, so a step has room for every prompt under way.
SERVER += ["--max-num-batched-tokens", "16384"]
CONCURRENCY = 64
NUM_COPIES = 2


def run_stages(engine: Engine, stages: Stages, sampling: SamplingSettings = SAMPLING) -> float:
    """Completion tokens a second of all stages, stored on disk as they finish."""
    with tempfile.TemporaryDirectory() as folder:
        started, num_tokens = time.perf_counter(), 0
        for stage, requests in stages.items():
            finished = run_durably(
                requests,
                generate=lambda rows: engine.generate(rows, sampling),
                folder=Path(folder),
                fingerprint="benchmark",
                log=lambda _: None,
                stage=stage,
                sampling=sampling,
                flush_seconds=1.0,
            )
            num_tokens += sum(sample.completion_tokens for sample in finished.samples)
        return num_tokens / (time.perf_counter() - started)


def group_by_prompt(stages: Stages) -> list[list]:
    """Every prompt's token ids with the number of its samples, as the authors' code asks: the parent's n at once."""
    tokenizer = TransformersEngine(SMALL_MODEL).load()[1]
    prompts = []
    for requests in stages.values():
        counts = Counter(json.dumps(request.messages) for request in requests)
        prompts += [[encode_messages(tokenizer, json.loads(text)), number] for text, number in counts.items()]
    return prompts


def run_bare(python: str, mode: str, prompts: list[list]) -> float:
    """Completion tokens a second of vLLM without the platform, in a process of its own."""
    sampling = {"temperature": SAMPLING.temperature, "top_p": SAMPLING.top_p, "max_tokens": SAMPLING.max_new_tokens}
    job = {"model": str(SMALL_MODEL), "mode": mode, "prompts": prompts, "sampling": sampling, "options": BARE}
    added = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_COMPILE_DISABLE": "1",
    }
    added |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    added |= {"OMP_NUM_THREADS": str(os.cpu_count())}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        script = str(Path(__file__).parent / "_bare_vllm.py")
        done = subprocess.run([python, script, str(path)], env={**os.environ, **added}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"bare vLLM failed:\n{done.stderr[-3000:]}")
    took = json.loads(done.stdout.strip().split("\n")[-1])
    return float(took["tokens"] / took["seconds"])


def spread(prompts: Sequence, number: int) -> list:
    """So many of them, evenly from first to last."""
    return [prompts[place * len(prompts) // number] for place in range(min(number, len(prompts)))]


def take_turns(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median rate of each side, measured in turn."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            rates[name].append(measure())
            print(f"{name}: {rates[name][-1]:.0f} tokens/s", flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


def run_warm(engine: Engine, warm: Stages, stages: Stages) -> float:
    """The rate of an engine that has loaded its model, and is closed at the end."""
    run_stages(engine, warm)
    rate = run_stages(engine, stages)
    engine.close()
    return rate


def measure_vllm(python: str, stages: Stages, *, repeats: int, is_quick: bool) -> dict[str, float]:
    """Our vLLM engine on both cores against the authors' way and the bare call."""
    prompts = group_by_prompt(stages)
    engine = VllmEngine(SMALL_MODEL, python=python, data_parallel_size=NUM_COPIES, num_threads=1, **VLLM)
    single = VllmEngine(SMALL_MODEL, python=python, num_threads=os.cpu_count(), **VLLM)
    warm = {"warm": next(iter(stages.values()))[:64]}
    try:
        rates = take_turns(
            {
                "vllm": lambda: run_warm(engine, warm, stages),
                "vllm_one_copy": lambda: run_warm(single, warm, stages),
                "bare": lambda: run_bare(python, "at_once", prompts),
                "authors": lambda: run_bare(python, "one_by_one", spread(prompts, 40 if is_quick else 120)),
            },
            repeats,
        )
    finally:
        engine.close()
        single.close()
    return {
        "vllm_vs_authors": rates["vllm"] / rates["authors"],
        "vllm_vs_bare": rates["vllm"] / rates["bare"],
        "vllm_one_copy_vs_bare": rates["vllm_one_copy"] / rates["bare"],
        "vllm_tokens_per_second": rates["vllm"],
        "authors_tokens_per_second": rates["authors"],
    }


def run_generate_loop(requests: Sequence[Request]) -> float:
    """Completion tokens a second of `model.generate`, one row a call."""
    import torch

    engine = TransformersEngine(SMALL_MODEL, dtype="float32")
    model, tokenizer = engine.load()
    started, num_tokens = time.perf_counter(), 0
    for request in requests:
        prompt = torch.tensor([encode_messages(tokenizer, request.messages)])
        options = {"do_sample": True, "temperature": SAMPLING.temperature, "top_p": SAMPLING.top_p}
        new = model.generate(prompt, max_new_tokens=SAMPLING.max_new_tokens, **options)[0, prompt.shape[1] :]
        num_tokens += len(new) - (len(new) < SAMPLING.max_new_tokens)
    return num_tokens / (time.perf_counter() - started)


def run_continuous_batching(requests: Sequence[Request]) -> float:
    """Completion tokens a second of transformers' own continuous batching, in the settings that suit two cores."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    model = AutoModelForCausalLM.from_pretrained(SMALL_MODEL, dtype=torch.float32, **WEIGHTS)
    tokenizer = TransformersEngine(SMALL_MODEL).load()[1]
    prompts = [list(encode_messages(tokenizer, request.messages)) for request in requests]
    config = GenerationConfig(
        max_new_tokens=SAMPLING.max_new_tokens,
        do_sample=True,
        temperature=SAMPLING.temperature,
        top_p=SAMPLING.top_p,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    batching = ContinuousBatchingConfig(num_blocks=256, page_size=32, max_batch_tokens=512)
    started = time.perf_counter()
    outputs = model.generate_batch(inputs=prompts, generation_config=config, continuous_batching_config=batching)
    lengths = [len(output.generated_tokens) for output in outputs.values()]
    num_tokens = sum(length - (length < SAMPLING.max_new_tokens) for length in lengths)
    return num_tokens / (time.perf_counter() - started)


def measure_transformers(stages: Stages, *, repeats: int, is_quick: bool) -> dict[str, float]:
    """Our transformers engine against a loop over `generate`, with every core for either."""
    engine = TransformersEngine(SMALL_MODEL, batch_size=256, dtype="float32", num_threads=os.cpu_count())
    engine.load()  # sets torch's threads for the whole process, so for the other sides too
    every = [request for requests in stages.values() for request in requests]
    ours = {stage: spread(requests, len(requests) // (8 if is_quick else 4)) for stage, requests in stages.items()}
    rates = take_turns(
        {
            "transformers": lambda: run_stages(engine, ours),
            "loop": lambda: run_generate_loop(spread(every, 24 if is_quick else 80)),
            "continuous_batching": lambda: run_continuous_batching(spread(every, 60 if is_quick else 200)),
        },
        repeats,
    )
    return {
        "transformers_vs_loop": rates["transformers"] / rates["loop"],
        "transformers_vs_continuous_batching": rates["transformers"] / rates["continuous_batching"],
        "transformers_tokens_per_second": rates["transformers"],
    }


def measure_openai(python: str, stages: Stages, *, repeats: int, is_quick: bool) -> dict[str, float]:
    """Our client against a bare one, same server, requests and concurrency; in many short turns, to outlast noise."""
    every = [request for requests in stages.values() for request in requests]
    requests = spread(every, 250 if is_quick else 500)
    with (
        tempfile.TemporaryDirectory() as folder,
        serve_vllm(python, SMALL_MODEL, SERVER, log=Path(folder) / "server.log") as base_url,
    ):
        drive_barely(base_url, requests, SAMPLING, CONCURRENCY)  # both sides find the prefix cache as full

        def run_ours() -> float:
            engine = OpenAIEngine(base_url=base_url, model=SERVED, max_concurrency=CONCURRENCY)
            try:
                # Imports and connections are paid for first, as the bare client's are above.
                run_stages(engine, {"warm": requests[:CONCURRENCY]})
                return run_stages(engine, {"stage": requests})
            finally:
                engine.close()

        def run_theirs() -> float:
            num_tokens, seconds = drive_barely(base_url, requests, SAMPLING, CONCURRENCY)
            return num_tokens / seconds

        rates = take_turns({"openai": run_ours, "bare_client": run_theirs}, 8 * repeats)
    return {"openai_vs_bare": rates["openai"] / rates["bare_client"], "openai_tokens_per_second": rates["openai"]}


def run_stage_in_process(
    folder: str, requests: list[Request], seconds: "multiprocessing.Queue[float]", num_given: "Synchronized[int]"
) -> None:
    """A stage as a step runs it; reports when the model is loaded, and how long the stage took."""
    engine = TransformersEngine(SMALL_MODEL, batch_size=128, dtype="float32")
    engine.load()
    seconds.put(0.0)
    started = time.perf_counter()

    def generate(rows: Sequence[Request]) -> Iterator[list[Sample]]:
        for group in engine.generate(rows, SAMPLING):
            yield group
            num_given.value += len(group)

    run_durably(
        requests,
        generate=generate,
        folder=Path(folder),
        fingerprint="benchmark",
        log=lambda _: None,
        stage="stage",
        sampling=SAMPLING,
        flush_seconds=1.0,
    )
    seconds.put(time.perf_counter() - started)


def count_stored(folder: Path) -> int:
    """Samples that a stage which has ended left on disk."""
    (file,) = folder.rglob("stage.sqlite")
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("SELECT count(*) FROM samples").fetchone()[0])


def run_stage(folder: Path, requests: list[Request], *, kill_at: int | None = None) -> float:
    """Seconds a stage works in a process of its own, killed from outside once `kill_at` rows are finished."""
    context = multiprocessing.get_context("spawn")
    seconds: multiprocessing.Queue[float] = context.Queue()
    num_given = context.Value("i", 0)
    process = context.Process(target=run_stage_in_process, args=(str(folder), requests, seconds, num_given))
    process.start()
    seconds.get()
    started = time.perf_counter()
    while kill_at is not None and process.is_alive():
        if num_given.value >= kill_at:
            process.kill()
            taken = time.perf_counter() - started
            process.join()
            return taken
        time.sleep(0.05)
    taken = seconds.get()
    process.join()
    return taken


def measure_crash(stages: Stages, *, repeats: int, is_quick: bool) -> dict[str, float]:
    """A long stage killed at its half and run again, against one that ran through."""
    every = [request for requests in stages.values() for request in requests]
    requests = spread(every, 1500 if is_quick else 5000)

    def run_through() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return run_stage(Path(folder), requests)

    def crash_and_take_up() -> float:
        with tempfile.TemporaryDirectory() as folder:
            first = run_stage(Path(folder), requests, kill_at=len(requests) // 2)
            second = run_stage(Path(folder), requests)
            assert count_stored(Path(folder)) == len(requests), "every row is stored once"
            return first + second

    seconds: dict[str, list[float]] = {"through": [], "crashed": []}
    for _ in range(repeats):
        seconds["through"].append(run_through())
        seconds["crashed"].append(crash_and_take_up())
        print({name: round(values[-1], 1) for name, values in seconds.items()}, flush=True)
    through, crashed = (statistics.median(values) for values in seconds.values())
    return {"crash_overhead": crashed / through, "crash_stage_seconds": through}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 seeds, one turn")
    parser.add_argument("--only", choices=("vllm", "transformers", "openai", "crash"), help="measure one pair alone")
    options = parser.parse_args()
    started = time.monotonic()
    # On two shared cores two threads are many times slower than one, so torch has one thread unless a side sets more.
    os.environ["OMP_NUM_THREADS"] = "1"
    python = os.environ.get("LANCE_VLLM_PYTHON")
    recorder = (
        TransformersEngine(SMALL_MODEL, batch_size=256)
        if python is None
        else VllmEngine(SMALL_MODEL, python=python, data_parallel_size=NUM_COPIES, num_threads=1, **VLLM)
    )
    stages = record_round(recorder, 60 if options.quick else 500, print)
    recorder.close()
    given = {"repeats": 1 if options.quick else 2, "is_quick": options.quick}
    figures: dict[str, float | None] = dict.fromkeys(("vllm_vs_authors", "vllm_vs_bare", "openai_vs_bare"))
    if python is not None and options.only in (None, "vllm"):
        figures |= measure_vllm(python, stages, **given)
    if options.only in (None, "transformers"):
        figures |= measure_transformers(stages, **given)
    if python is not None and options.only in (None, "openai"):
        figures |= measure_openai(python, stages, **given)
    if options.only in (None, "crash"):
        figures |= measure_crash(stages, **given | {"repeats": 1})
    rounded = {name: None if value is None else round(value, 3) for name, value in figures.items()}
    print(json.dumps(rounded | {"minutes": round((time.monotonic() - started) / 60, 1)}))


if __name__ == "__main__":
    main()
