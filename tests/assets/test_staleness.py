"""What the UI calls unsynced after a setting changed: the asset that reads it and all after it, nothing before."""

import json
from pathlib import Path

import pytest

from lance_assets.rounds.identity.kept import compare_identities, read_identity
from lance_assets.rounds.identity.own_code import hash_own_code
from lance_assets.rounds.nouns import explain_identity
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED_TRAINING
from tests.assets.tiny_experiment import NOUNS, TRAINING, WORLD, find_failures, find_stale

LAST = {"dpo": {"learning_rate": 1e-7}}
AFTER_REVIEW = {"sft_set", "diversity_report", "checkpoint", "eval_report"}


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ({}, set()),
        ({"sft_threshold": 9.5}, AFTER_REVIEW),
        ({"score_gap": 5.0}, {"preference_pairs", "checkpoint", "eval_report"}),
        ({"rouge_l_threshold": 0.9}, set(NOUNS) - {"start_checkpoint", "seed_set", "raw_generations"}),
        ({"temperature": 0.5}, set(NOUNS) - {"start_checkpoint", "seed_set"}),
        ({"stages": {"new_prompt": {"temperature": 0.5}}}, set(NOUNS) - {"start_checkpoint", "seed_set"}),
        (
            {"stages": {"review": {"max_new_tokens": 200}}},
            {"reviewed_set", "preference_pairs"} | AFTER_REVIEW,
        ),
        ({"training": SCRIPTED_TRAINING | {"by_round": {"r0001": LAST}}}, {"checkpoint", "eval_report"}),
        ({"checks": {"max_cut_off_rate": 0.0}}, set()),
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


def test_changed_code_marks_what_follows_from_it(
    make_scripted_world: OpenWorld, scripted_rounds: Path, monkeypatch: pytest.MonkeyPatch
):
    def hash_changed(roots: list[str], *, without: list[str]) -> str:
        digest = hash_own_code(roots, without=without)
        return f"{digest}, changed" if any(root.endswith(":make_reviewed_set") for root in roots) else digest

    monkeypatch.setattr("lance_assets.rounds.nouns.hash_own_code", hash_changed)
    stale = find_stale(make_scripted_world(made_before=scripted_rounds), "r0001")
    expected = {"reviewed_set", "preference_pairs"} | AFTER_REVIEW
    assert {noun for noun, status in stale.items() if status == "STALE"} == expected


def test_every_noun_of_a_round_says_what_it_was_made_with(make_scripted_world: OpenWorld, scripted_rounds: Path):
    world = make_scripted_world(made_before=scripted_rounds)
    tables = world.platform.tables
    for noun in NOUNS:
        identities = [read_identity(tables, world.plan.name, key, noun) for key in ("r0000", "r0001")]
        assert identities[0] == json.loads(json.dumps(explain_identity(world.plan, noun)))
        assert compare_identities(*identities) == []
