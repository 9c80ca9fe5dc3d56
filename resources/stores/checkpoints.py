"""Models on disk: whether a folder holds a whole model, what its hash is, and the checkpoints of the rounds.

`hash_checkpoint` hashes the files that change what a model says.

A checkpoint is one folder per experiment and round. How a reader sees a checkpoint that is being replaced: `publish`
renames the old folder to `<round>.replaced`, renames the finished one into its place, and deletes the old. A kill
before the second rename leaves only the old folder under its other name; `find` and the next `publish` put it back, so
the replacement did not happen. A kill after it leaves the new folder, and what remains of the old one is deleted by the
next `publish`. A folder under the round's own name is always complete.
"""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from resources.models.foreign_code import refuse_foreign_code
from resources.stores.files import (
    explain_full_disk,
    flush_folder,
    flush_to_disk,
    read_json_file,
    validate_name,
    validate_round_key,
    write_file_atomically,
)
from resources.stores.finite_weights import NotFinite, find_not_finite, look_at_file
from resources.stores.remembered import remember

HASHED_PATTERNS = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.py",
)
"""The files of a checkpoint that change what a model says, as glob patterns; Python files, though none is ever run."""
ADAPTER_FOLDER = "adapter"
"""Where a checkpoint holds the same model once more, as a LoRA adapter of its experiment's base model.

The hash of the model is of the weights, and so without it.
"""
_SETTLED_SECONDS = 2.0
"""A file that was changed so short a time ago may change once more with the same time, so nothing is remembered."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


class NotACheckpointError(ValueError):
    """A folder that should hold a model does not."""


class NotFiniteError(NotACheckpointError):
    """A model's weights hold NaN or infinity."""


class NoChatTemplateError(ValueError):
    """A model that has to follow a chat has no chat template."""


def hash_checkpoint(path: Path) -> str:
    """SHA-256 over the names and bytes of the files that make the model, 64 hex digits; logs and cards do not count.

    Raises:
        NotACheckpointError: `path` holds no such file.
    """
    files = list_hashed_files(path)
    if not files:
        raise NotACheckpointError(f"{path} holds no file of a model (none of {', '.join(HASHED_PATTERNS)})")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            # The name is hashed with the content, since a file counts by what it is called.
            digest.update(f"{file.name}\n{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def list_hashed_files(path: Path) -> list[Path]:
    """The files that make a model, by name."""
    return sorted({file for pattern in HASHED_PATTERNS for file in path.glob(pattern) if file.is_file()})


def validate_model_folder(path: Path) -> Path:
    """Return `path` if it holds a model: a config, whole weights in safetensors, a tokenizer, and no code.

    Raises:
        NotACheckpointError: what is missing or broken.
        ForeignCodeError: it names code of its own.
    """
    if not path.is_dir():
        raise _refuse(path, "is not there" if not path.exists() else "is not a folder")
    _validate_config(path)
    refuse_foreign_code(path)
    _validate_weights(path)
    _validate_tokenizer(path)
    return path


def find_broken_weights(path: Path) -> NotFinite | None:
    """As `find_not_finite`, and a file is read once as long as it is the same one.

    A round looks three times: when a checkpoint is published, when its training is judged, and when the next round
    begins with it. What was found is known by size, times and inode, which stay when the folder is renamed.
    """
    return find_not_finite(path, look=_look_once)


def _look_once(file: Path) -> dict[str, str]:
    state = file.stat()
    # The time of the last change of the inode cannot be set back by a program that keeps the other one. Where the clock
    # was set back, the age is below zero.
    if time.time() - max(state.st_mtime, state.st_ctime) < _SETTLED_SECONDS:
        return look_at_file(file)
    key = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} {state.st_dev}"
    return remember("finite_weights", key, lambda: look_at_file(file))


def require_finite_weights(path: Path, *, remedy: str) -> None:
    """Check that every weight of a model folder is a number. Cost: one read of its files, where they are new.

    Args:
        path: a whole model folder.
        remedy: what a person does about it, which ends the error.

    Raises:
        NotFiniteError: a weight is NaN or infinite.
    """
    found = find_broken_weights(path)
    if found is not None:
        raise NotFiniteError(
            f"{found.num_wrong} of {found.num_weights} weights of {found.tensor} in {found.file} are NaN or infinite, "
            f"so that the model says nothing; {remedy}"
        )


DIVERGED_REMEDY = "training diverged: lower learning_rate under training.sft and training.dpo, and train it again"
"""What helps where a trained model has a weight that is no number."""


def _refuse(path: Path, what: str) -> NotACheckpointError:
    return NotACheckpointError(
        f"{path} is not a checkpoint: it {what}; name a folder that save_pretrained() of a model and of its tokenizer "
        "wrote, with config.json, *.safetensors and tokenizer.json"
    )


class DamagedModelError(NotACheckpointError):
    """A file of weights was cut short or changed."""


def _validate_config(path: Path) -> None:
    if "model_type" not in _read_config(path, "config.json"):
        raise _refuse(path, "has a config.json without model_type")


