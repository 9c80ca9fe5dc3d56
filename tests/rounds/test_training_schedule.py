"""A schedule over rounds and the label model's own settings: what is trained how, and what is kept of it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from lance_assets.rounds.making.training import build_job
from lance_assets.rounds.nouns import compute_fingerprint, explain_round_identity
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.file import read_attributes
from lance_assets.settings.training import TrainingSettings

SPIN = {
    "dpo": {"learning_rate": 5e-7, "beta": 0.1},
    "by_round": {
        "r0003": {"dpo": {"learning_rate": 1e-7}},
        "r0004": {"dpo": {"learning_rate": 1e-7, "beta": 5.0}, "sft": {"num_epochs": 2}},
    },
}
"""uclaml/SPIN's four iterations: the rate falls in the third, and beta rises in the last."""


def plan_with(folder: Path, training: dict, **changed: object) -> Plan:
    (folder / "seeds.jsonl").write_text("{}")
    attributes = {
        **{"recipe": "spin", "model": "small", "seeds": {"path": "seeds.jsonl"}, "training": training},
        "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
    }
    return Plan("mini", folder, ExperimentSettings.model_validate(attributes | changed))


def test_only_the_rounds_that_are_named_change() -> None:
    training = TrainingSettings.model_validate(SPIN)
    rates = [training.at_round(f"r000{number}").dpo.learning_rate for number in range(6)]
    assert rates == [5e-7, 5e-7, 5e-7, 1e-7, 1e-7, 5e-7]
    assert [training.at_round(f"r000{number}").dpo.beta for number in range(6)] == [0.1, 0.1, 0.1, 0.1, 5.0, 0.1]
    assert training.at_round("r0004").sft == training.sft.model_copy(update={"num_epochs": 2.0})
    assert training.at_round("r0003").sft == training.sft
    assert training.at_round("r0003").by_round == {}


def test_what_is_kept_of_a_round_is_what_it_was_trained_with(tmp_path: Path) -> None:
    plan, plain = plan_with(tmp_path, SPIN), plan_with(tmp_path, {"dpo": SPIN["dpo"]})
    kept = {key: explain_round_identity(plan, "checkpoint", key)["settings"] for key in ("r0001", "r0003", "r0004")}
    assert [settings["dpo"]["learning_rate"] for settings in kept.values()] == [5e-7, 1e-7, 1e-7]
    assert [settings["dpo"]["beta"] for settings in kept.values()] == [0.1, 0.1, 5.0]
    assert kept["r0001"] == explain_round_identity(plain, "checkpoint", "r0001")["settings"]
    assert all("by_round" not in settings for settings in kept.values())
    # Of the other nouns nothing differs from round to round.
    for noun in ("seed_set", "preference_pairs", "eval_report"):
        assert explain_round_identity(plan, noun, "r0003") == explain_round_identity(plan, noun, "r0001")


def test_a_schedule_changes_the_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    plan, plain = plan_with(tmp_path, SPIN), plan_with(tmp_path, {"dpo": SPIN["dpo"]})
    nouns = ("raw_generations", "preference_pairs", "checkpoint", "eval_report")
    changed = [noun for noun in nouns if compute_fingerprint(plan, noun) != compute_fingerprint(plain, noun)]
    assert changed == ["checkpoint"]
    without = plan_with(tmp_path, {"dpo": SPIN["dpo"], "by_round": {}})
    assert compute_fingerprint(without, "checkpoint") == compute_fingerprint(plain, "checkpoint")


def test_the_label_model_has_epochs_of_its_own(tmp_path: Path) -> None:
    """Kun: six epochs for the label model, four for the chat model of r0000, and the experiment's for the rounds."""
    training = {
        **{"sft": {"learning_rate": 1e-5, "num_epochs": 3}, "label": {"num_epochs": 6}},
        "by_round": {"r0000": {"sft": {"num_epochs": 4}}},
    }
    (tmp_path / "texts.jsonl").write_text("{}")
    plan = plan_with(tmp_path, training, recipe="kun", texts={"path": "texts.jsonl"})
    settings = plan.settings.training
    assert (settings.for_label_model().sft.num_epochs, settings.at_round("r0000").sft.num_epochs) == (6, 4)
    assert settings.at_round("r0001").sft.num_epochs == 3
    assert settings.for_label_model().sft.learning_rate == 1e-5
    kept = {
        noun: explain_round_identity(plan, noun, "r0000")["settings"]["sft"]
        for noun in ("label_checkpoint", "checkpoint")
    }
    assert {noun: sft["num_epochs"] for noun, sft in kept.items()} == {"label_checkpoint": 6, "checkpoint": 4}
    shorter = plan_with(tmp_path, training | {"label": {"num_epochs": 1}}, recipe="kun", texts={"path": "texts.jsonl"})
    changed = [
        noun
        for noun in ("label_checkpoint", "checkpoint", "sft_set")
        if compute_fingerprint(shorter, noun) != compute_fingerprint(plan, noun)
    ]
    assert changed == ["label_checkpoint"]


def test_a_job_is_built_with_the_rounds_own_settings(tmp_path: Path) -> None:
    plan = plan_with(tmp_path, SPIN)
    this_round = Round(plan, Platform(str(tmp_path / "data")), "r0000", lambda _: None)
    job = build_job(this_round, tmp_path / "staging", plan.settings.training.at_round("r0004"))
    assert (job.dpo.learning_rate, job.dpo.beta, job.sft.num_epochs) == (1e-7, 5.0, 2)


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"by_round": {"round3": {}}}, "a round's key is r and four digits, such as r0001; got 'round3'"),
        ({"by_round": {"r0003": {"dpo": {"beta": 0}}}}, "greater than 0"),
        ({"by_round": {"r0003": {"sft": {"beta": 1.0}}}}, "Extra inputs are not permitted"),
        ({"label": {"num_epochs": 2}}, "recipe spin trains no label model; remove training.label"),
    ],
)
def test_a_schedule_that_means_nothing_is_told(tmp_path: Path, training: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        plan_with(tmp_path, training)


def test_the_page_on_spin_has_the_papers_schedule(project_root: Path, tmp_path: Path) -> None:
    """What the page shows can be copied into a file, and is the authors' configuration."""
    page = (project_root / "docs/methods/spin.md").read_text()
    shown = page.partition("```yaml\n")[2].partition("```")[0]
    file = tmp_path / "defs.yaml"
    head = "type: lance_assets.Experiment\nattributes:\n  recipe: spin\n  model: small\n  seeds: {path: s.jsonl}\n"
    world = '  evaluation: {world: {name: "lance_assets.small_world:WORLD"}}\n'
    file.write_text(head + world + "".join(f"  {line}\n" for line in shown.splitlines()))
    training = read_attributes(file).training
    rounds = [training.at_round(f"r000{number}").dpo for number in (1, 2, 3, 4)]
    assert [(dpo.learning_rate, dpo.beta) for dpo in rounds] == [(5e-7, 0.1), (5e-7, 0.1), (1e-7, 0.1), (1e-7, 5.0)]
