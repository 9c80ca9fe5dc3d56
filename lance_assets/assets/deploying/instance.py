"""Dagster's own records: in SQLite beside the data, or in PostgreSQL where `DAGSTER_POSTGRES_HOST` names a server.

The file `dagster.yaml` of the instance says which. It is written once, and names environment variables where it needs a
server, a user and a password.
"""

import os
import shutil
from pathlib import Path

import dagster as dg

from lance_assets.extras import require_extra

INSTANCE_FILE = Path(__file__).parents[1] / "dagster.yaml"
"""The settings of an instance that this module creates."""
POSTGRES_FILE = Path(__file__).with_name("postgres.yaml")
"""What is added to them for PostgreSQL."""
POSTGRES = tuple(f"DAGSTER_POSTGRES_{name}" for name in ("HOST", "PORT", "DB", "USER", "PASSWORD"))
"""The environment variables that say where PostgreSQL is; the first one chooses it."""
STORAGE = "storage:"
"""What the line of `dagster.yaml` begins with that says where records lie."""


def prepare_instance(folder: Path, *, is_own: bool) -> None:
    """Write the file of an instance where there is none, with its records in PostgreSQL where the environment says so.

    Args:
        folder: DAGSTER_HOME.
        is_own: whether this package chose the folder; in a person's own a missing file means Dagster's defaults.

    Raises:
        ValueError: a variable of PostgreSQL is missing, or its library, or the file keeps records elsewhere.
    """
    file = folder / INSTANCE_FILE.name
    is_wanted = bool(os.environ.get(POSTGRES[0]))
    if not file.exists() and (is_own or is_wanted):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(INSTANCE_FILE, file)
    if not is_wanted:
        return
    if missing := [name for name in POSTGRES if not os.environ.get(name)]:
        raise ValueError(f"{POSTGRES[0]} is set, and {', '.join(missing)} not; set all of {', '.join(POSTGRES)}")
    require_extra("dagster_postgres", extra="postgres", needed_by=POSTGRES[0])
    said = file.read_text(encoding="utf-8")
    if "DAGSTER_POSTGRES" in said:
        return
    if any(line.startswith(STORAGE) for line in said.splitlines()):
        raise ValueError(
            f"{POSTGRES[0]} is set, and {file} keeps Dagster's records elsewhere; take its section {STORAGE} out, or "
            "unset the variable"
        )
    # An instance that was in SQLite begins anew in PostgreSQL: `lance doctor --fix` tells it what is on the disk.
    file.write_text(said + POSTGRES_FILE.read_text(encoding="utf-8"), encoding="utf-8")


def open_prepared(folder: Path, *, is_own: bool) -> dg.DagsterInstance:
    """The instance of a folder, prepared; the process of each step reads it too.

    Args:
        folder: DAGSTER_HOME.
        is_own: as `prepare_instance`.

    Raises:
        ValueError: as `prepare_instance`.
    """
    prepare_instance(folder, is_own=is_own)
    os.environ["DAGSTER_HOME"] = str(folder)
    return dg.DagsterInstance.get()
