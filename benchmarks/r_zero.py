"""R-Zero against LANCE at equal training tokens, on the packaged small model: what agreement teaches, and a review.

    python -m benchmarks.r_zero [--full] [--rng-seeds N] [--rounds N] [--arms NAME ...] [--out DIR] [--quick]

| arm | signal | trained by | held equal by |
| --- | --- | --- | --- |
| lance | the model's own review | SFT, then DPO | `token_budget` |
| r_zero | the agreement of its own answers | GRPO | as many questions as the budget has tokens for |
| r_zero_pairs | the same | SFT, then DPO on answers and on questions | `token_budget` |
| right_answers | the world's rule, on R-Zero's questions | GRPO | as r_zero |

All arms of a seed start from one r0000, SFT on mini_lance's seeds and EFT rows, and see the same seeds in each round.
`right_answers` knows the answers and is a bound, no method. GRPO trains on what it samples, so that its tokens come out
near the budget and not at it: the table has the tokens of every arm.

Without `--full` one seed of the arms in `FEW` has one round. `--full` has three seeds of all arms with two rounds.

A killed run goes on from its last finished round where `--out` names a folder. The last line is one JSON object: for
each arm its score at the start and the end, the gain with a 95% interval, the tokens trained on, and LANCE's end less
the arm's; intervals are paired over seeds, and with one seed over the held-out problems.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from benchmarks._arms import START, Arm, find_root, read_scores, run_arm
from lance_assets.algorithms.measures.arms import compare_rounds
from lance_assets.algorithms.measures.progress import START_ROUND, format_round
from lance_assets.pictures.study import to_points
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings

EXPERIMENT, METHOD = "mini_lance", "lance"
MEAN_TOKENS = 65
"""Tokens of a question with one completion under GRPO."""
OF_R_ZERO: dict[str, Any] = {
    **{"max_seeds": 64, "num_prompts": 4, "num_answers": 8, "max_new_tokens": 160, "answer_mark": "The answer is"},
    "sft_on_seeds": True,
}
GRPO: dict[str, Any] = {
    **{"learning_rate": 1e-4, "batch_size": 32, "num_generations": 8, "max_new_tokens": 160, "max_length": 512},
    **{"gradient_accumulation_steps": 1, "warmup_from_zero": True},
}
ARMS: dict[str, dict[str, Any]] = {
    METHOD: {},
    "r_zero": {"losses": "grpo", "reward": "agreed"},
    "r_zero_pairs": {"losses": "sft_then_dpo"},
    "right_answers": {"losses": "grpo", "reward": "rule"},
}
"""What each arm trains with; of LANCE what its experiment says."""
FEW = (METHOD, "r_zero")
"""The arms that run by default."""


def plan_arm(plan: Plan, name: str, rng_seed: int, *, per_stratum: int | None) -> Plan:
    """The experiment with an arm's recipe and a seed; the name stays, so that sampling seeds are equal."""
    settings, own = plan.settings.model_dump(), ARMS[name]
    budget, grpo = settings["training"]["token_budget"], GRPO["num_generations"]
    if name != METHOD:
        settings |= {"recipe": "r_zero", "parameters": OF_R_ZERO | {"losses": own["losses"]}}
        settings["near_duplicates"] |= {"embedding_threshold": None}
    if "reward" in own:
        settings["training"]["grpo"] |= GRPO | {"reward": own["reward"]}
        settings["parameters"]["max_questions"] = budget // (MEAN_TOKENS * grpo)
    if per_stratum is not None:
        settings["evaluation"]["world"]["per_stratum"] = per_stratum
    settings["rng_seed"] = rng_seed
    return Plan(plan.name, plan.folder, ExperimentSettings.model_validate(settings))


def summarise(rows: pl.DataFrame, arms: list[str], last: str) -> dict[str, Any]:
    """The figures of each arm; scores in percentage points."""
    figures = {}
    for arm in arms:
        own = rows.filter(pl.col("arm") == arm)
        start, end = (fmean(own.filter(pl.col("round") == key)["score"]) for key in (START_ROUND, last))
        trained = own.filter(pl.col("round") != START_ROUND)
        figures[arm] = {
            "start": round(100 * start, 1),
            "end": round(100 * end, 1),
            "gain": to_points(compare_rounds(rows, (arm, START_ROUND), (arm, last), metric="score")),
            "behind_lance": None
            if arm == METHOD or METHOD not in arms
            else to_points(compare_rounds(rows, (arm, last), (METHOD, last), metric="score")),
            "train_tokens": trained["train_tokens"].to_list(),
        }
    return figures


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="three seeds of all arms, two rounds: hours")
    parser.add_argument("--rng-seeds", type=int, help="values of rng_seed, from 0; by default 1, with --full 3")
    parser.add_argument("--rounds", type=int, help="after r0000; by default 1, with --full 2")
    parser.add_argument("--arms", nargs="+", choices=ARMS, help=f"which arms; by default {' and '.join(FEW)}")
    parser.add_argument("--out", type=Path, help="where rounds are kept; without it they are thrown away")
    parser.add_argument("--quick", action="store_true", help="one seed, one round, two problems of each task and rung")
    return parser


def choose_sizes(options: argparse.Namespace) -> tuple[list[str], int, int]:
    """The arms, the number of seeds, and the rounds after r0000."""
    arms = options.arms or list(ARMS if options.full else FEW)
    if options.quick:
        return arms, 1, 1
    num_seeds, num_rounds = (3, 2) if options.full else (1, 1)
    return arms, options.rng_seeds or num_seeds, num_rounds if options.rounds is None else options.rounds


def main() -> None:
    """Run the arms and print the table and the figures."""
    options = build_parser().parse_args()
    arms, num_seeds, num_rounds = choose_sizes(options)
    per_stratum, rows = 2 if options.quick else None, []
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        for rng_seed in range(num_seeds):
            plans = {arm: plan_arm(find_plan(EXPERIMENT), arm, rng_seed, per_stratum=per_stratum) for arm in arms}
            start = find_root(out, "r_zero", rng_seed, START)
            run_arm(plan_arm(find_plan(EXPERIMENT), METHOD, rng_seed, per_stratum=per_stratum), Arm(0), start, start)
            roots = {arm: find_root(out, "r_zero", rng_seed, arm) for arm in plans}
            for arm, plan in plans.items():
                print(f"seed {rng_seed}: {arm}", flush=True)
                run_arm(plan, Arm(num_rounds), roots[arm], start)
            rows.append(read_scores(plans, roots, rng_seed))
    figures = summarise(pl.concat(rows), arms, format_round(num_rounds))
    print("\n| arm | r0000 | last round | gain [95%] | lance less it [95%] | tokens trained a round |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for arm, row in figures.items():
        gain = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row["gain"])
        behind = "" if row["behind_lance"] is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row["behind_lance"])
        tokens = sum(row["train_tokens"]) / max(len(row["train_tokens"]), 1)
        print(f"| {arm} | {row['start']} | {row['end']} | {gain} | {behind} | {tokens:,.0f} |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
