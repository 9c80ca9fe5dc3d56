"""Near-duplicates by embedding: one batch against SemHash, and a round against the history against exact products.

    python -m benchmarks.dedup [--quick] [--full] [--corpus PATH]

Batch: 55,000 rows, the prompts of `--corpus` (Parquet) embedded by the packaged model, or synthetic ones, by
`find_similar_pairs` and by SemHash on the same vectors at the same threshold; then 1,000,000 synthetic rows by ours
alone (`--full`: by both). Recall is the share of rows with a true neighbour above the threshold that are in a pair
(or, for SemHash, dropped or named as the kept one of a dropped row), by exact products over all rows for a sample.

History: 10,000 new rows against 100,000 and 1,000,000 kept in LanceDB, maintained as after a round, against exact
products over the same vectors.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from lance_assets.algorithms.similarity.near_duplicates import find_similar_pairs
from resources.stores.history import HistoryStore

THRESHOLD = 0.9
DIM = 384
NUM_CHECKED = 5_000


def normalise(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def make_near(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows at cosines of 0.85 to 0.999 from those given."""
    cosines = rng.uniform(0.85, 0.999, (len(rows), 1)).astype(np.float32)
    across = rng.standard_normal(rows.shape, dtype=np.float32)
    across -= np.einsum("ij,ij->i", across, rows)[:, None] * rows
    return normalise(cosines * rows + np.sqrt(1 - cosines**2) * normalise(across))


