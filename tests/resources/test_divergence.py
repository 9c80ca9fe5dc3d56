"""Training that diverged ends at once and is never kept; a model with a weight that is no number is never taken."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from resources.stores.checkpoints import CheckpointStore, NotACheckpointError, NotFiniteError
from resources.stores.finite_weights import find_not_finite
from resources.training.divergence import DivergedError, require_finite
from resources.training.saving import load_for_training
from resources.training.stage_settings import (
    DpoSettings,
    KtoSettings,
    LoraSettings,
    OrpoSettings,
    SftSettings,
    SimpoSettings,
)
from resources.training.train_worker import train
from resources.training.trainer import TrainingError, TrainJob, find_job_folder, train_checkpoint
from tests.resources.test_trainer import SFT_ROWS, write_pairs, write_sft

HUGE = {"learning_rate": 1e9, "num_epochs": 2, "batch_size": 4, "max_length": 64, "warmup_steps": 0}
LORA = LoraSettings(r=2, alpha=4, target_modules="all-linear")


@pytest.fixture(autouse=True)
def keep_torch_as_it_was(monkeypatch: pytest.MonkeyPatch):
    """The trainer sets variables for its own process, which this one shares."""
    import os

    before = dict(os.environ)
    yield
    torch.use_deterministic_algorithms(False)
    for name in set(os.environ) - set(before):
        monkeypatch.delenv(name)


def describe_job(stage: str, start: Path, folder: Path, lora: LoraSettings | None = None, **changed: float) -> TrainJob:
    settings = HUGE | changed
    rows = {"sft_path": write_sft(folder / "sft.parquet", SFT_ROWS[:6]), "sft": SftSettings(**settings)}
    kinds = {"dpo": DpoSettings, "kto": KtoSettings, "orpo": OrpoSettings, "simpo": SimpoSettings}
    own = rows
    if stage != "sft":
        pairs = write_pairs(folder / "pairs.parquet", 6)
        own = {"pairs_path": pairs, "second_loss": stage, stage: kinds[stage](**settings)}
    return TrainJob(
        start_checkpoint=start, base_model=start, staging=folder / "staging", lora=lora, num_threads=1, **own
    )


@pytest.mark.parametrize(
    ("stage", "lora"),
    [("sft", None), ("dpo", None), ("sft", LORA), ("dpo", LORA), ("kto", None), ("orpo", None), ("simpo", None)],
    ids=lambda one: str(one)[:3],
)
def test_a_loss_or_gradient_that_is_no_number_ends_the_stage_with_step_and_value(
    tiny_model: Path, tmp_path: Path, stage: str, lora: LoraSettings | None
) -> None:
    # Norms within the model bear adapters of 1e9, whose factors are multiplied.
    job = describe_job(stage, tiny_model, tmp_path, lora, learning_rate=1e9 if lora is None else 1e30)
    folder = find_job_folder(job)
    folder.mkdir(parents=True)
    with pytest.raises(DivergedError, match=rf"(loss|gradient norm) of {stage} is (nan|inf) at step [234] of"):
        train(job, folder)
    assert not (folder / "checkpoint").exists()
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_weights_that_break_in_the_last_step_are_not_saved(
    tiny_model: Path, tmp_path: Path, stage: str, lora: LoraSettings | None
) -> None:
    """Of a stage of one step loss and gradient are those of the start, and only the weights are broken."""
    job = describe_job(stage, tiny_model, tmp_path, lora, learning_rate=1e38, num_epochs=1, batch_size=6)
    folder = find_job_folder(job)
    folder.mkdir(parents=True)
    with pytest.raises(
        DivergedError, match=f"(weights in .*|logits) are .* after the last step of {stage}|moved by inf"
    ):
        train(job, folder)
    assert not (folder / "checkpoint").exists()


def test_a_person_reads_what_diverged_and_what_helps_and_is_not_told_to_run_it_again(
    tiny_model: Path, tmp_path: Path
) -> None:
    script = "echo 'resources...DivergedError: training diverged: the loss of dpo is nan at step 2 of 3'; exit 1"
    job = describe_job("dpo", tiny_model, tmp_path).model_copy(update={"launcher": ("sh", "-c", script)})
    with pytest.raises(TrainingError) as raised:
        train_checkpoint(job, log=lambda _: None)
    told = str(raised.value)
    assert told.startswith("training diverged: the loss of dpo is nan at step 2 of 3. Nothing of it is kept. Lower ")
    assert "Run again" not in told


def test_finite_weights_whose_model_is_not_are_found(tiny_model: Path) -> None:
    model = load_for_training(tiny_model)
    require_finite(model, "sft")
    for weight in model.parameters():
        weight.data.fill_(1e30)
    with pytest.raises(DivergedError, match=r"the logits are .* after the last step of sft, and the largest .* 1e\+30"):
        require_finite(model, "sft")


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_weight_among_many_is_found_in_every_dtype(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    """As torch finds it; the largest numbers and the smallest ones are numbers."""
    info = torch.finfo(dtype)
    weights = torch.tensor([info.max, info.min, info.tiny, 0.0, -0.0, 1.0, -2.0], dtype=torch.float64).to(dtype)
    weights = weights.repeat(11)
    save_file({"a": weights, "numbers": torch.arange(3), "none": torch.zeros(0)}, tmp_path / "model.safetensors")
    assert find_not_finite(tmp_path) is None
    broken = weights.to(torch.float64).clone()
    broken[40] = value
    broken = broken.to(dtype)
    if torch.isfinite(broken.float()).all():
        pytest.skip("float8_e4m3fn has no infinity")
    save_file({"a": weights, "b": broken}, tmp_path / "model.safetensors")
    found = find_not_finite(tmp_path)
    assert found is not None
    assert (found.tensor, found.num_wrong, found.num_weights) == ("b", 1, 77)


def test_a_checkpoint_with_a_weight_that_is_no_number_is_never_published(tmp_path: Path, make_model) -> None:
    store = CheckpointStore(tmp_path)
    kept = store.publish(make_model(tmp_path / "good", 1.0), "mini", "r0001")
    with pytest.raises(NotFiniteError, match=r"4096 of 4096 weights of weight .* lower learning_rate under training"):
        store.publish(make_model(tmp_path / "bad", np.nan), "mini", "r0001")
    assert find_not_finite(kept) is None
    # An adapter alone is what a server loads.
    tampered = make_model(tmp_path / "adapted", 1.0)
    (tampered / "adapter").mkdir()
    save_file({"lora_A": torch.tensor([torch.inf])}, tampered / "adapter" / "adapter_model.safetensors")
    with pytest.raises(NotFiniteError, match="1 of 1 weights of lora_A"):
        store.publish(tampered, "mini", "r0001")
    assert issubclass(NotFiniteError, NotACheckpointError)
    assert json.loads((kept / "config.json").read_text()) == {"model_type": "qwen2"}
