"""What the recipes have in common that propose from the file's seeds, each round anew."""

import polars as pl
import pytest

from lance_assets.recipes.contract import AnyRecipe, find_recipe
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, NO_PAIRS, build_inputs, identify, run_to_review, seeds

TABLE = seeds({f"s{number}": None for number in range(12)})
NAMES = ("spin", "self_rewarding", "i_sheep")
EVERY = pytest.mark.parametrize("recipe", [find_recipe(name) for name in NAMES], ids=NAMES)


def say(stage: str, text: str, number: int) -> str:
    """New prompts by the seed they are modelled on, completions and scores by their number."""
    if stage == "new_prompt":
        return f"Final Answer: Name tree {number} of {text.rpartition(' ')[2]}"
    return f"score: {number}" if stage == "review" else f"alder {number}"


def run(recipe: AnyRecipe, table: pl.DataFrame, round_key: str = "r0001") -> tuple[pl.DataFrame, ScriptedAsk]:
    """What a round generates, and whom it asked."""
    ask = ScriptedAsk(say)
    raw, _, _ = run_to_review(recipe, recipe.settings(), table, ask, round_key=round_key)
    return raw, ask


@EVERY
def test_ids_and_sampling_seeds_come_again_and_differ_between_rounds(recipe: AnyRecipe) -> None:
    """The same rows whatever the order of the seeds."""
    raw, _ = run(recipe, TABLE)
    again, _ = run(recipe, TABLE.reverse())
    assert len(raw) >= len(TABLE)
    assert raw.sort("row_id").equals(again.sort("row_id"))
    later, _ = run(recipe, TABLE, "r0002")
    for name in ("row_id", "sampling_seed"):
        assert len({*raw[name], *later[name]}) == 2 * len(raw)


@EVERY
def test_a_round_draws_its_seeds(recipe: AnyRecipe) -> None:
    def take(round_key: str, **settings: int) -> tuple[frozenset[str], dict[str, int]]:
        chosen, identity = recipe.settings(**settings), identify(round_key)
        taken, counts = recipe.build_seed_set(build_inputs(chosen, identity), TABLE, {})
        return frozenset(taken["row_id"]), counts

    assert take("r0001") == (frozenset(TABLE["row_id"]), {"num_pool": 12, "num_not_taken": 0})
    draws = [take(f"r{number:04d}", max_seeds=3) for number in range(1, 6)]
    assert draws[0] == take("r0001", max_seeds=3)
    assert all(len(names) == 3 and counts == {"num_pool": 12, "num_not_taken": 9} for names, counts in draws)
    assert len({names for names, _ in draws}) > 1


@EVERY
def test_no_seeds_ask_nothing(recipe: AnyRecipe) -> None:
    settings, ask = recipe.settings(), ScriptedAsk(say)
    taken, counts = recipe.build_seed_set(build_inputs(settings, identify()), TABLE.clear(), {})
    assert counts == {"num_pool": 0, "num_not_taken": 0}
    raw, _, reviewed = run_to_review(recipe, settings, taken, ask)
    assert raw.is_empty()
    assert set(ask.counts.values()) == {0}
    assert recipe.build_pairs(build_inputs(settings, identify("r0001")), reviewed, NO_PAIRS).is_empty()
    rows = recipe.build_sft_set(build_inputs(settings, identify("r0001")), reviewed, EFT)
    assert rows.filter(pl.col("source") != "eft").is_empty()
