"""The folder of real data that some benchmarks measure on; where there is none they say so, and are no failure."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

DATA = Path(__file__).parents[1].parent / "shared" / "data"
"""Where it lies beside a checkout, if anywhere."""


def find_data(parser: argparse.ArgumentParser, named: Path | None, files: Sequence[str]) -> Path:
    """The folder of real data with some files.

    Args:
        parser: whose error it is where the folder that somebody named lacks a file.
        named: the folder of the command line; None takes the one beside the checkout.
        files: names that have to be there.

    Returns:
        The folder. Where none was named and none is there, the benchmark ends with status 0, and its last line is
        `{"skipped": reason}`.
    """
    folder = DATA if named is None else named
    missing = [name for name in files if not (folder / name).is_file()]
    if missing and named is not None:
        parser.error(f"there is no {missing[0]} in {named}; name the folder of the data sets by --data")
    if missing:
        skip(f"no real data: name a folder with {', '.join(files)} by --data")
    return folder


def skip(reason: str) -> NoReturn:
    """End the benchmark with status 0; its last line says why it measures nothing."""
    print(json.dumps({"skipped": reason}))
    sys.exit(0)
