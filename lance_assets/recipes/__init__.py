"""The methods, one file each: the steps of a round on the axes of `axes`, with the paper's constants."""

from lance_assets.recipes import diverse_evol, i_sheep, kun, lance, llm2llm, self_rewarding, spin

RECIPES = {
    "lance": lance,
    "diverse_evol": diverse_evol,
    "kun": kun,
    "llm2llm": llm2llm,
    "self_rewarding": self_rewarding,
    "spin": spin,
    "i_sheep": i_sheep,
}
"""Every recipe by the name an experiment gives."""
