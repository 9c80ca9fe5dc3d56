"""Copies an experiment from one place to another: a folder of data or a store, each either way.

What is sent or fetched is what the other place has not. A copy that was killed is finished by the same call: into a
store, the objects that it sent are found, and its new state was never to be seen; in a folder, what arrived is kept.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from resources.machine.claims import Claims
from resources.remote.folder import NO_BASE, Base, DataFolder
from resources.remote.manifest import (
    DECISIONS,
    DamagedObjectError,
    Entry,
    Files,
    Manifest,
    describe_conflicts,
    is_removed,
    merge,
)
from resources.remote.store import Store, name_state
from resources.stores.files import copy_whole, hash_whole

NUM_TRANSFERS = 8
"""Files that are sent or fetched at once."""
MAX_RACES = 5
"""So often a state is published anew where another writer was first."""
MIB = 2**20
Place = DataFolder | Store
Say = Callable[[str], None]
"""Takes a line that a person reads."""


class OtherExperimentError(ValueError):
    """Both places have an experiment of one name, and not the same one."""


@dataclass(frozen=True)
class Copied:
    """What a copy came to."""

    num_files: int
    """Files of the experiment in its new place."""
    num_sent: int
    """Different ones among them that were sent or fetched now."""
    num_bytes: int
    """Their bytes."""
    num_decisions: int
    """Decisions that were added."""
    is_changed: bool
    """Whether the new place had not all of it."""
    aside: Path | None = None
    """Where what was replaced lies now; None where nothing was, or where the place is a store."""


@dataclass(frozen=True)
class _State:
    """What a place has of an experiment."""

    files: Files
    decisions: Mapping[str, str]
    manifest: Manifest | None = None
    mark: str = ""


@dataclass(frozen=True)
class Copying:
    """A copy of one experiment."""

    experiment: str
    """Its name."""
    source: Place
    """Where it is taken from."""
    target: Place
    """Where it is put."""
    replaces: bool = False
    """Whether what the target has of that name is replaced, whatever it is."""
    without: frozenset[str] = frozenset()
    """Folders whose files are not looked at."""
    with_weights: bool = True
    """Whether a folder is given the checkpoints that it has not; those that it has are kept up to date in any case."""
    is_thorough: bool = False
    """Whether everything in a store is looked for, and what was sent is read back."""
    say: Say = field(default=lambda _: None)
    """Takes lines of progress."""

    def run(self) -> Copied:
        """Copy it.

        Raises:
            OtherExperimentError: the target has another experiment of that name, or one that went on by itself.
            ValueError: the source has none of that name.
            CorruptTableError: a table of the source is not what was written.
            StoreError: a store cannot be used, or an object in it is damaged.
            DiskFullError: the disk is full; the same call goes on once there is room.
        """
        source = self._read(self.source)
        if source is None or not any(path.startswith("tables/") for path in source.files):
            raise ValueError(f"{self.source} has no round of {self.experiment!r}; {self._list_known()}")
        if isinstance(self.target, Store):
            return self._send(source, self.target)
        return self._fetch(source, self.target)

    def _list_known(self) -> str:
        if isinstance(self.source, Store):
            return "an experiment is put there by: lance move EXPERIMENT --to the store"
        tables = self.source.root / "tables"
        known = sorted(path.name for path in tables.iterdir() if path.is_dir()) if tables.is_dir() else []
        return f"it has rounds of: {', '.join(known) or 'none'}"

    def _read(self, place: Place) -> _State | None:
        if isinstance(place, DataFolder):
            files = place.describe(self.experiment, without=self.without)
            return _State(files, place.read_decisions(self.experiment))
        manifest = place.read_newest(self.experiment)
        if manifest is None:
            return None
        return _State(manifest.files, self._read_decisions(place, manifest), manifest, read_mark(manifest))

    def _read_decisions(self, store: Store, manifest: Manifest) -> dict[str, str]:
        entry = manifest.files.get(self._decisions_path)
        if entry is None:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            store.fetch_object(entry, Path(folder) / "decisions")
            lines = (Path(folder) / "decisions").read_text(encoding="ascii").split("\n")
        return dict(json.loads(line) for line in lines if line)

    @property
    def _decisions_path(self) -> str:
        return f"{DECISIONS}/{self.experiment}/decisions.jsonl"

    def _read_base(self) -> Base:
        """What both had when they were last the same, where the other one is still that place."""
        ours, other = (self.source, self.target) if isinstance(self.source, DataFolder) else (self.target, self.source)
        if not isinstance(ours, DataFolder):
            return NO_BASE
        base = ours.read_base(self.experiment, str(other))
        if isinstance(other, Store) and base is not NO_BASE:
            number, _, sha256 = base.mark.partition(" ")
            content = other.read(name_state(self.experiment, int(number))) if number.isdecimal() else None
            if content is None or hashlib.sha256(content).hexdigest() != sha256:
                return NO_BASE
        return base

    def _complete(self, source: _State, base: Base) -> Files:
        """The files of the source, and those that its folder never fetched, or lost."""
        if isinstance(self.source, Store):
            return source.files
        gone = {path: entry for path, entry in base.files.items() if path not in source.files}
        removed = {path for path in gone if path in base.held and is_removed(path, source.files)}
        return {**{path: entry for path, entry in gone.items() if path not in removed}, **source.files}

    def _merge(self, target: Files, source: Files, base: Base) -> Files:
        if self.replaces:
            return source
        merged = merge(target, source, base.files)
        if merged.conflicts:
            places = f"--from {_name(self.source)} --to {_name(self.target)}"
            raise OtherExperimentError(
                f"{self.target} has other tables of {self.experiment!r} than {self.source}: "
                f"{describe_conflicts(merged.conflicts)}. It is another experiment, or both went on by themselves; "
                f"rename one of them (lance doctor --rename), or let the one of {self.source} take its place: "
                f"lance move {self.experiment} {places} --replace, which keeps what is there "
                + ("as an older state" if isinstance(self.target, Store) else f"in {self.target.root / 'replaced'}")
            )
        return merged.files

    # Into a store.

    def _send(self, source: _State, store: Store) -> Copied:
        base, sent = self._read_base(), dict[Entry, str]()
        checked: set[Entry] = set()
        for _ in range(MAX_RACES):
            target = self._read(store) or _State({}, {})
            # A store that was emptied has nothing to be compared with.
            base = base if target.manifest is not None else NO_BASE
            wanted = self._complete(source, base)
            skipped = {path: entry for path, entry in target.files.items() if path.partition("/")[0] in self.without}
            files = dict(self._merge(target.files, {**skipped, **wanted}, base))
            decisions = {**({} if self.replaces else target.decisions), **source.decisions}
            num_decisions = len(decisions) - (0 if self.replaces else len(target.decisions))
            with tempfile.TemporaryDirectory() as folder:
                places = dict.fromkeys(target.files.values(), "")
                if decisions and (num_decisions or self._decisions_path not in target.files):
                    file = Path(folder) / "decisions"
                    file.write_text("".join(json.dumps(pair) + "\n" for pair in decisions.items()), encoding="ascii")
                    files[self._decisions_path] = Entry(hash_whole(file), file.stat().st_size)
                missing = {entry: path for path, entry in sorted(files.items()) if entry not in places}
                if self.is_thorough:
                    there = {entry: path for path, entry in sorted(source.files.items()) if entry in places}
                    missing |= self._find_lost(store, {e: p for e, p in there.items() if e not in checked})
                    checked |= there.keys()
                missing = {entry: path for entry, path in missing.items() if entry not in sent}
                self._tell(missing)
                self._send_all(store, missing, Path(folder))
                sent |= missing
            manifest = Manifest(self.experiment, target.manifest.number + 1 if target.manifest else 1, files)
            is_same = target.manifest is not None and files == target.manifest.files
            if is_same or store.publish(manifest):
                newest = target.manifest if is_same and target.manifest else manifest
                # What others published stays unknown to this folder until it is fetched, and is no change of its own.
                missed = [path for path, entry in files.items() if wanted.get(path) != entry]
                is_whole = all(path.partition("/")[0] in {*self.without, DECISIONS} for path in missed)
                self._keep_base(wanted, base, read_mark(newest), is_whole=is_whole)
                num_bytes = sum(entry.size for entry in sent)
                return Copied(len(files), len(sent), num_bytes, num_decisions, bool(sent) or not is_same)
        raise OtherExperimentError(
            f"{store}: other machines publish {self.experiment!r} all the time; let one of them work on it"
        )

    def _find_lost(self, store: Store, entries: Mapping[Entry, str]) -> dict[Entry, str]:
        """Those whose objects a store should have and has not."""
        with ThreadPoolExecutor(NUM_TRANSFERS) as pool:
            there = pool.map(store.has_object, entries)
            return {entry: path for (entry, path), is_there in zip(entries.items(), there, strict=True) if not is_there}

    def _send_all(self, store: Store, missing: Mapping[Entry, str], folder: Path) -> None:
        def send(item: tuple[Entry, str]) -> None:
            entry, path = item
            with self._open(path, entry, folder) as file:
                store.put_object(file, entry)
            if self.is_thorough:
                back = folder / f"{entry.sha256}.back"
                store.fetch_object(entry, back)
                back.unlink()

        with ThreadPoolExecutor(NUM_TRANSFERS) as pool:
            for _ in pool.map(send, missing.items()):
                pass

    @contextlib.contextmanager
    def _open(self, path: str, entry: Entry, folder: Path) -> Iterator[Path]:
        """A file of the source on this machine."""
        if path == self._decisions_path:
            yield folder / "decisions"
        elif isinstance(self.source, DataFolder):
            yield self.source.find(path)
        else:
            file = folder / entry.sha256
            self.source.fetch_object(entry, file)
            yield file
            file.unlink()

    # Into a folder.

    def _fetch(self, source: _State, folder: DataFolder) -> Copied:
        here = folder.describe(self.experiment, without=self.without)
        base, aside = self._read_base(), None
        wanted = dict(self._complete(source, base))
        wanted.pop(self._decisions_path, None)
        wanted = {path: entry for path, entry in wanted.items() if path.partition("/")[0] not in self.without}
        # Here nothing was removed where all is gone.
        base = base if folder.has_rounds(self.experiment) else NO_BASE
        files = dict(self._merge(here, wanted, base))
        if not self.with_weights:
            held = {path.rpartition("/")[0] for path in here if path.startswith("checkpoints/")}
            files = {
                path: entry
                for path, entry in files.items()
                if not path.startswith("checkpoints/") or "/".join(path.split("/")[:3]) in held
            }
        new = {entry: path for path, entry in sorted(files.items()) if here.get(path) != entry}
        missing = {entry: path for entry, path in new.items() if not folder.check_arrived(self.experiment, entry)}
        self._tell(missing)

        def bring(item: tuple[Entry, str]) -> None:
            entry, path = item
            self._bring(path, entry, folder.find_arriving(self.experiment, entry))

        with ThreadPoolExecutor(NUM_TRANSFERS) as pool:
            for _ in pool.map(bring, missing.items()):
                pass
        num_decisions = 0
        if self.replaces and here and here != files:
            aside = folder.set_aside(self.experiment)
            here = {}
            # What stays the same was moved away with the rest.
            for path, entry in files.items():
                if aside is not None and not folder.find_arriving(self.experiment, entry).is_file():
                    copy_whole(aside / path, folder.find_arriving(self.experiment, entry))
        num_decisions = folder.add_decisions(self.experiment, source.decisions)
        folder.place(self.experiment, files, here)
        # What was changed here alone is still to be published, so what both had is what the source has.
        self._keep_base(wanted, base, source.mark, is_whole=True)
        num_bytes, is_changed = sum(entry.size for entry in missing), files != here or bool(num_decisions)
        return Copied(len(files), len(new), num_bytes, num_decisions, is_changed, aside)

    def _bring(self, path: str, entry: Entry, to: Path) -> None:
        """Let a file of the source arrive, whole and with its hash."""
        if isinstance(self.source, Store):
            self.source.fetch_object(entry, to)
            return
        copy_whole(self.source.find(path), to)
        if hash_whole(to) != entry.sha256:
            to.unlink()
            raise DamagedObjectError(f"{self.source.find(path)} was changed while it was copied; run the command again")

    def _tell(self, missing: Mapping[Entry, str]) -> None:
        if missing:
            size = sum(entry.size for entry in missing) / MIB
            self.say(f"{self.experiment}: {len(missing)} files ({size:.1f} MiB) to copy")

    def _keep_base(self, files: Files, before: Base, mark: str, *, is_whole: bool) -> None:
        """Keep in each folder what both places have now, and of folders that were left out what they had before."""
        left_out = {path: entry for path, entry in before.files.items() if path.partition("/")[0] in self.without}
        for one, other in ((self.source, self.target), (self.target, self.source)):
            if isinstance(one, DataFolder):
                both = {**left_out, **files}
                held = frozenset(path for path in both if one.find(path).is_file())
                mark = mark if isinstance(other, Store) else ""
                one.keep_base(self.experiment, str(other), Base(both, held, mark, is_whole))


def _name(place: Place) -> str:
    """A place as `lance move` is told of it."""
    return str(place) if isinstance(place, Store) else str(place.root.parent)


def read_mark(manifest: Manifest) -> str:
    """What a state of a store is known by: its number and its hash."""
    return f"{manifest.number} {hashlib.sha256(manifest.encode()).hexdigest()}"


@contextlib.contextmanager
def claim_experiment(place: Place, experiment: str, *, what: str) -> Iterator[None]:
    """Keep runs off an experiment of a folder while it is copied; nothing is done of a store.

    Raises:
        ClaimedError: a run, a command or another copy works on it.
    """
    if isinstance(place, Store):
        yield
        return
    rounds = [path.name for path in (place.root / "tables" / experiment).glob("r[0-9]*")]
    # A run may begin the round that is next.
    following = f"r{max((int(key[1:]) for key in rounds if key[1:].isdecimal()), default=-1) + 1:04d}"
    scopes = [experiment, *(f"{experiment} {key}" for key in sorted({*rounds, following}))]
    with Claims(place.root / "running").hold(f"move.{experiment}", what=what, scopes=scopes):
        yield


def copy_experiment(copying: Copying) -> Copied:
    """Copy an experiment while no run works on it at either place; see `Copying.run`.

    Raises:
        ClaimedError: a run, a command or another copy works on it.
        ValueError: both places are the same.
    """
    if str(copying.source) == str(copying.target):
        raise ValueError(
            f"{copying.source} is both where {copying.experiment!r} is and where it is to go; name two places"
        )
    what = f"lance move {copying.experiment}, from {copying.source} to {copying.target}"
    with contextlib.ExitStack() as stack:
        for place in (copying.source, copying.target):
            stack.enter_context(claim_experiment(place, copying.experiment, what=what))
        return copying.run()
