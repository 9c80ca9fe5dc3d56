"""An experiment in a folder of data: which files it has, and how the files of another state take their places.

What arrives lies in `arriving/<experiment>/<sha256>` until all of it is there. So a fetch that was broken off goes on
where it was. Then the files take their places, tables last. An experiment that was not there appears whole, by the
rename of its folder of tables. In one that was, a file takes the place of another, and the record of each table comes
before it: a table that is read in between is refused as not what was recorded, until the same command has ended.

`remote/<experiment>/` keeps what the folder and a store, or another folder, had when they were last the same.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resources.remote.manifest import DECISIONS, DamagedObjectError, Entry, Files, name_owners
from resources.stores.checkpoints import CheckpointStore
from resources.stores.decisions import DecisionStore
from resources.stores.files import (
    EXPERIMENT_FOLDERS,
    explain_full_disk,
    flush_to_disk,
    hash_whole,
    write_file_atomically,
)
from resources.stores.hashes import read_record
from resources.stores.tables import CorruptTableError

LEFT = frozenset({"studies", DECISIONS})
"""The folders whose files stay: studies are data of their own, and decisions are brought together record by record."""
_UNFINISHED = (".staging", ".replaced", ".removed")
"""Ends of a checkpoint's folder that is being built or taken away."""


@dataclass(frozen=True)
class Base:
    """What a folder and another place had when they were last the same."""

    files: Files
    """By path; empty where that is not known."""
    held: frozenset[str]
    """Those that this folder had: weights that it never fetched are not gone."""
    mark: str
    """What the other place had then, in short: where it has it no more, nothing is known."""
    is_whole: bool = False
    """Whether this folder had all that the other place had, but for weights that it never fetched."""


NO_BASE = Base({}, frozenset(), "")


