"""What is taught is never what is measured, and an arm without EFT rows is the other but for them."""

import argparse
import json
from pathlib import Path

import polars as pl
import pytest

from benchmarks.real_teaching import FILE, SEEDS, describe, plan_on, write_files
from lance_assets.cli.teaching import teach
from lance_assets.records import REVIEW_SIGNAL
from lance_assets.rounds.making.measuring import measure_table
from lance_assets.small_world import SMALL_MODEL

OPTIONS = argparse.Namespace(model=SMALL_MODEL, profile="compact", num_seeds=4, max_new_tokens=64)


@pytest.mark.parametrize("is_packaged", [True, False])
def test_taught_rows_are_of_seeds_that_are_not_measured(tmp_path: Path, is_packaged: bool) -> None:
    write_files(tmp_path, SEEDS[is_packaged], num_seeds=4, num_taught=6)
    measured, others = (pl.read_ndjson(tmp_path / name) for name in ("seeds.jsonl", "others.jsonl"))
    assert (len(measured), len(others)) == (4, 6)
    assert not set(measured["prompt"]) & set(others["prompt"])
    taught = plan_on(tmp_path, OPTIONS, seeds="others.jsonl")
    teach(taught, to=tmp_path / FILE, max_seeds=None, say=lambda _: None)
    lines = (tmp_path / FILE).read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["messages"][-2]["content"] for line in lines]
    assert len(asked) >= 3 * 6
    assert not any(prompt in text for prompt in measured["prompt"] for text in asked)


def test_too_few_rows_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 58 rows, and 50 measured and 9 taught ones are asked for; lower --num"):
        write_files(tmp_path, SEEDS[False], num_seeds=50, num_taught=9)


def test_arms_differ_by_their_eft_rows_alone(tmp_path: Path) -> None:
    write_files(tmp_path, SEEDS[True], num_seeds=4, num_taught=4)
    (tmp_path / FILE).write_text('{"prompt": "Review this.", "completion": "score: 3"}\n', encoding="utf-8")
    untaught = plan_on(tmp_path, OPTIONS, seeds="seeds.jsonl").settings.model_dump()
    taught = plan_on(tmp_path, OPTIONS, seeds="seeds.jsonl", eft=FILE).settings.model_dump()
    assert taught["seeds"].pop("eft_path") == FILE
    assert untaught["seeds"].pop("eft_path") is None
    assert taught == untaught
    assert taught["parameters"]["score_from"] == "text"


def test_an_arms_figures_by_hand() -> None:
    """Of the four comparisons 8 > 2, 8 < 9, 1 < 2 and 1 < 9 one is right; one of four reviews was made to end."""
    row = {name: None for name in REVIEW_SIGNAL}
    rows = [
        row | {"kind": "degraded", "better": "Two words.", "worse": "One.", "better_score": 8.0, "worse_score": 2.0}
        | {"better_reviews": ["Good. score: 8"], "worse_reviews": ["Bad. score: 2"]},
        row | {"kind": "degraded", "better": "Two words.", "worse": "One.", "better_score": 1.0, "worse_score": 9.0}
        | {"better_reviews": ["Bad. score: 1"], "worse_reviews": ["It goes on\n(forced ending) score: 9.0"]},
    ]  # fmt: skip
    table = pl.DataFrame(rows, schema=REVIEW_SIGNAL)
    found = describe(table, measure_table(table))
    assert (found["auc"], found["unscored_rate"], found["forced_rate"], found["num_pairs"]) == (0.25, 0.0, 0.25, 2)
