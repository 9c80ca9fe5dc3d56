"""Checkpoints on disk: one folder per experiment and round.

How a reader sees a checkpoint that is being replaced: `publish` renames the old folder to `<round>.replaced`, renames
the finished one into its place, and deletes the old. A kill before the second rename leaves only the old folder under
its other name; `find` and the next `publish` put it back, so the replacement did not happen. A kill after it leaves
the new folder, and what remains of the old one is deleted by the next `publish`. A folder under the round's own name
is always complete.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from resources.models.model_folders import (
    ADAPTER_FOLDER,
    hash_checkpoint,
    list_hashed_files,
    require_chat_template,
    resolve_model,
    validate_model_folder,
)
from resources.stores.tables import flush_to_disk, validate_name, validate_round_key

__all__ = [
    "CheckpointStore",
    "MissingCheckpointError",
    "copy_checkpoint",
    "hash_checkpoint",
    "require_chat_template",
    "resolve_model",
    "validate_model_folder",
]


class MissingCheckpointError(FileNotFoundError):
    """A checkpoint was looked for that no run has published."""


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints under one folder."""

    root: Path
    """The platform's data folder; checkpoints lie in `checkpoints/` there."""

    def folder(self, experiment: str, round_key: str) -> Path:
        """Where a round's checkpoint lies, whether or not it is there.

        Raises:
            ValueError: a name that is not one.
        """
        validate_name(experiment, what="experiment")
        return self.root / "checkpoints" / experiment / validate_round_key(round_key)

    def find(self, experiment: str, round_key: str) -> Path:
        """The folder of a round's published checkpoint.

        Raises:
            MissingCheckpointError: none was published.
        """
        folder = self.folder(experiment, round_key)
        _restore_replaced(folder)
        if not folder.is_dir():
            raise MissingCheckpointError(
                f"experiment {experiment!r} has no checkpoint of round {round_key}: "
                f"materialize {experiment}/checkpoint for {round_key} first ({folder} is not there)"
            )
        return folder

    def hash_checkpoint(self, path: Path) -> str:
        """SHA-256 of what makes the model in a folder, see `model_folders.hash_checkpoint`."""
        return hash_checkpoint(path)

    def resolve_model(self, name: str, *, base: Path | None = None, revision: str | None = None) -> Path:
        """The folder of the model a round starts from, see `model_folders.resolve_model`."""
        return resolve_model(name, base=base, revision=revision)

    def staging_folder(self, experiment: str, round_key: str) -> Path:
        """An empty folder beside the round's place, on the same disk, to build the checkpoint in."""
        folder = self.folder(experiment, round_key)
        staging = folder.with_name(f"{folder.name}.staging")
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(parents=True)
        return staging

    def publish(self, staging: Path, experiment: str, round_key: str) -> Path:
        """Make a finished folder the round's checkpoint, in place of the one before; `staging` is gone afterwards.

        Args:
            staging: a complete model folder on the same disk, like that of `staging_folder`.
            experiment: the experiment.
            round_key: the round.

        Raises:
            NotACheckpointError: `staging` is not a complete model folder; the checkpoint before stays.
            ValueError: `staging` lies on another disk; the checkpoint before stays.
        """
        validate_model_folder(staging)
        folder = self.folder(experiment, round_key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if staging.stat().st_dev != folder.parent.stat().st_dev:
            raise ValueError(f"{staging} is on another disk than {folder.parent}: build it in staging_folder()")
        for file in sorted(staging.rglob("*")):
            flush_to_disk(file)
        flush_to_disk(staging)
        _restore_replaced(folder)
        replaced = _name_replaced(folder)
        if replaced.exists():
            shutil.rmtree(replaced)
        if folder.exists():
            folder.rename(replaced)
        staging.rename(folder)
        flush_to_disk(folder.parent)
        if replaced.exists():
            shutil.rmtree(replaced)
        return folder


def _name_replaced(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.replaced")


def _restore_replaced(folder: Path) -> None:
    """Undo a replacement that was killed between its two renames."""
    replaced = _name_replaced(folder)
    if replaced.is_dir() and not folder.exists():
        replaced.rename(folder)


def copy_checkpoint(source: Path, staging: Path) -> None:
    """Copy the model of `source` into the empty folder `staging`, for a round in which nothing is trained.

    Only the files that make the model are copied, so both have the same hash, and its adapter where it has one.

    Raises:
        NotACheckpointError: `source` is not a model folder.
    """
    validate_model_folder(source)
    staging.mkdir(parents=True, exist_ok=True)
    for file in list_hashed_files(source):
        shutil.copyfile(file, staging / file.name)
    if (source / ADAPTER_FOLDER).is_dir():
        shutil.copytree(source / ADAPTER_FOLDER, staging / ADAPTER_FOLDER)
