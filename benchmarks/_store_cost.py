"""What a store costs a round, beside the same round without one, and what many objects in its bucket cost."""

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._chaos_results import compare
from benchmarks._chaos_site import NAME, SOURCE, Site, write_experiment
from benchmarks._s3_server import BUCKET, open_server
from resources.remote.copying import Copying
from resources.remote.folder import DataFolder
from resources.remote.store import Store

PUT_AT_ONCE = 500
"""Objects that are put into the bucket at once."""
COPIES = 11
"""So often an experiment is sent and fetched, in turn with few objects and many."""
NEW_FILES = 60
"""Files that are new each time."""


def measure_store(*, repeats: int, is_quick: bool) -> dict[str, Any]:
    """The seconds of the same rounds with a store and without, in turns.

    Args:
        repeats: how often each is done.
        is_quick: whether the rounds have a few rows, which take less than the looks at the store.
    """
    seconds: dict[str, list[float]] = {"local": [], "s3": []}
    differences: list[str] = []
    with tempfile.TemporaryDirectory() as folder, open_server(Path(folder)):
        experiments = Path(folder) / "experiments"
        if is_quick:
            write_experiment(experiments, num_rounds=1)
        else:
            shutil.copytree(SOURCE, experiments / NAME, ignore=shutil.ignore_patterns("__pycache__"))
        sites = {
            name: [Site(Path(folder) / f"{name}{turn}", experiments, "command", 1) for turn in range(repeats)]
            for name in seconds
        }
        for turn in range(repeats):
            # Each turn begins with the other one.
            for name in sorted(seconds, reverse=bool(turn % 2)):
                store = f"s3://{BUCKET}/lance{turn}" if name == "s3" else ""
                seconds[name].append(run_rounds(sites[name][turn], store))
            differences += compare(sites["local"][turn].data, sites["s3"][turn].data, NAME).differences
        full = measure_full_bucket(sites["local"][0].data, Path(folder), num_objects=1_000 if is_quick else 100_000)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    print("\n| rounds | seconds of each turn |\n| --- | --- |")
    for name, taken in seconds.items():
        print(f"| {name} | {', '.join(f'{one:.1f}' for one in taken)} |")
    return {
        "s3_overhead": round(medians["s3"] / medians["local"], 3),
        "store_identical": differences == [],
        "round_seconds": {name: round(median, 1) for name, median in medians.items()},
        **full,
    }


def run_rounds(site: Site, store: str) -> float:
    """The seconds of a site's rounds; with a store they are published there.

    Args:
        site: whose rounds are made.
        store: its address; empty for none.

    Raises:
        RuntimeError: a round failed; the message has the end of its log.
    """
    started = time.monotonic()
    process = site.start(LANCE_STORE=store)
    try:
        code, took = process.wait(), time.monotonic() - started
    finally:
        site.end(process)
    if code != 0:
        raise RuntimeError(f"{site.home.name}: {(site.home / 'log.txt').read_text()[-3000:]}")
    return took


def measure_full_bucket(data: Path, folder: Path, *, num_objects: int) -> dict[str, Any]:
    """What it costs to send and fetch an experiment where a bucket holds many objects beside its own.

    Args:
        data: the folder of its data.
        folder: for what is fetched.
        num_objects: that lie beside those of the experiment, under the same prefix.
    """
    import s3fs

    buckets = s3fs.S3FileSystem()
    started = time.monotonic()
    for start in range(0, num_objects, PUT_AT_ONCE):
        names = [f"{BUCKET}/full/objects/{place % 256:02x}/{place:064x}" for place in range(start, start + PUT_AT_ONCE)]
        buckets.pipe(dict.fromkeys(names, b"1"))
    print(f"{num_objects} objects put in {time.monotonic() - started:.0f} s", flush=True)
    seconds: dict[str, list[float]] = {"few": [], "full": []}
    for turn in range(COPIES):
        # Each turn begins with the other one.
        for name in sorted(seconds, reverse=bool(turn % 2)):
            source = folder / f"turn{turn}{name}"
            shutil.copytree(data, source)
            # What was sent before is found there; these are new.
            for place in range(NEW_FILES):
                (source / "costs" / NAME / "r0001" / f"turn{turn}_{place}.json").write_bytes(os.urandom(20_000))
            store, began = Store(f"s3://{BUCKET}/{name}"), time.monotonic()
            Copying(NAME, DataFolder(source), store).run()
            Copying(NAME, store, DataFolder(folder / f"fetched{turn}{name}")).run()
            seconds[name].append(time.monotonic() - began)
    print(f"sent and fetched, seconds: {seconds}", flush=True)
    ratio = sum(seconds["full"]) / sum(seconds["few"])
    return {"full_bucket_ratio": round(ratio, 3), "objects_beside": num_objects}
