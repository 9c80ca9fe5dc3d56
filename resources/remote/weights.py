"""Checkpoints that are in the store of LANCE_STORE and not here: they are fetched when they are asked for."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lance_assets.home import STORE, find_store_address
from resources.remote.folder import DataFolder
from resources.remote.manifest import Entry
from resources.remote.store import Store
from resources.stores.checkpoints import CheckpointStore


def find_store() -> Store | None:
    """The store that LANCE_STORE names; None where it is not set.

    Raises:
        ValueError: it is no address, or holds a key.
    """
    address = find_store_address()
    if address is None:
        return None
    try:
        return Store(address)
    except ValueError as error:
        raise ValueError(f"{STORE}: {error}") from error


@dataclass(frozen=True)
class StoredWeights:
    """The checkpoints of a folder that are in the store."""

    root: Path
    """The folder of data."""
    store: Store
    """The store."""

    def has(self, owner: str, round_key: str) -> bool:
        """Whether the state that this folder was given names a checkpoint. Nothing is asked for over the network."""
        return bool(self._list(owner, round_key)[1])

    def bring(self, owner: str, round_key: str) -> bool:
        """Fetch a checkpoint; whether the store has it.

        Raises:
            StoreError: the store cannot be used, or an object is damaged.
            NotACheckpointError: what was published is no model.
            DiskFullError: the disk is full.
        """
        experiment, wanted = self._list(owner, round_key)
        if not wanted:
            return False
        folder = DataFolder(self.root)
        with fetch_alone(self.root):
            if CheckpointStore(self.root).folder(owner, round_key).is_dir():
                return True
            for entry in wanted.values():
                if not folder.check_arrived(experiment, entry):
                    self.store.fetch_object(entry, folder.find_arriving(experiment, entry))
            folder.place(experiment, wanted, {})
        return True

    def _list(self, owner: str, round_key: str) -> tuple[str, dict[str, Entry]]:
        """Whose checkpoint it is, and its files."""
        prefix = f"checkpoints/{owner}/{round_key}/"
        for experiment in dict.fromkeys((owner, owner.removesuffix("_label"))):
            base = DataFolder(self.root).read_base(experiment, str(self.store))
            if found := {path: entry for path, entry in base.files.items() if path.startswith(prefix)}:
                return experiment, found
        return owner, {}


def find_weights(root: Path) -> StoredWeights | None:
    """The checkpoints of a folder that are in the store of LANCE_STORE; None where it is not set."""
    store = find_store()
    return None if store is None else StoredWeights(root, store)


@contextlib.contextmanager
def fetch_alone(root: Path) -> Iterator[None]:
    """Let one process of this folder fetch at a time."""
    (root / "arriving").mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / "arriving" / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
