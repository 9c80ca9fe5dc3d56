"""What two machines are worth to a stage of generation, whether they give what one gives, and what a store costs.

    python -m benchmarks.scaleout [--python PYTHON] [--seconds N] [--part copies|store] [--quick]

The part `copies` needs the extra [ray], and vLLM in the environment of `--python` (LANCE_VLLM_PYTHON by default; `make
test-vllm` makes one). Two nodes of a Ray cluster are started on this machine with one core each, so that a copy of the
packaged model on each of them has a core of its own. The same rows are asked of

* one copy on this machine, as without Ray;
* one copy on a node;
* two copies, one on each node;
* two copies, of which one loses its node at the half, as a machine is lost.

The rows are as many as one copy needs `--seconds` for. The models are loaded before the clock starts, but for the
third copy that takes the place of the lost one.

The part `store` needs the extra [s3] and SeaweedFS (`make test-deploy` installs both). r0000 and r0001 of `mini_lance`
are made twice at the same time, once with LANCE_STORE on the S3 server and once without, so that both have the same
machine. Each step starts and ends with a look at the store, and publishes what it made.

The last line is one JSON object; a part that was left out has null:

| key | what it is |
| --- | --- |
| `identical` | whether two nodes gave the same row ids, texts and counts of tokens as this machine, in every row |
| `differing_rows` | rows that differ, of `rows` |
| `speedup_2_workers` | seconds of one copy on a node over those of two |
| `recovered` | whether the rows were all there, and as they were, after a node was lost |
| `s3_overhead` | seconds of the rounds with the store over those without; `store_identical`: the same bytes |
| `full_bucket_ratio` | seconds to send and fetch the rounds beside 100,000 objects under the same prefix, over those |
| | without |
| `seconds` | of each way |
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmarks._chaos_results import compare as compare_sites
from benchmarks._chaos_site import NAME, SOURCE, Site, write_experiment
from benchmarks._s3_server import BUCKET, open_server
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.tasks import draw_held_out
from resources.engines.vllm.engine import VllmEngine
from resources.remote.copying import Copying
from resources.remote.folder import DataFolder
from resources.remote.store import Store

SAMPLING = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=160)
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "device": "cpu",
    "max_model_len": 512,
    "max_num_seqs": 64,
    "num_threads": 1,
}
PUT_AT_ONCE = 500
"""Objects that are put into the bucket at once."""
COPIES = 11
"""So often an experiment is sent and fetched, in turn with few objects and many."""
NEW_FILES = 60
"""Files that are new each time."""
PROBLEMS_A_RUNG = 32
"""The lowest rung has few more."""


@cache
def draw_prompts() -> list[str]:
    """The held-out problems of the small world."""
    return [problem.prompt for problem in draw_held_out(PROBLEMS_A_RUNG)]


def draw_requests(number: int) -> list[Request]:
    """So many rows over the held-out problems, each with a random stream of its own."""
    prompts = draw_prompts()
    return [
        Request(f"row{place}", ({"role": "user", "content": prompts[place % len(prompts)]},), place)
        for place in range(number)
    ]


def ask(
    engine: VllmEngine, requests: Sequence[Request], *, at_half: Callable[[], None] = lambda: None
) -> tuple[dict[str, Sample], float]:
    """Samples by row id, and seconds; `at_half` is called once, when half of the rows are done."""
    for _ in engine.generate(draw_requests(64), SAMPLING):
        """The model is loaded, and has worked."""
    samples: dict[str, Sample] = {}
    started, is_called = time.monotonic(), False
    for group in engine.generate(requests, SAMPLING):
        samples |= {sample.row_id: sample for sample in group}
        if not is_called and 2 * len(samples) >= len(requests):
            is_called = True
            at_half()
    return samples, time.monotonic() - started


def say_of(samples: dict[str, Sample]) -> dict[str, tuple[str, str, int]]:
    """What has to be the same wherever a row was asked."""
    return {name: (one.text, one.finish_reason, one.completion_tokens) for name, one in samples.items()}


def compare(found: dict[str, Sample], wanted: dict[str, Sample]) -> int:
    """How many rows differ, are missing or are too many."""
    one, other = say_of(found), say_of(wanted)
    return sum(name not in one or name not in other or one[name] != other[name] for name in one.keys() | other.keys())


def measure_copies(python: str, aim: float) -> dict[str, Any]:
    """The figures of one copy and two, and of a node that is lost.

    Args:
        python: the interpreter that has vLLM.
        aim: seconds that one copy is to work.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address

    def open_engine(copies: int, copies_on: Literal["machine", "ray"]) -> VllmEngine:
        return VllmEngine(
            SMALL_MODEL,
            python=python,
            data_parallel_size=copies,
            copies_on=copies_on,
            log=lambda line: print(line, flush=True),
            **OPTIONS,
        )

    def replace_node() -> None:
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(num_cpus=1)

    engine, probe = open_engine(1, "machine"), draw_requests(512)
    try:
        _, took = ask(engine, probe)
        requests = draw_requests(max(128, round(len(probe) * aim / took)))
        print(f"{len(requests)} rows", flush=True)
        found: dict[str, dict[str, Sample]] = {}
        seconds: dict[str, float] = {}
        found["this_machine"], seconds["this_machine"] = ask(engine, requests)
        for name, copies, at_half in (
            ("one_node", 1, lambda: None),
            ("two_nodes", 2, lambda: None),
            ("a_node_lost", 2, replace_node),
        ):
            engine.close()
            engine = open_engine(copies, "ray")
            found[name], seconds[name] = ask(engine, requests, at_half=at_half)
    finally:
        engine.close()
        cluster.shutdown()
    wanted = found["this_machine"]
    differing = {name: compare(samples, wanted) for name, samples in found.items()}
    print("\n| way | seconds | rows that differ from this machine's |\n| --- | ---: | ---: |")
    for name, took in seconds.items():
        print(f"| {name.replace('_', ' ')} | {took:.1f} | {differing[name]} of {len(requests)} |")
    return {
        "identical": differing["two_nodes"] == 0,
        "differing_rows": differing["two_nodes"],
        "rows": len(requests),
        "speedup_2_workers": round(seconds["one_node"] / seconds["two_nodes"], 2),
        "recovered": set(found["a_node_lost"]) == set(wanted) and differing["a_node_lost"] <= differing["two_nodes"],
        "seconds": {name: round(took, 1) for name, took in seconds.items()},
    }


