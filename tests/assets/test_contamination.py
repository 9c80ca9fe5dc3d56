"""Prompts against the evaluation by the world's rule, by n-grams and by embedding, with the pairs shown."""

import json
from pathlib import Path

import pytest

from tests.assets.conftest import OpenWorld
from tests.assets.test_leaks import WORDINGS
from tests.assets.tiny_experiment import WORLD, World

PROTECTED = "A farmer has twelve hens and every hen lays two eggs a day, so how many eggs are there in a week?"
LONGER = f"Think hard. {PROTECTED} Explain each step."


def open_protected(make: OpenWorld, root: Path, **evaluation: object) -> World:
    path = root / "protected.jsonl"
    path.write_text(json.dumps({"prompt": PROTECTED}) + "\n")
    return make(evaluation={"world": WORLD, "protected_prompts": str(path), **evaluation})


def test_each_rule_names_the_pair(make_scripted_world: OpenWorld, tmp_path: Path) -> None:
    this_round = open_protected(make_scripted_world, tmp_path).round("r0001")
    prompts = [WORDINGS[1], LONGER, PROTECTED.upper(), "What is the capital of Peru?"]
    found = this_round.guard.find(["a", "b", "c", "d"], prompts)
    assert [(row["row_id"], row["rule"]) for row in found.to_dicts()] == [
        ("a", "held_out"),
        ("b", "ngram"),
        ("c", "equal"),
    ]
    assert found["evaluation_prompt"].to_list() == [None, PROTECTED, PROTECTED]
    told = this_round.guard.describe(found, prompts)
    assert told["num_overlapping"] == 3
    assert PROTECTED in told["matches"].table["evaluation_prompt"].to_list()
    assert "d" not in found["row_id"]


@pytest.mark.slow
def test_an_embedding_neighbour_is_left_out_of_seeds_and_candidates(
    make_scripted_world: OpenWorld, tmp_path: Path
) -> None:
    """The scripted embedder's vectors are random, so that a bar of 0.999 is passed by the same text alone."""
    world = open_protected(make_scripted_world, tmp_path, max_similarity=0.999)
    this_round = world.round("r0001")
    found = this_round.guard.find(["b", "c"], [LONGER, PROTECTED])
    assert [(row["row_id"], row["rule"]) for row in found.to_dicts()] == [
        ("b", "ngram"),
        ("c", "embedding"),
        ("c", "equal"),
    ]
    assert world.run("r0000").success
    assert world.run("r0001").success


@pytest.mark.slow
def test_the_prompts_of_harness_tasks_are_evaluation_prompts(
    make_scripted_world: OpenWorld, project_root: Path
) -> None:
    folder = project_root / "lance_assets" / "experiments" / "gsm8k_lance"
    lm_eval = {"tasks": ["gsm8k_local"], "include_path": str(folder / "tasks")}
    world = make_scripted_world(evaluation={"lm_eval": lm_eval, "allow_task_code": True})
    question = json.loads((folder / "protected_sample.jsonl").read_text().splitlines()[0])["question"]
    found = world.round("r0001").guard.find(["a"], [f"Please: {question}"])
    assert found["rule"].to_list() == ["ngram"]
    assert found["evaluation_prompt"].to_list() == [question]
