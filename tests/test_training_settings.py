"""How training is started and when: one way, with a file that is there, and not part of what the checkpoint is."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from lance_assets.algorithms.forecast.batch_parts import choose_precision
from lance_assets.rounds.experiments import load_plans
from lance_assets.rounds.nouns import compute_fingerprint
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.file import check_files
from lance_assets.settings.training import TrainingSettings
from resources.models.finding import find_packaged_folder

WHERE = {
    "launcher": ["torchrun", "--nproc-per-node", "2"],
    "num_processes": 2,
    "accelerate_config": "fsdp.yaml",
    "min_free_gpu_rate": 0.5,
    "handover_seconds": 1.0,
    "num_threads": 1,
    "memory_gib": 8.0,
}
FILE = """type: lance_assets.Experiment
attributes:
  training:
    accelerate_config: fsdp.yaml
"""


def make_settings(training: dict) -> ExperimentSettings:
    return ExperimentSettings.model_validate(
        {
            "recipe": "lance",
            "model": "small",
            "seeds": {"path": "seeds.jsonl"},
            "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
            "training": training,
        }
    )


def test_a_launcher_and_an_accelerate_config_exclude_each_other() -> None:
    told = "launcher and num_processes and accelerate_config each say how training is started; keep one of them"
    with pytest.raises(ValidationError, match=told):
        TrainingSettings.model_validate(WHERE)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "frozen_dtype is bfloat16, and without lora no weight is frozen; add lora"),
        ({"lora": {}, "dtype": "float32"}, "frozen_dtype is bfloat16, so products are too; set dtype to"),
    ],
)
def test_weights_are_frozen_in_bfloat16_with_adapters_and_its_products(changed: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainingSettings.model_validate({"frozen_dtype": "bfloat16"} | changed)
    assert TrainingSettings.model_validate({"frozen_dtype": "bfloat16", "lora": {}}).dtype == "auto"


def test_what_frozen_weights_are_held_in_is_part_of_what_the_checkpoint_is(tmp_path: Path) -> None:
    lora = {"lora": {}}
    plain, half = (Plan("mini", tmp_path, make_settings(lora | each)) for each in ({}, {"frozen_dtype": "bfloat16"}))
    assert compute_fingerprint(half, "checkpoint") != compute_fingerprint(plain, "checkpoint")


def test_an_accelerate_config_that_is_not_there_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text("{}")
    file = tmp_path / "defs.yaml"
    file.write_text(FILE)
    settings = make_settings({"accelerate_config": "fsdp.yaml"})
    with pytest.raises(ValueError, match=r"defs\.yaml:4: attributes\.training\.accelerate_config: got 'fsdp\.yaml'"):
        check_files(settings, file)
    (tmp_path / "fsdp.yaml").write_text("distributed_type: FSDP")
    check_files(settings, file)


@pytest.mark.parametrize(("name", "value"), WHERE.items())
def test_where_training_runs_is_not_what_the_checkpoint_is(tmp_path: Path, name: str, value: object) -> None:
    plain, elsewhere = (Plan("mini", tmp_path, make_settings(each)) for each in ({}, {name: value}))
    assert compute_fingerprint(elsewhere, "checkpoint") == compute_fingerprint(plain, "checkpoint")


def test_the_settings_of_where_training_runs_reach_it(tmp_path: Path) -> None:
    from lance_assets.rounds.making.training import build_job
    from lance_assets.rounds.platform import Platform
    from lance_assets.rounds.round import Round

    plan = Plan("mini", tmp_path, make_settings({"num_threads": 3, "memory_gib": 8, "dtype": "float32"}))
    this_round = Round(plan, Platform(str(tmp_path / "home")), "r0000", lambda _: None)
    job = build_job(this_round, tmp_path, plan.settings.training)
    assert (job.num_threads, job.memory_gib, job.dtype) == (3, 8.0, "float32")


@pytest.mark.parametrize("name", [plan.name for plan in load_plans().values() if plan.name.startswith("mini_")])
def test_the_mini_experiments_are_trained_alike_on_every_cpu(name: str) -> None:
    """Their tables are compared from machine to machine: whole batches in float32, whatever a machine has."""
    plan = load_plans()[name]
    training, weights = plan.settings.training, find_packaged_folder(plan.settings.model) / "model.safetensors"
    # They are stored in bfloat16.
    number = weights.stat().st_size // 2
    chosen = choose_precision(training.dtype, device="cpu", num_parameters=number, has_bfloat16=True)
    assert chosen == "float32"
    stages = [stage for stage in (training.sft, training.dpo) if stage.model_fields_set]
    assert [stage.gradient_accumulation_steps for stage in stages] == [1] * len(stages)
