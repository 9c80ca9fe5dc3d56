"""What the UI calls unsynced after a setting changed: the asset that reads it and all after it, nothing before."""

from pathlib import Path

import pytest

from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import NOUNS, TRAINING, WORLD, find_failures, find_stale

AFTER_REVIEW = {"sft_set", "diversity_report", "checkpoint", "eval_report"}


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ({}, set()),
        ({"sft_threshold": 9.5}, AFTER_REVIEW),
        ({"score_gap": 5.0}, {"preference_pairs", "checkpoint", "eval_report"}),
        ({"rouge_l_threshold": 0.9}, set(NOUNS) - {"start_checkpoint", "seed_set", "raw_generations"}),
        ({"temperature": 0.5}, set(NOUNS) - {"start_checkpoint", "seed_set"}),
        ({"engine": {"batch_size": 3, "device": "cpu"}}, set()),
        ({"training": TRAINING | {"launcher": ["accelerate", "launch"]}}, set()),
        ({"training": {}}, {"checkpoint", "eval_report"}),
        (
            {"evaluation": {"world": WORLD | {"per_stratum": 2}}},
            set(NOUNS) - {"start_checkpoint"},
        ),
        (
            {"near_duplicates": {"embedding_threshold": 0.9}},
            set(NOUNS) - {"start_checkpoint", "seed_set", "raw_generations"},
        ),
        ({"checks": {"min_pairs": 9}}, set()),
        ({"stop": {"max_rounds": 9}}, set()),
    ],
    ids=lambda value: "-".join(map(str, value.items())) if isinstance(value, dict) else "",
)
def test_a_changed_setting_marks_what_it_changes(
    make_scripted_world: OpenWorld, scripted_rounds: Path, changed: dict[str, object], stale: set[str]
):
    world = make_scripted_world(made_before=scripted_rounds, **changed)
    for key in ("r0000", "r0001"):
        assert {noun for noun, status in find_stale(world, key).items() if status == "STALE"} == stale


def test_what_was_unsynced_is_fresh_once_made_again(make_scripted_world: OpenWorld, scripted_rounds: Path):
    world = make_scripted_world(made_before=scripted_rounds, sft_threshold=10.0, score_gap=10.0)
    result = world.materialize("r0001", "sft_set")
    assert result.success, find_failures(result)
    stale = find_stale(world, "r0001")
    assert stale["sft_set"] == "FRESH"
    assert stale["checkpoint"] == "STALE"
    before = {noun for noun, status in stale.items() if status == "FRESH"}
    assert before >= {"start_checkpoint", "seed_set", "raw_generations", "cleaned_set", "reviewed_set"}
