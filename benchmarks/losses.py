"""One round of each loss after SFT, on the packaged small model: what the score was before and after.

    python -m benchmarks.losses [--only LOSS] [--reward REWARD] [--num-seeds N] [--rounds N] [--out DIR] [--quick]

DPO, KTO, ORPO and SimPO train on the pairs of mini_spin: the seeds' worked completions against the model's own. GRPO
trains on the same seeds' prompts with LANCE's recipe, which proposes nothing here (`propose: false`), and the world's
rule as its reward, or with `--reward gold` the seeds' gold answers. All start from SFT on the same seeds. The rates are
what suits 1.7M parameters, and no loss was tuned beyond that, so the table says that each loss trains, and not which
one is best.

A killed run goes on from its last finished round where `--out` names a folder. The last line is one JSON object: for
each loss the score of r0000 and of the last round, the difference with its 95% interval, paired over the held-out
problems, and for GRPO the mean reward of the first and last tenth of the steps.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._arms import Arm, run_arm
from lance_assets.algorithms.measures.progress import format_round
from lance_assets.records import PAIR_LOSSES, SECOND_LOSSES, SecondLoss
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.headline import compare_with, require_headline
from lance_assets.rounds.making.rewarding import describe_rewards
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import ExperimentSettings
from resources.training.stage_settings import BUILT_IN, RIGHT

EXPERIMENT = "mini_spin"
SHARED: dict[str, Any] = {"max_length": 512, "gradient_accumulation_steps": 1, "warmup_from_zero": True}
STAGES: dict[SecondLoss, dict[str, Any]] = {
    "dpo": {"learning_rate": 1e-4, "batch_size": 8, "beta": 0.1},
    "kto": {"learning_rate": 1e-4, "batch_size": 16, "beta": 0.1},
    "orpo": {"learning_rate": 1e-4, "batch_size": 8, "beta": 0.1},
    "simpo": {"learning_rate": 1e-4, "batch_size": 8, "beta": 2.0, "gamma": 1.0},
    "grpo": {"learning_rate": 1e-4, "batch_size": 32, "num_generations": 8, "max_new_tokens": 160, "num_epochs": 1},
}
"""The settings of each loss, under `training`."""


def plan_loss(
    loss: SecondLoss, *, per_stratum: int | None = None, reward: str = RIGHT, num_seeds: int | None = None
) -> Plan:
    """mini_spin with a loss; GRPO's has another recipe, since SPIN's rounds have no prompts but in pairs.

    Args:
        loss: what follows SFT.
        per_stratum: held-out problems of each task and rung; None for those of the file.
        reward: of GRPO.
        num_seeds: the first of the seeds; None for all.
    """
    plan = find_plan(EXPERIMENT)
    settings = plan.settings.model_dump()
    settings["training"][loss] |= SHARED | STAGES[loss]
    settings["parameters"]["losses"] = loss
    if loss == "grpo":
        settings |= {"recipe": "lance", "parameters": {"losses": loss, "propose": False, "max_new_tokens": 160}}
    settings["training"]["grpo"]["reward"] = reward
    if num_seeds is not None:
        settings["seeds"]["limit"] = num_seeds
    if per_stratum is not None:
        settings["evaluation"]["world"]["per_stratum"] = per_stratum
    return Plan(plan.name, plan.folder, ExperimentSettings.model_validate(settings))


def run_loss(loss: SecondLoss, out: Path, *, num_rounds: int, **named: Any) -> dict[str, Any]:
    """Make the rounds that are not finished, and read what they gave; what is `named` is of `plan_loss`."""
    plan, name = plan_loss(loss, **named), loss if loss in PAIR_LOSSES else f"{loss}_{named['reward']}"
    root = out / name
    # The losses on pairs begin with one r0000.
    start = out / ("start" if loss in PAIR_LOSSES else name)
    run_arm(plan, Arm(0), start, start)
    run_arm(plan, Arm(num_rounds), root, start)
    first, last = (Round(plan, Platform(str(root)), key, print) for key in ("r0000", format_round(num_rounds)))
    trained, gain = last.read("checkpoint").row(0, named=True), compare_with(last, "r0000")
    found = {
        "start": round(require_headline(first)["score"], 3),
        "end": round(require_headline(last)["score"], 3),
        "gain": [round(value, 3) for value in gain],
        "num_pairs": trained["num_pairs"],
        "num_steps": len(trained["dpo_losses"]),
        "num_tokens": trained["num_tokens"],
    }
    if last.has("training_rewards", last.key):
        told = describe_rewards(last.read("training_rewards").to_dicts())
        found |= {name: told[name] for name in ("grpo_reward_first", "grpo_reward_last", "grpo_alike_rate")}
    return found


def main() -> None:
    """Run each loss and print the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECOND_LOSSES, help="one loss alone")
    parser.add_argument("--reward", choices=BUILT_IN, default=RIGHT, help="of GRPO; the world's rule by default")
    parser.add_argument("--num-seeds", type=int, help="the first of the seeds; all by default")
    parser.add_argument("--rounds", type=int, default=1, help="after r0000")
    parser.add_argument("--out", type=Path, help="where rounds are kept; without it they are thrown away")
    parser.add_argument("--quick", action="store_true", help="two held-out problems of each task and rung")
    options = parser.parse_args()
    figures: dict[SecondLoss, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for loss in [options.only] if options.only else list(SECOND_LOSSES):
            started = time.monotonic()
            named = {"reward": options.reward, "num_seeds": options.num_seeds}
            named["per_stratum"] = 2 if options.quick else None
            figures[loss] = run_loss(loss, options.out or Path(folder), num_rounds=options.rounds, **named)
            figures[loss]["seconds"] = round(time.monotonic() - started)
    print("\n| loss | r0000 | last round | difference [95%] | pairs | steps | tokens trained | seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for loss, row in figures.items():
        middle, low, high = row["gain"]
        scores = f"{row['start']:.3f} | {row['end']:.3f} | {middle:+.3f} [{low:+.3f}, {high:+.3f}]"
        counts = f"{row['num_pairs']} | {row['num_steps']} | {row['num_tokens']:,} | {row['seconds']}"
        print(f"| {SECOND_LOSSES[loss]} | {scores} | {counts} |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
