"""A study's budget of tokens: what each round is launched with, where it shows, and what is never mixed."""

from pathlib import Path

import pytest

from lance_assets.cli.budgets import SETTING, describe_unheld, give_budget
from lance_assets.markdown import show_text
from lance_assets.pictures.leaderboard import tabulate_all_rounds, tabulate_experiments
from lance_assets.recipes.contract import list_recipes
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.finished.leaderboard import read_leaderboard
from lance_assets.rounds.identity.kept import read_identity
from lance_assets.rounds.overrides import Launch, choose_overrides
from lance_assets.rounds.plan import Plan
from resources.stores.tables import TableStore
from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import TRAINING, plan_tiny, write_tiny_experiment

LAUNCH = Launch({SETTING: 2000}, is_kept=True)


@pytest.mark.slow
def test_a_budget_is_kept_from_the_first_round_that_has_it(make_scripted_world: OpenWorld) -> None:
    """r0000 stands, and trains for its epochs; r0001 is launched with the budget, and r0002 inherits it."""
    world = make_scripted_world()
    tables = world.platform.tables
    assert give_budget(world.plan, tables, 2000) == LAUNCH
    before = read_identity(tables, "tiny", "r0000", "checkpoint")["settings"]["token_budget"]
    assert before is None
    assert world.run("r0001", LAUNCH).success
    assert read_identity(tables, "tiny", "r0001", "checkpoint")["settings"]["token_budget"] == 2000
    rows, left_out = read_leaderboard([world.plan], world.platform)
    assert left_out == {}
    told = "training.token_budget 2000 in place of none, kept for later rounds"
    assert rows.sort("round")["overrides"].to_list() == [None, told], "r0000 has none"
    assert f"r0001 ({show_text(told)})" in tabulate_all_rounds(rows)
    assert "| 1 | tiny |" in tabulate_experiments(rows)
    # The study goes on: the next round has the budget by itself.
    assert give_budget(world.plan, tables, 2000) is None
    assert choose_overrides(world.plan, tables, "r0002", Launch()).values == {SETTING: 2000}
    with pytest.raises(ValueError, match=r"tiny r0001 is finished with training.token_budget 2000, .* is 3000: "):
        give_budget(world.plan, tables, 3000)


@pytest.mark.slow
def test_rounds_without_the_budget_are_not_mixed_with_rounds_that_have_it(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    remedy = r"lance run tiny --redo-from r0001 --set training.token_budget=2000 --keep"
    with pytest.raises(ValueError, match=rf"tiny r0001 is finished with training.token_budget none,.*: .*{remedy}"):
        give_budget(world.plan, world.platform.tables, 2000)


def test_a_file_that_has_the_budget_needs_no_launch(tmp_path: Path) -> None:
    folder, tables = write_tiny_experiment(tmp_path / "tiny"), TableStore(tmp_path / "data")
    by_file = plan_tiny(folder, training=TRAINING | {"token_budget": 2000})
    assert give_budget(by_file, tables, 2000) is None
    assert give_budget(by_file, tables, 2001) == Launch({SETTING: 2001}, is_kept=True)
    assert give_budget(plan_tiny(folder), tables, 2000) == LAUNCH


def test_what_a_budget_does_not_bind_is_told(tmp_path: Path) -> None:
    """Rounds of pairs alone, of GRPO and without training have no SFT that would fill it."""
    plans = [find_plan(f"mini_{recipe.name}") for recipe in list_recipes()]
    told = describe_unheld(plans, 8000)
    assert told == (
        "training.token_budget 8,000 is filled by SFT. It does not bind mini_r_zero, mini_self_rewarding, mini_spin, "
        "whose rounds have no SFT: compare their tokens trained."
    )
    untrained = Plan("table", Path(), plan_tiny(write_tiny_experiment(tmp_path / "tiny"), recipe="cllm").settings)
    assert "does not bind table, whose" in describe_unheld([untrained], 8000)
    assert describe_unheld([find_plan("mini_lance")], 8000) == ""
