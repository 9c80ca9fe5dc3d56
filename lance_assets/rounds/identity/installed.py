"""What is on this machine: the versions of libraries, and models by the hash of their content."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from resources.models.finding import find_model_here
from resources.stores.checkpoints import hash_checkpoint, list_hashed_files
from resources.stores.embeddings import Embedder
from resources.stores.remembered import remember

NOT_INSTALLED = "not installed"
_ASK = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
SETTLED_SECONDS = 2.0
"""A file that was changed later than this is hashed each time: a second change could leave its time and size alike."""
NOT_HERE = "not on this machine when its identity was taken, so by name and revision"

TRANSFORMERS = ("torch", "transformers")
CONSTRAINT = "llguidance"
"""The libraries of whatever runs a model in this process."""


@cache
def read_versions(names: tuple[str, ...]) -> dict[str, str]:
    """The versions of libraries in this environment."""
    return {name: _read_version(name) for name in names}


@cache
def _read_version(name: str) -> str:
    """The version of one library; to find it, Python parses all that the library says of itself."""
    return version(name)


@cache
def find_version(library: str, python: str) -> str:
    """The version of a library in the environment of an interpreter, or `NOT_INSTALLED`.

    Args:
        library: its name on PyPI.
        python: the interpreter's path or name; `python` is the one that runs this.
    """
    if python in ("python", sys.executable):
        try:
            return version(library)
        except PackageNotFoundError:
            return NOT_INSTALLED
    found = shutil.which(python)
    if found is None:
        return NOT_INSTALLED
    # Not resolved: the python of a virtual environment is a link, and its libraries lie beside the link. Reading the
    # folders takes far less than starting an interpreter.
    prefix = Path(found).absolute().parent.parent
    places = sorted(str(place) for place in prefix.glob("lib*/python3*/site-packages"))
    for distribution in distributions(name=library, path=places):
        return distribution.version
    # not laid out as a virtual environment: only the interpreter knows where its libraries are
    asked = subprocess.run([found, "-I", "-c", _ASK, library], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else NOT_INSTALLED


def identify_model(name: str, *, folder: Path, revision: str | None) -> dict[str, Any]:
    """What of a model changes a result: its content; its name and revision where it is not on this machine.

    Args:
        name: a folder, `package.module:NAME` for a packaged one, or a hub id.
        folder: what a relative folder is relative to.
        revision: of a hub id.
    """
    path = find_model_here(name, base=folder, revision=revision)
    if path is None or not list_hashed_files(path):
        return {"name": name, "revision": revision, "note": NOT_HERE}
    return {"content": _hash_files(path, list_hashed_files(path), lambda: hash_checkpoint(path))}


def identify_embedder(name: str) -> dict[str, Any]:
    """What of an embedding model changes its vectors, as `identify_model`."""
    if name != "minilm" and find_model_here(name, base=Path(), revision=None) is None:
        return {"name": name, "revision": None, "note": NOT_HERE}
    embedder = Embedder(name)
    files = [file for file in embedder.folder.rglob("*") if file.is_file()]
    return {"content": _hash_files(embedder.folder, files, lambda: embedder.model_hash)}


def _hash_files(folder: Path, files: Iterable[Path], compute: Callable[[], str]) -> str:
    """The hash of a model; it is remembered by the place, size and time of its files."""
    stats = [(file, file.stat()) for file in sorted(files)]
    lines = [f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}" for file, stat in stats]
    if any(time.time() - stat.st_mtime < SETTLED_SECONDS for _, stat in stats):
        return compute()
    return remember("model_hashes", "\n".join([str(folder.resolve()), *lines]), compute)
