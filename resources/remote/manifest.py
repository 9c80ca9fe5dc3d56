"""A manifest: every file of an experiment with its hash, and how two states of one experiment are brought together.

A state is known by its files alone. Which of two states is the newer one is told by a third: the one that both had when
they were last the same. Where there is none, a table may be added and none may be another one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from resources.stores.files import EXPERIMENT_FOLDERS, validate_name

FORMAT = 1
"""The version of what a manifest holds."""
DECISIONS = "decisions"
"""The folder of people's decisions: records are added and never changed, so two states of them are one."""
PASSING = frozenset({"stages", "waiting", "origins", "checkpoints", "removed"})
"""The folders out of which a file may go for good. What goes out of any other was lost, and stays where it is known."""


class ManifestError(ValueError):
    """A manifest cannot be read."""


class StoreError(OSError):
    """A store cannot be used; the message names it and says what to do."""


class DamagedObjectError(StoreError):
    """An object is not what its name says."""


class Entry(NamedTuple):
    """What a file is."""

    sha256: str
    """Of its bytes, 64 hex digits."""
    size: int
    """Its bytes."""


Files = Mapping[str, Entry]
"""Files of an experiment, by their path under the folder of data."""


@dataclass(frozen=True)
class Manifest:
    """One state of an experiment."""

    experiment: str
    """Its name."""
    number: int
    """How many states were there before it, and one."""
    files: Files
    """Every file, by its path under the folder of data, with `/` between the names."""

    def encode(self) -> bytes:
        """As JSON; the same files give the same bytes."""
        files = {path: list(entry) for path, entry in sorted(self.files.items())}
        content = {"format": FORMAT, "experiment": self.experiment, "number": self.number, "files": files}
        return (json.dumps(content, indent=0) + "\n").encode()


def decode_manifest(content: bytes, *, experiment: str, place: str) -> Manifest:
    """The manifest that some bytes are.

    Args:
        content: the bytes.
        experiment: whose it has to be.
        place: where they are from, for the error.

    Raises:
        ManifestError: they are none, of another version or experiment, or name a file outside of the experiment's
            folders.
    """
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise ManifestError(
                f"{place} has format {found['format']!r}, and this version of the project reads {FORMAT}; update the "
                "project on this machine"
            )
        files = {str(path): Entry(str(entry[0]), int(entry[1])) for path, entry in found["files"].items()}
        manifest = Manifest(str(found["experiment"]), int(found["number"]), files)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(
            f"{place} is half-written or damaged ({type(error).__name__}: {error}); remove it, and the state before it "
            "is the newest"
        ) from error
    if manifest.experiment != experiment:
        raise ManifestError(f"{place} is of the experiment {manifest.experiment!r}, not of {experiment!r}")
    for path in files:
        check_path(path, experiment=experiment, place=place)
    return manifest


def check_path(path: str, *, experiment: str, place: str) -> None:
    """Check that a path lies in one of the experiment's folders: what comes from elsewhere is written nowhere else.

    Raises:
        ManifestError: it does not.
    """
    names = path.split("/")
    is_inside = len(names) > 2 and names[0] in EXPERIMENT_FOLDERS and names[1] in name_owners(experiment)
    if not is_inside or any(name in ("", ".", "..") or "\\" in name or "\0" in name for name in names):
        raise ManifestError(
            f"{place} names the file {path!r}, which is in no folder of {experiment!r}; nothing is read"
        )


def name_owners(experiment: str) -> tuple[str, str]:
    """The names under which an experiment keeps data: its own, and that of its label model."""
    return validate_name(experiment, what="experiment"), f"{experiment}_label"


@dataclass(frozen=True)
class Merged:
    """Two states of an experiment, brought together."""

    files: Files
    """What both give."""
    conflicts: list[str] = field(default_factory=list)
    """The tables of which both have another one, by path."""


def merge(target: Files, source: Files, base: Files) -> Merged:
    """What `target` becomes by taking over what `source` has changed.

    Args:
        target: the state that is written.
        source: the state that is taken over.
        base: the state that both had; empty where that is not known.
    """
    files, conflicts = dict(target), []
    for path in sorted({*target, *source}):
        ours, theirs, before = target.get(path), source.get(path), base.get(path)
        folder = path.partition("/")[0]
        if ours == theirs or folder == DECISIONS:
            continue
        if theirs is None:
            if before is not None and ours == before and folder in PASSING:
                del files[path]
        elif ours is None or ours == before:
            files[path] = theirs
        elif theirs != before:
            # Both have changed it, or nothing is known of before.
            if folder == "tables":
                conflicts.append(path)
            elif before is not None:
                files[path] = theirs
    return Merged(files, conflicts)


def is_removed(path: str, files: Files) -> bool:
    """Whether a file that a folder had was removed for good, and is not merely gone from there.

    Args:
        path: the file.
        files: those that the folder has.
    """
    folder, owner, key = path.split("/")[:3]
    if folder != "checkpoints":
        return folder in PASSING
    # A person may remove a whole folder of weights that the store has, to make room.
    prefix = f"checkpoints/{owner}/{key}/"
    return f"removed/{owner}/{key}.json" in files or any(each.startswith(prefix) for each in files)


def describe_conflicts(paths: list[str]) -> str:
    """Which tables differ, for a message: the first three, and how many more."""
    names = [path.removeprefix("tables/").removesuffix(".parquet") for path in paths]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
