"""Which seeds a run starts from, and about which trained rows a teacher is asked.

Source: LLM2LLM (arXiv 2403.15042), `generate_seed_data.py` and `filter.py` of the authors' code (SqueezeAILab/LLM2LLM,
bcbcb1a): only seeds that the student answers wrong are shown to the teacher, never generated rows, so that the data
grows linearly with the rounds.

Differences from the authors' code:

1. The sample of seeds is drawn with a seed and stays in the order of the file; the authors' sample differs from
   run to run.
2. Seeds with the same prompt stay rows of their own; the authors' code keeps one of them.
3. A generated row with a seed's prompt is not taken for the seed; the authors' code looks the prompt up, and
   takes it for the seed.
"""

import math
from typing import Literal, get_args

import polars as pl

from lance_assets.algorithms.selection.draws import select_random

AugmentSource = Literal["seed", "all"]
"""Which trained rows may be shown to the teacher: the seeds, or generated rows as well."""

_SOURCES = ("seed", "generated")
_ROUNDING = 1e-9
"""Far above the rounding of share * num_rows, far below a row."""


def sample_seeds(num_rows: int, share: float, rng_seed: int) -> list[int]:
    """Draw a share of the rows of a file, rounded down.

    Args:
        num_rows: rows of the file, at least 1.
        share: in (0, 1]; 0.01 to 0.2 in the authors' runs.
        rng_seed: the experiment's.

    Returns:
        Different places in [0, num_rows), sorted.

    Raises:
        ValueError: the share is not in (0, 1], or it is less than one row.

    >>> len(sample_seeds(7473, 0.01, rng_seed=0)), len(sample_seeds(100, 0.29, rng_seed=0))
    (74, 29)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    num_seeds = math.floor(share * num_rows + _ROUNDING)
    if num_seeds < 1:
        raise ValueError(f"share={share} of num_rows={num_rows} is less than one row: raise the share")
    return select_random(num_rows, num_seeds, rng_seed=rng_seed).tolist()


def choose_lesson_sources(rows: pl.DataFrame, *, augment_source: AugmentSource, targeted: bool) -> pl.DataFrame:
    """The trained rows that the teacher is shown.

    Args:
        rows: everything the student was trained on: `row_id`, unique; `source`, "seed" or "generated"; and, where
            `targeted`, `is_correct`, whether the student's answer matched.
        augment_source: "seed" leaves generated rows out (the paper's), "all" takes them too (its ablation).
        targeted: whether only rows with a wrong answer are chosen; False is the untargeted control.

    Returns:
        The rows, all columns, in the order of the input; several with the same prompt all stay.

    Raises:
        ValueError: an unknown `augment_source` or source, a row id twice, or a row that may be chosen and has no
            `is_correct`.

    >>> rows = pl.DataFrame({"row_id": ["a", "b", "c"], "source": ["seed", "seed", "generated"],
    ...                      "is_correct": [True, False, False]})
    >>> choose_lesson_sources(rows, augment_source="seed", targeted=True)["row_id"].to_list()
    ['b']
    >>> choose_lesson_sources(rows, augment_source="seed", targeted=False)["row_id"].to_list()
    ['a', 'b']
    """
    if augment_source not in get_args(AugmentSource):
        raise ValueError(f"augment_source is one of {', '.join(get_args(AugmentSource))}; got {augment_source!r}")
    unknown = rows.filter(~pl.col("source").is_in(_SOURCES) | pl.col("source").is_null())
    if len(unknown):
        row_id, source = unknown.select("row_id", "source").row(0)
        raise ValueError(f"a source is one of {', '.join(_SOURCES)}; row {row_id} has {source!r}")
    twice = rows.filter(pl.col("row_id").is_duplicated())["row_id"]
    if len(twice):
        raise ValueError(f"rows must have one row for each row_id, {twice[0]} has several")
    candidates = rows if augment_source == "all" else rows.filter(pl.col("source") == "seed")
    if not targeted:
        return candidates
    unjudged = candidates.filter(pl.col("is_correct").is_null())["row_id"]
    if len(unjudged):
        raise ValueError(f"row {unjudged[0]} has no is_correct: match its answer first, or choose untargeted")
    return candidates.filter(~pl.col("is_correct"))
