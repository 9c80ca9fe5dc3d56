"""Arms of one experiment over several values of `rng_seed`: run what is not finished, and read what was found.

An arm is the experiment with other settings, never other code. Arms that share their r0000 start from a copy of it.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.algorithms.measures.headline import Headline
from lance_assets.algorithms.measures.progress import START_ROUND, format_round
from lance_assets.rounds.headline import find_headline, read_items
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.rounds.study import is_finished, make_round
from lance_assets.settings.experiment import ExperimentSettings

START = "start"
"""The folder of the r0000 that arms share."""


@dataclass(frozen=True)
class Arm:
    """One way to run an experiment."""

    num_rounds: int
    """After r0000."""
    switches: Mapping[str, object] = field(default_factory=dict)
    """Parameters of the recipe that differ from the experiment's."""
    sft: Mapping[str, object] = field(default_factory=dict)
    """Settings of SFT that differ; an arm with any makes an r0000 of its own."""


def plan_arm(plan: Plan, arm: Arm, rng_seed: int) -> Plan:
    """The experiment with an arm's switches and a seed; the name stays, so that sampling seeds are equal."""
    settings = plan.settings.model_dump(exclude_unset=True)
    settings["parameters"] = settings.get("parameters", {}) | arm.switches
    settings["training"] = settings.get("training", {})
    settings["training"]["sft"] = settings["training"].get("sft", {}) | arm.sft
    settings["rng_seed"] = rng_seed
    return Plan(plan.name, plan.folder, ExperimentSettings.model_validate(settings))


def find_root(out: Path, study: str, rng_seed: int, arm: str) -> Path:
    """Where an arm's rounds lie."""
    return out / study / f"seed{rng_seed}" / arm


def run_arm(plan: Plan, arm: Arm, root: Path, start: Path) -> None:
    """Make the rounds of an arm that are not finished, in this process.

    Args:
        plan: the arm's.
        arm: how many rounds there are.
        root: its folder, which gets `log.txt`.
        start: the folder of the shared r0000.
    """
    if root != start and not arm.sft and not root.exists():
        # A copy that was killed must not be taken for an arm that has started.
        shutil.copytree(start, root.with_suffix(".partial"), dirs_exist_ok=True)
        root.with_suffix(".partial").rename(root)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "log.txt").open("a") as file:
        for number in range(arm.num_rounds + 1):
            if not is_finished(plan, root, format_round(number)):
                make_round(plan, root, format_round(number), log=lambda line: print(line, file=file, flush=True))


Measure = Callable[[Round, str], Sequence[float]]
"""A further score of a finished round's "checkpoint" or "backbone", item by item."""


def read_scores(
    plans: Mapping[str, Plan], roots: Mapping[str, Path], rng_seed: int, *, further: Mapping[str, Measure] | None = None
) -> pl.DataFrame:
    """The headline of every finished round of the arms of a seed, and the raw backbone's.

    Args:
        plans: by arm.
        roots: the folder of each arm.
        rng_seed: the seed.
        further: scores beside the headline, by name.

    Returns:
        Columns rng_seed, arm, round, score, score_items (by the items' names in order), num_rows and train_tokens; of
        each further score its mean by its name, and its items.
    """
    rows: list[dict[str, object]] = []
    for arm, plan in plans.items():
        number, platform = 0, Platform(data_root=str(roots[arm]))
        while is_finished(plan, roots[arm], format_round(number)):
            this_round = Round(plan, platform, format_round(number), lambda _: None)
            raw = find_headline(this_round, model=BACKBONE) if number == 0 else None
            if raw is not None and not any(row["arm"] == BACKBONE for row in rows):
                rows.append(_describe(this_round, raw, BACKBONE, further or {}))
            headline = find_headline(this_round)
            assert headline is not None, "a finished round has a headline"
            rows.append(_describe(this_round, headline, arm, further or {}))
            number += 1
    return pl.DataFrame(rows).with_columns(rng_seed=pl.lit(rng_seed, dtype=pl.Int64))


def _describe(this_round: Round, headline: Headline, arm: str, further: Mapping[str, Measure]) -> dict[str, object]:
    items = [read_items(this_round, part) for part in headline["parts"]]
    trained = this_round.read("checkpoint").row(0, named=True)
    is_raw = arm == BACKBONE
    others: dict[str, object] = {}
    for name, measure in further.items():
        found = list(measure(this_round, BACKBONE if is_raw else "checkpoint"))
        others |= {name: sum(found) / len(found), f"{name}_items": found}
    return {
        "arm": arm,
        "round": START_ROUND if is_raw else this_round.key,
        "score": headline["score"],
        "score_items": [part[name] for part in items for name in sorted(part)],
        "num_rows": 0 if is_raw else trained["num_sft_rows"],
        "train_tokens": 0 if is_raw else trained["num_tokens"],
        **others,
    }
