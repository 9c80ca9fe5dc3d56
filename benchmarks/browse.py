"""How quickly a person sees rows of a large round: one page opened, filtered, and one row followed.

    python -m benchmarks.browse [--quick] [--peers]

A round is written whose `raw_generations`, `cleaned_set` and `reviewed_set` have 1,000,000 rows each (`--quick`:
50,000), in texts of about 40 words from a vocabulary of 5,000, with 2,000 seeds. The pages are asked of a server in a
process of its own, over HTTP, as a browser asks them.

| figure | what is measured |
| --- | --- |
| `open_seconds` | the first page of a table that no one opened before: its hash, its counts by value, 50 rows |
| `filter_seconds` | the slowest of some filters that were not asked before |
| `story_seconds` | a row of the last round followed back to its seed and forward to the training sets |
| `num_rows` | rows of each table |
| `peak_gib` | the most memory that the server's process held |

The filters are by kind and reason, by score, by seed, and by a text with and without capitals; a sample, an order and a
page in the middle are among them. Each page is asked for once, since the second time the matches are remembered. The
files are in the operating system's cache, because they were just written. With `--peers` DuckDB, where it is installed,
answers some of the filters over the same files.

The last line is one JSON object with these figures.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import psutil

from lance_assets.rounds.nouns import list_schemas
from resources.stores.tables import TableStore

EXPERIMENT, ROUND = "browsed", "r0001"
NUM_ROWS, QUICK_ROWS, NUM_SEEDS = 1_000_000, 50_000, 2_000
KINDS = ("new_prompt", "completion", "completion", "degraded_completion")
REASONS = (None, None, None, "like_sibling", "like_seed", "completion_too_short")
FILTERS = {
    "kind and reason": "cleaned_set?kind=completion&drop_reason=like_seed",
    "score range": "reviewed_set?number=review_score&min=8&max=9",
    "text": "cleaned_set?text=w17+w4",
    "text with capitals": "cleaned_set?text=Needle",
    "seed": "raw_generations?seed=00000000000000a7",
    "20 at random": "reviewed_set?random=20&draw=7",
    "20 at random of a kind": "reviewed_set?kind=completion&random=20&draw=3",
    "order": "reviewed_set?sort=review_score&falling=1",
    "a page in the middle": "cleaned_set?page=500",
}
"""What is asked of tables that were opened before."""


def write_texts(rng: np.random.Generator, num_rows: int) -> pl.Series:
    """Texts of about 40 words; one in 10,000 holds the word Needle."""
    words = [f"w{number}" for number in range(5_000)]
    # A Zipf-like draw, so that the files shrink as those of people's texts do.
    chosen = np.minimum((rng.pareto(0.6, (min(num_rows, 20_000), 40)) * 3).astype(int), 4_999)
    base = [" ".join(words[place] for place in line) for line in chosen]
    heads = rng.integers(0, len(base), num_rows)
    needles = rng.random(num_rows) < 1e-4
    texts = pl.Series(base).gather(pl.Series(heads))
    numbers = pl.Series(np.arange(num_rows)).cast(pl.String)
    marks = pl.Series(np.where(needles, " Needle", ""), dtype=pl.String)
    return texts + " " + numbers + marks


def write_round(root: Path, num_rows: int) -> None:
    """The tables of a round."""
    rng, store, schemas = np.random.default_rng(0), TableStore(root), list_schemas()

    def write(table: str, columns: Mapping[str, object]) -> None:
        given = pl.DataFrame(columns)
        schema = schemas[table]
        missing = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in given.columns]
        rows = given.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in schema.items())
        store.write(EXPERIMENT, ROUND, table, rows, schema=schema)

    def name(numbers: np.ndarray) -> pl.Series:
        return pl.Series(numbers).map_elements(lambda number: f"{number:016x}", return_dtype=pl.String)

    places = np.arange(num_rows)
    # Ids of real rows are hashes: in no order, and different in every digit.
    ids = name(rng.permutation(num_rows).astype(np.int64) * 2_654_435_761 + NUM_SEEDS)
    seeds = name(np.arange(NUM_SEEDS))
    seed_ids = seeds.gather(pl.Series(places % NUM_SEEDS))
    texts, prompts = write_texts(rng, num_rows), write_texts(rng, num_rows)
    kinds = pl.Series(KINDS).gather(pl.Series(rng.integers(0, len(KINDS), num_rows)))
    reasons = pl.Series(REASONS).gather(pl.Series(rng.integers(0, len(REASONS), num_rows)))
    write("seed_set", {"row_id": seeds, "prompt": prompts.head(NUM_SEEDS), "completion": texts.head(NUM_SEEDS)})
    linked = {"row_id": ids, "kind": kinds, "seed_id": seed_ids, "prompt": prompts, "completion": texts}
    raw = linked | {"parent_id": seed_ids, "raw_text": texts, "completion_tokens": rng.integers(1, 99, num_rows)}
    write("raw_generations", raw)
    write("cleaned_set", linked | {"parent_id": seed_ids, "drop_reason": reasons})
    scores = np.round(rng.uniform(0, 10, num_rows), 1)
    reviews = pl.DataFrame({"text": texts, "score": scores}).select(
        pl.concat_list(pl.col("text").str.head(40)).alias("reviews"), pl.concat_list("score").alias("scores")
    )
    reviewed = linked | {"reviews": reviews["reviews"], "scores": reviews["scores"], "review_score": scores}
    write("reviewed_set", reviewed)
    taken = scores > 8
    sft = {"row_id": ids.filter(pl.Series(taken)).str.reverse(), "source_id": ids.filter(pl.Series(taken))}
    sft |= {"prompt": prompts.filter(pl.Series(taken)), "completion": texts.filter(pl.Series(taken))}
    write("sft_set", sft)


@contextmanager
def serve(home: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`lance browse` on a home, its address and process."""
    code = "import sys; sys.argv = ['lance', 'browse', '--port', '{}']; from lance_assets.cli.app import main; main()"
    port = _find_port()
    environment = os.environ | {"LANCE_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", code.format(port)], env=environment, stdout=subprocess.DEVNULL
    ) as server:
        try:
            address = f"http://localhost:{port}"
            for _ in range(600):
                try:
                    ask(f"{address}/static/style.css")
                    break
                except OSError:
                    time.sleep(0.1)
            yield address, psutil.Process(server.pid)
        finally:
            server.terminate()


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(address: str) -> float:
    """The seconds that a page takes."""
    started = time.monotonic()
    with urllib.request.urlopen(address) as answer:
        answer.read()
    return time.monotonic() - started


