"""Finds recipes by the name an experiment gives: ours by their module's name, a person's own by its dotted name.

Nothing registers a recipe. A module of `lance_assets.recipes` that has `RECIPE` is one, and so is any module that can
be imported and has `RECIPE`, such as `my_package.my_method`.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from lance_assets.recipes.contract import AnyRecipe, Recipe

_ROOM = "lance_assets.recipes"


def _read_recipe(module: ModuleType) -> AnyRecipe | None:
    """The recipe of a module; None where it has none.

    Raises:
        ValueError: `RECIPE` is no `Recipe`, or its name is not the module's.
    """
    if not hasattr(module, "RECIPE"):
        return None
    recipe, own = module.RECIPE, module.__name__.rpartition(".")[2]
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{module.__name__}.RECIPE must be a lance_assets.recipes.contract.Recipe, got {recipe!r}")
    if recipe.name != own:
        raise ValueError(f"{module.__name__}.RECIPE must have the name {own!r} of its module, got {recipe.name!r}")
    return recipe


@cache
def list_recipes() -> tuple[AnyRecipe, ...]:
    """Every recipe of `lance_assets.recipes`, sorted by name.

    >>> [recipe.name for recipe in list_recipes()][:3]
    ['diverse_evol', 'i_sheep', 'kun']
    """
    names = sorted(module.name for module in iter_modules(import_module(_ROOM).__path__) if not module.ispkg)
    found = (_read_recipe(import_module(f"{_ROOM}.{name}")) for name in names)
    return tuple(recipe for recipe in found if recipe is not None)


def find_recipe(name: str) -> AnyRecipe:
    """The recipe of a name.

    Args:
        name: of one of `list_recipes`, or the dotted name of a module of a person's own that has `RECIPE`.

    Raises:
        ValueError: there is no such recipe, or what the module has is none.
    """
    if "." not in name:
        recipes = {recipe.name: recipe for recipe in list_recipes()}
        if name not in recipes:
            raise ValueError(
                f"there is no recipe {name!r}; choose one of {', '.join(recipes)}, or name a module of your own that "
                "has RECIPE, such as my_package.my_method"
            )
        return recipes[name]
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"there is no module {name} (no {error.name!r} can be imported); put its package where Python finds it, or "
            f"choose one of {', '.join(recipe.name for recipe in list_recipes())}"
        ) from error
    recipe = _read_recipe(module)
    if recipe is None:
        raise ValueError(f"the module {name} has no RECIPE; end it with RECIPE = Recipe(...)")
    return recipe
