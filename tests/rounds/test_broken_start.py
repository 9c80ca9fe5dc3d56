"""No round begins with a model that says nothing: its weights are looked at before anything is asked."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lance_assets.rounds.making.proposing import describe_broken_start, make_start_checkpoint
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from resources.stores.checkpoints import NotFiniteError
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment


def test_a_base_model_with_a_weight_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    platform = Platform(data_root=str(tmp_path))
    small = Round(plan_tiny(folder), platform, "r0000", print).model_path(None)
    broken = Path(shutil.copytree(small, tmp_path / "broken"))
    (file,) = broken.glob("*.safetensors")
    weights = load_file(file)
    name = sorted(weights)[0]
    weights[name].view(-1)[3] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    this_round = Round(plan_tiny(folder, model=str(broken)), platform, "r0000", print)
    with pytest.raises(NotFiniteError, match=f"1 of .* weights of {name} .* name another model in .*defs.yaml"):
        make_start_checkpoint(this_round)
    assert not this_round.has("start_checkpoint", "r0000")


def test_of_a_trained_one_the_remedy_is_to_train_it_again(tmp_path: Path) -> None:
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"))
    this_round = Round(plan, Platform(data_root=str(tmp_path)), "r0002", print)
    told = describe_broken_start(this_round, "r0001")
    assert "lower learning_rate under training.sft and training.dpo" in told
    assert told.endswith("(lance run tiny --redo-from r0001)")