def measure(address: str, process: psutil.Process) -> tuple[float, float]:
    """The seconds that a page takes, and the seconds of CPU that the server takes for it."""
    before = sum(process.cpu_times()[:2])
    seconds = ask(address)
    return seconds, sum(process.cpu_times()[:2]) - before


def measure_peak(process: psutil.Process) -> float:
    """The most memory that a process held, in GiB; 0 where the system does not tell."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return 0.0
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def compare_peers(root: Path) -> dict[str, float]:
    """Seconds that DuckDB takes to count and read what some filters leave; none where it is not installed."""
    try:
        import duckdb  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        print("DuckDB is not installed, and is not measured")
        return {}
    folder = root / "tables" / EXPERIMENT / ROUND
    asked = {
        "kind and reason": ("cleaned_set", "kind = 'completion' AND drop_reason = 'like_seed'"),
        "score range": ("reviewed_set", "review_score BETWEEN 8 AND 9"),
        "text": ("cleaned_set", "prompt ILIKE '%w17 w4%' OR completion ILIKE '%w17 w4%'"),
        "text with capitals": ("cleaned_set", "contains(prompt, 'Needle') OR contains(completion, 'Needle')"),
    }
    found = {}
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {os.cpu_count()}")
        for name, (table, where) in asked.items():
            file = folder / f"{table}.parquet"
            started = time.monotonic()
            connection.execute(f"SELECT count(*) FROM '{file}' WHERE {where}").fetchall()
            connection.execute(f"SELECT * FROM '{file}' WHERE {where} LIMIT 50").fetchall()
            found[name] = time.monotonic() - started
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows in place of {NUM_ROWS:,}")
    parser.add_argument("--peers", action="store_true", help="measure DuckDB on the same filters too")
    options = parser.parse_args()
    num_rows = QUICK_ROWS if options.quick else NUM_ROWS
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_round(home / "data", num_rows)
        # The hash of a file that was changed less than two seconds ago is not kept.
        time.sleep(2.5)
        followed = pl.scan_parquet(home / "data" / "tables" / EXPERIMENT / ROUND / "sft_set.parquet")
        row_id = followed.select("source_id").tail(1).collect().item()
        with serve(home) as (address, process):
            ask(address)  # what the process imports once is no part of a page
            base = f"{address}/e/{EXPERIMENT}/{ROUND}/rows"
            tables = ("cleaned_set", "reviewed_set", "raw_generations")
            opened = {f"open {table}": measure(f"{base}/{table}", process) for table in tables}
            filtered = {name: measure(f"{base}/{query}", process) for name, query in FILTERS.items()}
            story = measure(f"{address}/e/{EXPERIMENT}/row/{urllib.parse.quote(row_id)}", process)
            peak = measure_peak(process)
        peers = compare_peers(home / "data") if options.peers else {}
    for name, (seconds, cpu) in (opened | filtered | {"story": story}).items():
        peer = f"   DuckDB {peers[name]:7.2f} s" if name in peers else ""
        print(f"{name:28} {seconds:7.2f} s   {cpu:7.2f} s of CPU{peer}")
    figures = {
        "open_seconds": max(seconds for seconds, _ in opened.values()),
        "filter_seconds": max(seconds for seconds, _ in filtered.values()),
        "story_seconds": story[0],
    }
    rounded: dict[str, float | int] = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps(rounded | {"num_rows": num_rows, "peak_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
