"""What a checkpoint's check says of its training, by rows worked by hand."""

from pathlib import Path
from typing import Any

import pytest

from lance_assets.records import CHECKPOINT
from lance_assets.rounds.making.training import describe_rows, judge_training
from lance_assets.rounds.nouns import NOUNS
from resources.stores.finite_weights import NotFinite

ROW: dict[str, Any] = dict.fromkeys(CHECKPOINT) | {
    **{"content_hash": "b", "parent_hash": "a", "is_trained": True, "num_sft_rows": 7, "num_pairs": 4},
    **{"sft_losses": [2.0, 1.0], "dpo_losses": [0.69], "sft_change": 0.5, "dpo_change": 0.1},
    **{"kept_rate": 1.0, "saved_dtype": "float32"},
}
KEPT = {"is_trained": False, "content_hash": "a", "sft_losses": [], "dpo_losses": [], "sft_change": None}


@pytest.mark.parametrize("changed", [{}, KEPT | {"dpo_change": None}, {"sft_losses": [1.0]}])
def test_what_trained_and_what_was_kept_passes(changed: dict[str, Any]) -> None:
    judged = judge_training(ROW | changed)
    assert judged.passed
    assert judged.description is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dpo_change": 0.0}, "dpo changed no weight in 1 steps: raise training.dpo.learning_rate or num_epochs"),
        ({"sft_change": 0.0}, "sft changed no weight in 2 steps"),
        ({"sft_losses": [2.0, 2.0]}, "the loss of sft is 2.0 at each of its 2 steps"),
        ({"dpo_losses": [0.6, float("nan")]}, "the loss of dpo is nan at step 2 of 2: training diverged: lower"),
        ({"sft_change": float("inf")}, "the change of the weights by sft is inf"),
        (
            {"content_hash": "a", "kept_rate": 0.02, "saved_dtype": "bfloat16"},
            "of the start checkpoint (saved in bfloat16, which keeps 2.0% of the update); set training.save_dtype",
        ),
        (KEPT | {"dpo_change": None, "content_hash": "c"}, "nothing was trained, and the weights are not those"),
    ],
)
def test_what_trained_nothing_fails_with_a_remedy(changed: dict[str, Any], said: str) -> None:
    judged = judge_training(ROW | changed)
    assert not judged.passed
    assert said in str(judged.description)


def test_a_stage_that_changed_nothing_is_said_where_its_rows_are() -> None:
    assert describe_rows(ROW) == "7 SFT rows, then 4 preference pairs"
    assert describe_rows(ROW | {"dpo_change": 0.0}) == "7 SFT rows, then 4 preference pairs (which changed no weight)"


BROKEN = NotFinite(Path("model.safetensors"), "model.norm.weight", 3, 12)


@pytest.mark.parametrize(
    ("changed", "broken", "stops"),
    [
        ({}, None, False),
        ({"sft_losses": [float("nan")]}, None, True),
        ({"dpo_change": float("nan")}, None, True),
        ({}, BROKEN, True),
        (KEPT | {"dpo_change": None, "content_hash": "c"}, None, True),
        # A model that did not move works.
        ({"sft_change": 0.0}, None, False),
        ({"sft_losses": [2.0, 2.0]}, None, False),
    ],
)
def test_what_is_no_number_stops_the_round(changed: dict[str, Any], broken: NotFinite | None, stops: bool) -> None:
    judged = judge_training(ROW | changed, broken=broken)
    assert (not judged.passed and judged.is_error) == stops
    if broken is not None:
        assert "3 of 12 weights of model.norm.weight are NaN or infinite: training diverged" in str(judged.description)


def test_the_check_of_a_checkpoint_is_blocking() -> None:
    (check,) = NOUNS["checkpoint"].checks
    assert check.is_blocking
