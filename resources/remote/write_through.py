"""Write-through: with LANCE_STORE each finished step publishes what it made, and fetches first what others have made.

The folder of data stays what every step works in, so a store that does not answer takes nothing away: the step that
cannot publish fails after its tries, what it made is there, and the next step that can publishes it too. Samples and
states of a step that is at work stay on its machine (`stages`). Weights are fetched when they are asked for.
"""

from pathlib import Path

from resources.remote.copying import Copied, Copying, Say, read_mark
from resources.remote.folder import DataFolder
from resources.remote.store import ChangedFileError
from resources.remote.weights import fetch_alone, find_store

LOCAL = frozenset({"stages", "waiting"})
"""The folders that stay on a machine: of what is at work, and of what it waits for."""
MAX_CHANGED = 3
"""So often it is begun anew where a step that is at work beside this one wrote a file meanwhile."""


def publish_experiment(root: Path, experiment: str, *, say: Say) -> Copied | None:
    """Send to the store what an experiment has here and not there; None where there is no store.

    Args:
        root: the folder of data.
        experiment: its name.
        say: takes lines of progress.

    Raises:
        UnreachableStoreError: it does not answer; what was made is still here.
        OtherExperimentError: another machine has published other tables meanwhile.
        StoreError, ValueError: the store cannot be used, or a table is damaged.
    """
    store = find_store()
    if store is None:
        return None
    for number in range(MAX_CHANGED):
        try:
            copied = Copying(experiment, DataFolder(root), store, without=LOCAL, say=say).run()
        except ChangedFileError:
            if number == MAX_CHANGED - 1:
                raise
        else:
            if copied.is_changed:
                say(f"{store} has {experiment} as it is here: {copied.num_sent} files were sent")
            return copied
    raise AssertionError("the last try returned or raised")


def bring_experiment(root: Path, experiment: str, *, say: Say) -> bool:
    """Fetch from the store what other machines have published of an experiment, without weights; whether there was any.

    Args:
        root: the folder of data.
        experiment: its name.
        say: takes lines of progress.

    Raises:
        UnreachableStoreError: it does not answer.
        OtherExperimentError: this machine has made other tables meanwhile.
        StoreError, ValueError: the store cannot be used.
    """
    store = find_store()
    if store is None:
        return False
    folder = DataFolder(root)
    with fetch_alone(root):
        newest = store.read_newest(experiment)
        base = folder.read_base(experiment, str(store))
        is_known = newest is not None and base.is_whole and base.mark == read_mark(newest)
        if newest is None or (is_known and folder.has_rounds(experiment)):
            return False
        return Copying(experiment, store, folder, without=LOCAL, with_weights=False, say=say).run().is_changed