def _validate_tokenizer(path: Path) -> None:
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise _refuse(path, f"has no tokenizer (none of {', '.join(_TOKENIZER_FILES)})")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (path / name).exists():
            _read_config(path, name)
    has_chat_template(path)


def _read_config(path: Path, name: str) -> dict[str, Any]:
    """What a JSON file of a model's folder says."""
    try:
        config = json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _refuse(path, f"has no {name}") from error
    except (ValueError, RecursionError) as error:
        raise _refuse(path, f"has a {name} that is not JSON ({error})") from error
    except OSError as error:
        raise _refuse(path, f"has a {name} that cannot be read ({error.strerror})") from error
    if not isinstance(config, dict):
        what = "without model_type" if name == "config.json" else f"that holds {type(config).__name__} and no object"
        raise _refuse(path, f"has a {name} {what}")
    return config


def _validate_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise _refuse(path, "has no weights in safetensors")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            # A copy that was broken off has an index that names more files than are there.
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise _refuse(path, f"has a broken {index.name} ({error})") from error
        missing = sorted(shards - {file.name for file in weights})
        if missing:
            raise _refuse(path, f"lacks {len(missing)} of {len(shards)} weight files: {missing[:3]}")
    for file in weights:
        try:
            # Opening reads the header and the file's length, so a file that was cut short is found without reading it
            # whole.
            with safe_open(file, framework="numpy") as content:
                num_tensors = len(content.keys())
        except (SafetensorError, OSError) as error:
            raise DamagedModelError(
                f"{path} is not a checkpoint: it has broken weights in {file.name}, of {file.lstat().st_size} bytes "
                f"({error}); the file was cut short or changed: bring it here again from where it came (hf download, "
                "lance model, a copy), or name another folder that save_pretrained() wrote"
            ) from error
        if not num_tensors:
            raise _refuse(path, f"has no weights in {file.name}")


def has_chat_template(path: Path) -> bool:
    """Whether a model folder has a chat template.

    Raises:
        NotACheckpointError: a file that would hold it cannot be read.
    """
    template = path / "chat_template.jinja"
    if template.is_file():
        try:
            if template.read_text(encoding="utf-8").strip():
                return True
        except (UnicodeDecodeError, OSError) as error:
            raise _refuse(path, f"has a chat_template.jinja that cannot be read as UTF-8 ({error})") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (path / name).is_file() and _read_config(path, name).get("chat_template"):
            return True
    return False


def require_chat_template(path: Path) -> None:
    """Check that a model folder has a chat template.

    Raises:
        NoChatTemplateError: it has none.
    """
    if has_chat_template(path):
        return
    raise NoChatTemplateError(
        f"{path} has no chat template, so it cannot be asked as a chat: use its instruction-tuned variant, "
        "or put a chat_template.jinja into the folder"
    )


class MissingCheckpointError(FileNotFoundError):
    """A checkpoint was looked for that no run has published."""


class RemovedCheckpointError(MissingCheckpointError):
    """A checkpoint was looked for that the experiment's retention has removed."""


@dataclass(frozen=True)
class Removal:
    """A checkpoint that was removed."""

    rule: str
    """The rule by which it was, in words."""
    num_bytes: int
    """Of its folder."""
    parent: str | None
    """The round whose checkpoint it was trained from; None for the base model."""


_STATES = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "training_args.bin")
"""What trainers leave in a checkpoint to go on from, as glob patterns."""


