"""Where all data lies, and where the experiments are."""

import os
import re
from pathlib import Path

STORE = "LANCE_STORE"
"""The environment variable with the address of the store that finished steps are published in."""

SHIPPED = "shipped"
"""What LANCE_EXPERIMENTS calls the experiments of this package."""
SHIPPED_FOLDER = Path(__file__).parent / "experiments"
"""These experiments."""


def find_home() -> Path:
    """The folder of all data and of the Dagster instance: LANCE_HOME, or `.lance` in the current folder.

    Raises:
        ValueError: LANCE_HOME is an address.
    """
    return find_folder(os.environ.get("LANCE_HOME") or ".lance", named_by="LANCE_HOME")


def find_folder(text: str, *, named_by: str) -> Path:
    """The folder that a person named as the home of all data.

    Args:
        text: what was given.
        named_by: what it was given as, for the message.

    Raises:
        ValueError: it is an address, which as a path would be a folder of that name in the current one.

    >>> find_folder("s3://bucket/lance", named_by="LANCE_HOME")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: LANCE_HOME is the address 's3://bucket/lance', and rounds work in a folder; set LANCE_HOME to ...
    """
    # A drive of Windows has one letter.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text.strip()):
        raise ValueError(
            f"{named_by} is the address {text!r}, and rounds work in a folder; set LANCE_HOME to a folder and {STORE} "
            "to the address, and finished steps are published there"
        )
    return Path(text).expanduser().resolve()


def find_data_root() -> Path:
    """The folder of tables, checkpoints, unfinished stages and the history."""
    return find_home() / "data"


def find_models_root() -> Path:
    """The folder of models that were converted from other files or taken out of packages."""
    return find_home() / "models"


def find_store_address() -> str | None:
    """The address that LANCE_STORE names, such as `s3://bucket/lance`; None where it is not set."""
    return (os.environ.get(STORE) or "").rstrip("/") or None


HISTORY = "LANCE_HISTORY"
"""The environment variable with the address of the LanceDB database, where that is not in the folder of data."""


def find_history_address() -> str | None:
    """The address that LANCE_HISTORY names, such as `s3://bucket/vectors`; None where it is not set."""
    return (os.environ.get(HISTORY) or "").rstrip("/") or None


BROWSE_PORT = 3001
"""Where `lance browse` listens by default: the port after the Dagster UI's."""


def find_browse_address() -> str:
    """Where a person's browser finds what `lance browse` serves: LANCE_BROWSE, or this machine's own address."""
    return (os.environ.get("LANCE_BROWSE") or f"http://localhost:{BROWSE_PORT}").rstrip("/")


def name_browse_page(experiment: str, round_key: str, table: str | None = None) -> str:
    """The address of a round's page to browse, or of the rows of one of its tables."""
    place = f"{find_browse_address()}/e/{experiment}/{round_key}"
    return place if table is None else f"{place}/rows/{table}"


def list_folders() -> list[Path]:
    """The folders whose subfolders are experiments: those of LANCE_EXPERIMENTS, or those of this package.

    Raises:
        ValueError: LANCE_EXPERIMENTS names something that is not a folder.
    """
    folders = _read_folders()
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"LANCE_EXPERIMENTS names {folder}, which is not a folder; create it, or correct the variable (one or "
                f"several folders, separated by {os.pathsep!r}; {SHIPPED!r} names the experiments of the package)"
            )
    return folders


def find_new_folder() -> Path:
    """Where a new experiment's folder is created: the first own folder of LANCE_EXPERIMENTS, or the current one."""
    own = [folder for folder in _read_folders() if folder != SHIPPED_FOLDER]
    return own[0] if own else Path.cwd()


def _read_folders() -> list[Path]:
    named = [name for name in os.environ.get("LANCE_EXPERIMENTS", "").split(os.pathsep) if name]
    return [SHIPPED_FOLDER if name == SHIPPED else Path(name).expanduser().resolve() for name in named or [SHIPPED]]
