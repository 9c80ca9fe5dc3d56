"""What is removed of finished rounds by the experiment's `retention`, and what something still needs.

It is enforced when a round has its eval_report, over all rounds, so that what a killed run left is removed by the next.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from lance_assets.algorithms.measures.progress import (
    find_best_outcome,
    format_round,
    list_rejected_rounds,
    parse_round,
)
from lance_assets.home import list_folders
from lance_assets.rounds.headline import read_outcomes
from lance_assets.rounds.nouns import list_nouns
from lance_assets.rounds.past.handover import find_parent
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.report import Report
from lance_assets.rounds.round import Round
from resources.stores.checkpoints import Removal, measure_size

MIB = 2**20


@dataclass(frozen=True)
class Removed:
    """Something of a round that was removed."""

    round_key: str
    """The round."""
    what: str
    """"checkpoint", "optimizer states" or "parts"."""
    num_bytes: int
    """What it took of the disk."""

    def __str__(self) -> str:
        """In words."""
        return f"{self.what} of {self.round_key} ({self.num_bytes / MIB:.1f} MiB)"


def enforce_retention(this_round: Round) -> list[Removed]:
    """Remove what the experiment does not keep and nothing needs; what was removed.

    Args:
        this_round: the round that was finished just now.

    Raises:
        OSError: something cannot be removed.
        ValueError: a table that says what is needed is damaged.
    """
    plan, checkpoints = this_round.experiment, this_round.platform.checkpoints
    retention, finished = plan.settings.retention, list_finished(plan, this_round.platform)
    if all(rule.last is None for rule in (retention.checkpoints, retention.optimizer_states, retention.parts)):
        return []
    best, removed = find_best(this_round, finished), list[Removed]()
    needed = list_needed(this_round, finished)
    for key in finished:
        folder = checkpoints.folder(plan.name, key)
        if not retention.checkpoints.keeps(key, finished=finished, best=best) and key not in needed:
            if folder.with_name(f"{key}.removed").exists() or folder.is_dir():
                num_bytes = measure_size(folder)
                parent = this_round.read("start_checkpoint", key)["parent_round"][0]
                checkpoints.remove(plan.name, key, Removal(retention.checkpoints.rule, num_bytes, parent))
                removed.append(Removed(key, "checkpoint", num_bytes))
        elif (
            not retention.optimizer_states.keeps(key, finished=finished, best=best)
            and key != this_round.key
            and folder.is_dir()
            and (num_bytes := checkpoints.remove_states(plan.name, key))
        ):
            removed.append(Removed(key, "optimizer states", num_bytes))
        keeps_parts = retention.parts.keeps(key, finished=finished, best=best)
        if not keeps_parts and (num_bytes := _remove_parts(this_round.at(key))):
            removed.append(Removed(key, "parts", num_bytes))
    return removed


def list_finished(plan: Plan, platform: Platform) -> list[str]:
    """Every round that has its eval_report, oldest first."""
    keys = platform.tables.list_rounds(plan.name)
    return [key for key in keys if platform.tables.exists(plan.name, key, "eval_report")]


def find_best(this_round: Round, finished: Sequence[str]) -> str | None:
    """The best finished round that is not rejected, which a rollback goes back to."""
    outcomes = read_outcomes(this_round, list(finished))
    rejected = list_rejected_rounds(outcomes, on_regression=this_round.experiment.settings.stop.on_regression)
    accepted = [outcome for outcome in outcomes if outcome.round_key not in rejected]
    return find_best_outcome(accepted or outcomes)


def list_needed(this_round: Round, finished: Sequence[str]) -> dict[str, str]:
    """The rounds whose checkpoint something still needs, and what that is.

    Args:
        this_round: any round of the experiment; the one that was finished just now is needed by what follows it.
        finished: every finished round, oldest first.
    """
    plan = this_round.experiment
    needed = {this_round.key: "it was finished just now"}
    following = this_round.at(format_round(parse_round(finished[-1]) + 1)) if finished else this_round
    parent, _ = find_parent(following)
    if parent is not None:
        needed[parent] = f"{following.key} starts from it"
    stop = plan.settings.stop
    if (best := find_best(this_round, finished)) is not None and (
        stop.on_regression == "rollback" or plan.settings.evaluation.floors
    ):
        needed[best] = "a rollback goes back to it"
    for key in this_round.platform.tables.list_rounds(plan.name):
        if not this_round.has("start_checkpoint", key):
            continue
        began = this_round.read("start_checkpoint", key).row(0, named=True)
        parent = began["parent_round"]
        if parent is None:
            continue
        is_other = (
            this_round.has("checkpoint", parent)
            and this_round.read("checkpoint", parent)["content_hash"][0] != began["content_hash"]
        )
        # A round that is not finished, or was made from other weights than there are now, is going to be made.
        if key not in finished or is_other:
            needed[parent] = f"{key} starts from it"
    for key in finished:
        if named_by := find_naming(this_round, key):
            needed[key] = f"{named_by} names it"
    return needed


def find_naming(this_round: Round, key: str) -> str | None:
    """An experiment whose file names a round's checkpoint as a model; None where none does.

    Files are searched as texts, so that one that cannot be loaded keeps what it names too.
    """
    place = f"checkpoints/{this_round.experiment.name}/{key}"
    for folder in list_folders():
        for file in sorted(folder.glob("*/defs.yaml")):
            if place in file.read_text(encoding="utf-8", errors="replace"):
                return file.parent.name
    return None


def _remove_parts(this_round: Round) -> int:
    """Remove what is left in stages/ of a round's steps whose table was made since; bytes that it took."""
    tables, name, num_bytes = this_round.platform.tables, this_round.experiment.name, 0
    alive = [live.lease for live in this_round.platform.leases.list_alive()]
    # An engine that works on the round is making something of it again.
    if any((lease.experiment, lease.round_key) == (name, this_round.key) for lease in alive):
        return 0
    for noun in list_nouns(this_round.experiment):
        folder = this_round.stage_folder(noun.name)
        if not folder.is_dir() or not tables.exists(name, this_round.key, noun.name):
            continue
        newest = max((path.stat().st_mtime_ns for path in folder.rglob("*")), default=0)
        # What is newer than the table belongs to a step that makes it again and was broken off.
        if newest < tables.path(name, this_round.key, noun.name).stat().st_mtime_ns:
            num_bytes += measure_size(folder)
            shutil.rmtree(folder)
    return num_bytes


def describe_retention(this_round: Round, removed: Sequence[Removed]) -> Report:
    """What was removed, and of which rounds weights are kept, as metadata; nothing where all is kept."""
    plan = this_round.experiment
    rule = plan.settings.retention.checkpoints.rule
    facts: Report = {"retention/removed": ", ".join(map(str, removed))} if removed else {}
    if rule != "all":
        keys = list_finished(plan, this_round.platform)
        kept = [key for key in keys if this_round.platform.checkpoints.folder(plan.name, key).is_dir()]
        facts |= {"retention/rule": rule, "retention/kept_checkpoints": ", ".join(kept)}
    return facts


def list_removed(plan: Plan, platform: Platform) -> list[str]:
    """In words each checkpoint that was removed and is not there again, a line each."""
    lines = []
    for key in platform.tables.list_rounds(plan.name):
        if (removal := platform.checkpoints.read_removal(plan.name, key)) is not None:
            size = removal.num_bytes / MIB
            lines.append(f"{plan.name} {key}: its checkpoint ({size:.1f} MiB) was removed by retention: {removal.rule}")
    return lines
