"""The Vendi score in its covariance form, against the one matrix product it needs and against the vendi-score package.

    python -m benchmarks.vendi [--quick]

The time is that of `compute_vendi_score`, checks and eigenvalues included, over that of `X.T @ X` in float32 by numpy,
on the same rows, alternating. The error is relative, on 2,000 rows, against the package's kernel of all rows.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from lance_assets.algorithms.measures.diversity import compute_vendi_score

DIM = 384


def make_rows(num_rows: int, spread: float, rng_seed: int) -> np.ndarray:
    """Clustered rows, float32 [num_rows, DIM], L2-normalised; a small spread gives tight clusters."""
    rng = np.random.default_rng(rng_seed)
    centres = rng.standard_normal((50, DIM), dtype=np.float32)
    rows = centres[rng.integers(0, 50, num_rows)] + spread * rng.standard_normal((num_rows, DIM), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure_error(num_rows: int) -> float:
    """The largest relative difference from the package over kinds of data: spread, clustered, tight and all equal."""
    from vendi_score import vendi

    errors = []
    for number, spread in enumerate((3.0, 1.0, 0.1, 0.01)):
        rows = make_rows(num_rows, spread, number)
        wide = rows.astype(np.float64)
        wanted = float(vendi.score_K(wide @ wide.T))
        errors.append(abs(compute_vendi_score(rows) - wanted) / wanted)
        print(f"spread {spread}: vendi-score {wanted:.6f}, relative difference {errors[-1]:.1e}")
    return max(errors)


def time_alternating(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of two functions, called in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, taken in zip((first, second), seconds, strict=True):
            started = time.perf_counter()
            function()
            taken.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    options = parser.parse_args()
    num_rows = 20_000 if options.quick else 100_000
    max_error = measure_error(500 if options.quick else 2_000)
    rows = make_rows(num_rows, 1.0, 9)
    ours, limit = time_alternating(lambda: compute_vendi_score(rows), lambda: rows.T @ rows, 15)
    print(f"{num_rows} x {DIM}: {ours:.3f} s, X.T @ X alone {limit:.3f} s")
    print(json.dumps({"limit_ratio": ours / limit, "max_error": max_error, "num_rows": num_rows}))


if __name__ == "__main__":
    main()
