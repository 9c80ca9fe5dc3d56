"""A round of a recipe by hand: the seeds, the identity, and the steps up to the review, each of its schema."""

from collections.abc import Callable, Sequence

import polars as pl

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.verifying.verdict import RowVerifier
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import AxisSettings
from lance_assets.recipes.contract import (
    AnyRecipe,
    ReadStates,
    RoundInputs,
    ask_nothing,
    list_no_texts,
    read_no_places,
    read_no_states,
    recognise_nothing,
)
from lance_assets.records import (
    CLEANED_SET,
    PREFERENCE_PAIRS,
    RAW_GENERATIONS,
    REVIEWED_SET,
    SEED_SET,
    SFT_SET,
    Ask,
    SamplingSettings,
    SeedPlaces,
)
from tests.recipes.scripted_ask import ScriptedAsk

Said = str | tuple[str, str]
"""What a scripted model says: a text, or one with its finish reason."""

EFT = pl.DataFrame(
    [{"row_id": "eft", "prompt": "Review this.", "completion": "score: 3", "source": "eft", "source_round": "r0000"}],
    schema=SFT_SET,
)
NO_PAIRS = pl.DataFrame(schema=PREFERENCE_PAIRS)
NOT_TRAINED = pl.DataFrame(schema=SFT_SET)
"""For recipes that do not look at what was trained on."""


def seeds(scores: dict[str, float | None]) -> pl.DataFrame:
    """A seed for each id, with a prompt and completion of its own, and the score it carries."""
    rows = [
        {"row_id": name, "prompt": f"Prompt of {name}", "completion": f"Good {name}", "review_score": score}
        | {"answer": f"gold {name}", "source": "seed"}
        for name, score in scores.items()
    ]
    return pl.DataFrame(rows, schema=SEED_SET)


def identify(
    round_key: str = "r0001", *, rng_seed: int = 0, profile: str = "compact", **role_profiles: str
) -> RoundIdentity:
    """A round of the experiment `mini`; roles may have templates of their own."""
    own = {role: Templates(name) for role, name in role_profiles.items()}
    return RoundIdentity("mini", round_key, rng_seed, Templates(profile), own)


def build_inputs(
    settings: AxisSettings,
    identity: RoundIdentity | None = None,
    *,
    ask: Ask = ask_nothing,
    is_evaluation_prompt: Callable[[str], bool] = recognise_nothing,
    texts: pl.DataFrame | None = None,
    seeds: pl.DataFrame | None = None,
    filters: Sequence[Filter] = (),
    read_states: ReadStates = read_no_states,
    verifier: RowVerifier | None = None,
    read_places: Callable[[], SeedPlaces] = read_no_places,
) -> RoundInputs[AxisSettings]:
    """What a round hands to a step; a step that uses what it was not given fails."""
    return RoundInputs(
        identity=identity or identify(),
        settings=settings,
        ask=ask,
        is_evaluation_prompt=is_evaluation_prompt,
        texts=list_no_texts() if texts is None else texts,
        seeds=pl.DataFrame(schema=SEED_SET) if seeds is None else seeds,
        filters=filters,
        read_states=read_states,
        verifier=verifier,
        read_places=read_places,
    )


def list_sampling(recipe: AnyRecipe, settings: AxisSettings, ask: ScriptedAsk) -> dict[str, SamplingSettings]:
    """How each stage that was asked is sampled: as the recipe declares it, since no step says otherwise."""
    assert set(ask.sampling.values()) <= {None}
    return {stage: recipe.find_sampling(stage, settings) for stage in ask.requests}


def is_held_out(prompt: str) -> bool:
    """Whether a prompt says that it is the evaluation's."""
    return "held" in prompt


def run_to_review(
    recipe: AnyRecipe, settings: AxisSettings, table: pl.DataFrame, ask: ScriptedAsk, *, round_key: str = "r0001"
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Raw generations, cleaned and reviewed rows of a round, each of its schema."""
    raw = recipe.generate(build_inputs(settings, identify(round_key), ask=ask), table, NOT_TRAINED)
    cleaned = recipe.clean(build_inputs(settings, is_evaluation_prompt=is_held_out), raw, table)
    reviewed = recipe.review(build_inputs(settings, identify(round_key), ask=ask), cleaned, table, raw)
    assert (raw.schema, cleaned.schema, reviewed.schema) == (RAW_GENERATIONS, CLEANED_SET, REVIEWED_SET)
    return raw, cleaned, reviewed