class Elsewhere(Protocol):
    """Another place that has checkpoints."""

    def has(self, owner: str, round_key: str) -> bool:
        """Whether it has one."""
        ...

    def bring(self, owner: str, round_key: str) -> bool:
        """Bring one into its folder; whether it had it."""
        ...


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints under one folder."""

    root: Path
    """The platform's data folder; checkpoints lie in `checkpoints/` there."""
    elsewhere: Elsewhere | None = None
    """Another place that checkpoints are brought from when they are asked for; None: there is none."""

    def folder(self, experiment: str, round_key: str) -> Path:
        """Where a round's checkpoint lies, whether or not it is there.

        Raises:
            ValueError: a name that is not one.
        """
        validate_name(experiment, what="experiment")
        return self.root / "checkpoints" / experiment / validate_round_key(round_key)

    def find(self, experiment: str, round_key: str, *, made_by: str | None = None) -> Path:
        """The folder of a round's published checkpoint, whole.

        Args:
            experiment: whose.
            round_key: of which round.
            made_by: the asset that makes it, such as `mini/label_checkpoint`; None for the experiment's checkpoint.

        Raises:
            MissingCheckpointError: none was published.
            RemovedCheckpointError: it was removed; the message says how to make it again.
            NotACheckpointError: what was published is damaged.
        """
        folder, asset = self.folder(experiment, round_key), made_by or f"{experiment}/checkpoint"
        _restore_replaced(folder)
        if not folder.is_dir() and self.elsewhere is not None:
            self.elsewhere.bring(experiment, round_key)
        if not folder.is_dir():
            self._refuse_removed(experiment, round_key, asset)
            raise MissingCheckpointError(
                f"experiment {experiment!r} has no checkpoint of round {round_key}: "
                f"materialize {asset} for {round_key} first ({folder} is not there)"
            )
        try:
            return validate_model_folder(folder)
        except NotACheckpointError as error:
            what = str(error).partition(" is not a checkpoint: ")[2].partition(";")[0]
            raise type(error)(
                f"the checkpoint of {round_key} in {folder} is damaged: {what}; materialize {asset} for {round_key} "
                f"again, which trains it anew from the same rows (lance run {asset.partition('/')[0]} --redo-from "
                f"{round_key} makes the whole round again), or bring the folder back from a copy"
            ) from error

    def locate(self, experiment: str, round_key: str, *, made_by: str | None = None) -> Path:
        """As `find`, and the folder of one that is elsewhere, which is not brought for it."""
        if self.is_elsewhere(experiment, round_key):
            return self.folder(experiment, round_key)
        return self.find(experiment, round_key, made_by=made_by)

    def is_elsewhere(self, experiment: str, round_key: str) -> bool:
        """Whether a round's checkpoint is not here, and is brought when it is asked for."""
        if self.folder(experiment, round_key).is_dir():
            return False
        return self.elsewhere is not None and self.elsewhere.has(experiment, round_key)

    def _refuse_removed(self, experiment: str, round_key: str, asset: str) -> None:
        """Say of a checkpoint that was removed how to make it again, with those before it that were removed too."""
        if (removal := self.read_removal(experiment, round_key)) is None:
            return
        keys, parent = [round_key], removal.parent
        while parent is not None and (before := self.read_removal(experiment, parent)) is not None:
            keys.insert(0, parent)
            parent = before.parent
        raise RemovedCheckpointError(
            f"the checkpoint of {round_key} of {experiment!r} was removed by its retention ({removal.rule}): "
            f"materialize {asset} for {', then '.join(keys)} again, which trains from the same rows and gives the same "
            f"weights; to keep it, name {round_key} in retention.checkpoints.rounds first"
        )

    def remove(self, experiment: str, round_key: str, removal: Removal) -> None:
        """Remove a round's checkpoint, and keep that and why it was removed.

        A power cut leaves the whole folder, or none of its name: the next call finishes what is left.
        """
        folder = self.folder(experiment, round_key)
        write_file_atomically(self._removal_path(experiment, round_key), json.dumps(asdict(removal)).encode())
        going = folder.with_name(f"{folder.name}.removed")
        if going.exists():
            shutil.rmtree(going)
        if folder.exists():
            folder.rename(going)
            flush_to_disk(folder.parent)
            shutil.rmtree(going)

    def read_removal(self, experiment: str, round_key: str) -> Removal | None:
        """Why a round has no checkpoint any more; None where it has one, or never had."""
        path = self._removal_path(experiment, round_key)
        if self.folder(experiment, round_key).is_dir() or not path.is_file():
            return None
        return Removal(**read_json_file(path, remedy=f"materialize {experiment}/checkpoint for {round_key} again"))

    def _removal_path(self, experiment: str, round_key: str) -> Path:
        self.folder(experiment, round_key)
        return self.root / "removed" / experiment / f"{round_key}.json"

    def remove_states(self, experiment: str, round_key: str) -> int:
        """Remove from a checkpoint what a trainer could go on from, and is no part of the model; bytes that it took."""
        folder = self.folder(experiment, round_key)
        model, num_bytes = set(list_hashed_files(folder)), 0
        for path in sorted({path for pattern in _STATES for path in folder.glob(pattern)} - model):
            num_bytes += measure_size(path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return num_bytes

    def hash_checkpoint(self, path: Path) -> str:
        """SHA-256 of what makes the model in a folder, see `hash_checkpoint`."""
        return hash_checkpoint(path)

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
            NotFiniteError: a weight of it is NaN or infinite; the checkpoint before stays.
            ValueError: `staging` lies on another disk; the checkpoint before stays.
            DiskFullError: the disk is full; the checkpoint before stays.
        """
        validate_model_folder(staging)
        require_finite_weights(staging, remedy=DIVERGED_REMEDY)
        folder = self.folder(experiment, round_key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if staging.stat().st_dev != folder.parent.stat().st_dev:
            raise ValueError(f"{staging} is on another disk than {folder.parent}: build it in staging_folder()")
        flush_folder(staging)
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
        # A checkpoint that was removed is there again.
        self._removal_path(experiment, round_key).unlink(missing_ok=True)
        return folder


def measure_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)


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
        DiskFullError: the disk is full.
    """
    validate_model_folder(source)
    with explain_full_disk(staging):
        staging.mkdir(parents=True, exist_ok=True)
        for file in list_hashed_files(source):
            shutil.copyfile(file, staging / file.name)
        if (source / ADAPTER_FOLDER).is_dir():
            shutil.copytree(source / ADAPTER_FOLDER, staging / ADAPTER_FOLDER)
