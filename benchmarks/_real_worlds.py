"""Checkable tasks on real data for `benchmarks.real_evolution`: SNIPS and mixed tasks of T0.

REAL_DATA names the folder that holds `snips_train.jsonl`, `snips_test.jsonl` and `t0_train_50k.parquet`.
"""

import json
import os
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lance_assets.algorithms.reviews.label_matching import build_labels
from lance_assets.worlds import Problem, World

VARIABLE = "REAL_DATA"
INTENTS = {
    "AddToPlaylist": ("add to playlist",),
    "BookRestaurant": ("book restaurant", "book a restaurant"),
    "GetWeather": ("get weather", "weather"),
    "PlayMusic": ("play music",),
    "RateBook": ("rate book", "rate a book"),
    "SearchCreativeWork": ("search creative work",),
    "SearchScreeningEvent": ("search screening event",),
}
"""The seven intents of SNIPS, with further ways of writing them."""
_LABELS = build_labels(INTENTS)


def find_data() -> Path:
    """The folder of real data.

    Raises:
        FileNotFoundError: REAL_DATA is not set, or names no folder.
    """
    folder = Path(os.environ.get(VARIABLE, ""))
    if not os.environ.get(VARIABLE) or not folder.is_dir():
        raise FileNotFoundError(f"{VARIABLE} names no folder of real data, got {os.environ.get(VARIABLE)!r}")
    return folder


def ask_intent(text: str) -> str:
    """A request to an assistant as a question of classification."""
    return f"Which of these intents does the request have: {', '.join(INTENTS)}?\nRequest: {text}"


def _read_snips(part: str) -> list[dict[str, str]]:
    lines = (find_data() / f"snips_{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def draw_snips_seeds(*, per_intent: int, rng_seed: int) -> list[dict[str, str]]:
    """Seeds of SNIPS: so many requests of each intent, others for each seed."""
    rows = _read_snips("train")
    drawn = []
    for intent in INTENTS:
        mine = [row for row in rows if row["intent"] == intent]
        drawn += random.Random(f"{rng_seed} {intent}").sample(mine, per_intent)
    return [{"prompt": ask_intent(row["text"]), "completion": row["intent"], "answer": row["intent"]} for row in drawn]


def draw_snips(per_stratum: int) -> Sequence[Problem]:
    """Test requests, as many of each intent."""
    rows = _read_snips("test")
    per_intent = max(1, per_stratum // len(INTENTS))
    chosen = [row for intent in INTENTS for row in [one for one in rows if one["intent"] == intent][:per_intent]]
    return [Problem(f"snips:{row['text']}", "intent", 1, ask_intent(row["text"]), row["intent"]) for row in chosen]


def is_intent(problem: Problem, completion: str) -> bool:
    """Whether a completion names the request's intent and no other."""
    return _LABELS.read(completion) == problem.answer


SNIPS = World("snips", "part", (1,), draw_snips, is_intent, mean_tokens=(75.0, 4.0))
"""Intents of crowd-sourced requests (Coucke et al. 2018, arXiv 1805.10190)."""


@cache
def read_t0(num_pool: int, num_held_out: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """A pool and held-out rows of T0's mixed tasks, short ones with a short answer, none in both."""
    import polars as pl

    table = pl.read_parquet(find_data() / "t0_train_50k.parquet")
    short = table.filter(
        pl.col("prompt").str.len_chars().is_between(20, 600) & pl.col("completion").str.len_chars().is_between(1, 60)
    ).unique(subset="prompt", maintain_order=True)
    rows = short.sample(num_pool + num_held_out, shuffle=True, seed=0).select("prompt", "completion").to_dicts()
    return rows[:num_pool], rows[num_pool:]


def draw_t0(per_stratum: int) -> Sequence[Problem]:
    """Held-out rows of T0."""
    _, held_out = read_t0(POOL_ROWS, max(HELD_OUT_ROWS, per_stratum))
    return [
        Problem(f"t0:{place}", "t0", 1, row["prompt"], row["completion"].strip())
        for place, row in enumerate(held_out[:per_stratum])
    ]


def is_exact(problem: Problem, completion: str) -> bool:
    """Whether a completion is the answer, whatever its case and the stop at its end."""
    tidy = [text.strip().rstrip(".").casefold() for text in (problem.answer, completion)]
    return tidy[0] == tidy[1]


POOL_ROWS, HELD_OUT_ROWS = 5000, 300
T0 = World("t0", "part", (1,), draw_t0, is_exact, mean_tokens=(110.0, 8.0))
"""Exact match on mixed English tasks of P3 (Sanh et al. 2022, arXiv 2110.08207)."""
