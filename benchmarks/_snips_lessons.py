"""How good a teacher's lessons on SNIPS are: whether a lesson asks for the intent that it is trained on.

A classifier of all 13,784 requests of the training set tells a lesson's intent. It is no part of a round: it sees what
the seeds of a study do not, and says only which link of the method is the weak one.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from benchmarks._real_worlds import read_snips
from lance_assets.algorithms.measures.statistics import compute_wilson_interval

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MARK = "Request: "
"""What stands before the request in a prompt."""


@cache
def train_classifier() -> "tuple[Pipeline, float]":
    """The classifier of requests, and its accuracy on those of the test set."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = read_snips("train"), read_snips("test")
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=500))
    model.fit([row["text"] for row in train], [row["intent"] for row in train])
    return model, float(model.score([row["text"] for row in test], [row["intent"] for row in test]))


def count_kept(prompts: Sequence[str], intents: Sequence[str]) -> int:
    """How many lessons ask for the intent that they are trained on, by the classifier."""
    if not prompts:
        return 0
    model, _ = train_classifier()
    found = model.predict([prompt.rpartition(MARK)[2] for prompt in prompts])
    return sum(said == intent for said, intent in zip(found, intents, strict=True))


def describe_lessons(roots: Sequence[Path]) -> dict[str, float | int | None]:
    """The lessons of an arm's seeds.

    Args:
        roots: the folder of each seed's rounds.

    Returns:
        num_written, num_accepted, num_of_their_class, and the share of these among the accepted ones with its 95%
        Wilson interval, None without any; the accuracy of the classifier that says so.
    """
    files = [file for root in roots for file in sorted(root.glob("tables/*/*/raw_generations.parquet"))]
    lessons = [pl.read_parquet(file).filter(kind="lesson") for file in files]
    accepted = [table.filter(pl.col("refused_reason").is_null()) for table in lessons]
    rows = [row for table in accepted for row in table.select("prompt", "completion").iter_rows()]
    kept = count_kept([prompt for prompt, _ in rows], [intent for _, intent in rows])
    low, high = compute_wilson_interval(kept, len(rows)) if rows else (0.0, 1.0)
    return {
        "num_written": sum(map(len, lessons)),
        "num_accepted": len(rows),
        "num_of_their_class": kept,
        "share": round(kept / len(rows), 3) if rows else None,
        "ci_low": round(low, 3),
        "ci_high": round(high, 3),
        "classifier_accuracy": round(train_classifier()[1], 3),
    }
