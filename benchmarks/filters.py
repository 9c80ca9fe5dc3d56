"""How much of what people wrote each filter drops, and what: such a drop is false, unless the text is damaged.

    python -m benchmarks.filters [--data DIR] [--rows N] [--quick] [--only NAME ...]

| set | prompts and completions by people |
| --- | --- |
| Self-Instruct | all seed tasks, `self_instruct_seed_tasks.jsonl` |
| T0 | every so many rows of `t0_train_50k.parquet` |
| GSM8K | every so many rows of `gsm8k_train.jsonl` |
| SNIPS | every so many requests of `snips_train.jsonl`, prompts alone |

Each filter is the one of the experiment's file, at its defaults; `language` allows English, `script` Latin. A prompt is
judged as one that a model proposed and a completion as one that a model wrote, since filters look at nothing else. A
filter whose library is not installed is left out, and that is said. The last line is one JSON object: by filter and set
the share of texts that it drops.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from benchmarks._real_data import find_data
from lance_assets.algorithms.filters.contract import Candidate, RowFilter
from lance_assets.settings.filters import find_filter

FILES = ("self_instruct_seed_tasks.jsonl", "t0_train_50k.parquet", "gsm8k_train.jsonl", "snips_train.jsonl")
FILTERS: dict[str, dict[str, Any]] = {
    "personal_data": {},
    "encoding": {},
    "script": {"allowed": ["Latin"]},
    "language": {"allowed": ["en"]},
    "refusal": {},
    "sign_off": {},
    "chatter": {"kinds": ["new_prompt", "completion"]},
    "loop": {},
    "repetition": {},
}
"""The filters that look at one row, with the settings that they need."""
SHOWN = 3
"""Dropped texts that are shown of each filter and set."""


def _read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _thin(rows: list[Any], number: int) -> list[Any]:
    return rows[:: max(1, -(-len(rows) // number))]


def read_texts(data: Path, number: int) -> dict[str, list[Candidate]]:
    """The texts of each set as what a model might have written.

    Args:
        data: the folder of the four files.
        number: rows of a set at most.
    """
    tasks = _read_lines(data / "self_instruct_seed_tasks.jsonl")
    pairs: dict[str, list[tuple[str, str | None]]] = {
        "Self-Instruct": [(task["instruction"], one["output"]) for task in tasks for one in task["instances"]],
        "T0": pl.read_parquet(data / "t0_train_50k.parquet").select("prompt", "completion").rows(),
        "GSM8K": [(row["question"], row["answer"]) for row in _read_lines(data / "gsm8k_train.jsonl")],
        "SNIPS": [(row["text"], None) for row in _read_lines(data / "snips_train.jsonl")],
    }
    found: dict[str, list[Candidate]] = {}
    for name, rows in pairs.items():
        taken = _thin(rows, number)
        found[f"{name} prompts"] = [Candidate("r", "new_prompt", "s", "s", prompt, None) for prompt, _ in taken]
        if name != "SNIPS":
            found[f"{name} completions"] = [Candidate("r", "completion", "s", "p", *pair) for pair in taken]
    return found


def measure(rule: RowFilter, rows: list[Candidate]) -> tuple[Counter[str], list[str]]:
    """How many rows a filter drops for each reason, and some of them."""
    mine = [row for row in rows if rule.kinds is None or row.kind in rule.kinds]
    dropped = [(reason, row.text or "") for row in mine if (reason := rule.find_reason(row)) is not None]
    return Counter(reason for reason, _ in dropped), [f"{reason}: {text[:100]!r}" for reason, text in dropped[:SHOWN]]


def run(data: Path, number: int, names: list[str]) -> dict[str, dict[str, float]]:
    """Measure and print, filter by filter; the share of texts that each drops of each set."""
    sets, shares = read_texts(data, number), {}
    print("| filter | " + " | ".join(f"{name} ({len(rows):,})" for name, rows in sets.items()) + " | ms a text |")
    print("| --- |" + " ---: |" * (len(sets) + 1))
    examples: list[str] = []
    for name in names:
        try:
            rule = find_filter(name).model_validate({"name": name} | FILTERS[name])
        except ValidationError as error:
            print(f"| {name} | left out: {error.errors()[0]['msg']} |")
            continue
        assert isinstance(rule, RowFilter), f"{name} compares rows"
        began, cells, own = time.perf_counter(), [], {}
        for of, rows in sets.items():
            counts, shown = measure(rule, rows)
            cells.append(str(counts.total()))
            own[of] = counts.total() / len(rows)
            examples += [f"{name}, {of}: {text}" for text in shown]
        taken = (time.perf_counter() - began) / sum(map(len, sets.values()))
        print(f"| {name} | {' | '.join(cells)} | {1000 * taken:.2f} |", flush=True)
        shares[name] = {of: round(share, 6) for of, share in own.items()}
    print("\n".join(["", *examples]))
    return shares


def main() -> None:
    """Read the arguments, measure, and print the shares as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="the folder of real data sets")
    parser.add_argument("--rows", type=int, default=2000, help="rows of a set at most")
    parser.add_argument("--quick", action="store_true", help="200 rows of a set")
    parser.add_argument("--only", nargs="+", choices=sorted(FILTERS), default=list(FILTERS), help="these filters alone")
    arguments = parser.parse_args()
    data = find_data(parser, arguments.data, FILES)
    print(json.dumps(run(data, 200 if arguments.quick else arguments.rows, arguments.only)))


if __name__ == "__main__":
    main()
