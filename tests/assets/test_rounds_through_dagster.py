"""Two rounds through Dagster with the packaged model: real engine, real training, real LanceDB."""

import json
import os
import sys
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from lance_assets.assets.names import find_key, find_rounds
from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import CHECKS, NOUNS, TRAINING, World, find_failures, find_stale, open_world

pytestmark = pytest.mark.slow

TELL_PID = ("sh", "-c", 'echo "training process $$"; exec "$0" "$@"', sys.executable)
"""A launcher that logs which process trains."""
KEY = "sk-5e7a1c90d2b84f36"


@pytest.fixture(scope="module")
def world(two_rounds: Path):
    """Both rounds, only to be read."""
    with open_world(two_rounds) as world:
        yield world


def test_every_asset_and_check_of_both_rounds_stands(world: World):
    for noun in NOUNS:
        statuses = world.instance.get_status_by_partition(
            find_key(world.plan, noun), ["r0000", "r0001"], find_rounds(world.plan)
        )
        assert statuses == dict.fromkeys(("r0000", "r0001"), dg.AssetPartitionStatus.MATERIALIZED), noun
    for run in world.instance.get_runs():
        events = world.instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ).records
        results = [record.event_log_entry.dagster_event.asset_check_evaluation_data for record in events]
        assert {(result.asset_key.path[-1], result.check_name) for result in results} == CHECKS
        failed = [result.check_name for result in results if not result.passed and result.blocking]
        assert not failed


def test_a_round_starts_from_the_checkpoint_of_the_round_before(world: World):
    first, second = world.round("r0000"), world.round("r0001")
    assert first.read("start_checkpoint")["parent_round"].to_list() == [None]
    started = second.read("start_checkpoint").row(0, named=True)
    assert started["parent_round"] == "r0000"
    assert started["content_hash"] == first.read("checkpoint")["content_hash"][0]
    assert second.read("checkpoint")["parent_hash"][0] == started["content_hash"]
    hashes = {
        key: world.platform.checkpoints.hash_checkpoint(world.round(key).model_path(key)) for key in ("r0000", "r0001")
    }
    assert hashes == {key: world.round(key).read("checkpoint")["content_hash"][0] for key in hashes}
    assert len({*hashes.values(), first.read("start_checkpoint")["content_hash"][0]}) == 3

    shown = world.metadata("start_checkpoint", "r0001")
    assert shown["parent_round"] == "r0000"
    assert shown["parent_checkpoint"] == "/assets/tiny/checkpoint?partition=r0000&view=partitions"
    assert world.instance.get_run_by_id(str(shown["parent_run"])).tags["dagster/partition"] == "r0000"
    told = world.instance.fetch_observations(find_key(world.plan, "checkpoint"), limit=5).records
    assert [(r.partition_key, r.asset_observation.metadata["started"].value) for r in told] == [
        ("r0000", "start_checkpoint of r0001")
    ]


