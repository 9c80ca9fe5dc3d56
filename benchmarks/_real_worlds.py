"""Checkable tasks on real data for `benchmarks.real_evolution`: SNIPS, mixed tasks of T0, and instructions with a rule.

REAL_DATA names the folder that holds the files of `FILES`.
"""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.reviews.label_matching import build_labels
from lance_assets.algorithms.verifying.rules import judge_by_rules, read_rules
from lance_assets.worlds import Problem, World

VARIABLE = "REAL_DATA"
FILES = (
    *("snips_train.jsonl", "snips_test.jsonl", "t0_train_50k.parquet", "self_instruct_seed_tasks.jsonl"),
    *("gsm8k_train.jsonl", "gsm8k_test.jsonl"),
)
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


def read_snips(part: str) -> list[dict[str, str]]:
    """The requests of a part, train or test, each with text and intent."""
    lines = (find_data() / f"snips_{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def draw_snips_seeds(*, per_intent: int, rng_seed: int) -> list[dict[str, str]]:
    """Seeds of SNIPS: so many requests of each intent, others for each seed."""
    rows = read_snips("train")
    drawn = []
    for intent in INTENTS:
        mine = [row for row in rows if row["intent"] == intent]
        drawn += random.Random(f"{rng_seed} {intent}").sample(mine, per_intent)
    return [{"prompt": ask_intent(row["text"]), "completion": row["intent"], "answer": row["intent"]} for row in drawn]


def draw_snips(per_stratum: int) -> Sequence[Problem]:
    """Test requests, as many of each intent."""
    rows = read_snips("test")
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


TASKS = ("snips", "t0", "gsm8k")
"""Three tasks that a model learns in turn: intents, mixed short answers, and worked problems."""
_NUMBERS = AnswerRule("number", "####")


def read_gsm8k(part: str) -> list[dict[str, str]]:
    """The problems of a part, train or test, each with question and worked answer."""
    lines = (find_data() / f"gsm8k_{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def draw_task_seeds(*, per_task: int, rng_seed: int) -> dict[str, list[dict[str, str]]]:
    """Seeds of the three tasks, as many of each and none twice, in another order for each seed.

    Args:
        per_task: a multiple of the seven intents of SNIPS.
        rng_seed: the seed.
    """
    per_intent, left = divmod(per_task, len(INTENTS))
    if left:
        raise ValueError(f"per_task must be a multiple of the {len(INTENTS)} intents, got {per_task}")
    snips = draw_snips_seeds(per_intent=per_intent, rng_seed=rng_seed)
    random.Random(f"{rng_seed} snips").shuffle(snips)
    t0 = random.Random(f"{rng_seed} t0").sample(read_t0(POOL_ROWS, HELD_OUT_ROWS)[0], per_task)
    gsm8k = random.Random(f"{rng_seed} gsm8k").sample(read_gsm8k("train"), per_task)
    worked = [{"prompt": row["question"], "completion": row["answer"]} for row in gsm8k]
    return {
        task: list({row["prompt"]: {name: row[name] for name in ("prompt", "completion")} for row in rows}.values())
        for task, rows in zip(TASKS, (snips, t0, worked), strict=True)
    }


def draw_three_tasks(per_stratum: int) -> Sequence[Problem]:
    """Held-out problems of the three tasks, so many of each."""
    gsm8k = [
        Problem(f"gsm8k:{place}", "gsm8k", 1, row["question"], row["answer"].rpartition("####")[2].strip())
        for place, row in enumerate(read_gsm8k("test")[:per_stratum])
    ]
    return [*(replace(problem, task="snips") for problem in draw_snips(per_stratum)), *draw_t0(per_stratum), *gsm8k]


def is_done(problem: Problem, completion: str) -> bool:
    """Whether a completion does its task: names the intent, is the answer, or ends in the number after ####."""
    if problem.task == "gsm8k":
        return _NUMBERS.match(problem.answer, _NUMBERS.read(completion))
    return (is_intent if problem.task == "snips" else is_exact)(problem, completion)


THREE_TASKS = World("three_tasks", "part", (1,), draw_three_tasks, is_done)
"""What a model that learns the tasks of `TASKS` in turn can still do of each (after TRACE, arXiv 2310.06762)."""


RULES: tuple[tuple[str, dict[str, object]], ...] = (
    ("Do not use any commas.", {"kind": "punctuation:no_comma"}),
    ("Write only in lower case letters.", {"kind": "change_case:english_lowercase"}),
    (
        "Answer with at most 25 words.",
        {"kind": "length_constraints:number_words", "relation": "less than", "num_words": 26},
    ),
    (
        "Use exactly 3 bullet points that begin with *.",
        {"kind": "detectable_format:number_bullet_lists", "num_bullets": 3},
    ),
    ("Put your whole answer in double quotation marks.", {"kind": "startend:quotation"}),
    ('End with the words "That is all."', {"kind": "startend:end_checker", "end_phrase": "That is all."}),
    ('Use the word "because".', {"kind": "keywords:existence", "keywords": ["because"]}),
    ("Write the whole answer in capital letters.", {"kind": "change_case:english_capital"}),
)
"""What an instruction asks beside, with the rule that tells whether it was done: eight of IFEval's kinds."""


def draw_rules(per_stratum: int) -> Sequence[Problem]:
    """Instructions of Self-Instruct's seed tasks without an input, each with one rule; the rules take turns."""
    lines = (find_data() / "self_instruct_seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    tasks = [json.loads(line) for line in lines]
    free = [task for task in tasks if not task["is_classification"] and not task["instances"][0]["input"]]
    return [
        Problem(
            f"rules:{task['id']}",
            str(rule["kind"]),
            1,
            f"{task['instruction']}\n{words}",
            json.dumps([rule]),
        )
        for task, (words, rule) in zip(free[:per_stratum], cycle(RULES))
    ]


def keeps_rules(problem: Problem, completion: str) -> bool:
    """Whether a completion keeps the rule of its instruction."""
    return judge_by_rules(completion, read_rules(problem.answer)).share == 1


INSTRUCTIONS = World("instructions", "rule", (1,), draw_rules, keeps_rules, mean_tokens=(40.0, 64.0))
"""Whether a form that was asked for is kept (after IFEval, arXiv 2311.07911); nothing is said of what is answered."""
