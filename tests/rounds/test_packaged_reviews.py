"""The packaged models' figures were measured on free reviews, so no experiment of theirs constrains or forces one."""

from pathlib import Path

import pytest

from lance_assets.recipes.contract import ROUND_MODEL
from lance_assets.rounds.experiments import read_plan

MINI = sorted((Path(__file__).parents[2] / "lance_assets" / "experiments").glob("mini_*/defs.yaml"))


@pytest.mark.parametrize("file", MINI, ids=[file.parent.name for file in MINI])
def test_reviews_of_the_packaged_models_are_sampled_freely(file: Path) -> None:
    plan = read_plan(file)
    engines = {ROUND_MODEL: plan.settings.engine} | {name: role.engine for name, role in plan.settings.roles.items()}
    parameters = plan.settings.parameters
    assert not getattr(parameters, "force_ending", False)
    asked = [
        engines.get(stage.role, plan.settings.engine)
        for stage in plan.recipe.stages
        # without forced endings their stages are never asked
        if not stage.name.endswith("_ending") and plan.recipe.sample_stage(stage, parameters).grammar is not None
    ]
    judge = plan.settings.evaluation.judge
    assert all(engine.structured_output == "off" for engine in [*asked, *([judge.engine] if judge else [])])
