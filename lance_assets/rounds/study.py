"""The study of self-evolution: an experiment and its controls over several `rng_seed`s, by the functions of the assets.

An arm is the experiment with switches of its recipe (`ARMS`), never other code. All arms of a seed start from the same
r0000, and sample with the same seeds in the first round, so that differences between arms are paired. Every arm trains
each round on the experiment's `token_budget`. Hand-written, since it is the platform's claim that it measures.

A data root holds `seed<n>/<arm>/`, each like an experiment's own, and a round whose `eval_report` exists is not made
again: a killed study goes on where it was.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.algorithms.measures.progress import START_ROUND, format_round
from lance_assets.records import STUDY_ROWS
from lance_assets.rounds.nouns import compute_code_versions, list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round, make_noun
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.worlds import World

STUDIES = "studies"
"""Folder of the data root that holds a study of each experiment by its name."""

IDENTITY = "identity.txt"
"""File of a study's folder that says what it is made with."""

METHOD = "lance"
"""The arm that the others are controls of."""

ARMS: dict[str, dict[str, object]] = {
    METHOD: {},
    "no_pairs": {"losses": "sft"},
    "random_scores": {"reviewer": "random"},
    "self_instruct": {"reviewer": "none"},
    "seeds_only": {"propose": False},
}
"""Each arm's switches of the recipe, the dearest first."""

SIGNALS = {"reviewer", "propose"}
"""Switches that take the method's signal away: such an arm has no verifier either."""


def make_round(plan: Plan, data_root: Path, key: str, *, log: Callable[[str], None]) -> None:
    """Make every noun of a round, one after another, without Dagster."""
    for noun in list_nouns(plan):
        make_noun(Round(plan, Platform(data_root=str(data_root)), key, log), noun)


def plan_arm(plan: Plan, arm: str, rng_seed: int) -> Plan:
    """The experiment with an arm's switches and a seed; the name stays, so that arms sample alike.

    Raises:
        ValueError: the arm is unknown, or the experiment has no `training.token_budget` to hold the arms equal.
    """
    if arm not in ARMS:
        raise ValueError(f"an arm is one of {', '.join(ARMS)}; got {arm!r}")
    if plan.settings.training.token_budget is None:
        raise ValueError(
            f"{plan.folder / 'defs.yaml'}: a study needs training.token_budget; without it arms differ in more"
        )
    # The arm is validated like a file, so that no arm can be what no experiment could be. What the file does not say is
    # left out: a verifier refuses settings of other kinds, by their defaults too.
    settings = plan.settings.model_dump(exclude_unset=True)
    settings["parameters"] = settings.get("parameters", {}) | ARMS[arm]
    settings["rng_seed"] = rng_seed
    if not SIGNALS.isdisjoint(ARMS[arm]):
        settings["verifier"] = None
    # All arms have the experiment's name, and would write into one folder.
    settings["export"] = None
    return Plan(plan.name, plan.folder, ExperimentSettings.model_validate(settings))


def find_arm_root(data_root: Path, arm: str, rng_seed: int) -> Path:
    """Where an arm's rounds lie."""
    return data_root / f"seed{rng_seed}" / arm


def check_identity(plan: Plan, data_root: Path) -> None:
    """Note what the study is made with, so that one begun with other settings is never mixed with it.

    Raises:
        ValueError: the folder holds a study of another identity.
    """
    # One arm is enough: the others differ from it by `ARMS` and their seeds alone.
    identity, file = compute_code_versions(plan_arm(plan, METHOD, 0))["eval_report"], data_root / IDENTITY
    if not file.exists():
        data_root.mkdir(parents=True, exist_ok=True)
        file.write_text(identity)
    elif file.read_text() != identity:
        raise ValueError(
            f"{data_root} holds a study made with other settings, code, models or libraries of {plan.name} "
            f"({file.read_text()}, now {identity}); remove it, or name another folder"
        )


def run_start(plan: Plan, data_root: Path, rng_seed: int, *, log: Callable[[str], None]) -> None:
    """Make a seed's r0000, which all its arms start from, unless it is finished."""
    check_identity(plan, data_root)
    root = find_arm_root(data_root, "start", rng_seed)
    if not is_finished(plan, root, START_ROUND):
        make_round(plan_arm(plan, METHOD, rng_seed), root, START_ROUND, log=log)


