"""Whether rounds make the model better: LANCE on `mini_lance` against its controls, over several `rng_seed`s.

    python -m benchmarks.self_evolution [--rng-seeds N] [--rounds 4] [--out DIR] [--picture FILE] [--quick]

| arm | what each round trains on, from the same r0000 and on the same number of tokens |
| --- | --- |
| lance | completions of new prompts that its own reviews accept, and preference pairs |
| no_pairs | the same without preference pairs |
| random_scores | the same with random review scores |
| self_instruct | everything that cleaning keeps, without reviews and pairs |
| seeds_only | the seeds again |

Arms run in two processes of one thread each. A killed study continues from its last finished round, with the
same settings only; what is finished lies in `--out`, with one row for each seed, arm and round in `study.parquet`.
Accuracies are over held-out problems of all rungs. The last line is one JSON object; `gain_points` is LANCE's last
round less r0000, greedy; each arm has its own gain, and LANCE's last round less the arm's (`behind`) with a paired 95%
interval, over seeds (with one seed, over problems). All are in percentage points.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import polars as pl

from lance_assets.algorithms.measures.arms import (
    BACKBONE,
    average_by_stratum,
    compare_rounds,
    find_fallen_strata,
    summarise_arms,
)
from lance_assets.algorithms.measures.progress import START_ROUND, format_round
from lance_assets.pictures.study import draw_study, tabulate_study, to_points
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.study import ARMS, METHOD, STUDIES, find_arm_root, read_study, run_arm, run_start
from lance_assets.rounds.world_evaluation import evaluate_world

PROJECT_ROOT = Path(__file__).parents[1]
EXPERIMENT = "mini_lance"
NUM_PROCESSES = 2
EASY_FROM = 0.9
ROWS = "study.parquet"
SECONDS = "seconds.json"
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")}


def load_plan() -> Plan:
    """The experiment under study."""
    plan = find_plan(EXPERIMENT)
    return plan


def run_task(arm: str | None, rng_seed: int, out: Path, num_rounds: int) -> str:
    """One arm of a seed, or the seed's r0000 for None, in this process."""
    started, plan = time.monotonic(), load_plan()
    (out / "logs").mkdir(exist_ok=True)
    with (out / "logs" / f"seed{rng_seed}_{arm or 'start'}.log").open("a") as file:

        def log(line: str) -> None:
            print(line, file=file, flush=True)

        if arm is None:
            run_start(plan, out, rng_seed, log=log)
        else:
            run_arm(plan, out, arm, rng_seed, num_rounds=num_rounds, log=log)
    return f"seed {rng_seed} {arm or START_ROUND}: {time.monotonic() - started:.0f} s"


def run_study(rng_seeds: list[int], arms: list[str], num_rounds: int, out: Path) -> None:
    """Run what is not finished, r0000 of every seed first, then the arms, seed by seed."""
    os.environ.update(ONE_THREAD)
    with ProcessPoolExecutor(NUM_PROCESSES, mp_context=get_context("spawn")) as pool:
        for tasks in ([(None, seed) for seed in rng_seeds], [(arm, seed) for seed in rng_seeds for arm in arms]):
            for done in [pool.submit(run_task, arm, seed, out, num_rounds) for arm, seed in tasks]:
                print(done.result(), flush=True)


def summarise(rows: pl.DataFrame, arms: list[str], last: str) -> dict:
    """The figures of the last line, without the minutes."""
    start, end = (METHOD, START_ROUND), (METHOD, last)
    gain, low, high = to_points(compare_rounds(rows, start, end, metric="greedy"))
    means = {
        (row["arm"], row["round"], metric): round(100 * row["mean"], 1)
        for metric in ("greedy", "sampled")
        for row in summarise_arms(rows, metric=metric).to_dicts()
    }
    figures: dict = {
        "gain_points": gain,
        "ci_low": low,
        "ci_high": high,
        "start": means[*start, "greedy"],
        "end": means[*end, "greedy"],
        "backbone": means[BACKBONE, START_ROUND, "greedy"],
        "above_backbone": to_points(compare_rounds(rows, (BACKBONE, START_ROUND), end, metric="greedy")),
        "sampled_gain": to_points(compare_rounds(rows, start, end, metric="sampled")),
        "sampled_start": means[*start, "sampled"],
        "sampled_end": means[*end, "sampled"],
        "fallen_rungs": find_fallen_strata(rows, start, end, metric="greedy", above=EASY_FROM, by=0.03),
        "num_seeds": rows["rng_seed"].n_unique(),
        "arms": {},
    }
    for arm in arms:
        of_arm: dict[str, object] = dict(
            zip(
                ("gain", "gain_low", "gain_high"),
                to_points(compare_rounds(rows, start, (arm, last), metric="greedy")),
                strict=True,
            )
        )
        if arm != METHOD:
            behind = to_points(compare_rounds(rows, (arm, last), end, metric="greedy"))
            of_arm |= dict(zip(("behind", "ci_low", "ci_high"), behind, strict=True))
            of_arm["sampled_behind"] = to_points(compare_rounds(rows, (arm, last), end, metric="sampled"))
        figures["arms"][arm] = of_arm
    return figures