@dataclass(frozen=True)
class DataFolder:
    """The experiments in a folder of data."""

    root: Path
    """The platform's data folder."""

    def __str__(self) -> str:
        """Its path."""
        return str(self.root)

    def find(self, path: str) -> Path:
        """Where a file lies, whether or not it is there."""
        return self.root / path

    def list_paths(self, experiment: str) -> Iterator[str]:
        """Every file of an experiment, by its path under the folder; none that is being written."""
        own, label = name_owners(experiment)
        for folder in (each for each in EXPERIMENT_FOLDERS if each not in LEFT):
            yield from self._list_below(self.root / folder / own)
        # Another experiment may have that name.
        if not (self.root / "tables" / label).is_dir():
            yield from self._list_below(self.root / "checkpoints" / label)

    def _list_below(self, folder: Path) -> Iterator[str]:
        for file in sorted(folder.rglob("*")):
            path = file.relative_to(self.root)
            is_partial = file.name.startswith(".") and file.name.endswith(".tmp")
            is_unfinished = path.parts[0] == "checkpoints" and path.parts[2].endswith(_UNFINISHED)
            if not is_partial and not is_unfinished and file.is_file():
                yield path.as_posix()

    def describe(self, experiment: str, *, without: Iterable[str] = ()) -> dict[str, Entry]:
        """Every file of an experiment with its hash; one that is the same as before is not read again.

        Args:
            experiment: whose.
            without: folders that are left out.

        Raises:
            CorruptTableError: a table is not what was written.
        """
        known, seen, found = self._read_states(experiment), dict[str, list[int | str]](), dict[str, Entry]()
        for path in self.list_paths(experiment):
            if path.partition("/")[0] in without:
                continue
            # A step may remove what it has no use for any more.
            with suppress(FileNotFoundError):
                state = self.find(path).stat()
                stamp: list[int | str] = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
                before = known.get(path, [])
                sha256 = str(before[-1]) if before[:-1] == stamp else hash_whole(self.find(path))
                seen[path], found[path] = [*stamp, sha256], Entry(sha256, state.st_size)
        self._check_tables(found)
        write_file_atomically(self._place(experiment) / "states.json", json.dumps(seen).encode())
        return found

    def _check_tables(self, files: Files) -> None:
        """Compare each table with the record of its hash, so that no damaged one is handed on."""
        for path, entry in files.items():
            folder, _, rest = path.partition("/")
            if folder != "tables":
                continue
            record = read_record(self.root / "hashes" / Path(rest).with_suffix(".json"))
            if record is None or entry.sha256 in (record.content_hash, record.replaced):
                continue
            # It may have been written since.
            if hash_whole(self.find(path)) == entry.sha256:
                raise CorruptTableError(
                    f"{self.find(path)} is not what was written: its hash is {entry.sha256[:12]}, and "
                    f"{record.content_hash[:12]} was recorded; it is not copied. lance doctor says how it is mended"
                )

    def _read_states(self, experiment: str) -> dict[str, list[int | str]]:
        try:
            found: dict[str, list[int | str]] = json.loads((self._place(experiment) / "states.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def _place(self, experiment: str) -> Path:
        return self.root / "remote" / name_owners(experiment)[0]

    def read_base(self, experiment: str, other: str) -> Base:
        """What this folder and another place had when they were last the same; nothing where that is not known."""
        try:
            found = json.loads(self._base_file(experiment, other).read_bytes())
            files = {path: Entry(*entry) for path, entry in found["files"].items()}
            return Base(files, frozenset(found["held"]), found["mark"], found["is_whole"])
        except (OSError, ValueError, KeyError, TypeError):
            return NO_BASE

    def keep_base(self, experiment: str, other: str, base: Base) -> None:
        """Keep what both have now."""
        content = {"other": other, "mark": base.mark, "is_whole": base.is_whole}
        content |= {"held": sorted(base.held), "files": dict(base.files)}
        write_file_atomically(self._base_file(experiment, other), json.dumps(content).encode())

    def _base_file(self, experiment: str, other: str) -> Path:
        return self._place(experiment) / f"{hashlib.sha256(other.encode()).hexdigest()[:16]}.json"

    def read_decisions(self, experiment: str) -> dict[str, str]:
        """People's decisions, by what identifies each, in the order in which they were made."""
        return DecisionStore(self.root, experiment).read_records()

    def add_decisions(self, experiment: str, records: Mapping[str, str]) -> int:
        """Add decisions that are not here yet; how many were not."""
        return DecisionStore(self.root, experiment).add(records)

    def has_rounds(self, experiment: str) -> bool:
        """Whether a table of the experiment is here."""
        return any((self.root / "tables" / name_owners(experiment)[0]).glob("r*/*.parquet"))

    def find_arriving(self, experiment: str, entry: Entry) -> Path:
        """Where a file lies until all have arrived."""
        return self.root / "arriving" / name_owners(experiment)[0] / entry.sha256

    def check_arrived(self, experiment: str, entry: Entry) -> bool:
        """Whether a file has arrived whole; one that has not is removed."""
        file = self.find_arriving(experiment, entry)
        if not file.is_file():
            return False
        if file.stat().st_size == entry.size and hash_whole(file) == entry.sha256:
            return True
        file.unlink()
        return False

    def place(self, experiment: str, wanted: Files, here: Files) -> None:
        """Put all that has arrived into its place, and take away what the new state has no more.

        Args:
            experiment: whose files.
            wanted: every file of the new state; those of weights may be left out where they stay as they are.
            here: every file that is here now.

        Raises:
            DiskFullError: the disk is full; the same call goes on.
            NotACheckpointError: the weights that arrived are no model.
        """
        new = {path: entry for path, entry in wanted.items() if here.get(path) != entry}
        is_first = not self.has_rounds(experiment)
        rank = {folder: number for number, folder in enumerate(EXPERIMENT_FOLDERS)}
        for path in sorted({*here} - {*wanted}):
            self.find(path).unlink(missing_ok=True)
        emptied = {parent for path in {*here} - {*wanted} for parent in Path(path).parents if len(parent.parts) > 2}
        for folder in sorted(emptied, reverse=True):
            with suppress(OSError):  # it holds something still
                (self.root / folder).rmdir()
        for owner, key in sorted({_name_checkpoint(path) for path in new if path.startswith("checkpoints/")}):
            self._place_checkpoint(experiment, owner, key, wanted)
        others = [path for path in new if not path.startswith("checkpoints/")]
        # A folder that a kill left half-built is built again from what has arrived.
        hidden = self.find_arriving(experiment, Entry("tables", 0))
        shutil.rmtree(hidden, ignore_errors=True)
        for path in sorted(others, key=lambda path: (rank[path.partition("/")[0]], path)):
            is_hidden = is_first and path.startswith("tables/")
            to = hidden / path.split("/", 2)[2] if is_hidden else self.find(path)
            self._link(self.find_arriving(experiment, wanted[path]), to)
        if hidden.is_dir():
            tables = self.root / "tables" / experiment
            tables.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):
                tables.rmdir()
            hidden.rename(tables)
            flush_to_disk(tables.parent)
        shutil.rmtree(self.find_arriving(experiment, Entry("", 0)), ignore_errors=True)

    def _place_checkpoint(self, experiment: str, owner: str, key: str, wanted: Files) -> None:
        """Build a checkpoint's folder beside its place, from what has arrived and what is here, and publish it."""
        store, folder = CheckpointStore(self.root), f"checkpoints/{owner}/{key}/"
        staging = store.staging_folder(owner, key)
        for path, entry in wanted.items():
            if path.startswith(folder):
                arrived, there = self.find_arriving(experiment, entry), self.find(path)
                self._link(arrived if arrived.is_file() else there, staging / path.removeprefix(folder))
        store.publish(staging, owner, key)

    def _link(self, file: Path, to: Path) -> None:
        """Let a file have another name too, in place of what has it; a copy where the disk has no links."""
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}.{os.getpid()}.tmp")
        partial.unlink(missing_ok=True)
        with explain_full_disk(to):
            try:
                # Databases of stages are written in place, so that no two of them may be one file.
                if to.is_relative_to(self.root / "stages"):
                    shutil.copyfile(file, partial)
                else:
                    os.link(file, partial)
            except FileNotFoundError:
                raise DamagedObjectError(f"{file} is gone, which has arrived; run the command again") from None
            except OSError:
                shutil.copyfile(file, partial)
            if partial.stat().st_nlink == 1:
                flush_to_disk(partial)
            partial.replace(to)

    def set_aside(self, experiment: str) -> Path | None:
        """Move all data of an experiment out of the way, tables first; where to, None where there was none."""
        own, label = name_owners(experiment)
        owners = [own] if (self.root / "tables" / label).is_dir() else [own, label]
        there = [
            (folder, owner)
            for folder in reversed(EXPERIMENT_FOLDERS)
            for owner in (owners if folder == "checkpoints" else [own])
            if folder != "studies" and (self.root / folder / owner).exists()
        ]
        if not there:
            return None
        number = next(
            number for number in range(1, 10_000) if not (self.root / "replaced" / f"{own}-{number}").exists()
        )
        aside = self.root / "replaced" / f"{own}-{number}"
        for folder, owner in there:
            (aside / folder).mkdir(parents=True, exist_ok=True)
            (self.root / folder / owner).rename(aside / folder / owner)
        return aside


def _name_checkpoint(path: str) -> tuple[str, str]:
    """Whose checkpoint a file is of, and of which round."""
    _, owner, key, *_ = path.split("/")
    return owner, key
