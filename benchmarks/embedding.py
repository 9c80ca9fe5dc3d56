"""The texts of a round, half of them seen before: `EmbeddingStore` against `SentenceTransformer.encode` by default.

    python -m benchmarks.embedding [--quick] [--corpus PATH]

`--corpus` names a Parquet file with a column `prompt`; without it the texts are small-world prompts with completions
and GSM8K-like problems. Both sides embed the same texts with the packaged model, in turn; the store is emptied of the
second half before each first pass.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.rouge_l import read_questions
from lance_assets.small_world.seeds import draw_seeds
from resources.stores.embeddings import Embedder, EmbeddingStore


def read_texts(corpus: Path | None, num_texts: int) -> list[str]:
    """Different texts in a shuffled order."""
    if corpus is not None:
        prompts = pl.read_parquet(corpus)["prompt"].unique(maintain_order=True)
        return prompts.sample(num_texts, seed=0, shuffle=True).to_list()
    seeds = [f"{row['prompt']}\n{row['completion']}" for row in draw_seeds(num_seeds=40 * (num_texts // 80))]
    texts = sorted({*seeds, *read_questions(None, num_texts)})
    return pl.Series(texts).sample(num_texts, seed=0, shuffle=True).to_list()


def measure(texts: list[str], repeats: int) -> dict[str, float]:
    """Median ratios of both passes, and the largest difference of a number in a vector."""
    from sentence_transformers import SentenceTransformer

    embedder = Embedder()
    network = SentenceTransformer(
        str(embedder.folder), device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
    )
    network.encode(texts[:32], normalize_embeddings=True, show_progress_bar=False)
    embedder.embed(texts[:32])
    taken: dict[str, list[float]] = {"cold": [], "first": [], "second": [], "peer": []}
    difference = 0.0
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            store = EmbeddingStore(Path(folder))
            started = time.perf_counter()
            store.embed_once(texts[::2], embedder)
            taken["cold"].append(2 * (time.perf_counter() - started))
            for name in ("first", "second"):
                started = time.perf_counter()
                ours = store.embed_once(texts, embedder)
                taken[name].append(time.perf_counter() - started)
        started = time.perf_counter()
        reference = network.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        taken["peer"].append(time.perf_counter() - started)
        difference = max(difference, float(np.abs(ours.vectors - reference).max()))
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    print(f"{len(texts)} texts, seconds: {', '.join(f'{name} {value:.2f}' for name, value in seconds.items())}")
    return {
        "first_pass_speedup": seconds["peer"] / seconds["first"],
        "second_pass_speedup": seconds["peer"] / seconds["second"],
        "max_difference": difference,
        "cold_speedup": seconds["peer"] / seconds["cold"],
        "texts_per_second": len(texts) / seconds["cold"],
    }


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="640 texts, once")
    parser.add_argument("--corpus", type=Path, metavar="PATH", help="Parquet file with a column `prompt`")
    options = parser.parse_args()
    texts = read_texts(options.corpus, 640 if options.quick else 2_400)
    print(json.dumps(measure(texts, 1 if options.quick else 3)))


if __name__ == "__main__":
    main()
