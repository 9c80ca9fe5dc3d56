"""The switch that leaves r0000's SFT on the seeds out, by every recipe that trains on them."""

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.recipes.contract import find_recipe, list_recipes
from lance_assets.records import SFT_SET
from tests.recipes.scripted_round import EFT, build_inputs, identify, seeds

SWITCHED = ("kun", "lance", "r_zero", "rft", "self_rewarding", "spin", "star")


@pytest.mark.parametrize("name", SWITCHED)
def test_without_the_seeds_r0000_trains_on_the_eft_rows_alone(name: str) -> None:
    recipe, table = find_recipe(name), seeds({"a": None, "b": None})
    with_seeds, without = (
        recipe.start_sft_set(build_inputs(recipe.settings(sft_on_seeds=on), identify("r0000")), table, EFT)
        for on in (True, False)
    )
    assert with_seeds["source"].to_list() == ["seed", "seed", "eft"]
    assert without.equals(EFT)
    nothing = pl.DataFrame(schema=SFT_SET)
    inputs = build_inputs(recipe.settings(sft_on_seeds=False), identify("r0000"))
    assert recipe.start_sft_set(inputs, table, nothing).is_empty()


def test_a_recipe_whose_rounds_rest_on_the_choice_has_no_other() -> None:
    # CLLM has the switch as well, for seeds that are the rows of a table: tests/recipes/test_cllm.py.
    others = {recipe.name: recipe for recipe in list_recipes() if recipe.name not in (*SWITCHED, "cllm")}
    fixed = {name: recipe.settings().sft_on_seeds for name, recipe in others.items()}
    assert fixed == {
        "clear": True,
        "diverse_evol": True,
        "i_sheep": False,
        "llm2llm": True,
        "self_guide": False,
        "trace": True,
    }
    for name, value in fixed.items():
        with pytest.raises(ValidationError, match="sft_on_seeds"):
            others[name].settings(sft_on_seeds=not value)


def test_a_control_that_trains_on_the_seeds_again_needs_them() -> None:
    with pytest.raises(ValidationError, match="propose: false trains on the seeds alone"):
        find_recipe("lance").settings(propose=False, sft_on_seeds=False)
