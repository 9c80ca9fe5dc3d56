"""What two machines are worth to a stage of generation, whether they give what one gives, and what a store costs.

    python -m benchmarks.scaleout [--python PYTHON] [--seconds N] [--repeats N] [--part copies|store] [--quick]

The part `copies` needs the extra [ray], and vLLM in the environment of `--python` (LANCE_VLLM_PYTHON by default; `make
test-vllm` makes one). Two nodes of a Ray cluster are started on this machine with one core each, so that a copy of the
packaged model on each of them has a core of its own. The same rows are asked of

* one copy on this machine, as without Ray;
* one copy on a node;
* two copies, one on each node;
* two copies, of which one loses its node at the half, as a machine is lost.

The rows are as many as one copy needs `--seconds` for. The models are loaded before the clock starts, but for the
third copy that takes the place of the lost one. One node and two are asked in turns, `--repeats` times.

The part `store` needs the extra [s3] and SeaweedFS (`make test-deploy` installs both). r0000 and r0001 of `mini_lance`
are made in turns with LANCE_STORE on the S3 server and without, `--repeats` times. The server runs all the time. Each
step starts and ends with a look at the store, and publishes what it made.

All takes about half an hour. The last line is one JSON object with medians; a part that was left out has null:

| key | what it is |
| --- | --- |
| `identical` | whether two nodes gave the same row ids, texts and counts of tokens as this machine, in every row |
| `differing_rows` | rows that differ, of `rows` |
| `speedup_2_workers` | seconds of one copy on a node over those of two |
| `recovered` | whether the rows were all there, and as on this machine, after a node was lost |
| `s3_overhead` | seconds of the rounds with the store over those without; `store_identical`: the same bytes |
| `full_bucket_ratio` | seconds to send and fetch the rounds beside 100,000 objects under the same prefix, over those |
| | without |
| `seconds` | of each way |
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from benchmarks._real_data import skip
from benchmarks._s3_server import NEEDED, is_installed
from benchmarks._store_cost import measure_store
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.tasks import draw_held_out
from resources.engines.vllm.engine import VllmEngine

SAMPLING = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=160)
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "device": "cpu",
    "max_model_len": 512,
    "max_num_seqs": 64,
    "num_threads": 1,
}
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


def open_engine(python: str, copies: int, copies_on: Literal["machine", "ray"]) -> VllmEngine:
    """So many copies of the packaged model, on this machine or on nodes of the cluster."""
    return VllmEngine(
        SMALL_MODEL,
        python=python,
        data_parallel_size=copies,
        copies_on=copies_on,
        log=lambda line: print(line, flush=True),
        **OPTIONS,
    )


def ask_in_each_way(
    python: str, aim: float, repeats: int
) -> tuple[dict[str, list[dict[str, Sample]]], dict[str, list[float]]]:
    """The samples and the seconds of one copy here, one on a node, two on two nodes, and two of which one is lost.

    Args:
        python: the interpreter that has vLLM.
        aim: seconds that one copy is to work.
        repeats: how often one node and two are asked, in turns.

    Returns:
        Of each way a list over its turns.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address

    def replace_node() -> None:
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(num_cpus=1)

    turns = [("one_node", 1), ("two_nodes", 2)]
    ways = [way for turn in range(repeats) for way in (turns[::-1] if turn % 2 else turns)]
    found: dict[str, list[dict[str, Sample]]] = {}
    seconds: dict[str, list[float]] = {}
    engine, probe = open_engine(python, 1, "machine"), draw_requests(512)
    try:
        _, took = ask(engine, probe)
        requests = draw_requests(max(128, round(len(probe) * aim / took)))
        print(f"{len(requests)} rows", flush=True)
        samples, took = ask(engine, requests)
        found["this_machine"], seconds["this_machine"] = [samples], [took]
        for name, copies in [*ways, ("a_node_lost", 2)]:
            engine.close()
            engine = open_engine(python, copies, "ray")
            at_half = replace_node if name == "a_node_lost" else lambda: None
            samples, took = ask(engine, requests, at_half=at_half)
            found.setdefault(name, []).append(samples)
            seconds.setdefault(name, []).append(took)
    finally:
        engine.close()
        cluster.shutdown()
    return found, seconds


def measure_copies(python: str, aim: float, repeats: int) -> dict[str, Any]:
    """The figures of `ask_in_each_way`, and a table of them."""
    found, seconds = ask_in_each_way(python, aim, repeats)
    wanted = found["this_machine"][0]
    differing = {name: max(compare(samples, wanted) for samples in turns) for name, turns in found.items()}
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    print("\n| way | seconds of each turn | rows that differ from this machine's |\n| --- | --- | ---: |")
    for name, taken in seconds.items():
        words = ", ".join(f"{one:.1f}" for one in taken)
        print(f"| {name.replace('_', ' ')} | {words} | {differing[name]} of {len(wanted)} |")
    return {
        "identical": differing["two_nodes"] == 0,
        "differing_rows": differing["two_nodes"],
        "rows": len(wanted),
        "speedup_2_workers": round(medians["one_node"] / medians["two_nodes"], 2),
        "recovered": differing["a_node_lost"] == 0,
        "seconds": {name: round(median, 1) for name, median in medians.items()},
    }


def main() -> None:
    """Measure, and print tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=os.environ.get("LANCE_VLLM_PYTHON", sys.executable), help="that has vLLM")
    parser.add_argument("--seconds", type=float, default=130.0, help="what one copy is to work")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side")
    parser.add_argument("--part", choices=("copies", "store"), help="one of the two; both by default")
    parser.add_argument("--quick", action="store_true", help="one turn of 20 seconds, and rounds of a few rows")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats is 1 or more")
    if options.part != "store" and find_spec("ray") is None:
        skip("the part copies needs the extra [ray]: make test-deploy installs it in .venv-deploy")
    if options.part != "copies" and not is_installed():
        skip(f"the part store needs {NEEDED}")
    repeats = 1 if options.quick else options.repeats
    line: dict[str, Any] = dict.fromkeys(("identical", "speedup_2_workers", "recovered", "s3_overhead"))
    if options.part != "copies":
        line |= measure_store(repeats=repeats, is_quick=options.quick)
    if options.part != "store":
        line |= measure_copies(options.python, 20.0 if options.quick else options.seconds, repeats)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
