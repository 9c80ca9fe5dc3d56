"""Cases of a study: one experiment with other settings, on seeds that are drawn anew for each `rng_seed`.

A study's start is an r0000 that its cases copy. What a case is may depend on what the start found, such as the rows
that a filter left out, so cases are listed after it. A case that trains on rows of its own makes an r0000 of its own,
with as many epochs as bring it to the start's or the budget's tokens.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks._arms import START, Arm, find_root, read_scores, run_arm
from lance_assets.algorithms.measures.arms import compare_rounds
from lance_assets.algorithms.measures.progress import START_ROUND, format_round
from lance_assets.algorithms.measures.statistics import compute_mean_interval
from lance_assets.pictures.study import to_points
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import ExperimentSettings

Changes = Mapping[str, Any]
"""Settings of an experiment by dotted path; a whole part is replaced, as `parameters` where the recipe is another."""
Rows = Sequence[Mapping[str, str]]
"""Seeds with `prompt`, `completion` and `answer`."""


@dataclass(frozen=True)
class Case:
    """One way to run a study's experiment."""

    changes: Changes = field(default_factory=dict)
    """What differs from the start's settings."""
    num_rounds: int = 1
    """After r0000."""
    has_own_start: bool = False
    """Whether r0000 is its own, and no copy of the start's."""


@dataclass(frozen=True)
class Start:
    """The r0000 of a seed that cases begin with."""

    plan: Plan
    """The experiment as the start runs it."""
    root: Path
    """Where its tables lie."""

    @property
    def rng_seed(self) -> int:
        """The seed."""
        return self.plan.settings.rng_seed

    def read(self, noun: str) -> pl.DataFrame:
        """A table of r0000."""
        return open_round(self.plan, self.root, START_ROUND).read(noun)

    def train_on(self, rows: Rows, name: str, num_tokens: int, changes: Changes, eft: Rows = ()) -> Case:
        """A case that is SFT of the base model on rows alone, for about so many tokens.

        Args:
            rows: what is trained on.
            name: of the file that they are written to.
            num_tokens: of prompts and completions over all epochs.
            changes: the recipe with its parameters.
            eft: the rows of `seeds.eft_path`, where the experiment has them: they are trained on too.
        """
        given: dict[str, Any] = {"seeds.path": write_seeds(self.root.parent, name, rows), "seeds.confidence": None}
        epochs = {"training.sft.num_epochs": num_tokens / count_row_tokens(self.plan, [*rows, *eft])}
        return Case(given | epochs | dict(changes), num_rounds=0, has_own_start=True)


@dataclass(frozen=True)
class Study:
    """What is compared of one method."""

    experiment: str
    """Whose settings are taken, but for the changes."""
    change: Callable[[int, Path], Changes]
    """What the start of a seed differs by, given the seed and a folder for files."""
    list_cases: Callable[[Start], dict[str, Case]]
    """The cases by name, once the start is finished."""
    differences: tuple[tuple[str, str], ...]
    """(case, control): each case's last score less the control's is told."""
    measure: Callable[[Start, Mapping[str, Round]], dict[str, float]] = lambda start, rounds: {}
    """Further figures of a seed, given each case's last round."""


def write_seeds(folder: Path, name: str, rows: Rows) -> str:
    """Write seeds as JSON lines, and say where, as `seeds.path` takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / f"{name}.jsonl").resolve()
    path.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def count_row_tokens(plan: Plan, rows: Rows) -> int:
    """Tokens of rows as one epoch of SFT counts them."""
    from transformers import AutoTokenizer

    from resources.models.foreign_code import WITHOUT_CODE
    from resources.training.train_worker import build_sft_rows, count_tokens

    folder = open_round(plan, Path(), START_ROUND).model_path(None)
    tokenizer = AutoTokenizer.from_pretrained(folder, **WITHOUT_CODE)
    built = build_sft_rows([dict(row) for row in rows], plan.templates.system)
    return sum(count_tokens(tokenizer, built, ("completion",), plan.settings.training.sft.max_length))


def open_round(plan: Plan, root: Path, key: str) -> Round:
    """A round whose log nobody reads."""
    return Round(plan, Platform(data_root=str(root)), key, lambda _: None)


def change_plan(plan: Plan, changes: Changes) -> Plan:
    """The experiment with other settings; the name stays, so that cases sample alike."""
    # What the file does not say is left out: a verifier refuses settings of other kinds, even by their defaults.
    settings = plan.settings.model_dump(exclude_unset=True)
    for path, value in changes.items():
        *parts, last = path.split(".")
        place = settings
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return Plan(plan.name, plan.folder, ExperimentSettings.model_validate(settings))


def run_seed(name: str, study: Study, rng_seed: int, out: Path, common: Changes) -> tuple[pl.DataFrame, dict]:
    """Make what is not finished of a study's seed.

    Returns:
        The scores of every round of every case, as `read_scores` has them with a column `is_last`, and further figures.
    """
    root = find_root(out, name, rng_seed, START)
    changes = {**common, "rng_seed": rng_seed, **study.change(rng_seed, root.parent)}
    start = Start(change_plan(find_plan(study.experiment), changes), root)
    run_arm(start.plan, Arm(0), root, root)
    cases = study.list_cases(start)
    plans = {case: change_plan(start.plan, one.changes) for case, one in cases.items()}
    roots = {case: find_root(out, name, rng_seed, case) for case in cases}
    for case, one in cases.items():
        print(f"{name}, seed {rng_seed}: {case}", flush=True)
        run_arm(plans[case], Arm(one.num_rounds), roots[case], roots[case] if one.has_own_start else root)
    lasts = {case: format_round(one.num_rounds) for case, one in cases.items()}
    rows = read_scores({START: start.plan, **plans}, {START: root, **roots}, rng_seed)
    is_last = [lasts.get(arm, START_ROUND) == key for arm, key in rows.select("arm", "round").iter_rows()]
    rounds = {case: open_round(plans[case], roots[case], lasts[case]) for case in cases}
    return rows.with_columns(is_last=pl.Series(is_last)), study.measure(start, rounds)


def summarise(study: Study, rows: pl.DataFrame, measured: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The figures of a study: scores and differences in percentage points, further ones in their own unit."""
    lasts = rows.filter("is_last").with_columns(round=pl.lit("last"))
    cases: dict[str, Any] = {}
    for arm in lasts["arm"].unique(maintain_order=True):
        own = lasts.filter(arm=arm)
        trained = rows.filter(pl.col("arm") == arm, (pl.col("round") != START_ROUND) | pl.col("is_last"))
        cases[arm] = {
            "score": [round(100 * value, 1) for value in compute_mean_interval(own["score"].to_list())],
            "rows": round(own["num_rows"].mean(), 1),  # type: ignore[arg-type]
            "tokens": round(trained["train_tokens"].sum() / lasts["rng_seed"].n_unique()),
        }
    differences = {
        f"{case} less {control}": to_points(compare_rounds(lasts, (control, "last"), (case, "last"), metric="score"))
        for case, control in study.differences
    }
    names = measured[0] if measured else {}
    figures = {
        name: [round(one, 4) for one in compute_mean_interval([own[name] for own in measured])] for name in names
    }
    return {"cases": cases, "differences": differences, "figures": figures, "num_seeds": lasts["rng_seed"].n_unique()}
