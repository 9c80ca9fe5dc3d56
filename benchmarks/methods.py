"""The papers' ablations on a small scale: each method against variants of itself, over several values of `rng_seed`.

    python -m benchmarks.methods [--rng-seeds N] [--only EXPERIMENT] [--out DIR] [--quick]

| experiment | arms |
| --- | --- |
| mini_diverse_evol | k-center each round on the model's own states; once on r0000's; once on the base model's; random |
| mini_llm2llm | wrong seeds alone; all wrong rows; from the last checkpoint; once with as many lessons |
| mini_kun | polished completions; the texts as they are |
| mini_self_rewarding | the method alone |
| mini_spin | pairs of this round and the one before; of this round alone |
| mini_i_sheep | from the base model; from the last checkpoint |

All arms of a seed start from one r0000. Arms run in two processes of one thread each, and a killed study continues from
its last finished round. Accuracies are greedy, on held-out problems of all rungs, in percentage points. The last line
is one JSON object: for each experiment each arm's score at the start and end, and the method's end less the arm's with
a 95% interval, paired over seeds (with one seed, over problems).
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import polars as pl

from benchmarks._arms import START, Arm, find_root, plan_arm, run_arm
from lance_assets.algorithms.measures.arms import BACKBONE, compare_rounds, summarise_arms
from lance_assets.algorithms.measures.progress import START_ROUND, format_round
from lance_assets.pictures.study import to_points
from lance_assets.records import STUDY_ROWS
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.study import read_round

PROJECT_ROOT = Path(__file__).parents[1]
NUM_PROCESSES = 2
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")}


ABLATIONS: dict[str, dict[str, Arm]] = {
    "mini_diverse_evol": {
        "iterative": Arm(3),
        "one_shot": Arm(1, {"num_picks": 120}),
        "one_shot_base": Arm(1, {"num_picks": 120, "states_of": "base"}),
        "random": Arm(3, {"method": "random"}),
    },
    "mini_llm2llm": {
        "seed_only": Arm(3),
        "all": Arm(3, {"augment_source": "all"}),
        "continued": Arm(3, {"starts_from": "previous"}),
        "one_shot": Arm(1, {"num_lessons": 6}),
    },
    "mini_kun": {"polished": Arm(2), "raw_texts": Arm(2, {"polish": False})},
    "mini_self_rewarding": {"self_rewarding": Arm(2)},
    "mini_spin": {"last_two": Arm(2), "latest": Arm(2, {"trains_on": "latest"})},
    "mini_i_sheep": {"from_base": Arm(2), "continued": Arm(2, {"starts_from": "previous"})},
}
"""By experiment the method, which comes first, and what it is compared with."""


def run_task(experiment: str, name: str, rng_seed: int, out: Path) -> str:
    """One arm of a seed, or the seed's r0000 for "start", in this process."""
    started, root = time.monotonic(), find_root(out, experiment, rng_seed, name)
    arm = ABLATIONS[experiment][name] if name != START else Arm(0)
    run_arm(plan_arm(find_plan(experiment), arm, rng_seed), arm, root, find_root(out, experiment, rng_seed, START))
    return f"{experiment} seed {rng_seed} {name}: {time.monotonic() - started:.0f} s"


def read_rows(experiment: str, rng_seeds: list[int], out: Path) -> pl.DataFrame:
    """Every round of every arm and seed, schema `STUDY_ROWS`."""
    rows = []
    for rng_seed in rng_seeds:
        start = plan_arm(find_plan(experiment), Arm(0), rng_seed)
        rows.append(read_round(start, find_root(out, experiment, rng_seed, START), BACKBONE, START_ROUND))
        for name, arm in ABLATIONS[experiment].items():
            plan, root = plan_arm(find_plan(experiment), arm, rng_seed), find_root(out, experiment, rng_seed, name)
            rows += [read_round(plan, root, name, format_round(number)) for number in range(arm.num_rounds + 1)]
    return pl.DataFrame(rows, schema=STUDY_ROWS)


def summarise(experiment: str, rows: pl.DataFrame) -> dict:
    """What the last line says of an experiment, and a table of it."""
    arms = ABLATIONS[experiment]
    method = next(iter(arms))
    means = {(row["arm"], row["round"]): row["mean"] for row in summarise_arms(rows, metric="greedy").to_dicts()}
    results: dict[str, dict] = {"backbone": {"score": round(100 * means[BACKBONE, START_ROUND], 1)}}
    print(f"\n| {experiment} | r0000 | last | since r0000 | {method} less this | SFT rows | tokens trained |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, arm in arms.items():
        last = format_round(arm.num_rounds)
        gain = to_points(compare_rounds(rows, (name, START_ROUND), (name, last), metric="greedy"))
        ends = (name, last), (method, format_round(arms[method].num_rounds))
        behind = to_points(compare_rounds(rows, *ends, metric="greedy")) if name != method else None
        trained = rows.filter((pl.col("arm") == name) & (pl.col("round") != START_ROUND))
        new, tokens = (
            trained[column].sum() / rows["rng_seed"].n_unique() for column in ("num_new_sft", "train_tokens")
        )
        start, end = (100 * means[name, key] for key in (START_ROUND, last))
        results[name] = {"start": round(start, 1), "end": round(end, 1), "gain": gain, "behind": behind}
        shown = "" if behind is None else f"{behind[0]:+.1f} [{behind[1]:+.1f}, {behind[2]:+.1f}]"
        print(
            f"| {name} | {start:.1f} | {end:.1f} | {gain[0]:+.1f} [{gain[1]:+.1f}, {gain[2]:+.1f}] | {shown} "
            f"| {new:.0f} | {tokens:.0f} |"
        )
    return results


def main() -> None:
    """Run what is not finished, and print tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rng-seeds", type=int, default=3, help="seeds 0 and on")
    parser.add_argument("--only", choices=ABLATIONS, help="one experiment alone")
    parser.add_argument("--out", type=Path, help="where rounds are kept; without it they are thrown away")
    parser.add_argument("--quick", action="store_true", help="one seed, the first two arms")
    options = parser.parse_args()
    started, seeds = time.monotonic(), list(range(1 if options.quick else options.rng_seeds))
    experiments = [options.only] if options.only else list(ABLATIONS)
    if options.quick:
        for name in experiments:
            ABLATIONS[name] = dict(list(ABLATIONS[name].items())[:2])
    os.environ.update(ONE_THREAD)
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        with ProcessPoolExecutor(NUM_PROCESSES, mp_context=get_context("spawn")) as pool:
            for name in experiments:
                for tasks in ([START], list(ABLATIONS[name])):
                    running = [pool.submit(run_task, name, arm, seed, out) for seed in seeds for arm in tasks]
                    for done in running:
                        print(done.result(), flush=True)
        for name in experiments:
            rows = read_rows(name, seeds, out)
            if options.out is not None:
                rows.write_parquet(options.out / name / "study.parquet")
            figures[name] = summarise(name, rows)
    print(json.dumps(figures | {"num_seeds": len(seeds), "minutes": round((time.monotonic() - started) / 60, 1)}))


if __name__ == "__main__":
    main()
