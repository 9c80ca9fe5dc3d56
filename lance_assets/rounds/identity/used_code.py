"""The code beside our own that a noun depends on: that of recipes, filters, rewards, worlds and verifiers."""

from collections.abc import Callable, Sequence
from typing import Any

from lance_assets.algorithms.filters.safety import HarmClassifier
from lance_assets.dotted_names import is_dotted_name
from lance_assets.rounds.identity.installed import TRANSFORMERS
from lance_assets.rounds.identity.own_code import name_root
from lance_assets.rounds.plan import Plan
from lance_assets.worlds import split_file_name


def list_verifier_code(plan: Plan) -> list[str]:
    """The programs of the processes that verify, which are named as files."""
    verifier = plan.settings.verifier
    if verifier is None or verifier.kind == "rules" or (verifier.kind == "answer" and verifier.reader == "own"):
        return []
    names = ("jail", "program_role", "tests_role") if verifier.kind == "code" else ("row_worker",)
    return [f"resources.verifying.{name}" for name in names]


def list_verifier_libraries(plan: Plan) -> tuple[str, ...]:
    """The packages whose version decides what is right."""
    verifier = plan.settings.verifier
    if verifier is None or verifier.reader == "own":
        return ()
    return ("math-verify", "latex2sympy2_extended", "sympy")


def list_filter_libraries(plan: Plan) -> list[str]:
    """The packages whose version decides what the experiment's filters drop."""
    of_models = TRANSFORMERS if any(isinstance(one, HarmClassifier) for one in plan.settings.filters) else ()
    return sorted({library for one in plan.settings.filters for library in one.libraries} | set(of_models))


def list_recipe_code(plan: Plan, steps: Sequence[str]) -> list[str]:
    """The recipe's functions of some steps, those that it has."""
    functions = [getattr(plan.recipe, step) for step in steps]
    return _name_recipe_code(plan, [function for function in functions if function is not None])


def list_stage_code(plan: Plan) -> list[str]:
    """The recipe's functions that say how a stage of asking is sampled."""
    functions = dict.fromkeys(stage.sampling for stage in plan.recipe.stages if stage.sampling is not None)
    return _name_recipe_code(plan, list(functions))


def _name_recipe_code(plan: Plan, functions: Sequence[Callable[..., Any]]) -> list[str]:
    name = plan.settings.recipe
    module = name if "." in name else f"lance_assets.recipes.{name}"
    return [name_root(function, otherwise=f"{module}:RECIPE") for function in functions]


def list_guard_code(plan: Plan) -> list[str]:
    """The code of an installed world that says which prompts are held out; a world's file counts by its content."""
    named, world = plan.settings.evaluation.world, plan.world
    if named is None or world is None or not is_dotted_name(named.name):
        return []
    # What a prompt asks is read in completions too, where they may quote a problem.
    asked = (world.draw_held_out, world.build_guard, world.read_prompt)
    return _name_world_code(plan, named.name, [code for code in asked if code])


def list_cleaning_code(plan: Plan) -> list[str]:
    """The code of the experiment's own filters, and of what is held out."""
    filters = dict.fromkeys(type(one) for one in plan.settings.filters)
    return [f"{one.__module__}:{one.__qualname__}" for one in filters] + list_guard_code(plan)


def list_reward_code(plan: Plan) -> list[str]:
    """The code of an installed world or function that says what completions earn in GRPO."""
    if plan.settings.parameters.second_loss != "grpo":
        return []
    name = plan.settings.training.grpo.reward
    if name == "rule":
        return list_world_code(plan)
    return (
        [name] if plan.settings.training.grpo.names_function and split_file_name(name, plan.folder)[0] is None else []
    )


def list_world_code(plan: Plan) -> list[str]:
    """The code of an installed world that says which problems are asked, and which completions are right."""
    named, world = plan.settings.evaluation.world, plan.world
    if named is None or world is None or not is_dotted_name(named.name):
        return []
    return _name_world_code(plan, named.name, [world.draw_held_out, world.is_right])


def _name_world_code(plan: Plan, name: str, functions: Sequence[Callable[..., Any]]) -> list[str]:
    """A world's functions by name; one without a name of its own counts with the world's file, where that is one."""
    is_file = split_file_name(name, plan.folder)[0] is not None
    roots = [name_root(code, otherwise=name) for code in functions]
    return [root for root in roots if not (is_file and root == name)]