def run_arm(
    plan: Plan, data_root: Path, arm: str, rng_seed: int, *, num_rounds: int, log: Callable[[str], None]
) -> None:
    """Make an arm's rounds that are not finished yet; `run_start` has made r0000."""
    check_identity(plan, data_root)
    planned, root = plan_arm(plan, arm, rng_seed), find_arm_root(data_root, arm, rng_seed)
    if not root.exists():
        # A copy that was killed must not be taken for an arm that has started.
        partial = root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        # Each arm goes on writing tables and history, so r0000 is copied and not shared.
        shutil.copytree(find_arm_root(data_root, "start", rng_seed), partial)
        partial.rename(root)
    for number in range(1, num_rounds + 1):
        if not is_finished(planned, root, format_round(number)):
            make_round(planned, root, format_round(number), log=log)


def is_finished(plan: Plan, root: Path, key: str) -> bool:
    """Whether a round's eval_report exists."""
    return Platform(data_root=str(root)).tables.exists(plan.name, key, "eval_report")


def read_study(plan: Plan, data_root: Path) -> pl.DataFrame:
    """Every finished round of every arm and seed, schema `STUDY_ROWS`, in order of seed, arm and round.

    Raises:
        ValueError: the experiment is not evaluated on a world.
    """
    rows = []
    seeds = sorted(int(match[1]) for path in data_root.iterdir() if (match := re.fullmatch(r"seed(\d+)", path.name)))
    for rng_seed in seeds:
        folder = data_root / f"seed{rng_seed}"
        start = plan_arm(plan, METHOD, rng_seed)
        if is_finished(start, folder / "start", START_ROUND):
            rows.append(read_round(start, folder / "start", BACKBONE, START_ROUND))
        for arm in ARMS:
            planned, number = plan_arm(plan, arm, rng_seed), 0
            while is_finished(planned, folder / arm, format_round(number)):
                rows.append(read_round(planned, folder / arm, arm, format_round(number)))
                number += 1
    return pl.DataFrame(rows, schema=STUDY_ROWS)


def read_round(plan: Plan, root: Path, arm: str, key: str) -> dict:
    """One row of the study.

    Raises:
        ValueError: the experiment is not evaluated on a world.
    """
    if (world := plan.world) is None:
        raise ValueError(f"{plan.folder / 'defs.yaml'}: a study needs evaluation.world, whose problems arms compare by")
    this_round = Round(plan, Platform(data_root=str(root)), key, lambda _: None)
    model = BACKBONE if arm == BACKBONE else "checkpoint"
    items = this_round.read("eval_items").filter(pl.col("model") == model)
    row: dict[str, object] = {"rng_seed": plan.settings.rng_seed, "arm": arm, "round": key}
    row["num_items"] = len(items.filter(pl.col("metric") == "greedy"))
    for metric in ("greedy", "sampled"):
        mine = items.filter(pl.col("metric") == metric)
        by_stratum = mine.group_by("stratum").agg(pl.col("is_correct").mean()).sort("stratum")
        row |= {
            metric: mine["is_correct"].mean(),
            f"{metric}_by_stratum": by_stratum["is_correct"].to_list(),
            f"{metric}_items": mine["is_correct"].to_list(),
        }
    # Nothing was trained for the raw model, so the columns below stay empty.
    if arm == BACKBONE:
        return row
    sft, trained = this_round.read("sft_set"), this_round.read("checkpoint").row(0, named=True)
    # EFT rows teach reviewing and come from a file, so they are no gain of the round.
    new = sft.filter((pl.col("source_round") == key) & (pl.col("source") != "eft"))
    return row | {
        "num_new_sft": len(new),
        "new_sft_right_rate": find_right_rate(new, world),
        "new_sft_mean_stratum": find_mean_stratum(new, world),
        "num_pairs": trained["num_pairs"],
        "train_tokens": trained["num_tokens"],
        "seconds": sum(cost.seconds for cost in this_round.read_costs().values()),
    }


def find_right_rate(rows: pl.DataFrame, world: World) -> float | None:
    """Share of right completions among those of readable prompts, by rule: for the report alone, after training."""
    solved = [
        world.is_right(problem, row["completion"])
        for row in rows.to_dicts()
        if (problem := world.read_prompt(row["prompt"]))
    ]
    return sum(solved) / len(solved) if solved else None


def find_mean_stratum(rows: pl.DataFrame, world: World) -> float | None:
    """Mean stratum of the readable prompts."""
    strata = [problem.stratum for prompt in rows["prompt"] if (problem := world.read_prompt(prompt))]
    return sum(strata) / len(strata) if strata else None
