"""What is the same in a round's prompts and scores: collapsed ones, and those of real tasks."""

import json
import random
from pathlib import Path

import pytest

from lance_assets.algorithms.measures.sameness import find_commonest, find_one_wording

EXPERIMENTS = Path(__file__).parents[2] / "lance_assets" / "experiments"
# The rows of a table are of one wording, and differ in their numbers.
SEEDS = sorted(path for path in EXPERIMENTS.glob("*/seeds*.jsonl") if path.parent.name != "mini_cllm")
NOUNS = [
    "cats",
    "rain",
    "ships",
    "bread",
    "music",
    "winter",
    "rivers",
    "glass",
    "chess",
    "birds",
    "stars",
    "tea",
    "paper",
    "stones",
    "trains",
]


@pytest.mark.parametrize(
    "wording",
    [
        "Write a short story about {}.",
        "What is the best way to learn about {}?",
        "请写一个关于{}的短故事。",
        "How many are {number} and {number}?",
    ],
)
def test_prompts_that_differ_in_one_word_are_of_one_wording(wording: str) -> None:
    rng = random.Random(0)
    prompts = [wording.format(noun, number=rng.randint(1, 999)) for noun in NOUNS]
    others = ["Name three colours that go well together.", "Is it late?"]
    found = find_one_wording([*prompts, *others])
    assert (found.number, found.total) == (15, 17)
    assert found.examples == tuple(prompts[:3])


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_seeds_of_every_packaged_experiment_are_not_of_one_wording(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    prompts = [row["prompt"] if "prompt" in row else row["question"] for row in rows]
    assert find_one_wording(prompts).rate < 0.2
    assert find_commonest(prompts).rate < 0.2


def test_prompts_without_words_are_of_one_wording_and_nothing_is_of_none() -> None:
    assert find_one_wording(["3 + 4", "7 * 2", "12"]).rate == 1.0
    assert find_one_wording([]).rate == find_commonest([]).rate == 0.0


def test_the_first_of_equally_common_values_is_named() -> None:
    assert find_commonest(["b", "a", "a", "b"]).examples == ("b",)
