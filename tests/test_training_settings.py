"""How training is started and when: one way, with a file that is there, and not part of what the checkpoint is."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from lance_assets.rounds.nouns import compute_fingerprint
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings, TrainingSettings
from lance_assets.settings.file import check_files

WHERE = {
    "launcher": ["torchrun", "--nproc-per-node", "2"],
    "accelerate_config": "fsdp.yaml",
    "min_free_gpu_rate": 0.5,
    "handover_seconds": 1.0,
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
    with pytest.raises(ValidationError, match="both say how training is started; keep one of them"):
        TrainingSettings.model_validate(WHERE)


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
