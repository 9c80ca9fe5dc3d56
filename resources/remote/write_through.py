"""Write-through: with LANCE_STORE each finished step publishes what it made, and fetches first what others have made.

The folder of data stays what every step works in, so a store that cannot be used takes nothing away. What a step made
is there and counts as made, and a step that would fail now would make it again. So a step that cannot publish says so
and ends as it would have, and the next one publishes what is left before it makes anything; it fails where it cannot,
and has lost nothing. Samples and states of a step that is at work stay on its machine (`stages`). Weights are fetched
when they are asked for.
"""

import time
from pathlib import Path

from resources.remote.copying import Copied, Copying, Say, read_mark
from resources.remote.folder import DataFolder
from resources.remote.store import ChangedFileError
from resources.remote.weights import fetch_alone, find_store

LOCAL = frozenset({"stages", "waiting"})
"""The folders that stay on a machine: of what is at work, and of what it waits for."""
MAX_CHANGED = 3
"""So often it is begun anew where a step that is at work beside this one wrote or removed a file meanwhile."""
PAUSE_SECONDS = 2.0
"""Before the second time; twice as long before the third."""


def publish_experiment(root: Path, experiment: str, *, say: Say) -> Copied | None:
    """Send to the store what an experiment has here and not there; None where there is no store.

    Args:
        root: the folder of data.
        experiment: its name.
        say: takes lines of progress.

    Raises:
        UnreachableStoreError: it does not answer; what was made is still here.
        ChangedFileError: what is to be sent is written or removed all the time.
        OtherExperimentError: another machine has published other tables meanwhile.
        StoreError, ValueError: the store cannot be used, or a table is damaged.
    """
    store = find_store()
    if store is None:
        return None
    for number in range(MAX_CHANGED):
        time.sleep(number * PAUSE_SECONDS)
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


def publish_finished(root: Path, experiment: str, *, say: Say, warn: Say) -> None:
    """Publish what a step has made; where the store cannot be used now, that is said, and `publish_left` does it later.

    Args:
        root: the folder of data.
        experiment: its name.
        say: takes lines of progress.
        warn: is told why it is not published yet.

    Raises:
        OtherExperimentError: another machine has published other tables meanwhile.
        ValueError: a table is damaged.
    """
    try:
        publish_experiment(root, experiment, say=say)
    except OSError as error:
        warn(f"what was made of {experiment} is here and not in the store yet; the next step sends it first: {error}")


def publish_left(root: Path, experiment: str, *, say: Say) -> bool:
    """Publish what an earlier step could not, before anything follows from it; whether there was something to send.

    What other steps write now, what is damaged, and what another machine has made otherwise does not stop a step: it
    may be the one that mends it, and what it makes itself is refused once it is made.

    Args:
        root: the folder of data.
        experiment: its name.
        say: takes lines of progress.

    Raises:
        UnreachableStoreError: the store does not answer.
        StoreError: it cannot be used.
    """
    store, folder = find_store(), DataFolder(root)
    if store is None or not folder.has_rounds(experiment):
        return False
    published = folder.read_base(experiment, str(store)).files
    try:
        here = folder.describe(experiment, without=LOCAL)
        if all(published.get(path) == entry for path, entry in here.items()):
            return False
        publish_experiment(root, experiment, say=say)
    except (ChangedFileError, ValueError) as error:
        say(f"what is left of {experiment} is not sent yet: {error}")
    return True


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
