"""Held-out problems planted where they could slip in: none reaches the training."""

from pathlib import Path

import polars as pl
import pytest

from lance_assets.small_world.tasks import draw_held_out_prompts, parse_prompt
from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import World, find_failures

HELD_OUT = next(row for row in draw_held_out_prompts(per_rung=1) if row["task"] == "sort" and row["rung"] == 6)
NUMBERS = " ".join(map(str, parse_prompt(HELD_OUT["prompt"]).numbers))
WORDINGS = (HELD_OUT["prompt"], f"Please bring {NUMBERS.replace(' ', ', ')} into ascending order for me.")


def plant(world: World, noun: str, **changed: str) -> None:
    """Put a held-out problem into the first row of a table of r0001."""
    table = world.round("r0001").read(noun)
    first = pl.int_range(pl.len()) == 0
    columns = [pl.when(first).then(pl.lit(value)).otherwise(name).alias(name) for name, value in changed.items()]
    world.round("r0001").write(noun, table.with_columns(columns))


@pytest.mark.slow
@pytest.mark.parametrize("wording", WORDINGS)
def test_a_proposed_one_is_dropped_with_its_reason(make_scripted_world: OpenWorld, wording: str) -> None:
    world = make_scripted_world(machines={"proposes": wording})
    assert world.run("r0001").success
    cleaned = world.round("r0001").read("cleaned_set")
    proposed = cleaned.filter(pl.col("kind") == "new_prompt", pl.col("prompt") == wording)
    assert len(proposed) > 0
    assert set(proposed["drop_reason"]) == {"evaluation_overlap"}
    assert set(cleaned.filter(pl.col("kind") == "completion")["drop_reason"]) == {"prompt_dropped"}
    for noun in ("sft_set", "preference_pairs"):
        assert wording not in world.round("r0001").read(noun)["prompt"].to_list()


@pytest.mark.parametrize("wording", WORDINGS)
def test_one_that_got_into_the_reviewed_set_stops_the_round_before_training(
    make_scripted_world: OpenWorld, scripted_rounds: Path, wording: str
) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    plant(world, "reviewed_set", kind="completion", prompt=wording)
    result = world.materialize("r0001", "sft_set", "checkpoint")
    (check,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "no_evaluation_overlap"]
    assert not check.passed
    assert check.metadata["num_overlapping"].value == 1
    assert wording in str(check.metadata["matches"].value)
    assert not result.asset_materializations_for_node("tiny__checkpoint")


def test_one_in_the_training_set_is_refused_by_the_training(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    plant(world, "sft_set", prompt=WORDINGS[1])
    told = find_failures(world.materialize("r0001", "checkpoint"))["tiny__checkpoint"]
    assert "1 blocking checks of what checkpoint is made from have not passed: no_evaluation_overlap" in told
    # Whoever lets it through the gate still trains on no evaluation prompt.
    told = find_failures(world.materialize("r0001", "checkpoint", accept="a trial"))["tiny__checkpoint"]
    assert "1 training rows are evaluation prompts" in told


def test_one_in_the_pairs_fails_their_check(make_scripted_world: OpenWorld, scripted_rounds: Path) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    plant(world, "reviewed_set", prompt=WORDINGS[1], kind="seed")
    seed = world.round("r0001").read("reviewed_set").row(0, named=True)
    table = world.round("r0001").read("reviewed_set")
    worse = table.head(1).with_columns(
        row_id=pl.lit("w"), kind=pl.lit("degraded_completion"), completion=pl.lit("No idea."), review_score=0.0
    )
    best = table.with_columns(
        review_score=pl.when(pl.col("row_id") == seed["row_id"]).then(10.0).otherwise("review_score")
    )
    world.round("r0001").write("reviewed_set", pl.concat([best, worse.with_columns(seed_id=pl.lit(seed["seed_id"]))]))
    result = world.materialize("r0001", "preference_pairs")
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert check.metadata["num_overlapping_evaluation"].value >= 1
