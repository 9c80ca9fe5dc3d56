"""What a model proposes, asked and cleaned as rounds of a model of its size are."""

from collections.abc import Sequence

import polars as pl

from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.lance import RECIPE
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.recipes.steps.rows import Generation, Seed, build_table, propose_from_seeds
from lance_assets.records import RAW_GENERATIONS, SEED_SET, Ask
from lance_assets.settings.filters import OF_SMALL_MODELS, find_filter


def propose(
    identity: RoundIdentity, ask: Ask, settings: LanceSettings, seeds: Sequence[Seed], *, kind: str, step: str
) -> list[Generation]:
    """One proposal of each seed; where the template shows other seeds, they are drawn from the same ones."""
    pool, number = list(seeds), settings.num_examples
    return propose_from_seeds(identity, ask, seeds, kind=kind, step=step, num_samples=1, pool=pool, num_examples=number)


def clean(
    identity: RoundIdentity,
    settings: LanceSettings,
    raw: pl.DataFrame | Sequence[Generation],
    seeds: Sequence[Seed],
    *,
    kind: str,
    step: str,
) -> pl.DataFrame:
    """Rows of a kind with why each is dropped, by LANCE's filters and then those of what small models write.

    Args:
        identity: whose templates were asked.
        settings: with the bars of LANCE's own filters.
        raw: what was proposed, with its completions.
        seeds: what was shown.
        kind: the rows that are looked at.
        step: the template that they were asked with, whose own examples are no proposals.
    """
    table = raw if isinstance(raw, pl.DataFrame) else build_table(raw, RAW_GENERATIONS)
    added = [find_filter(name).model_validate({"name": name, "kinds": (kind,)}) for name in OF_SMALL_MODELS]
    inputs: RoundInputs[LanceSettings] = RoundInputs(
        identity=identity, settings=settings, is_evaluation_prompt=lambda prompt: False
    )
    assert isinstance(identity.templates, Templates)
    shown = identity.templates.list_shown(step)
    return RECIPE.clean(inputs, table, build_table(seeds, SEED_SET), added=added, shown=shown).filter(kind=kind)
