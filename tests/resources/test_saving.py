"""What a stage saves is what it trained: with adapters on any layer, tied or not, and whatever dtype the base is in."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from resources.models.adapters import find_adapter
from resources.stores.checkpoints import hash_checkpoint
from resources.training.saving import (
    MIN_KEPT_RATE,
    WeightChange,
    build_lora,
    load_for_training,
    load_start,
    write_model,
)
from resources.training.stage_settings import LoraSettings, SaveDtype
from resources.training.trainer import TrainJob

TARGETS = [("q_proj",), "all-linear", ("embed_tokens",), ("lm_head",), ("embed_tokens", "lm_head", "v_proj")]


@pytest.fixture(scope="module")
def untied_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an output embedding of its own, bf16."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("untied") / "model")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model.config.tie_word_embeddings = False
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(640, 32, dtype=torch.bfloat16))
    model.save_pretrained(folder)
    return folder


def give_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(10, 40).reshape(2, 15)).logits


def train_adapter(job: TrainJob, start: Path, size: float) -> torch.nn.Module:
    """A model with adapters as training leaves it: every factor has moved."""
    lora = build_lora(job)
    assert lora is not None
    model = get_peft_model(load_start(start, job), lora)
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn_like(weight) * size
    return model.eval()


@pytest.mark.parametrize("targets", TARGETS, ids=str)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_case_tied_lora(
    tiny_model: Path, untied_model: Path, tmp_path: Path, targets: tuple[str, ...] | str, is_tied: bool
) -> None:
    """Twice in a row, as SFT and DPO, and as the adapter on the base model, for engines that hold that."""
    start = base = tiny_model if is_tied else untied_model
    before = give_logits(load_for_training(base))
    for stage in ("sft", "dpo"):
        lora = LoraSettings(r=3, alpha=6, target_modules=targets)
        job = TrainJob(start_checkpoint=base, base_model=base, staging=tmp_path, lora=lora)
        trained = train_adapter(job, start, 0.2)
        change = write_model(trained.state_dict(), job, start, tmp_path / stage, save_dtype="float32")
        assert change.change > 1
        saved = give_logits(AutoModelForCausalLM.from_pretrained(tmp_path / stage))
        torch.testing.assert_close(saved, give_logits(trained), rtol=0, atol=1e-3)
        assert (saved - before).abs().max() > 0.1
        start, before = tmp_path / stage, saved
    adapter = find_adapter(start, base, name="mini-r0001")
    assert adapter is not None
    with warnings.catch_warnings():
        # PEFT warns of what this test measures.
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
        both = PeftModel.from_pretrained(load_for_training(base), adapter.path)
    torch.testing.assert_close(give_logits(both), before, rtol=0, atol=1e-3)


def test_a_layer_that_does_not_exist_is_named(tiny_model: Path, tmp_path: Path) -> None:
    """PEFT takes the names that it finds and says nothing of the others."""
    for targets in (("q_proj", "wte"), ("wte",), ("self_attn",)):
        job = TrainJob(start_checkpoint=tiny_model, staging=tmp_path, lora=LoraSettings(target_modules=targets))
        with pytest.raises(ValueError, match=rf"names '{targets[-1]}', and no layer .* it has: .*q_proj"):
            load_start(tiny_model, job)


def change_a_little(model: torch.nn.Module, rate: float) -> None:
    """What a few steps of Adam do to weights: each moves by about the rate, one way or the other."""
    torch.manual_seed(3)
    for weight in model.parameters():
        weight.data += torch.randn_like(weight).sign() * rate


@pytest.mark.parametrize("rate", [1e-5, 2e-4])
@pytest.mark.parametrize("lora", [None, LoraSettings(r=4, alpha=8)], ids=["full", "lora"])
def test_a_small_update_of_a_bfloat16_model_is_kept(
    tiny_model: Path, tmp_path: Path, rate: float, lora: LoraSettings | None
) -> None:
    """Measured on the files: the next round reads what was trained, and rounding to bfloat16 would have lost it."""
    job = TrainJob(start_checkpoint=tiny_model, base_model=tiny_model, staging=tmp_path, lora=lora)
    before = load_for_training(tiny_model)
    if lora is None:
        trained = load_for_training(tiny_model)
        change_a_little(trained, rate)
        after = trained
    else:
        trained = train_adapter(job, tiny_model, (rate / 4) ** 0.5)
        after = train_adapter(job, tiny_model, (rate / 4) ** 0.5).merge_and_unload()
    kept: dict[SaveDtype, float] = {}
    for save_dtype in ("auto", "bfloat16"):
        folder = tmp_path / save_dtype
        change = write_model(trained.state_dict(), job, tiny_model, folder, save_dtype=save_dtype)
        assert change.saved_dtype == {"auto": "float32", "bfloat16": "bfloat16"}[save_dtype]
        kept[save_dtype] = measure_kept(before, after, load_for_training(folder))
        assert change.kept_rate == pytest.approx(max(0.0, kept[save_dtype]), abs=0.01)
    assert kept["auto"] >= MIN_KEPT_RATE
    assert kept["bfloat16"] < 0.75


def measure_kept(before: torch.nn.Module, trained: torch.nn.Module, saved: torch.nn.Module) -> float:
    """1 less the norm of what is missing over the norm of the update."""
    start, wanted, found = (torch.cat([w.flatten() for w in m.state_dict().values()]) for m in (before, trained, saved))
    return 1 - float((found - wanted).norm() / (wanted - start).norm())


def test_bfloat16_is_kept_where_it_loses_nothing(tiny_model: Path, tmp_path: Path) -> None:
    job = TrainJob(start_checkpoint=tiny_model, staging=tmp_path)
    model = load_for_training(tiny_model)
    unchanged = write_model(model.state_dict(), job, tiny_model, tmp_path / "same", save_dtype="auto")
    assert unchanged == WeightChange(0.0, 1.0, "bfloat16")
    assert hash_checkpoint(tmp_path / "same") == hash_checkpoint(tiny_model)
    change_a_little(model, 1.0)
    large = write_model(model.state_dict(), job, tiny_model, tmp_path / "large", save_dtype="auto")
    assert large.saved_dtype == "bfloat16"
    assert large.kept_rate >= MIN_KEPT_RATE
