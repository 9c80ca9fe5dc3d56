"""The methods, one file each: which functions of `algorithms/` in which order, with the paper's constants."""

from lance_assets.recipes import lance

RECIPES = {"lance": lance}
"""Every recipe by the name an experiment gives."""
