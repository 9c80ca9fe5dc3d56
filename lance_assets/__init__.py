"""Recipes, rounds and assets of self-evolving training. Importing it loads nothing: an algorithm needs no Dagster."""

import importlib

_COMPONENTS = {"Experiment": "lance_assets.assets.experiment"}
"""What `dg` looks for in this package: components by name, with the module that has each."""


def __getattr__(name: str) -> object:
    """A component, imported when it is first asked for."""
    if name in _COMPONENTS:
        return getattr(importlib.import_module(_COMPONENTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of the module and its components: `dg` lists what it finds here."""
    return sorted({*globals(), *_COMPONENTS})