def test_metadata_says_what_a_person_wants_to_know(world: World):
    wanted = {
        "start_checkpoint": {"path", "content_hash", "parent_round", "parent_checkpoint", "parent_run"},
        "seed_set": {"dagster/row_count", "num_pool", "num_not_taken", "seed_rate", "preview"},
        "raw_generations": {"dagster/row_count", "kinds", "finish_reasons", "preview"},
        "cleaned_set": {
            "dagster/row_count",
            "num_kept",
            "keep_rate",
            "drop_reasons",
            "preview_kept",
            "preview_dropped",
        },
        "reviewed_set": {"dagster/row_count", "num_unscored_rows", "mean_spread", "branches/low", "scores", "preview"},
        "sft_set": {"dagster/row_count", "num_new", "sources", "rounds", "scores", "preview"},
        "preference_pairs": {"dagster/row_count", "num_new"},
        "checkpoint": {"path", "content_hash", "is_trained", "trained_on", "losses", "train_tokens", "train_seconds"},
        "eval_report": {"score", "ci_low", "ci_high", "against_previous", "against_best", "over_rounds", "by_rung"},
    }
    missing = {noun: sorted(names - world.metadata(noun, "r0001").keys()) for noun, names in wanted.items()}
    assert {noun: names for noun, names in missing.items() if names} == {}
    for noun in wanted:
        shown = world.metadata(noun, "r0001")
        assert shown["cost/seconds"] > 0
        assert str(shown["browse"]).endswith(f"/r0001/rows/{noun}")
    for noun, picture in (("checkpoint", "losses"), ("eval_report", "over_rounds"), ("reviewed_set", "scores")):
        assert "data:image/png;base64," in str(world.metadata(noun, "r0001")[picture])
    cleaned = world.round("r0001").read("cleaned_set")
    shown = world.metadata("cleaned_set", "r0001")
    assert shown["num_kept"] == cleaned["drop_reason"].null_count()
    assert all(reason in str(shown["drop_reasons"]) for reason in cleaned["drop_reason"].drop_nulls().unique())


def test_memory_of_the_training_step_is_that_of_its_trainer(world: World):
    shown, cost = world.metadata("checkpoint", "r0001"), world.round("r0001").read_costs()["checkpoint"]
    assert cost.peak_host_gib >= shown["memory/training_peak_host_gib"] - 0.01 > 0.2
    assert "dpo_measures" in shown or not world.round("r0001").read("checkpoint")["dpo_losses"][0].len()


def test_costs_count_what_was_sampled(world: World):
    raw, costs = world.round("r0001").read("raw_generations"), world.round("r0001").read_costs()
    assert set(costs) == set(NOUNS)
    assert costs["raw_generations"].num_samples == len(raw) > 0
    assert costs["raw_generations"].completion_tokens == raw["completion_tokens"].sum()
    assert (
        costs["reviewed_set"].num_samples
        == world.round("r0001")
        .read("cleaned_set")
        .filter(pl.col("drop_reason").is_null() & (pl.col("kind") != "new_prompt"))
        .height
    )
    assert costs["eval_report"].num_samples == len(world.round("r0001").read("eval_items"))
    assert (
        world.metadata("raw_generations", "r0001")["cost/completion_tokens"]
        == costs["raw_generations"].completion_tokens
    )


def test_the_history_holds_each_kept_text_of_the_round(world: World):
    kept = world.round("r0001").read("cleaned_set").filter(pl.col("drop_reason").is_null())
    rows, vectors = world.platform.history.read_round("tiny", "r0001")
    assert sorted(rows["row_id"]) == sorted(kept["row_id"])
    assert vectors.shape == (len(kept), 384)
    assert len(world.platform.history.read_round("tiny", "r0000")[0]) == 0


def test_every_trained_row_can_be_followed_back_to_a_seed(world: World):
    second = world.round("r0001")
    seeds = set(second.read("seed_set")["row_id"])
    raw = {row["row_id"]: row for row in second.read("raw_generations").to_dicts()}
    kept = set(second.read("cleaned_set").filter(pl.col("drop_reason").is_null())["row_id"])
    reviewed = {row["row_id"]: row for row in second.read("reviewed_set").to_dicts()}
    sft = second.read("sft_set")
    accepted = sft.filter(source="generated", source_round="r0001").to_dicts()
    pairs = second.read("preference_pairs").filter(source_round="r0001").to_dicts()
    assert len(accepted) + len(pairs) > 0, "the tiny experiment is meant to bring at least one row"
    for row in accepted:
        review = reviewed[row["source_id"]]
        assert (row["prompt"], row["completion"], row["review_score"]) == tuple(
            review[name] for name in ("prompt", "completion", "review_score")
        )
        completion = raw[row["source_id"]]
        new_prompt = raw[completion["parent_id"]]
        assert {row["source_id"], new_prompt["row_id"]} <= kept
        assert new_prompt["kind"] == "new_prompt"
        assert new_prompt["prompt"] == row["prompt"]
        assert new_prompt["seed_id"] == completion["seed_id"] == review["seed_id"]
        assert new_prompt["seed_id"] in seeds
    for row in pairs:
        for side in ("chosen", "rejected"):
            review = reviewed[row[f"{side}_id"]]
            assert (row[side], row[f"{side}_score"]) == (review["completion"], review["review_score"])
            assert review["seed_id"] in seeds
            assert review["kind"] == "seed" or raw[review["row_id"]]["parent_id"] in seeds
    from_seeds = sft.filter(source="seed")
    assert set(from_seeds["source_id"]) == set(world.round("r0000").read("seed_set")["row_id"])


