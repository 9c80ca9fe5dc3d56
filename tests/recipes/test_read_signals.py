"""Signals that are read, on the scale of the round's own seeds: LANCE splits and scores by them."""

from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lance_assets.algorithms.measures.scales import fit_scale
from lance_assets.recipes.asking import StateRow
from lance_assets.recipes.lance import RECIPE, read_other_signals, score_rows, write_worse
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.settings.experiment import ExperimentSettings
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import NOT_TRAINED, build_inputs, seeds

NATS = {"Good a": -4.0, "Good b": -3.0, "Good c": -2.0, "Good d": -1.5, "Good e": -1.0, "own": -0.5, "far": -90.0}
POOL = seeds(dict.fromkeys("abcde"))
ROWS = pl.DataFrame(
    [(f"c{n}", "completion", "a", "p", "Prompt", text) for n, text in enumerate(("own", "Good c", "far", "unread"))],
    schema=["row_id", "kind", "seed_id", "parent_id", "prompt", "completion"],
    orient="row",
)


class Reader:
    """Finds each text by its own nats a token after a prompt, and by 4 without one."""

    def __init__(self) -> None:
        self.num_read, self.is_closed = 0, False

    def measure_likelihood(self, rows: Sequence[StateRow]) -> pl.DataFrame:
        self.num_read += len(rows)
        nats = [NATS.get(text, 0.0) if messages[-1]["content"] else -4.0 for messages, text in rows]
        tokens = [3 * (text in NATS) for _, text in rows]
        return pl.DataFrame({"log_likelihood": [3 * value for value in nats], "num_tokens": tokens})

    def close(self) -> None:
        self.is_closed = True


def test_a_row_is_placed_among_the_seeds() -> None:
    """The seeds' median is -2, the quartiles are -3 and -1.5, so the spread is 0.75: -0.5 lies two spreads above it,
    where the share is 9 / 10, since the odds grow threefold with each.
    """
    reader, settings = Reader(), LanceSettings(score_from="likelihood", num_reviews=2)
    inputs = build_inputs(settings, read_states=lambda **_: reader, seeds=POOL)
    scored = score_rows(inputs, ROWS)
    assert scored["review_score"].to_list() == pytest.approx([9.0, 5.0, 0.0, None], abs=1e-3)
    assert scored["reviews"][0].to_list() == ["signal: -0.5000\nscore: 9.0000"] * 2
    assert reader.is_closed
    # A text of the rows that is a seed's too is read once for a prompt.
    assert reader.num_read == 4 + 5


def test_without_a_seed_to_be_placed_among_no_row_has_a_score() -> None:
    settings = LanceSettings(score_from="ifd", num_reviews=1)
    scored = score_rows(build_inputs(settings, read_states=lambda **_: Reader()), ROWS)
    assert scored["review_score"].to_list() == [None] * 4
    assert scored["reviews"][0].to_list() == ["There is none: no_seeds."]


@pytest.mark.parametrize("signal", ["likelihood", "ifd"])
def test_lance_splits_its_seeds_at_the_scale_whatever_the_nats(signal: str) -> None:
    """Above the middle lie the two likeliest of five, with the paper's thresholds or others; the median does not."""
    ask = ScriptedAsk(lambda stage, text, number: f"Thought Process: x. Final Answer: {stage} {number} {text}")
    settings = LanceSettings(score_from=signal, num_reviews=1, branch_threshold=5.0, num_prompts=1, num_completions=1)
    raw = RECIPE.generate(build_inputs(settings, ask=ask, read_states=lambda **_: Reader()), POOL, NOT_TRAINED)
    by_kind = {kind: set(rows["seed_id"]) for (kind,), rows in raw.group_by("kind")}
    assert by_kind["degraded_completion"] == {"d", "e"}
    assert by_kind["new_prompt"] == {"a", "b", "c"}
    assert "review" not in ask.requests


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=12), st.floats(-50, 0), st.floats(-50, 0))
def test_the_scale_keeps_the_order_and_halves_the_seeds(values: list[float], one: float, other: float) -> None:
    scale = fit_scale(values)
    assert scale is not None
    assert scale.spread > 0
    low, high = sorted([one, other])
    assert 0 <= scale.place(low) <= scale.place(high) <= 1
    assert sum(scale.place(value) > 0.5 + 1e-9 for value in values) <= len(values) / 2


def test_what_is_offered_in_place_of_the_reviewer_is_read_at_once() -> None:
    reader = Reader()
    inputs = build_inputs(LanceSettings(), read_states=lambda **_: reader)
    found = read_other_signals(inputs, ROWS)
    assert found.columns == ["row_id", "likelihood", "mutual_information", "ifd"]
    assert found.row(0)[1:] == pytest.approx((-0.5, 3.5, -0.125))
    assert found.row(3)[1:] == (None, None, None)
    assert reader.num_read == 2 * len(ROWS)


@pytest.mark.parametrize(
    ("changed", "number"), [({}, 5), ({"branches": "low"}, 0), ({"losses": "sft"}, 0), ({"propose": False}, 0)]
)
def test_worse_completions_are_written_where_rounds_write_them(changed: dict[str, object], number: int) -> None:
    ask = ScriptedAsk(lambda stage, text, number: "Final Answer: Worse.")
    written = write_worse(build_inputs(LanceSettings(**changed), ask=ask), POOL)
    assert written["completion"].to_list() == ["Worse."] * number
    assert set(ask.requests) <= {"degraded_completion"}


@pytest.mark.parametrize("signal", ["likelihood", "ifd", "mutual_information"])
def test_a_signal_that_is_read_cannot_be_a_second_models(signal: str) -> None:
    attributes = {
        **{"recipe": "lance", "model": "small", "seeds": {"path": "seeds.jsonl"}},
        **{
            "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
            "roles": {"reviewer": {"model": "small"}},
        },
    }
    with pytest.raises(ValidationError, match=f"score_from: {signal} reads with the round's own model"):
        ExperimentSettings.model_validate(attributes | {"parameters": {"score_from": signal}})
