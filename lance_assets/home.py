"""Where all data lies."""

import os
from pathlib import Path


def find_home() -> Path:
    """The folder of all data and of the Dagster instance: LANCE_HOME, or `.lance` in the current folder."""
    return Path(os.environ.get("LANCE_HOME") or ".lance").expanduser().resolve()


def find_data_root() -> Path:
    """The folder of tables, checkpoints, unfinished stages and the history."""
    return find_home() / "data"


def find_models_root() -> Path:
    """The folder of models that were converted from other files or taken out of packages."""
    return find_home() / "models"


STORE = "LANCE_STORE"
"""The environment variable with the address of the store that finished steps are published in."""


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
