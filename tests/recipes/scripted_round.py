"""A round of a recipe by hand: the seeds, the identity, and the steps up to the review, each of its schema."""

from types import ModuleType

import polars as pl

from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import AxisSettings
from lance_assets.records import CLEANED_SET, PREFERENCE_PAIRS, RAW_GENERATIONS, REVIEWED_SET, SEED_SET, SFT_SET
from tests.recipes.scripted_ask import ScriptedAsk

Said = str | tuple[str, str]
"""What a scripted model says: a text, or one with its finish reason."""

EFT = pl.DataFrame(
    [{"row_id": "eft", "prompt": "Review this.", "completion": "score: 3", "source": "eft", "source_round": "r0000"}],
    schema=SFT_SET,
)
NO_PAIRS = pl.DataFrame(schema=PREFERENCE_PAIRS)


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
    return RoundIdentity("mini", round_key, rng_seed, profile, role_profiles)


def is_held_out(prompt: str) -> bool:
    """Whether a prompt says that it is the evaluation's."""
    return "held" in prompt


def run_to_review(
    recipe: ModuleType, settings: AxisSettings, table: pl.DataFrame, ask: ScriptedAsk, *, round_key: str = "r0001"
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Raw generations, cleaned and reviewed rows of a round, each of its schema."""
    raw = recipe.generate(table, settings=settings, identity=identify(round_key), ask=ask)
    cleaned = recipe.clean(raw, table, settings=settings, is_evaluation_prompt=is_held_out)
    reviewed = recipe.review(cleaned, table, raw, settings=settings, identity=identify(round_key), ask=ask)
    assert (raw.schema, cleaned.schema, reviewed.schema) == (RAW_GENERATIONS, CLEANED_SET, REVIEWED_SET)
    return raw, cleaned, reviewed
