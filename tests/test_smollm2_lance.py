"""The experiment on a real model: its rows are whole, no held-out question is a seed, and a score is what it says."""

import importlib.util
import json
import math
import re
from types import ModuleType

import pytest

from lance_assets.home import SHIPPED_FOLDER
from lance_assets.rounds.experiments import read_plan

FOLDER = SHIPPED_FOLDER / "smollm2_lance"


def read(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    """The code of its tasks, as the harness loads it."""
    spec = importlib.util.spec_from_file_location("held_out", FOLDER / "tasks" / "held_out.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["seeds.jsonl", "held_out.jsonl"])
def test_every_row_has_its_choices_and_its_answer(name: str) -> None:
    for row in read(name):
        assert re.findall(r"\(([A-D])\)", row["question"])[:4] == ["A", "B", "C", "D"], row["question"]
        assert row["answer"].endswith(f"The answer is ({row['letter']}).")


def test_no_held_out_question_is_a_seed(tasks: ModuleType) -> None:
    held_out = {row["question"] for row in read("held_out.jsonl")}
    assert not held_out & {row["question"] for row in read("seeds.jsonl")}
    assert {row["question"] for row in tasks.load()["test"]} == held_out
    assert len(held_out) == 51


def test_bits_are_counted_by_byte(tasks: ModuleType) -> None:
    # "é" has two bytes, and half a nat of each byte's ln 2 is a bit.
    assert tasks.count_bits({"answer": "aé"}, (-3 * math.log(2), False)) == {"bits_per_byte": pytest.approx(1.0)}
    assert tasks.count_bits({"answer": "ab"}, [(-math.log(2), True)]) == {"bits_per_byte": pytest.approx(0.5)}


def test_another_model_and_other_seeds_are_named_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMOLLM2_MODEL", "SMOLLM2_SEEDS", "SMOLLM2_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    settings = read_plan(FOLDER / "defs.yaml").settings
    assert settings.model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    monkeypatch.setenv("SMOLLM2_MODEL", "small")
    monkeypatch.setenv("SMOLLM2_PROFILE", "compact")
    changed = read_plan(FOLDER / "defs.yaml").settings
    assert (changed.model, changed.prompt_profile) == ("lance_assets.small_world:SMALL_MODEL", "compact")
