"""TRACE's sequence of tasks on rows worked by hand, and OP and BWT by the paper's formulas."""

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.recipes.trace import RECIPE, TraceSettings, take_task
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, build_inputs, identify, run_to_review, seeds

SEEDS = seeds(dict.fromkeys([f"{task}{place}" for task in "abc" for place in range(20)]))
SIZES = (20, 20, 20)


def list_trained(rate: float) -> list[list[str]]:
    """The seeds that each of three rounds trains on."""
    settings = TraceSettings(task_sizes=SIZES, replay_rate=rate)
    trained = RECIPE.start_sft_set(build_inputs(settings, identify("r0000")), SEEDS, EFT)
    found = [trained["source_id"].drop_nulls().to_list()]
    for key in ("r0001", "r0002"):
        inputs = build_inputs(settings, identify(key))
        own, _ = RECIPE.build_seed_set(inputs, SEEDS, {})
        _, _, reviewed = run_to_review(RECIPE, settings, own, ScriptedAsk(lambda *_: ""), round_key=key)
        trained = RECIPE.build_sft_set(inputs, reviewed, trained)
        assert trained.filter(source="eft").height == 1
        assert trained.filter(source_round=key)["source_id"].to_list() == own["row_id"].to_list()
        found.append(trained["source_id"].drop_nulls().to_list())
    return found


def test_each_round_trains_on_the_next_task_alone_without_replay() -> None:
    assert [{row_id[0] for row_id in rows} for rows in list_trained(0.0)] == [{"a"}, {"b"}, {"c"}]


def test_replay_keeps_a_share_of_every_earlier_task() -> None:
    rounds = list_trained(0.3)
    of_a = [{row_id for row_id in rows if row_id[0] == "a"} for rows in rounds]
    assert 0 < len(of_a[1]) < 20
    assert of_a[1] == of_a[2], "a row is replayed in every later round or in none"
    assert {row_id[0] for row_id in rounds[2]} == set("abc")
    assert [len(rows) for rows in list_trained(1.0)] == [20, 40, 60]


def test_a_round_beyond_the_last_task_and_too_few_seeds_are_told() -> None:
    with pytest.raises(ValueError, match=r"there are 3 tasks, and r0003 has none; set stop.max_rounds: 2"):
        take_task(SEEDS, sizes=SIZES, round_key="r0003")
    with pytest.raises(ValueError, match="the tasks have 80 seeds together, and there are 60"):
        take_task(SEEDS, sizes=(40, 40), round_key="r0000")
    with pytest.raises(ValidationError, match="each task needs a seed or more, got 3, 0"):
        TraceSettings(task_sizes=(3, 0))
    assert take_task(SEEDS, sizes=SIZES, round_key="r0001")["row_id"][0] == "b0"
    assert isinstance(SEEDS, pl.DataFrame)