def test_the_log_of_the_training_process_is_shown(world: World):
    run = next(run for run in world.instance.get_runs() if run.tags["dagster/partition"] == "r0001")
    texts = [entry.user_message for entry in world.instance.all_logs(run.run_id)]
    assert any(text.startswith("sft: step") for text in texts)
    log = json.loads((world.round("r0001").model_path("r0001") / "training_log.json").read_text())
    assert log["sft"]["num_rows"] == len(world.round("r0001").read("sft_set"))


def test_a_round_without_the_one_before_fails_clearly(make_world: OpenWorld, two_rounds: Path):
    world = make_world(made_before=two_rounds)
    result = world.materialize("r0007", "start_checkpoint")
    assert find_failures(result) == {
        "tiny__start_checkpoint": "tiny r0007 start_checkpoint: round r0007 starts from r0006, which has no finished "
        "eval_report; materialize it first"
    }
    assert not (world.platform.root / "tables" / "tiny" / "r0007").exists()


def test_a_round_in_which_nothing_passes_keeps_its_start_checkpoint(make_world: OpenWorld, two_rounds: Path):
    world = make_world(made_before=two_rounds, sft_threshold=10.0, score_gap=10.0)
    result = world.materialize("r0001", "sft_set", "preference_pairs", "checkpoint")
    assert result.success, find_failures(result)
    row = world.round("r0001").read("checkpoint").row(0, named=True)
    assert (row["is_trained"], row["num_sft_rows"], row["num_pairs"], row["sft_losses"]) == (False, 0, 0, [])
    assert row["content_hash"] == row["parent_hash"] == world.round("r0000").read("checkpoint")["content_hash"][0]
    assert world.platform.checkpoints.hash_checkpoint(world.round("r0001").model_path("r0001")) == row["content_hash"]
    assert "nothing to train on" in str(world.metadata("checkpoint", "r0001")["note"])
    (moved,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "loss_moved"]
    assert moved.passed


@pytest.mark.slow
def test_doing_a_round_again_gives_the_same_bytes(
    make_world: OpenWorld, two_rounds: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("A_KEY_OF_A_TEST", KEY)
    world = make_world(made_before=two_rounds, training=TRAINING | {"launcher": TELL_PID})
    before = world.read_bytes("r0001")
    versions = world.versions("r0001")
    assert {f"{noun}.parquet" for noun in NOUNS} | {"model.safetensors"} <= before.keys()
    result = world.run("r0001")
    assert result.success
    texts = [entry.user_message for entry in world.instance.all_logs(result.run_id)]
    assert any(text.startswith("sft: step") for text in texts), "it was trained again"
    (told,) = [text for text in texts if text.startswith("training process")]
    assert told != f"training process {os.getpid()}", "which is where the engine ran"
    after = world.read_bytes("r0001")
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == []
    assert world.versions("r0001") == versions
    assert set(find_stale(world, "r0001").values()) == {"FRESH"}
    files = [file for file in world.root.rglob("*") if file.is_file()]
    assert not [file for file in files if KEY.encode() in file.read_bytes()], "the environment is written nowhere"
