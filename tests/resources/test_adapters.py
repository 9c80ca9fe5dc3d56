"""Rounds' adapters: sums of LoRA updates by hand, and a trained checkpoint against its base with its adapter."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM

from resources.models.adapters import (
    NO_UPDATE,
    LoraUpdate,
    build_update,
    concatenate_adapters,
    find_adapter,
    read_update,
    write_adapter,
)
from resources.stores.checkpoints import CheckpointStore, copy_checkpoint, hash_checkpoint
from resources.training.stage_settings import DpoSettings, LoraSettings, SftSettings
from resources.training.trainer import TrainJob, fingerprint_job
from tests.resources.test_trainer import SFT_ROWS, train_here, write_pairs, write_sft

Q, V = "base_model.model.model.layers.0.self_attn.q_proj", "base_model.model.model.layers.0.self_attn.v_proj"


def make_update(module: str, down: list, up: list, scale: float = 1.0) -> LoraUpdate:
    weights = {f"{module}.lora_A.weight": np.float32(down), f"{module}.lora_B.weight": np.float32(up)}
    return build_update(weights, scale=scale, target_modules=frozenset({module.rsplit(".", 1)[1]}))


def test_two_updates_are_one_of_their_ranks_together() -> None:
    """By hand: 2 (3, 4)^T (1, 2) + (5, 7)^T (0, 1) = [[6, 12], [8, 16]] + [[0, 5], [0, 7]]."""
    both = concatenate_adapters(make_update(Q, [[1, 2]], [[3], [4]], 2.0), make_update(Q, [[0, 1]], [[5], [7]]))
    down, up = both.factors[Q]
    assert down.tolist() == [[1, 2], [0, 1]]
    assert up.tolist() == [[6, 5], [8, 7]]
    assert (up @ down).tolist() == [[6, 17], [8, 23]]
    assert both.rank == 2


def test_a_module_that_one_lacks_has_zeros_there() -> None:
    both = concatenate_adapters(make_update(Q, [[1, 2]], [[3]]), make_update(V, [[1], [1]], [[2, 3], [4, 5]]))
    assert both.target_modules == {"q_proj", "v_proj"}
    assert both.rank == 3
    assert [part.tolist() for part in both.factors[Q]] == [[[1, 2], [0, 0], [0, 0]], [[3, 0, 0]]]
    assert [part.tolist() for part in both.factors[V]] == [[[0], [1], [1]], [[0, 2, 3], [0, 4, 5]]]


def test_the_base_differs_by_nothing_from_itself() -> None:
    update = make_update(Q, [[1, 2]], [[3]])
    for sum_ in (concatenate_adapters(NO_UPDATE, update), concatenate_adapters(update, NO_UPDATE)):
        assert [part.tolist() for part in sum_.factors[Q]] == [[[1, 2]], [[3]]]
    assert concatenate_adapters() == concatenate_adapters(NO_UPDATE) == NO_UPDATE
    assert NO_UPDATE.rank == 0


@given(ranks=st.lists(st.integers(1, 3), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_the_sum_is_exact_whatever_the_ranks(ranks: list[int], seed: int) -> None:
    """On small whole numbers float32 rounds nothing."""
    rng = np.random.default_rng(seed)
    updates = [make_update(Q, rng.integers(-4, 5, (r, 3)), rng.integers(-4, 5, (2, r)), 0.5) for r in ranks]
    down, up = concatenate_adapters(*updates).factors[Q]
    assert down.shape == (sum(ranks), 3)
    assert np.array_equal(up @ down, sum(each.factors[Q][1] @ each.factors[Q][0] for each in updates))


def test_what_is_no_such_update_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got \['lm_head\.weight'\]"):
        build_update({"lm_head.weight": np.zeros((2, 2))}, scale=1.0, target_modules=frozenset())
    with pytest.raises(ValueError, match=r"has \(2, 1\) inputs and outputs, and \(1, 1\)"):
        concatenate_adapters(make_update(Q, [[1, 2]], [[3]]), make_update(Q, [[1]], [[3]]))


def test_an_adapter_is_of_one_base_and_named_by_its_content(tiny_model: Path, tmp_path: Path) -> None:
    checkpoint, again = tmp_path / "checkpoint", tmp_path / "again"
    update = make_update(Q, [[1, 2]], [[3]])
    base_hash = hash_checkpoint(tiny_model)
    for folder in (checkpoint, again):
        shutil.copytree(tiny_model, folder)
        write_adapter(folder, update, base_hash=base_hash)
        assert hash_checkpoint(folder) == base_hash
    adapter, same = (find_adapter(folder, tiny_model, name="mini-r0001") for folder in (checkpoint, again))
    assert adapter is not None
    assert same is not None
    assert (adapter.name, adapter.number) == (same.name, same.number)
    assert adapter.name.startswith("mini-r0001-")
    assert len(adapter.name) == len("mini-r0001-1a2b3c4d")
    assert 0 < adapter.number < 2**31
    assert adapter.path == checkpoint / "adapter"
    for file in adapter.path.iterdir():
        assert file.read_bytes() == (again / "adapter" / file.name).read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()
        assert str(tiny_model).encode() not in file.read_bytes()
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (1, 1, ["q_proj"])
    assert config["base_model_name_or_path"] is None

    write_adapter(again, make_update(Q, [[1, 2]], [[4]]), base_hash=base_hash)
    other = find_adapter(again, tiny_model, name="mini-r0001")
    assert other is not None
    assert other.name != adapter.name
    assert other.number != adapter.number
    write_adapter(again, update, base_hash="0" * 64)
    assert find_adapter(again, tiny_model, name="mini-r0001") is None
    assert find_adapter(tiny_model, tiny_model, name="mini-r0001") is None


def test_a_kept_checkpoint_keeps_its_adapter(tiny_model: Path, tmp_path: Path) -> None:
    first = shutil.copytree(tiny_model, tmp_path / "first")
    write_adapter(first, make_update(Q, [[1, 2]], [[3]]), base_hash=hash_checkpoint(tiny_model))
    store = CheckpointStore(tmp_path)
    staging = store.staging_folder("mini", "r0001")
    copy_checkpoint(first, staging)
    kept = store.publish(staging, "mini", "r0001")
    before, after = (find_adapter(folder, tiny_model, name="mini") for folder in (first, kept))
    assert before is not None
    assert after == replace(before, path=kept / "adapter")


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in float32, so that nothing but float32's own rounding lies between merged and not merged."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("base") / "model")
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).save_pretrained(folder)
    return folder


def train_round(start: Path, base: Path | None, folder: Path, *, r: int | None, rng_seed: int = 0) -> Path:
    """A round's SFT and DPO with LoRA of rank r, or of all weights."""
    folder.mkdir()
    job = TrainJob(
        start_checkpoint=start,
        base_model=base,
        sft_path=write_sft(folder / "sft.parquet", SFT_ROWS[:4]),
        pairs_path=write_pairs(folder / "pairs.parquet", 2),
        staging=folder,
        sft=SftSettings(batch_size=4, learning_rate=2e-2, max_length=64, warmup_steps=0, num_epochs=2),
        dpo=DpoSettings(batch_size=2, learning_rate=2e-2, max_length=64, warmup_steps=0, num_epochs=2),
        lora=None if r is None else LoraSettings(r=r, alpha=3),
        rng_seed=rng_seed,
    )
    return train_here(job).path


