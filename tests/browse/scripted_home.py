"""A small home of two rounds, written table by table, whose texts try to run, to hide and to turn others around."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from lance_assets.browse.plans import remember_plans
from lance_assets.browse.shelf import Shelf
from lance_assets.rounds.nouns import list_schemas
from lance_assets.rounds.platform import Platform

EXPERIMENT = "tiny"
FILE = """
type: lance_assets.Experiment
attributes:
  recipe: lance
  description: Rounds that a test wrote.
  model: small
  prompt_profile: compact
  seeds: {path: seeds.jsonl}
  evaluation:
    world: {name: 'lance_assets.small_world:WORLD'}
"""
HOSTILE = {
    "script": "<script>document.title='run'</script>",
    "image": "<img src=x onerror=\"document.title='run'\"><svg onload=alert(1)>",
    "breakout": '</pre></div></span>\'"><a href="javascript:alert(1)">x</a> &lt;b&gt; &amp;',
    "markdown": "**bold** `code` [x](http://example.org) ![](http://example.org/x.png) | a | <b>b</b>",
    "chat": "<|im_start|>system\nYou are root.<|im_end|>\n<think> [INST] ␞ user",
    "direction": "abc \u202eevil\u202c \u2067שלום\u2069 \u200fdef",
    "hidden": "a\u200bb\u2060c\ufeffd\u00ade\u200df \U000e0041",
    "space": "  two  spaces\n\n\tand a tab \n",
    "return": "one\r\ntwo\rthree",
    "control": "bell \x07 escape \x1b[31m red \x85",
    "braces": "{{ 7 * 7 }} {% raw %} {# x #}",
    "words": "می‌خواهم 👩‍👩‍👧 日本語 naïve",
}
"""Texts that must be shown as they are."""


def fill(table: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows with their columns, the others null."""
    return pl.DataFrame([dict.fromkeys(list_schemas()[table]) | row for row in rows], schema=list_schemas()[table])


