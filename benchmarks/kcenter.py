"""k-center selection against the authors' full-matrix method, and against bare passes over a large matrix.

    python -m benchmarks.kcenter [--quick] [--full]

Small: 300 picks from 10,000 x 768, after 100 given rows. The authors' method holds all distances in memory, and for
each pick it appends a column and drops a row.
Large: 1,000 picks from 1,000,000 x 384 float32, after 100 given rows, in memory and from disk. The time is divided by
that of 1,000 passes `matrix @ vector` in the same process; 40 passes are timed, half before and half after, and scaled
(`--full`: all).
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from lance_assets.algorithms.selection.k_center import select_k_center

NUM_SELECTED = 100


def select_by_full_matrix(embeddings: np.ndarray, selected: np.ndarray, k: int) -> np.ndarray:
    """The authors' rule with all distances in memory; rounding below zero is clamped. Picks in order."""
    squares = (embeddings**2).sum(axis=1)
    squared = squares[:, None] + squares[None, :] - 2 * embeddings @ embeddings.T
    distances = np.sqrt(np.maximum(squared, 0))
    is_selected = np.zeros(len(embeddings), dtype=bool)
    is_selected[selected] = True
    free = np.flatnonzero(~is_selected)
    matrix = distances[~is_selected][:, is_selected]
    picks = []
    for _ in range(k):
        place = int(matrix.min(axis=1).argmax())
        picks.append(int(free[place]))
        column = distances[free, free[place]][:, None]
        matrix = np.delete(np.append(matrix, column, axis=1), place, axis=0)
        free = np.delete(free, place)
    return np.array(picks)


def select_step_by_step(embeddings: np.ndarray, selected: np.ndarray, k: int) -> np.ndarray:
    """The same rule with one plain pass for each pick."""
    squares = np.einsum("ij,ij->i", embeddings, embeddings)
    nearest = np.full(len(embeddings), np.inf, dtype=np.float32)
    for row in selected:
        nearest = np.minimum(nearest, squares + squares[row] - 2 * embeddings @ embeddings[row])
    nearest[selected] = -1
    picks = []
    for _ in range(k):
        row = int(nearest.argmax())
        picks.append(row)
        nearest = np.minimum(nearest, squares + squares[row] - 2 * embeddings @ embeddings[row])
        nearest[[*selected, *picks]] = -1
    return np.array(picks)


def make_rows(num_rows: int, dim: int, *, num_clusters: int, rng_seed: int) -> np.ndarray:
    """Rows of a normal distribution, around as many centres as named; float32 [num_rows, dim]."""
    rng = np.random.default_rng(rng_seed)
    rows = rng.standard_normal((num_rows, dim), dtype=np.float32)
    if num_clusters:
        centres = 4 * rng.standard_normal((num_clusters, dim), dtype=np.float32)
        for start in range(0, num_rows, 100_000):
            part = rows[start : start + 100_000]
            part += centres[rng.integers(0, num_clusters, len(part))]
    return rows


class PeakMemory:
    """The most memory the process holds inside a `with`, in bytes, looked at every 10 ms."""

    def __enter__(self) -> "PeakMemory":
        """Start looking."""
        self.process, self.is_done = psutil.Process(), False
        self.bytes = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.is_done:
            self.bytes = max(self.bytes, self.process.memory_info().rss)
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self.is_done = True
        self.thread.join()


def time_passes(rows: np.ndarray, num_passes: int) -> float:
    """Seconds of a bare `matrix @ vector`, the mean of so many."""
    started = time.perf_counter()
    for place in range(num_passes):
        rows @ rows[place]
    return (time.perf_counter() - started) / num_passes


def measure_small(num_rows: int, k: int) -> tuple[float, bool]:
    """How many times as fast as the full matrix, and whether the picks are the same."""
    rows = make_rows(num_rows, 768, num_clusters=0, rng_seed=0)
    selected = np.random.default_rng(1).permutation(num_rows)[:NUM_SELECTED]
    ours = []
    for _ in range(5):
        started = time.perf_counter()
        chosen = select_k_center(rows, selected, k).picks
        ours.append(time.perf_counter() - started)
    started = time.perf_counter()
    wanted = select_by_full_matrix(rows, selected, k)
    reference = time.perf_counter() - started
    print(f"{num_rows} x 768, {k} picks: {np.median(ours):.2f} s, full matrix {reference:.1f} s", flush=True)
    return reference / float(np.median(ours)), chosen.tolist() == wanted.tolist()


def measure_large(num_rows: int, k: int, *, num_clusters: int, num_passes: int, name: str) -> dict[str, float | bool]:
    """Our time over that of k bare passes, in memory and from disk, the peak of memory, and a prefix of the picks."""
    rows = make_rows(num_rows, 384, num_clusters=num_clusters, rng_seed=2)
    selected = np.random.default_rng(3).permutation(num_rows)[:NUM_SELECTED]
    before = time_passes(rows, num_passes // 2)
    with PeakMemory() as peak:
        started = time.perf_counter()
        chosen = select_k_center(rows, selected, k)
        ours = time.perf_counter() - started
    limit = k * (before + time_passes(rows, num_passes // 2)) / 2
    same = select_step_by_step(rows, selected, 30).tolist() == chosen.picks[:30].tolist()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "rows.npy", rows)
        started = time.perf_counter()
        on_disk = select_k_center(np.load(Path(folder) / "rows.npy", mmap_mode="r"), selected, k)
        disk = time.perf_counter() - started
    same = same and on_disk.picks.tolist() == chosen.picks.tolist()
    print(
        f"{name} {num_rows} x 384, {k} picks: {ours:.1f} s, from disk {disk:.1f} s, {k} bare passes {limit:.1f} s, "
        f"peak {peak.bytes / 2**30:.2f} GiB with a matrix of {rows.nbytes / 2**30:.2f} GiB",
        flush=True,
    )
    return {
        "limit_ratio": ours / limit,
        "disk_limit_ratio": disk / limit,
        "peak_gib": peak.bytes / 2**30,
        "peak_over_matrix": peak.bytes / rows.nbytes,
        "same": same,
    }


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3,000 and 50,000 rows, 100 picks")
    parser.add_argument("--full", action="store_true", help="time every bare pass")
    options = parser.parse_args()
    num_rows, k = (50_000, 100) if options.quick else (1_000_000, 1_000)
    num_passes = k if options.full else 40
    large = measure_large(num_rows, k, num_clusters=0, num_passes=num_passes, name="spread")
    clustered = measure_large(num_rows, k, num_clusters=2 * k, num_passes=num_passes, name="clustered")
    speedup, same = measure_small(3_000, 100) if options.quick else measure_small(10_000, 300)
    figures = {
        "speedup": speedup,
        "same_picks": bool(same and large.pop("same") and clustered["same"]),
        **large,
        "clustered_limit_ratio": clustered["limit_ratio"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
