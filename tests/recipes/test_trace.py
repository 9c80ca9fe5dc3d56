"""TRACE's sequence of tasks on rows worked by hand, and OP and BWT by the paper's formulas."""

import json
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.recipes.trace import RECIPE, TraceSettings, take_task
from lance_assets.records import SeedPlaces
from lance_assets.settings.experiment import SeedSettings
from resources.readers.seed_files import open_seeds
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, build_inputs, identify, run_to_review, seeds

SEEDS = seeds(dict.fromkeys([f"{task}{place}" for task in "abc" for place in range(20)]))
SIZES = (20, 20, 20)
PLACES = SeedPlaces({row_id: place for place, row_id in enumerate(SEEDS["row_id"])}, 60)
"""Of a file in which no row is left out."""


def list_trained(rate: float) -> list[list[str]]:
    """The seeds that each of three rounds trains on."""
    settings = TraceSettings(task_sizes=SIZES, replay_rate=rate)
    start = build_inputs(settings, identify("r0000"), read_places=lambda: PLACES)
    trained = RECIPE.start_sft_set(start, SEEDS, EFT)
    found = [trained["source_id"].drop_nulls().to_list()]
    for key in ("r0001", "r0002"):
        inputs = build_inputs(settings, identify(key), read_places=lambda: PLACES)
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
        take_task(SEEDS, PLACES, sizes=SIZES, round_key="r0003")
    with pytest.raises(ValueError, match="the tasks have 80 rows together, and the seeds' file has 60; lower task_siz"):
        take_task(SEEDS, PLACES, sizes=(40, 40), round_key="r0000")
    with pytest.raises(ValidationError, match="each task needs a seed or more, got 3, 0"):
        TraceSettings(task_sizes=(3, 0))
    assert take_task(SEEDS, PLACES, sizes=SIZES, round_key="r0001")["row_id"][0] == "b0"


def take(left_out: set[str], number: int) -> list[str]:
    """A task of 3 tasks of 20, 10 and 15 rows of the file, of which some are left out; the last 15 rows have none."""
    kept = SEEDS.filter(~pl.col("row_id").is_in(left_out))
    settings = TraceSettings(task_sizes=(20, 10, 15))
    inputs = build_inputs(settings, identify(f"r000{number}"), read_places=lambda: PLACES)
    taken, counts = RECIPE.build_seed_set(inputs, kept, {})
    assert counts["num_left_out_of_task"] == (20, 10, 15)[number] - len(taken)
    assert counts["num_not_taken"] == len(kept) - len(taken)
    return taken["row_id"].to_list()


@pytest.mark.parametrize(
    "left_out", [set(), {"a0"}, {"a3", "a19", "b9"}, {"c19"}, {f"a{place}" for place in range(19)}]
)
def test_a_row_that_is_left_out_makes_its_task_smaller_and_moves_no_other(left_out: set[str]) -> None:
    tasks = [[f"a{place}" for place in range(20)], [f"b{place}" for place in range(10)]]
    tasks.append([*(f"b{place}" for place in range(10, 20)), *(f"c{place}" for place in range(5))])
    for number, rows in enumerate(tasks):
        assert take(left_out, number) == [row_id for row_id in rows if row_id not in left_out]


def test_a_task_without_rows_and_a_file_that_changed_are_told() -> None:
    with pytest.raises(
        ValueError, match=r"task 2 is the rows 21 to 30 of the seeds' file, and all of them are left out"
    ):
        take({f"b{place}" for place in range(10)}, 1)
    with pytest.raises(ValueError, match="1 seeds, the first a0, are not in the seeds' file, which has changed"):
        take_task(
            SEEDS,
            SeedPlaces({k: v for k, v in PLACES.of_rows.items() if k != "a0"}, 60),
            sizes=SIZES,
            round_key="r0000",
        )


def test_the_tasks_of_a_file_keep_their_rows(tmp_path: Path) -> None:
    """Of seven rows the second and the last repeat the first, and the fifth has no allowed licence."""
    rows = [("p0", "mit"), ("p0", "mit"), ("p2", "mit"), ("p3", "mit"), ("p4", "gpl"), ("p5", "mit"), ("p0", "mit")]
    written = [json.dumps({"prompt": prompt, "completion": "c", "license": own}) for prompt, own in rows]
    (tmp_path / "tasks.jsonl").write_text("\n".join(written))
    source = SeedSettings.model_validate(
        {"path": "tasks.jsonl", "license_field": "license", "allowed_licenses": ["mit"]}
    )
    read = open_seeds(source, tmp_path)
    assert read.table["prompt"].to_list() == ["p0", "p2", "p3", "p5"]
    assert (list(read.places.of_rows.values()), read.places.num_rows) == ([0, 2, 3, 5], 7)
    tasks = [
        take_task(read.table, read.places, sizes=(3, 3), round_key=key)["prompt"].to_list()
        for key in ("r0000", "r0001")
    ]
    assert tasks == [["p0", "p2"], ["p3", "p5"]]
