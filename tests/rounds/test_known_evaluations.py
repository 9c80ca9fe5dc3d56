"""Weights that were evaluated are not asked again, where they were asked in the same way."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from lance_assets.rounds.making.evaluating import make_eval_report
from lance_assets.rounds.making.known_evaluations import describe_taken
from lance_assets.rounds.report import Made
from lance_assets.rounds.round import Round
from lance_assets.small_world import SMALL_MODEL
from tests.assets.scripted_platform import ScriptedPlatform
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment

TABLES = ("eval_report", "eval_items", "harness_items", "judge_items")


@pytest.fixture
def platform(tmp_path: Path) -> ScriptedPlatform:
    return ScriptedPlatform(data_root=str(tmp_path / "data"))


def train(platform: ScriptedPlatform, key: str, change: int, **settings: object) -> Round:
    """A round of the experiment with a checkpoint whose last byte tells it from others; 0 is the base model's own."""
    folder = write_tiny_experiment(platform.root.parent / "experiment")
    this_round = Round(plan_tiny(folder, **settings), platform, key, lambda _: None)
    copied = shutil.copytree(SMALL_MODEL, platform.root / "copied")
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= change
    (copied / "model.safetensors").write_bytes(weights)
    platform.checkpoints.publish(copied, this_round.plan.name, key)
    base = platform.checkpoints.hash_checkpoint(SMALL_MODEL)
    start = {"parent_round": None, "content_hash": base, "handover_hash": "", "left_out": []}
    this_round.write("start_checkpoint", pl.DataFrame([start], schema=this_round.empty("start_checkpoint").schema))
    return this_round


def evaluate(this_round: Round) -> tuple[Made, int]:
    """The evaluation, stored, and the samples that were asked for it."""
    made = make_eval_report(this_round)
    for name, table in made.others.items():
        this_round.write(name, table)
    this_round.write("eval_report", made.table)
    return made, this_round.cost.num_samples


def test_the_same_weights_have_the_same_evaluation(platform: ScriptedPlatform) -> None:
    first = train(platform, "r0000", 1)
    _, num_asked = evaluate(first)
    # The checkpoint and the backbone, greedily and sampled.
    assert num_asked == 2 * len(first.read("eval_items").filter(model="checkpoint")) > 0
    assert describe_taken(first) == {}
    for key, change, source in (("r0001", 1, "checkpoint"), ("r0002", 0, "backbone")):
        later = train(platform, key, change)
        made, num_asked = evaluate(later)
        assert num_asked == 0
        assert made.table["model"].unique().to_list() == ["checkpoint"]
        for name in TABLES:
            expected = first.read(name).filter(model=source).with_columns(model=pl.lit("checkpoint"))
            assert later.read(name).equals(expected)
        told = describe_taken(later)["not_asked_again"]
        assert told.startswith(f"the checkpoint has the weights of the {source} of r0000: ")
    # What was taken may be taken again, and other weights are asked.
    again, trained = train(platform, "r0003", 1), train(platform, "r0004", 2)
    assert evaluate(again)[1] == 0
    assert evaluate(trained)[1] == len(trained.read("eval_items")) > 0
    assert describe_taken(trained) == {}


def test_an_untrained_start_is_asked_once(platform: ScriptedPlatform) -> None:
    start = train(platform, "r0000", 0)
    made, num_asked = evaluate(start)
    items = start.read("eval_items")
    assert num_asked == len(items) / 2 == len(items.filter(model="checkpoint"))
    assert made.table["model"].unique(maintain_order=True).to_list() == ["checkpoint", "backbone"]
    assert items.filter(model="checkpoint").drop("model").equals(items.filter(model="backbone").drop("model"))


def test_another_way_of_asking_is_another_evaluation(platform: ScriptedPlatform) -> None:
    evaluate(train(platform, "r0000", 1))
    world = {"name": "lance_assets.small_world:WORLD", "per_stratum": 1, "max_new_tokens": 65}
    assert evaluate(train(platform, "r0001", 1, evaluation={"world": world}))[1] > 0


def test_weights_that_were_trained_again_are_not_those_that_were_asked(platform: ScriptedPlatform) -> None:
    """r0000 was evaluated with other weights than it has now: its rows are not those of the new weights."""
    evaluate(train(platform, "r0000", 1))
    train(platform, "r0000", 2)
    assert evaluate(train(platform, "r0001", 2))[1] > 0
    assert evaluate(train(platform, "r0002", 1))[1] == 0


def test_a_round_without_the_table_is_asked(platform: ScriptedPlatform) -> None:
    first = train(platform, "r0000", 1)
    evaluate(first)
    platform.tables.path(first.plan.name, "r0000", "evaluated_models").unlink()
    assert evaluate(train(platform, "r0001", 1))[1] > 0
