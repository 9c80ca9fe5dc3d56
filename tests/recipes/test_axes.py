import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lance_assets.recipes.axes import LOSSES, AxisSettings, RecipeSettings, TrainsOn, keep_rounds
from lance_assets.records import SamplingSettings

TRAINS_ON: tuple[TrainsOn, ...] = ("all", "last_two", "latest")


def rows_of(*round_keys: str) -> pl.DataFrame:
    """One row for each round key, in this order."""
    rows = [{"row_id": f"{key}-{place}", "source_round": key} for place, key in enumerate(round_keys)]
    return pl.DataFrame(rows, schema={"row_id": pl.String, "source_round": pl.String})


@pytest.mark.parametrize(
    ("trains_on", "round_key", "kept"),
    [
        ("all", "r0003", ["r0002", "r0000", "r0001", "r0002"]),
        ("last_two", "r0003", ["r0002", "r0002"]),
        ("last_two", "r0002", ["r0001"]),
        ("last_two", "r0001", ["r0000"]),
        ("last_two", "r0009", []),
        ("latest", "r0003", []),
    ],
)
def test_what_is_kept_of_the_rounds_before(trains_on: TrainsOn, round_key: str, kept: list[str]) -> None:
    earlier = rows_of("r0002", "r0000", "r0001", "r0002")
    found = keep_rounds(earlier, trains_on=trains_on, round_key=round_key)
    assert found["source_round"].to_list() == kept
    assert found.schema == earlier.schema


@pytest.mark.parametrize(
    ("trains_on", "trained_in_each"),
    [
        ("all", [["r0001"], ["r0002", "r0001"], ["r0003", "r0002", "r0001"]]),
        ("last_two", [["r0001"], ["r0002", "r0001"], ["r0003", "r0002"]]),
        ("latest", [["r0001"], ["r0002"], ["r0003"]]),
    ],
)
def test_three_rounds_in_a_row(trains_on: TrainsOn, trained_in_each: list[list[str]]) -> None:
    """Each round adds one row of its own to what it keeps of the set before."""
    earlier, trained = rows_of(), []
    for key in ("r0001", "r0002", "r0003"):
        earlier = pl.concat([rows_of(key), keep_rounds(earlier, trains_on=trains_on, round_key=key)])
        trained.append(earlier["source_round"].to_list())
    assert trained == trained_in_each


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(1, 7))
def test_each_choice_keeps_some_of_what_the_wider_one_keeps(numbers: list[int], number: int) -> None:
    earlier = rows_of(*(f"r{own:04d}" for own in numbers))
    all_rows, last_two, latest = (
        keep_rounds(earlier, trains_on=choice, round_key=f"r{number:04d}")["row_id"].to_list() for choice in TRAINS_ON
    )
    assert all_rows == earlier["row_id"].to_list()
    assert last_two == [row_id for row_id in all_rows if int(row_id[1:5]) == number - 1]
    assert latest == []


def test_steps_sample_as_the_parameters_say() -> None:
    settings = RecipeSettings(temperature=0.2, top_p=0.5, max_new_tokens=7)
    assert settings.sampling == SamplingSettings(temperature=0.2, top_p=0.5, max_new_tokens=7)


@pytest.mark.parametrize("losses", LOSSES)
def test_pairs_are_built_where_a_loss_on_pairs_is_a_stage(losses: str) -> None:
    settings = AxisSettings(losses=losses)
    assert settings.builds_pairs == (LOSSES[losses][-1] not in ("sft", "grpo"))
    assert settings.second_loss == (LOSSES[losses][-1] if losses != "sft" else None)
    assert "_then_".join(LOSSES[losses]) == losses
    # What is built is the same for every loss on pairs.
    assert settings.losses_by_data in ("sft", "dpo", "sft_then_dpo")
    assert settings.losses_by_data.startswith("sft") == (losses.startswith("sft") or losses == "grpo")


@pytest.mark.parametrize(
    ("given_value", "error"),
    [
        ({"trains_on": "latest_two"}, "'all', 'last_two' or 'latest'"),
        ({"starts_from": "best"}, "'base' or 'previous'"),
        ({"losses": "ppo"}, "'sft', 'dpo', 'kto', .* or 'sft_then_grpo'"),
        ({"top_p": 0}, "greater than 0"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_an_axis_without_the_choice_names_those_there_are(given_value: dict, error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        RecipeSettings(**given_value)


def test_a_recipe_that_samples_nothing_has_the_axes_alone() -> None:
    assert set(AxisSettings.model_fields) == {"starts_from", "trains_on", "losses", "sft_on_seeds"}
    assert not hasattr(AxisSettings(), "sampling")
    with pytest.raises(ValidationError, match="temperature"):
        AxisSettings(temperature=0.7)