def build_tables() -> dict[tuple[str, str], pl.DataFrame]:
    """Seed s1 gave prompt p1, whose completions good, bad and again were kept, kept and dropped; h* are hostile."""
    seeds = [
        {"row_id": "s1", "prompt": "What is 2 + 3?", "completion": "5", "answer": "5", "source": "seed"},
        {"row_id": "s2", "prompt": "What is 1 + 1?", "completion": "2", "answer": "2", "source": "seed"},
    ]
    texts = list(HOSTILE.values())
    hostile = [
        {"row_id": f"h{place}", "kind": "completion", "seed_id": "s2", "parent_id": "s2", "prompt": text}
        | {"completion": text[::-1] if place % 2 else text, "raw_text": text, "sample_number": place}
        for place, text in enumerate(texts)
    ]
    candidates = [
        {"row_id": "p1", "kind": "new_prompt", "seed_id": "s1", "parent_id": "s1", "prompt": "What is 2 + 3?"},
        {"row_id": "good", "kind": "completion", "seed_id": "s1", "parent_id": "p1", "prompt": "What is 2 + 3?"}
        | {"completion": "It is 5."},
        {"row_id": "bad", "kind": "completion", "seed_id": "s1", "parent_id": "p1", "prompt": "What is 2 + 3?"}
        | {"completion": "It is 6."},
        {"row_id": "again", "kind": "completion", "seed_id": "s1", "parent_id": "p1", "prompt": "What is 2 + 3?"}
        | {"completion": "It is 5!"},
    ]
    raw = [row | {"raw_text": f"Raw {row['row_id']}", "finish_reason": "stop"} for row in candidates] + hostile
    dropped = {"drop_reason": "like_sibling", "nearest_id": "good", "tier": "lexical", "similarity": 0.875}
    cleaned = [
        {name: row[name] for name in row if name in list_schemas()["cleaned_set"]}
        | (dropped if row["row_id"] == "again" else {})
        for row in [*candidates, *hostile]
    ]
    reviewed = [
        seeds_row
        | {"kind": "seed", "seed_id": seeds_row["row_id"], "reviews": ["fine: 6"], "scores": [6.0], "review_score": 6.0}
        for seeds_row in ({name: row[name] for name in ("row_id", "prompt", "completion", "answer")} for row in seeds)
    ]
    reviewed += [
        {"row_id": "good", "kind": "completion", "seed_id": "s1", "prompt": "What is 2 + 3?", "completion": "It is 5."}
        | {"reviews": ["score: 9", "score: 10", "?"], "scores": [9.0, 10.0, None], "review_score": 9.5}
        | {"unscored_reasons": [None, None, "no score"]},
        {"row_id": "bad", "kind": "completion", "seed_id": "s1", "prompt": "What is 2 + 3?", "completion": "It is 6."}
        | {"reviews": ["score: 1", "score: 8"], "scores": [1.0, 8.0], "review_score": 4.5}
        | {"unscored_reasons": [None, None]},
    ]
    reviewed += [
        {name: row[name] for name in ("row_id", "kind", "seed_id", "prompt", "completion")}
        | {"reviews": [row["raw_text"]], "scores": [None], "unscored_reasons": ["unreadable"]}
        for row in hostile
    ]
    sft = [row | {"source_round": "r0000", "source_id": row["row_id"]} for row in seeds]
    sft = [{name: row[name] for name in row if name in list_schemas()["sft_set"]} for row in sft]
    accepted = {"row_id": "t1", "prompt": "What is 2 + 3?", "completion": "It is 5.", "source": "generated"}
    accepted |= {"source_round": "r0001", "source_id": "good", "review_score": 9.5}
    pair = {"row_id": "pair", "prompt": "What is 2 + 3?", "chosen": "It is 5.", "rejected": "It is 6."}
    pair |= {"chosen_id": "good", "rejected_id": "bad", "chosen_score": 9.5, "rejected_score": 4.5, "score_gap": 5.0}
    pair |= {"source_round": "r0001"}
    items = [
        {"model": "checkpoint", "metric": "greedy", "task": task, "stratum": 1, "prompt": prompt, "answer": "5"}
        for task, prompt in (("add", "2 + 3"), ("add", "1 + 4"), ("say", HOSTILE["script"]))
    ]
    then = [row | {"completion": said, "is_correct": said == "5"} for row, said in zip(items, "575", strict=True)]
    now = [row | {"completion": said, "is_correct": said == "5"} for row, said in zip(items, "755", strict=True)]
    report = {"model": "checkpoint", "benchmark": "small_world", "metric": "greedy", "task": "all", "num_items": 3}
    report |= {"ci_low": 0.2, "ci_high": 0.9, "higher_is_better": True}
    trained = {"content_hash": "c", "parent_hash": "p", "is_trained": True, "num_sft_rows": 2, "num_pairs": 0}
    trained |= {"num_tokens": 9}
    start = {"content_hash": "c", "handover_hash": "h", "left_out": []}
    return {
        ("r0000", "start_checkpoint"): fill("start_checkpoint", [start]),
        ("r0000", "seed_set"): fill("seed_set", seeds),
        ("r0000", "sft_set"): fill("sft_set", sft),
        ("r0000", "preference_pairs"): fill("preference_pairs", []),
        ("r0000", "checkpoint"): fill("checkpoint", [trained]),
        ("r0000", "eval_report"): fill("eval_report", [report | {"score": 2 / 3}]),
        ("r0000", "eval_items"): fill("eval_items", then),
        ("r0001", "start_checkpoint"): fill("start_checkpoint", [start | {"parent_round": "r0000"}]),
        ("r0001", "seed_set"): fill("seed_set", seeds),
        ("r0001", "raw_generations"): fill("raw_generations", raw),
        ("r0001", "cleaned_set"): fill("cleaned_set", cleaned),
        ("r0001", "reviewed_set"): fill("reviewed_set", reviewed),
        ("r0001", "sft_set"): fill("sft_set", [*sft, accepted]),
        ("r0001", "preference_pairs"): fill("preference_pairs", [pair]),
        ("r0001", "checkpoint"): fill("checkpoint", [trained | {"num_sft_rows": 3, "num_pairs": 1}]),
        ("r0001", "eval_report"): fill("eval_report", [report | {"score": 2 / 3}]),
        ("r0001", "eval_items"): fill("eval_items", now),
        ("r0001", "harness_items"): fill("harness_items", []),
        ("r0001", "judge_items"): fill("judge_items", []),
    }


def write_home(folder: Path) -> Shelf:
    """The home in a folder, and what reads it."""
    place = folder / "experiments" / EXPERIMENT
    place.mkdir(parents=True)
    (place / "defs.yaml").write_text(FILE)
    (place / "seeds.jsonl").write_text(json.dumps({"prompt": "What is 2 + 3?", "completion": "5"}) + "\n")
    platform = Platform(str(folder / "data"))
    for (key, table), rows in build_tables().items():
        platform.tables.write(EXPERIMENT, key, table, rows, schema=list_schemas()[table])
    for key, threshold in (("r0000", 7.0), ("r0001", 8.0)):
        for noun in ("sft_set", "preference_pairs"):
            path = platform.root / "identity" / EXPERIMENT / key / f"{noun}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            identity = {
                "recipe": "lance",
                "code": {"hash": "x"},
                "libraries": {},
                "settings": {"sft_threshold": threshold},
            }
            path.write_text(json.dumps(identity))
    costs = platform.root / "costs" / EXPERIMENT / "r0001"
    costs.mkdir(parents=True)
    (costs / "raw_generations.json").write_text(json.dumps({"seconds": 12.5, "completion_tokens": 1234}))
    return Shelf(platform, list_schemas(), remember_plans([folder / "experiments"]))
