"""Reviewed rows and decisions on them, for tests."""

import polars as pl

from lance_assets.recipes.contract import find_recipe
from lance_assets.records import REVIEWED_SET
from lance_assets.rounds.deciding.applying import build_decision_set
from lance_assets.rounds.deciding.decisions import Decision, Ledger, decide, find_scale
from tests.recipes.scripted_round import build_inputs

SCALE = (0.0, 10.0)


def review(row_id: str, score: float | None, kind: str = "completion", **more: object) -> dict[str, object]:
    """A reviewed row with a text of its own."""
    row = {
        **{"row_id": row_id, "kind": kind, "seed_id": "s", "prompt": f"The prompt of {more.get('of', row_id)}"},
        **{"completion": f"The completion of {row_id}", "reviews": ["said"], "scores": [score]},
        **{"unscored_reasons": [None], "review_score": score},
    }
    return row | {name: value for name, value in more.items() if name != "of"}


def table(*rows: dict[str, object]) -> pl.DataFrame:
    """Rows as a reviewed set."""
    return pl.DataFrame(list(rows), schema=REVIEWED_SET)


def say(
    reviewed: pl.DataFrame, row_id: str, action: str, *, minute: int = 0, who: str = "Ann", **more: object
) -> Decision:
    """A decision on a row of a table."""
    row = reviewed.row(by_predicate=pl.col("row_id") == row_id, named=True)
    at = f"2026-01-01T00:{minute:02d}:00Z"
    return decide(row["prompt"], row["completion"], action, who=who, scale=SCALE, at=at, **more)  # type: ignore[arg-type]


class Method:
    """A recipe with its parameters, on one round."""

    def __init__(self, name: str, **parameters: object) -> None:
        self.recipe = find_recipe(name)
        self.inputs = build_inputs(self.recipe.settings(**parameters))
        self.scale = find_scale(self.inputs.settings)

    def decide(self, reviewed: pl.DataFrame, *decisions: Decision) -> pl.DataFrame:
        """The decision set."""
        return build_decision_set(self.recipe, self.inputs, reviewed, Ledger(decisions))
