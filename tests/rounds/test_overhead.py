"""What of a round was models at work, worked by hand."""

import pytest

from lance_assets.records import Sample
from lance_assets.rounds.asking import Cost, add_costs
from lance_assets.rounds.making.training import StepClock
from lance_assets.rounds.shown.overhead import RoundSplit, split_round
from lance_assets.settings.engines import PriceSettings


def test_what_is_no_model_time_is_overhead() -> None:
    """Two steps of 20 and 30 s with 5 s between them, of which models worked 40: 15 of 55 s are 37.5% on top."""
    costs = {
        "raw_generations": Cost(seconds=20.0, ended=120.0, model_seconds=15.0),
        "checkpoint": Cost(seconds=30.0, ended=155.0, model_seconds=25.0),
    }
    split = split_round(costs)
    assert (split.total, split.model, split.overhead) == (55.0, 40.0, 15.0)
    assert split.overhead_ratio == 0.375
    # The command's own start and end count where they are known.
    assert split_round(costs, total=80.0).overhead_ratio == 1.0


def test_a_round_of_an_older_version_has_no_ratio() -> None:
    split = split_round({"checkpoint": Cost(seconds=30.0)})
    assert split == RoundSplit(30.0, 0.0)
    assert split.overhead_ratio is None
    assert "nothing is known" in split.describe()


def test_loading_the_model_is_no_work_of_it() -> None:
    sample = Sample("a", "x", "stop", 1, 1)
    cost = Cost()
    for start_seconds in (4.0, 0.0):
        cost.add(
            [sample],
            seconds=10.0,
            num_taken_up=0,
            is_constrained=False,
            prices=PriceSettings(),
            start_seconds=start_seconds,
        )
    assert (cost.engine_seconds, cost.model_seconds) == (20.0, 16.0)
    cost.note_model_seconds(1.5)
    assert add_costs([cost, cost]).model_seconds == 35.0


def test_a_trainer_works_from_a_stages_first_line_to_its_last() -> None:
    """SFT from 10 to 30, DPO from 40 to 45; what is said between them, before and after is no work."""
    clock = StepClock()
    said = [
        (1.0, "waiting until no engine holds memory"),
        (10.0, "sft: 96 rows, 0 over max_length=512; float32, whole batches"),
        (20.0, "sft: step 4 of 8, loss 1.2"),
        (30.0, "sft: step 8 of 8, loss 1.1"),
        (35.0, "sft: taking up after the finished SFT of a killed run"),
        (40.0, "dpo: 8 rows, 0 over max_length=512; float32, whole batches"),
        (45.0, "dpo: step 1 of 1, loss 0.69"),
        (60.0, "saved"),
    ]
    for moment, line in said:
        clock.note(line, moment)
    assert clock.seconds == pytest.approx(25.0)