def recheck_easy_rungs(rows: pl.DataFrame, out: Path, last: str, per_rung: int) -> dict[int, list[float]]:
    """LANCE's accuracy before and after on the rungs that were above 90%, on more problems, as means over seeds.

    The study has 4 problems times `per_rung` of the experiment on a rung: one of them is more than 3 points.
    """
    from lance_assets.small_world.tasks import WORLD, draw_rungs
    from resources.engines.contract import ask_directly
    from resources.engines.transformers.engine import TransformersEngine

    before = average_by_stratum(rows, METHOD, START_ROUND, metric="greedy")
    rungs = tuple(rung for rung, rate in enumerate(before, start=1) if rate > EASY_FROM)
    plan, problems, found = load_plan(), draw_rungs(per_rung, rungs), []
    for rng_seed in rows["rng_seed"].unique().sort():
        for key in (START_ROUND, last):
            platform = Platform(data_root=str(find_arm_root(out, METHOD, rng_seed)))
            engine = TransformersEngine(platform.checkpoints.find(plan.name, key), batch_size=256)
            items = evaluate_world(ask_directly(engine), WORLD, problems, model_name=key)
            found.append(items.filter(pl.col("metric") == "greedy"))
    mean = pl.concat(found).group_by("stratum", "model").agg(pl.col("is_correct").mean())
    rates = {(row["stratum"], row["model"]): round(100 * row["is_correct"], 1) for row in mean.to_dicts()}
    return {rung: [rates[rung, START_ROUND], rates[rung, last]] for rung in rungs}


def add_minutes(out: Path, seconds: float) -> float:
    """Add this run's seconds to those of the runs before it; the minutes of all."""
    path = out / SECONDS
    total = seconds + (json.loads(path.read_text()) if path.exists() else 0.0)
    path.write_text(json.dumps(total))
    return round(total / 60, 1)


def main() -> None:
    """Run the study to its end and print its tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rng-seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1; the study has 5")
    parser.add_argument("--rounds", type=int, default=4, help="rounds after r0000")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="LANCE is always among them")
    home = Path(os.environ.get("LANCE_HOME", PROJECT_ROOT / ".lance"))
    default = home / "data" / STUDIES / EXPERIMENT
    parser.add_argument("--out", type=Path, default=default, help="where the study's rounds lie")
    parser.add_argument("--picture", type=Path, help="write the picture there, as PNG")
    parser.add_argument("--recheck", type=int, metavar="N", help="ask LANCE's easy rungs again, N problems a task")
    parser.add_argument("--quick", action="store_true", help="one seed, one round, LANCE and seeds_only")
    options = parser.parse_args()
    if options.rng_seeds < 1 or options.rounds < 1:
        parser.error(f"--rng-seeds and --rounds are at least 1, got {options.rng_seeds} and {options.rounds}")
    if options.quick:
        options.rng_seeds, options.rounds, options.arms = 1, 1, [METHOD, "seeds_only"]
    arms = [arm for arm in ARMS if arm == METHOD or arm in options.arms]
    rng_seeds, keys = list(range(options.rng_seeds)), [format_round(n) for n in range(options.rounds + 1)]
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    run_study(rng_seeds, arms, options.rounds, options.out)
    plan = load_plan()
    assert plan.world is not None, f"{EXPERIMENT} is evaluated on the small world"
    rows = read_study(plan, options.out)
    rows = rows.filter(
        pl.col("rng_seed").is_in(rng_seeds), pl.col("round").is_in(keys), pl.col("arm").is_in([*arms, BACKBONE])
    )
    rows.write_parquet(options.out / ROWS)
    minutes = add_minutes(options.out, time.monotonic() - started)
    print("\n" + tabulate_study(rows, plan.world, method=METHOD), flush=True)
    if options.picture:
        draw_study(rows, plan.world).savefig(options.picture, dpi=130, bbox_inches="tight", metadata={"Software": None})
    figures = summarise(rows, arms, keys[-1])
    if options.recheck:
        figures["rechecked_rungs"] = recheck_easy_rungs(rows, options.out, keys[-1], options.recheck)
    print(json.dumps(figures | {"minutes": minutes}))


if __name__ == "__main__":
    main()
