"""Which loss pairs are trained with: one setting, with a section of its own, and no section that nothing reads."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lance_assets.recipes.axes import LOSSES
from lance_assets.records import PAIR_LOSSES, SecondLoss
from lance_assets.rounds.making.training import build_job
from lance_assets.rounds.nouns import compute_fingerprint, identify
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import ExperimentSettings


def read_settings(losses: str = "sft_then_dpo", *, recipe: str = "lance", **training: Any) -> ExperimentSettings:
    return ExperimentSettings.model_validate(
        {
            "recipe": recipe,
            "parameters": {"losses": losses},
            "model": "small",
            "seeds": {"path": "seeds.jsonl"},
            "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
            "training": training,
        }
    )


@pytest.mark.parametrize("loss", PAIR_LOSSES)
@pytest.mark.parametrize("recipe", ["lance", "self_rewarding", "spin"])
def test_every_recipe_with_pairs_takes_every_loss(loss: SecondLoss, recipe: str) -> None:
    losses = f"sft_then_{loss}" if recipe == "lance" else loss
    parameters = read_settings(losses, recipe=recipe).parameters
    assert parameters.second_loss == loss
    assert parameters.builds_pairs
    assert losses in LOSSES


@pytest.mark.parametrize(
    ("losses", "training", "error"),
    [
        ("sft_then_orpo", {"orpo": {"sft_loss_weight": 1.0}}, r"training\.orpo\.sft_loss_weight"),
        ("sft_then_kto", {"kto": {"gamma": 1.0}}, r"training\.kto\.gamma"),
        ("sft_then_dpo", {"dpo": {"desirable_weight": 1.0}}, r"training\.dpo\.desirable_weight"),
        (
            "sft_then_dpo",
            {"kto": {"beta": 0.2}},
            "losses: sft_then_dpo trains with DPO, and training.kto would be left unread: write what DPO needs under "
            r"training\.dpo, or correct losses",
        ),
        (
            "sft_then_simpo",
            {"simpo": {}, "by_round": {"r0002": {"dpo": {"beta": 0.2}}}},
            "trains with SimPO, and training.by_round.r0002.dpo would be left unread",
        ),
    ],
)
def test_a_setting_that_the_loss_does_not_have_is_refused(losses: str, training: dict, error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        read_settings(losses, **training)


def test_two_losses_may_be_set_so_that_a_launch_or_an_arm_chooses() -> None:
    settings = read_settings("sft_then_kto", dpo={"beta": 0.2}, kto={"beta": 0.3})
    assert settings.training.find_stage("kto").beta == 0.3
    # Without pairs no section is read, as in the control of a study.
    assert read_settings("sft", dpo={"beta": 0.2}).parameters.second_loss is None


def test_the_loss_and_its_settings_reach_the_trainer(tmp_path: Path) -> None:
    by_round = {"r0002": {"simpo": {"gamma": 0.2}, "sft": {"num_epochs": 3}}}
    settings = read_settings("sft_then_simpo", simpo={"gamma": 0.7}, by_round=by_round)
    plan, platform = Plan("mini", tmp_path, settings), Platform(str(tmp_path / "home"))
    assert [settings.training.at_round(key).simpo.gamma for key in ("r0001", "r0002")] == [0.7, 0.2]
    job = build_job(Round(plan, platform, "r0000", lambda _: None), tmp_path, settings.training)
    assert job.second_loss == "simpo"
    assert job.second_settings == settings.training.simpo


def test_another_loss_is_another_checkpoint_of_the_same_pairs(tmp_path: Path) -> None:
    """And the settings of a loss that is not trained are no part of it."""
    plans = {
        name: Plan("mini", tmp_path, settings)
        for name, settings in {
            "dpo": read_settings(),
            "kto": read_settings("sft_then_kto"),
            "kto_too": read_settings("sft_then_kto", dpo={"beta": 0.9}, kto={}),
            "weighted": read_settings("sft_then_kto", kto={"desirable_weight": 1.3}),
            "sft": read_settings("sft"),
        }.items()
    }

    def find(noun: str) -> dict[str, str]:
        return {name: compute_fingerprint(plan, noun) for name, plan in plans.items()}

    trained, pairs = find("checkpoint"), find("preference_pairs")
    assert trained["kto"] == trained["kto_too"]
    assert len({trained[name] for name in ("dpo", "kto", "weighted")}) == 3
    assert pairs["dpo"] == pairs["kto"] == pairs["weighted"]
    assert pairs["sft"] != pairs["dpo"]
    assert {"sft", "kto"} <= set(identify(plans["kto"], "checkpoint")["settings"])
    assert not {"dpo", "orpo", "simpo"} & set(identify(plans["kto"], "checkpoint")["settings"])