def give_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(10, 40).reshape(2, 15)).logits


@pytest.mark.slow
def test_base_and_adapter_are_the_merged_checkpoint_round_after_round(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logits of about 10 lie within 1e-4, a hundred times float32's rounding of them; they have moved by 1e-1."""
    plain = AutoModelForCausalLM.from_pretrained(base)
    start = base
    for place, (r, rank) in enumerate([(2, 4), (3, 10)]):
        checkpoint = train_round(start, base, tmp_path / f"r{place}", r=r)
        adapter = find_adapter(checkpoint, base, name=f"mini-r000{place}")
        assert adapter is not None
        assert json.loads((adapter.path / "adapter_config.json").read_text())["r"] == rank
        merged = give_logits(AutoModelForCausalLM.from_pretrained(checkpoint))
        both = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter.path)
        torch.testing.assert_close(give_logits(both), merged, rtol=0, atol=1e-4)
        before = give_logits(AutoModelForCausalLM.from_pretrained(start))
        assert (merged - before).abs().max() > 1e-1
        assert (give_logits(plain) - merged).abs().max() > 1e-1
        start = checkpoint

    # The same again gives the same bytes, whatever happened in this process before.
    again = train_round(base, base, tmp_path / "again", r=2)
    first = find_adapter(again, base, name="mini-r0000")
    assert first is not None
    for file in first.path.iterdir():
        assert file.read_bytes() == next(tmp_path.glob(f"r0/*/checkpoint/adapter/{file.name}")).read_bytes()

    # A start that is neither the base nor knows its difference to it: no adapter, and the log says so.
    shutil.rmtree(again / "adapter")
    capsys.readouterr()
    orphan = train_round(again, base, tmp_path / "orphan", r=2)
    assert find_adapter(orphan, base, name="mini-r0001") is None
    assert not (orphan / "adapter").exists()
    assert "no adapter is written: the start checkpoint is not the base model" in capsys.readouterr().out
    assert read_update(base, base_hash=hash_checkpoint(base)) == NO_UPDATE


def test_the_job_is_another_with_another_base_or_start_adapter(base: Path, tiny_model: Path, tmp_path: Path) -> None:
    start = shutil.copytree(tiny_model, tmp_path / "start")
    job = TrainJob(start_checkpoint=start, staging=tmp_path, lora=LoraSettings())
    with_base = job.model_copy(update={"base_model": base})
    prints = [fingerprint_job(each) for each in (job, with_base, job.model_copy(update={"base_model": tiny_model}))]
    write_adapter(start, make_update(Q, [[1, 2]], [[3]]), base_hash=hash_checkpoint(base))
    assert len({*prints, fingerprint_job(with_base)}) == 4
    assert fingerprint_job(job) == prints[0]
    full = with_base.model_copy(update={"lora": None})
    assert fingerprint_job(full) == fingerprint_job(full.model_copy(update={"base_model": None}))
