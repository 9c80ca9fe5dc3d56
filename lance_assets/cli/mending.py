"""What `lance doctor` prints and does."""

from collections.abc import Callable

from lance_assets.assets.past.doctor import examine, find_unfinished_runs, mend
from lance_assets.assets.run import open_instance
from lance_assets.assets.running.lost import end_lost_runs
from lance_assets.cli.reading import open_platform
from lance_assets.rounds.experiments import find_plan, load_plans
from lance_assets.rounds.past.renaming import rename_data
from lance_assets.rounds.past.retention import list_removed
from lance_assets.rounds.plan import Plan

Say = Callable[[str], None]
"""Takes text that a person reads."""


def print_findings(name: str | None, *, is_fixing: bool, say: Say) -> int:
    """Print what differs between the instance and the disk, a line each; how much is left.

    Args:
        name: one experiment; None for all of them.
        is_fixing: whether what can be mended without a loss is mended.
        say: takes each line.

    Raises:
        ValueError: no experiment and no data has that name.
    """
    plans, platform = load_plans(), open_platform()
    with open_instance() as instance:
        if is_fixing:
            mend(instance, plans, platform, name, say=say)
        found = examine(instance, plans, platform, name)
        for finding in found:
            say(finding.describe())
    for plan in plans.values():
        if isinstance(plan, Plan) and name in (None, plan.name):
            for line in list_removed(plan, platform):
                say(line)
    of = "every experiment" if name is None else name
    num = len(found)
    say(
        f"{num} difference{'s' if num > 1 else ''}"
        if found
        else f"the Dagster instance and {platform.root} agree on {of}"
    )
    return len(found)


def rename_experiment(old: str, new: str, *, say: Say) -> str:
    """Give the data of an experiment that was renamed its new name; the new name.

    Args:
        old: the name that the data has.
        new: the name that the experiment's folder has now.
        say: takes a line for everything that was moved.

    Raises:
        ValueError: no experiment has the new name, the old one still is an experiment's, a run of one of them has not
            ended, or there is no data to move.
    """
    plans = load_plans()
    find_plan(new, plans)
    if old in plans:
        raise ValueError(f"{old!r} is an experiment still; rename its folder to {new!r} first, then its data")
    with open_instance() as instance:
        end_lost_runs(instance, open_platform().claims, say=say)
        for name in (old, new):
            if runs := find_unfinished_runs(instance, name):
                raise ValueError(f"run {runs[0].run_id} of {name} has not ended; wait for it, or terminate it")
    for moved in rename_data(open_platform(), old, new):
        say(f"moved: {moved}")
    return new