def measure_store(*, is_quick: bool) -> dict[str, Any]:
    """The seconds of the same rounds with a store and without, at the same time.

    Args:
        is_quick: whether the rounds have a few rows, which take less than the looks at the store.
    """
    with tempfile.TemporaryDirectory() as folder, open_server(Path(folder)):
        experiments = Path(folder) / "experiments"
        if is_quick:
            write_experiment(experiments, num_rounds=1)
        else:
            shutil.copytree(SOURCE, experiments / NAME, ignore=shutil.ignore_patterns("__pycache__"))
        sites = {name: Site(Path(folder) / name, experiments, "command", 1) for name in ("local", "s3")}
        processes = {}
        for name, site in sites.items():
            processes[name] = site.start(LANCE_STORE=f"s3://{BUCKET}/lance" if name == "s3" else "")
        seconds, started = dict[str, float](), time.monotonic()
        while len(seconds) < len(processes):
            ended = {name for name, process in processes.items() if process.poll() is not None} - seconds.keys()
            seconds |= dict.fromkeys(ended, time.monotonic() - started)
            time.sleep(0.1)
        for name, process in processes.items():
            if process.returncode != 0:
                raise RuntimeError(f"{name}: {(sites[name].home / 'log.txt').read_text()[-3000:]}")
        differences = compare_sites(sites["local"].data, sites["s3"].data, NAME).differences
        full = measure_full_bucket(sites["local"].data, Path(folder), num_objects=1_000 if is_quick else 100_000)
    print("\n| rounds | seconds |\n| --- | ---: |")
    for name, took in seconds.items():
        print(f"| {name} | {took:.1f} |")
    return {
        "s3_overhead": round(seconds["s3"] / seconds["local"], 3),
        "store_identical": differences == [],
        "round_seconds": {name: round(took, 1) for name, took in seconds.items()},
        **full,
    }


def measure_full_bucket(data: Path, folder: Path, *, num_objects: int) -> dict[str, Any]:
    """What it costs to send and fetch an experiment where a bucket holds many objects beside its own.

    Args:
        data: the folder of its data.
        folder: for what is fetched.
        num_objects: that lie beside those of the experiment, under the same prefix.
    """
    import s3fs

    buckets = s3fs.S3FileSystem()
    started = time.monotonic()
    for start in range(0, num_objects, PUT_AT_ONCE):
        names = [f"{BUCKET}/full/objects/{place % 256:02x}/{place:064x}" for place in range(start, start + PUT_AT_ONCE)]
        buckets.pipe(dict.fromkeys(names, b"1"))
    print(f"{num_objects} objects put in {time.monotonic() - started:.0f} s", flush=True)
    seconds: dict[str, list[float]] = {"few": [], "full": []}
    for turn in range(COPIES):
        # Each turn begins with the other one, and has prefixes of its own for what is sent.
        # Each turn begins with the other one.
        for name in sorted(seconds, reverse=bool(turn % 2)):
            source = folder / f"turn{turn}{name}"
            shutil.copytree(data, source)
            # What was sent before is found there; these are new.
            for place in range(NEW_FILES):
                (source / "costs" / NAME / "r0001" / f"turn{turn}_{place}.json").write_bytes(os.urandom(20_000))
            store, began = Store(f"s3://{BUCKET}/{name}"), time.monotonic()
            Copying(NAME, DataFolder(source), store).run()
            Copying(NAME, store, DataFolder(folder / f"fetched{turn}{name}")).run()
            seconds[name].append(time.monotonic() - began)
    print(f"sent and fetched, seconds: {seconds}", flush=True)
    ratio = sum(seconds["full"]) / sum(seconds["few"])
    return {"full_bucket_ratio": round(ratio, 3), "objects_beside": num_objects}


def main() -> None:
    """Measure, and print tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=os.environ.get("LANCE_VLLM_PYTHON", sys.executable), help="that has vLLM")
    parser.add_argument("--seconds", type=float, default=150.0, help="what one copy is to work")
    parser.add_argument("--part", choices=("copies", "store"), help="one of the two; both by default")
    parser.add_argument("--quick", action="store_true", help="20 seconds, and rounds of a few rows")
    options = parser.parse_args()
    line: dict[str, Any] = dict.fromkeys(("identical", "speedup_2_workers", "recovered", "s3_overhead"))
    if options.part != "copies":
        line |= measure_store(is_quick=options.quick)
    if options.part != "store":
        line |= measure_copies(options.python, 20.0 if options.quick else options.seconds)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
