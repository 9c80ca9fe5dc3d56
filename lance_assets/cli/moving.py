"""What `lance move` does: an experiment goes from one place to another, and Dagster is told where it has arrived."""

from collections.abc import Callable
from pathlib import Path

from lance_assets.assets.past.doctor import examine, mend
from lance_assets.assets.run import open_instance_of
from lance_assets.home import find_data_root, find_folder, find_home
from lance_assets.rounds.experiments import load_plans
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from resources.remote.copying import MIB, Copied, Copying, Place, claim_experiment, copy_experiment
from resources.remote.folder import DataFolder
from resources.remote.store import Store, is_address
from resources.remote.weights import find_store
from resources.remote.write_through import bring_experiment, publish_experiment
from resources.stores.files import validate_name

Say = Callable[[str], None]
"""Takes text that a person reads."""


def find_place(text: str | None, *, is_new: bool) -> Place:
    """The place that a person named: a store by its address, or the folder that LANCE_HOME would name.

    Args:
        text: what was given; None for this machine's LANCE_HOME.
        is_new: whether a folder is made where there is none.

    Raises:
        ValueError: it is an address that is none, or no folder of data.
    """
    if text is not None and is_address(text):
        return Store(text)
    home = find_home() if text is None else find_folder(text, named_by="the place")
    if home.is_file() or (home / "tables").is_dir():
        raise ValueError(f"{home} is not what LANCE_HOME names; give the folder that holds the folder data")
    if not is_new and not (home / "data").is_dir():
        raise ValueError(f"{home} has no folder data, so no experiment is there; is it what LANCE_HOME names?")
    return DataFolder(home / "data")


def move(experiment: str, *, source: str | None, target: str | None, replaces: bool, say: Say) -> int:
    """Copy an experiment, and tell Dagster where it has arrived; how many differences are left there.

    Args:
        experiment: its name.
        source: the place it is copied from, as for `find_place`.
        target: the place it is copied to.
        replaces: whether what is there of that name is replaced.
        say: takes each line.

    Raises:
        ValueError: no place was named, both are the same, there is no such experiment, or another one of its name.
        ClaimedError: a run works on it.
        OSError: a store or a disk cannot be used.
    """
    validate_name(experiment, what="experiment")
    if source is None and target is None:
        raise ValueError("name a place: --to where it goes, or --from where it is; the other one is LANCE_HOME")
    to = find_place(target, is_new=True)
    copying = Copying(experiment, find_place(source, is_new=False), to, replaces=replaces, is_thorough=True, say=say)
    say(describe_copied(experiment, to, copy_experiment(copying)))
    return tell_dagster(to.root.parent, experiment, say=say) if isinstance(to, DataFolder) else 0


def describe_copied(experiment: str, target: Place, copied: Copied) -> str:
    """What a copy came to, in words."""
    aside = f"; what was there lies in {copied.aside}" if copied.aside else ""
    if not copied.is_changed:
        return f"{target} has all {copied.num_files} files of {experiment} already{aside}"
    decisions = f", and {copied.num_decisions} decisions" if copied.num_decisions else ""
    return (
        f"{target} has {experiment}: {copied.num_files} files, of which {copied.num_sent} arrived now "
        f"({copied.num_bytes / MIB:.1f} MiB){decisions}; every hash is right{aside}"
    )


def bring_rounds(plan: Plan, *, say: Say) -> None:
    """Fetch what other machines have published of an experiment in LANCE_STORE, and tell Dagster of it.

    Raises:
        OtherExperimentError: this machine has made other tables meanwhile.
        OSError: the store cannot be used.
    """
    if find_store() is None:
        return
    home = find_home()
    with claim_experiment(DataFolder(home / "data"), plan.name, what=f"lance run {plan.name}, which fetches rounds"):
        is_changed = bring_experiment(home / "data", plan.name, say=say)
    if is_changed:
        tell_dagster(home, plan.name, say=say)


def send_rounds(plan: Plan, *, say: Say) -> None:
    """Send to LANCE_STORE what the last steps of a run could not: no step follows that would.

    Raises:
        OtherExperimentError: another machine has published other tables meanwhile.
        OSError: the store cannot be used.
    """
    data = find_data_root()
    if DataFolder(data).has_rounds(plan.name):
        publish_experiment(data, plan.name, say=say)


def tell_dagster(home: Path, experiment: str, *, say: Say) -> int:
    """Tell the instance of a folder what has arrived, and write its history in LanceDB; how many differences are left.

    Args:
        home: the folder that LANCE_HOME names, or would.
        experiment: what has arrived.
        say: takes each line.
    """
    plans, platform = load_plans(), Platform(data_root=str(home / "data"))
    if not isinstance(plans.get(experiment), Plan):
        say(
            f"no experiment {experiment!r} can be loaded here, so that Dagster and the history in LanceDB were not "
            f"told: bring its folder (LANCE_EXPERIMENTS), then: lance doctor {experiment} --fix"
        )
        return 0
    with open_instance_of(home) as instance:
        mend(instance, plans, platform, experiment, say=say)
        left = examine(instance, plans, platform, experiment)
    for finding in left:
        say(finding.describe())
    return len(left)