def make_rows(num_rows: int, rng_seed: int) -> np.ndarray:
    """Clustered rows, a tenth of them near-duplicates of others; float32 [num_rows, DIM], L2-normalised."""
    rng = np.random.default_rng(rng_seed)
    num_centres, num_near = max(50, num_rows // 200), num_rows // 10
    centres = rng.standard_normal((num_centres, DIM), dtype=np.float32)
    rows = rng.standard_normal((num_rows, DIM), dtype=np.float32)
    for start in range(0, num_rows, 100_000):
        part = rows[start : start + 100_000]
        part += centres[rng.integers(0, num_centres, len(part))]
    normalise(rows)
    rows[-num_near:] = make_near(rows[rng.choice(num_rows - num_near, num_near, replace=False)], rng)
    return rows[rng.permutation(num_rows)]


def embed_corpus(path: Path, num_rows: int) -> np.ndarray:
    """The prompts of a Parquet file by the packaged model, equal ones once, so that no distance is exactly zero."""
    from resources.stores.embeddings import Embedder

    texts = pl.read_parquet(path)["prompt"].unique(maintain_order=True).head(num_rows).to_list()
    cached = Path(tempfile.gettempdir()) / f"lance_dedup_{len(texts)}.npy"
    if not cached.exists():
        print(f"embedding {len(texts)} prompts", flush=True)
        np.save(cached, Embedder(batch_size=64).embed(texts))
    return np.load(cached)


def find_true_neighbours(rows: np.ndarray, checked: np.ndarray) -> np.ndarray:
    """Those of the checked rows that have a neighbour above the threshold, by exact products."""
    highest = np.full(len(checked), -1.0, dtype=np.float32)
    for start in range(0, len(rows), 20_000):
        near = rows[checked] @ rows[start : start + 20_000].T
        own = np.flatnonzero((checked >= start) & (checked < start + 20_000))
        near[own, checked[own] - start] = -1
        highest = np.maximum(highest, near.max(axis=1))
    return checked[highest > THRESHOLD + 1e-5]


def run_semhash(rows: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds SemHash takes from vectors to the result, and the rows it found to be similar to another."""
    from semhash import SemHash

    class Given:
        """Takes the place of the model that SemHash wants; the vectors are given."""

        def encode(self, inputs: object, **_: object) -> np.ndarray:
            """Never called, because the vectors are passed with the records."""
            raise AssertionError("vectors were given")

    records = [str(number) for number in range(len(rows))]
    started = time.perf_counter()
    done = SemHash.from_embeddings(rows, records, model=Given()).self_deduplicate(threshold=THRESHOLD)
    seconds = time.perf_counter() - started
    found = {int(dropped.record) for dropped in done.filtered}
    found |= {int(dropped.duplicate_of) for dropped in done.filtered if dropped.duplicate_of is not None}
    return seconds, np.array(sorted(found), dtype=np.int64)


def measure_batch(rows: np.ndarray, *, with_peer: bool, name: str) -> dict[str, float]:
    """Ours and SemHash's seconds and recall on one batch."""
    checked = np.unique(np.linspace(0, len(rows) - 1, NUM_CHECKED).astype(int))
    true = find_true_neighbours(rows, checked)
    started = time.perf_counter()
    found = find_similar_pairs(rows, threshold=THRESHOLD)
    figures = {"ours": time.perf_counter() - started}
    in_pairs = np.union1d(found["left"].to_numpy(), found["right"].to_numpy())
    figures["recall"] = float(np.isin(true, in_pairs).mean()) if len(true) else 1.0
    line = f"{name} {len(rows)}: {figures['ours']:.1f} s, {len(found)} pairs, recall {figures['recall']:.4f}"
    if with_peer:
        figures["peer"], in_peer = run_semhash(rows)
        figures["peer_recall"] = float(np.isin(true, in_peer).mean()) if len(true) else 1.0
        line += f"; SemHash {figures['peer']:.1f} s, recall {figures['peer_recall']:.4f}"
    print(line, flush=True)
    return figures


def measure_history(sizes: tuple[int, int], num_new: int) -> dict[str, float]:
    """Recall and seconds of looking new rows up in histories of two sizes."""
    every = make_rows(sizes[1], 5)
    rng = np.random.default_rng(6)
    seconds, recalls = [], []
    for size in sizes:
        rows = every[:size]
        near = make_near(rows[rng.choice(size, num_new // 2, replace=False)], rng)
        new = np.concatenate([near, make_rows(num_new - len(near), 7)])
        with tempfile.TemporaryDirectory() as folder:
            store = HistoryStore(Path(folder))
            for number, start in enumerate(range(0, size, 100_000)):
                ids = [f"{row:07d}" for row in range(start, min(start + 100_000, size))]
                stored = pl.DataFrame({"row_id": ids, "text": ids})
                store.replace_round("e", f"r{number:04d}", stored, rows[start : start + len(ids)], model_hash="m")
            health = store.maintain()
            taken = []
            for _ in range(3):
                started = time.perf_counter()
                found = store.find_nearest(new, experiment="e", before_round="r9999", model_hash="m")
                taken.append(time.perf_counter() - started)
        started = time.perf_counter()
        highest = np.full(len(new), -1.0, dtype=np.float32)
        for start in range(0, size, 20_000):
            highest = np.maximum(highest, (new @ rows[start : start + 20_000].T).max(axis=1))
        exact = time.perf_counter() - started
        is_like = highest > THRESHOLD + 1e-5
        recalls.append(float((found["similarity"].to_numpy()[is_like] > THRESHOLD).mean()))
        seconds.append(float(np.median(taken)))
        print(
            f"history {size}: {health.index}, {len(new)} rows in {seconds[-1]:.2f} s, exact products {exact:.2f} s, "
            f"recall {recalls[-1]:.4f}, index made in {health.seconds:.0f} s, its recall {health.measured_recall:.3f}",
            flush=True,
        )
    return {"history_recall": min(recalls), "history_growth": seconds[1] / seconds[0], "history_seconds": seconds[1]}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 and 50,000 rows")
    parser.add_argument("--full", action="store_true", help="SemHash on a million rows too")
    parser.add_argument("--corpus", type=Path, metavar="PATH", help="Parquet file with a column `prompt`")
    options = parser.parse_args()
    sizes = (10_000, 50_000) if options.quick else (55_000, 1_000_000)
    first = make_rows(sizes[0], 1) if options.corpus is None else embed_corpus(options.corpus, sizes[0])
    batches = [
        measure_batch(first, with_peer=True, name="synthetic" if options.corpus is None else "real"),
        measure_batch(make_rows(sizes[1], 3), with_peer=options.full, name="synthetic"),
    ]
    compared = [batch for batch in batches if "peer" in batch]
    figures = {
        "speedup": min(batch["peer"] / batch["ours"] for batch in compared),
        "recall": min(batch["recall"] for batch in batches),
        "peer_recall": min(batch["peer_recall"] for batch in compared),
        **measure_history(
            (20_000, 60_000) if options.quick else (100_000, 1_000_000), 2_000 if options.quick else 10_000
        ),
        "rows_per_second": sizes[1] / batches[1]["ours"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
