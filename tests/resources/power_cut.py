"""A disk whose power can be cut between any two things that a store does to it.

Each creation of a file, fsync, rename, link and removal is a step, and the cut comes before a chosen one. From then on
nothing reaches the disk. What a file was given since its last fsync may then be lost, and so may the renames that no
fsync of their folder followed, the last ones first.
"""

import builtins
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class PowerCut(BaseException):
    """Nothing catches it but a test: no code runs after a power cut."""


class Disk:
    """The files under a folder, until the power is cut."""

    def __init__(self, root: Path, *, cut_before: int) -> None:
        """Watch `root`, and cut the power before step `cut_before`, counted from 1."""
        self.root, self.cut_before = root, cut_before
        self.steps: list[str] = []
        self._unsynced: dict[tuple[int, int], None] = {}
        self._renames: list[tuple[Path, Path, Path | None]] = []
        self._aside = root.with_name(f"{root.name}.aside")
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> "Disk":
        """Begin to watch."""
        self._aside.mkdir()
        real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink", "remove", "rmdir")}
        opened = io.open

        def open_file(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            if any(letter in mode for letter in "wax+") and self._is_ours(file):
                self._step(f"open {file}")
                found = opened(file, mode, *more, **named)
                self._unsynced[_identify(Path(os.fspath(file)))] = None
                return found
            return opened(file, mode, *more, **named)

        def fsync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if self._is_ours(path):
                self._step(f"fsync {path}")
                self._unsynced.pop(_identify(path), None)
                self._renames = [each for each in self._renames if path not in (each[0].parent, each[1].parent)]
            real["fsync"](descriptor)

        def move(name: str) -> Callable[..., None]:
            def moved(source: Any, target: Any, **named: Any) -> None:
                if self._is_ours(source):
                    self._step(f"{name} {source} {target}")
                    before = None
                    if Path(target).is_file():
                        before = self._aside / str(len(self.steps))
                        os.link(target, before)
                    real[name](source, target, **named)
                    self._renames.append((Path(source), Path(target), before))
                else:
                    real[name](source, target, **named)

            return moved

        def removal(name: str) -> Callable[..., None]:
            def removed(path: Any, **named: Any) -> None:
                folder = named.get("dir_fd")
                whole = path if folder is None else Path(os.readlink(f"/proc/self/fd/{folder}")) / path
                if self._is_ours(whole):
                    self._step(f"{name} {whole}")
                real[name](path, **named)

            return removed

        self._patch.setattr(builtins, "open", open_file)
        self._patch.setattr(io, "open", open_file)
        self._patch.setattr(os, "fsync", fsync)
        for name in ("replace", "rename"):
            self._patch.setattr(os, name, move(name))
        for name in ("unlink", "remove", "rmdir"):
            self._patch.setattr(os, name, removal(name))
        return self

    def __exit__(self, *_: object) -> None:
        """The power is back, or was never cut."""
        self._patch.undo()

    def lose(self, num_renames: int) -> None:
        """What the cut may take: half of what was not flushed of each file, and the last so many renames.

        A journal keeps the order of renames, so that a later one is never kept where an earlier one is lost.
        """
        for path in [each for each in self.root.rglob("*") if each.is_file()]:
            if _identify(path) in self._unsynced:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        for source, target, before in reversed(self._renames[len(self._renames) - num_renames :]):
            if target.exists() and not source.exists():
                target.rename(source)
                if before is not None:
                    shutil.copyfile(before, target)

    @property
    def num_renames(self) -> int:
        """Renames that the cut may take."""
        return len(self._renames)

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and str(path).startswith(f"{self.root}{os.sep}")

    def _step(self, what: str) -> None:
        if len(self.steps) + 1 >= self.cut_before:
            raise PowerCut(what)
        self.steps.append(what)


def _identify(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def cut_everywhere(
    tmp_path: Path, *, prepare: Callable[[Path], object], act: Callable[[Path], object], check: Callable[[Path], object]
) -> list[str]:
    """Cut the power before each step of an act, with everything that each cut may take; the steps of the whole act.

    Args:
        tmp_path: an empty folder.
        prepare: makes what is on the disk before, in a folder.
        act: what is cut off.
        check: looks at what is there afterwards.
    """
    prepare(tmp_path / "before")
    (tmp_path / "before").mkdir(exist_ok=True)
    number, steps = 1, list[str]()
    while True:
        num_lost = 0
        while True:
            root = tmp_path / f"cut{number}-{num_lost}"
            shutil.copytree(tmp_path / "before", root)
            disk, is_cut = Disk(root, cut_before=number), False
            with disk:
                try:
                    act(root)
                except PowerCut:
                    is_cut = True
            if not is_cut:
                check(root)
                return disk.steps
            steps = disk.steps
            disk.lose(num_lost)
            try:
                check(root)
            except Exception as error:
                raise AssertionError(f"cut after {steps}, {num_lost} renames lost: {error}") from error
            if num_lost >= disk.num_renames:
                break
            num_lost += 1
        number += 1
