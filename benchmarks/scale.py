"""Whether a round takes as long a row when it has ten times the rows, and a loop as long a round with many of them.

    python -m benchmarks.scale [--quick] [--rows SMALL LARGE] [--rounds FEW MANY]

A round of `mini_lance` is made from synthetic generations of realistic lengths: a prompt in five rows, a twentieth of
the completions copies or near-copies. Cleaning, near-duplicates, LanceDB, the parsing of reviews, pairing and the
checks are the project's own. The engine and the embedder are scripted, since their time a row is a model's. Each size
has a process of its own, so that its peak of memory is its own; the round before has 1,000 rows in either. Times are
CPU seconds of all threads, which other work on the machine changes less than the clock.

Loading is measured in CPU seconds above the bare import of Dagster, for copies of the packaged mini experiments.
Many rounds are measured on an instance with so many finished rounds: a tick of the sensor, the events behind an asset's
page, and the start of the code location; in CPU seconds too, of this process and the one that it starts.

The last line is one JSON object. `growth` is that of the step that takes longest in the larger round: its time a row
over that in the smaller one; `rounds_growth` is the largest ratio of many rounds to few.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lance_assets.home import SHIPPED_FOLDER
from lance_assets.records import Request, Sample, SamplingSettings, derive_row_id
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.nouns import NOUNS, explain_round_identity, list_schemas
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round, make_noun
from lance_assets.settings.experiment import ExperimentSettings
from resources.engines.contract import ModellessEngine
from resources.stores.history import HistoryStore
from resources.stores.lance_tables import IndexHealth

PROJECT_ROOT = Path(__file__).parents[1]
EARLIER_ROWS = 1_000
NUM_WORDS, DIM = 20_000, 384
REVIEW = (
    "The question is stated clearly and asks for one thing. The completion works through {steps} steps, names what it "
    "uses, and comes to a result that follows from them; its {place} part is longer than it needs to be.\n"
    "score: {score}"
)
STEPS = ("clean", "history", "review", "pair", "check", "diversity")


@dataclass(frozen=True)
class ScriptedEngine(ModellessEngine):
    """Reviews with a score by the row's sampling seed."""

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        """Groups of 512 samples, as a large batch finishes."""
        for start in range(0, len(requests), 512):
            yield [
                Sample(each.row_id, self._say(each.sampling_seed), "stop", 300, 60)
                for each in requests[start : start + 512]
            ]

    def _say(self, seed: int) -> str:
        # One review in fifty has no score, as a model's may.
        said = REVIEW.format(steps=seed % 7 + 2, place=("first", "last")[seed % 2], score=seed // 7 % 11)
        return said if seed % 50 else said.rpartition("\n")[0]


@dataclass(frozen=True)
class ScriptedEmbedder:
    """The mean of a random vector for each word: texts with like words have like vectors."""

    model_hash: str = "scripted"

    @cached_property
    def words(self) -> np.ndarray:
        """float32 [NUM_WORDS, DIM]."""
        return np.random.default_rng(0).normal(size=(NUM_WORDS, DIM)).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [num_texts, DIM], L2-normalised."""
        rows = np.empty((len(texts), DIM), dtype=np.float32)
        for place, text in enumerate(texts):
            rows[place] = self.words[[hash_word(word) for word in text.split()] or [0]].mean(axis=0)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def hash_word(word: str) -> int:
    """The place of a word's vector; the words of this benchmark say it themselves."""
    return int(word[1:]) if word[:1] == "w" and word[1:].isdigit() else sum(map(ord, word)) % NUM_WORDS


@dataclass(frozen=True)
class TimedHistory(HistoryStore):
    """The history, which notes its CPU seconds."""

    seconds: list[float] = field(default_factory=list)

    def replace_round(self, *arguments: Any, **more: Any) -> None:
        """As the store."""
        began = time.process_time()
        super().replace_round(*arguments, **more)
        self.seconds.append(time.process_time() - began)

    def maintain(self, **more: Any) -> IndexHealth:
        """As the store."""
        began = time.process_time()
        health = super().maintain(**more)
        self.seconds.append(time.process_time() - began)
        return health


@dataclass
class ScriptedPlatform(Platform):
    """The platform with a scripted engine and embedder."""

    spent: list[float] = field(default_factory=list)

    @property
    def history(self) -> HistoryStore:
        """The timed one."""
        return TimedHistory(self.root / "history.lancedb", self.spent)

    def open_engine(self, *_: Any, **__: Any) -> ScriptedEngine:
        """The scripted one."""
        return ScriptedEngine()

    def open_embedder(self, settings: ExperimentSettings) -> ScriptedEmbedder:  # type: ignore[override]
        """The scripted one."""
        return ScriptedEmbedder()


def write_text(rng: np.random.Generator, low: int, high: int) -> str:
    """So many words, the frequent ones often."""
    ranks = np.minimum(rng.zipf(1.3, size=int(rng.integers(low, high))), NUM_WORDS) - 1
    return " ".join(f"w{rank}" for rank in (ranks + rng.integers(0, 50, size=len(ranks))) % NUM_WORDS)


def build_generations(key: str, num_rows: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Generations, schema `RAW_GENERATIONS`, and the seeds they start from, schema `SEED_SET`; five rows at a time.

    Half of them are a new prompt with four completions, half are degraded completions of a seed's prompt. A twentieth
    of the completions are copies of others.
    """
    rng = np.random.default_rng([int(key[1:]), num_rows])
    rows: list[dict[str, object]] = []
    seeds: list[dict[str, object]] = []
    texts: list[str] = []
    common: dict[str, object] = {"finish_reason": "stop", "prompt_tokens": 300, "completion_tokens": 90}
    for group in range(num_rows // 5):
        prompt, parent, is_new = write_text(rng, 12, 50) + "?", derive_row_id("scale", key, group), group % 2 == 0
        kind, number_of = ("completion", 4) if is_new else ("degraded_completion", 5)
        common |= {"sampling_seed": group, "prompt": prompt, "seed_id": "seed" if is_new else parent}
        if is_new:
            asked = {"row_id": parent, "kind": "new_prompt", "parent_id": "seed", "raw_text": prompt}
            rows.append(common | asked | {"sample_number": 0, "completion": None})
        else:
            seed = {"row_id": parent, "prompt": prompt, "completion": write_text(rng, 30, 160), "source": "seed"}
            seeds.append(seed | {"review_score": 8.0})
        for number in range(number_of):
            text = write_text(rng, 30, 160)
            if rng.random() < 0.05 and texts:
                text = texts[int(rng.integers(len(texts)))]
            texts.append(text)
            row = {"row_id": derive_row_id("scale", key, group, number), "kind": kind, "parent_id": parent}
            rows.append(common | row | {"sample_number": number, "completion": text, "raw_text": text})
    schemas = list_schemas()
    return pl.DataFrame(rows, schema=schemas["raw_generations"]), pl.DataFrame(seeds, schema=schemas["seed_set"])


def prepare(plan: Plan, platform: Platform, num_rows: int) -> tuple[Round, Round]:
    """Rounds r0001 and r0002 as they are once something was proposed, after an r0000 without rows."""
    schemas, keys = list_schemas(), ("r0000", "r0001", "r0002")
    rounds = [Round(plan, platform, key, lambda _: None) for key in keys]
    seed = {"row_id": "seed", "prompt": "w1 w2 w3 w4 w5?", "completion": "w6 w7 w8", "source": "seed"}
    start: dict[str, object] = {"parent_round": None, "content_hash": "base", "handover_hash": "none", "left_out": []}
    for this_round, number in zip(rounds, (0, EARLIER_ROWS, num_rows), strict=True):
        for name in ("cleaned_set", "reviewed_set", "sft_set", "preference_pairs"):
            this_round.write(name, pl.DataFrame(schema=schemas[name]))
        this_round.write("start_checkpoint", pl.DataFrame([start], schema=schemas["start_checkpoint"]))
        generations, seeds = build_generations(this_round.key, number)
        this_round.write("raw_generations", generations)
        this_round.write("seed_set", pl.concat([pl.DataFrame([seed], schema=schemas["seed_set"]), seeds]))
    return rounds[1], rounds[2]


def measure_round(num_rows: int) -> dict[str, Any]:
    """CPU seconds of each step of a round, and the peak of this process."""
    found = find_plan("mini_lance")
    # Defaults, in place of what suits the small model's lists of numbers.
    settings = ExperimentSettings.model_validate(found.settings.model_dump() | {"near_duplicates": {}})
    plan = Plan(found.name, found.folder, settings)
    with tempfile.TemporaryDirectory() as folder:
        platform = ScriptedPlatform(data_root=folder)
        earlier, this_round = prepare(plan, platform, num_rows)
        nouns = ("cleaned_set", "reviewed_set", "sft_set", "preference_pairs", "diversity_report")
        for name in nouns:
            explain_round_identity(plan, name, this_round.key)
        # The first round warms up what is done once in a process, and is what the second is compared with.
        take_steps(earlier, platform)
        seconds = take_steps(this_round, platform)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"num_rows": num_rows, "seconds": seconds, "peak_gib": peak}


def take_steps(this_round: Round, platform: ScriptedPlatform) -> dict[str, float]:
    """Make a round's tables and check them; CPU seconds by step."""
    seconds = dict.fromkeys(STEPS, 0.0)

    def run(step: str, work: Callable[[], object]) -> None:
        began = time.process_time()
        platform.spent.clear()
        work()
        history = sum(platform.spent)
        seconds[step] += time.process_time() - began - history
        seconds["history"] += history

    def make(name: str) -> None:
        make_noun(this_round, NOUNS[name])

    def check(name: str) -> None:
        for one in NOUNS[name].checks:
            judged = NOUNS[name].judge(one, this_round)
            # A pair or a measure may miss its bar; that the check has looked is what takes time.
            verdict = "passed" if judged.passed else f"failed: {judged.description or judged.facts}"
            print(f"{this_round.key} {one.name} {verdict}", file=sys.stderr)

    run("clean", lambda: make("cleaned_set"))
    run("check", lambda: check("cleaned_set"))
    run("review", lambda: make("reviewed_set"))
    run("check", lambda: check("reviewed_set"))
    for name in ("sft_set", "preference_pairs"):
        run("pair", partial(make, name))
        run("check", partial(check, name))
    run("diversity", lambda: make("diversity_report"))
    run("check", lambda: check("diversity_report"))
    return seconds


def run_alone(*arguments: str, environment: dict[str, str] | None = None) -> Any:
    """The last line of a process of its own, as JSON."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT_ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


LOAD = (
    "import time, dagster, json; began = time.process_time(); import definitions; "
    "definitions.defs.get_repository_def(); print(json.dumps(time.process_time() - began))"
)


def measure_loading(number: int, *, repeats: int = 3) -> float:
    """CPU seconds above the import of Dagster in which so many experiments load, the least of some tries."""
    # Some read the files of another one, which is not copied along.
    mini = [one for one in sorted(SHIPPED_FOLDER.glob("mini_*")) if "../" not in (one / "defs.yaml").read_text()]
    with tempfile.TemporaryDirectory() as folder:
        for place in range(number):
            source = mini[place % len(mini)]
            # Some read the files of mini_lance, which lies beside them under its own name.
            shutil.copytree(source, Path(folder) / (source.name if place < len(mini) else f"{source.name}_{place}"))
        environment = {"LANCE_EXPERIMENTS": folder, "LANCE_HOME": f"{folder}/home"}
        return min(run_alone("-c", LOAD, environment=environment) for _ in range(repeats))


def sum_cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def measure_rounds(number: int) -> dict[str, float]:
    """CPU seconds of a tick, of the events behind an asset's page and of a start, with so many finished rounds."""
    import dagster as dg

    from lance_assets.algorithms.measures.progress import format_round
    from lance_assets.assets.names import find_key, find_rounds, name_rounds
    from lance_assets.assets.running.platform import build_platform
    from lance_assets.assets.sensors import SeenOutcomes, decide, explain_started

    plan, keys = find_plan("mini_lance"), [format_round(place) for place in range(number)]
    world = plan.world
    assert world is not None, "the packaged experiment has a world"
    platform = build_platform()
    row = {"model": "checkpoint", "benchmark": world.name, "metric": "greedy", "task": "all", "higher_is_better": True}
    report = find_key(plan, "eval_report")
    platform.root.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(platform.root)) as instance:
        instance.add_dynamic_partitions(name_rounds(plan), keys)
        for place, key in enumerate(keys):
            this_round = Round(plan, platform, key, lambda _: None)
            score = 0.3 + 0.5 * place / number
            scored = row | {"score": score, "ci_low": score - 0.05, "ci_high": score + 0.05, "num_items": 400}
            this_round.write("eval_items", pl.DataFrame(schema=list_schemas()["eval_items"]))
            this_round.write("eval_report", pl.DataFrame([scored], schema=list_schemas()["eval_report"]))
            instance.report_runless_asset_event(dg.AssetMaterialization(report, partition=key))
        # A round that was just written is read again; a loop's rounds are older than that.
        time.sleep(3)
        seen = SeenOutcomes()

        def tick() -> None:
            decision = decide(instance, plan, platform, seen)
            explain_started(instance, plan, platform, decision.next_round or keys[-1])

        def open_page() -> None:
            wanted = dg.AssetRecordsFilter(asset_key=report)
            assert instance.fetch_materializations(wanted, limit=30).records
            assert instance.get_status_by_partition(report, keys[-30:], find_rounds(plan))

        def start() -> None:
            subprocess.run([sys.executable, "-c", "import definitions"], cwd=PROJECT_ROOT, check=True)

        figures = {}
        for name, work, repeats in (("tick", tick, 7), ("page", open_page, 7), ("start", start, 3)):
            work()
            taken = []
            for _ in range(repeats):
                began = sum_cpu_seconds()
                work()
                taken.append(sum_cpu_seconds() - began)
            figures[name] = min(taken)
    return figures


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 and 5,000 rows, 10 and 100 rounds")
    parser.add_argument("--rows", type=int, nargs=2, metavar=("SMALL", "LARGE"), help="rows of the two rounds")
    parser.add_argument("--rounds", type=int, nargs=2, metavar=("FEW", "MANY"), help="finished rounds of the two loops")
    parser.add_argument("--only", choices=("rows", "loading", "rounds"), help="measure one of the three")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "NUMBER"), help="what the benchmark starts")
    arguments = parser.parse_args()
    if arguments.measure:
        what, number = arguments.measure
        return print(json.dumps(measure_round(int(number)) if what == "rows" else measure_rounds(int(number))))
    figures: dict[str, Any] = {}
    sizes = arguments.rows or ((1_000, 5_000) if arguments.quick else (10_000, 100_000))
    loops = arguments.rounds or ((10, 100) if arguments.quick else (10, 1_000))
    if arguments.only in (None, "rows"):
        small, large = (run_alone("-m", "benchmarks.scale", "--measure", "rows", str(size)) for size in sizes)
        a_row = [{step: side["seconds"][step] / side["num_rows"] for step in STEPS} for side in (small, large)]
        growth = {step: round(a_row[1][step] / a_row[0][step], 3) for step in STEPS}
        slowest = max(STEPS, key=lambda step: large["seconds"][step])
        total = sum(large["seconds"].values())
        figures |= {"growth": growth[slowest], "slowest": slowest, "growth_by_step": growth, "rows": large["num_rows"]}
        figures |= {"peak_gib": round(large["peak_gib"], 2), "rows_per_second": round(large["num_rows"] / total, 1)}
        by_step = {step: round(large["num_rows"] / large["seconds"][step], 1) for step in STEPS}
        figures["rows_per_second_by_step"] = by_step
    if arguments.only in (None, "loading"):
        figures |= {f"load_seconds_{number}": round(measure_loading(number), 2) for number in (12, 50)}
    if arguments.only in (None, "rounds"):
        sides = []
        for number in loops:
            with tempfile.TemporaryDirectory() as home:
                command = ("-m", "benchmarks.scale", "--measure", "rounds", str(number))
                sides.append(run_alone(*command, environment={"LANCE_HOME": home}))
        ratios = {name: round(sides[1][name] / sides[0][name], 2) for name in sides[0]}
        figures |= {"rounds_growth": max(ratios.values()), "rounds_growth_by_part": ratios, "rounds": loops[1]}
    return print(json.dumps(figures))


if __name__ == "__main__":
    main()
