"""Each loss on pairs is the formula of its paper, computed here with plain torch on the start model's logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from transformers import AutoTokenizer

from lance_assets.records import PAIR_LOSSES, SecondLoss
from resources.training.pair_losses import join_pair, match_others, unpair
from resources.training.saving import load_for_training
from resources.training.stage_settings import DpoSettings, KtoSettings, LoraSettings, OrpoSettings, SimpoSettings
from resources.training.train_worker import build_pair_rows, encode_rows, read_rows, settle_stage
from resources.training.trainer import TrainJob, TrainResult, fingerprint_job
from tests.resources.test_trainer import train_here, write_pairs

NUM_PAIRS = 4
STEPS = {"num_epochs": 2, "learning_rate": 5e-3, "max_length": 64, "warmup_steps": 0}


@pytest.fixture(autouse=True)
def keep_torch_as_it_was(monkeypatch: pytest.MonkeyPatch):
    """The trainer sets variables for its own process, which this one shares."""
    import os

    before = dict(os.environ)
    yield
    torch.use_deterministic_algorithms(False)
    for name in set(os.environ) - set(before):
        monkeypatch.delenv(name)


def describe_job(loss: SecondLoss, model: Path, folder: Path, **named: Any) -> TrainJob:
    """All pairs in one batch, so that the first loss is that of the start model on every row."""
    settings: dict[str, Any] = {
        "dpo": DpoSettings(batch_size=NUM_PAIRS, beta=0.3, **STEPS),
        "kto": KtoSettings(batch_size=2 * NUM_PAIRS, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5, **STEPS),
        "orpo": OrpoSettings(batch_size=NUM_PAIRS, beta=0.3, **STEPS),
        "simpo": SimpoSettings(batch_size=NUM_PAIRS, beta=2.5, gamma=0.8, sft_loss_weight=0.25, **STEPS),
    }
    return TrainJob(
        start_checkpoint=model,
        pairs_path=write_pairs(folder / "pairs.parquet", NUM_PAIRS),
        staging=folder / "staging",
        second_loss=loss,
        num_threads=1,
        dtype="float32",
        save_dtype="float32",
        **{loss: settings[loss]} | named,
    )


def measure_rows(job: TrainJob, side: str) -> list[torch.Tensor]:
    """For each pair the log-probabilities of its tokens after the first, with those of the completion last."""
    tokenizer, model = AutoTokenizer.from_pretrained(job.start_checkpoint), load_for_training(job.start_checkpoint)
    model.eval()
    found = []
    encoded, _ = encode_rows(tokenizer, build_pair_rows(read_rows(job.pairs_path, job.second_settings), ""), 64)
    for row in encoded:
        tokens = torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]])
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, :-1]
        found.append(F.log_softmax(logits, dim=-1).gather(1, tokens[0, 1:, None])[:, 0])
    return found


def count_completion(job: TrainJob, side: str) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(job.start_checkpoint)
    encoded, _ = encode_rows(tokenizer, build_pair_rows(read_rows(job.pairs_path, job.second_settings), ""), 64)
    return [len(row[f"{side}_ids"]) for row in encoded]


def work_out_loss(job: TrainJob) -> float:
    """The loss of the start model on all pairs, from the papers' formulas.

    The policy is the reference then, so that DPO's ratios and KTO's ratios and KL are 0: DPO gives log 2, and KTO
    the weights times 1 - sigmoid(0) = 1/2. ORPO: the odds of a completion are P / (1 - P), P the exponential of its
    mean log-probability. SimPO: -log sigmoid(beta (mean of chosen - mean of rejected) - gamma), and the NLL.
    """
    rows = {side: measure_rows(job, side) for side in ("chosen", "rejected")}
    lengths = {side: count_completion(job, side) for side in rows}
    means = {
        side: torch.stack([row[-number:].mean() for row, number in zip(rows[side], lengths[side], strict=True)])
        for side in rows
    }
    if job.second_loss == "dpo":
        return torch.log(torch.tensor(2.0)).item()
    if job.second_loss == "kto":
        return 0.5 * (job.kto.desirable_weight + job.kto.undesirable_weight) / 2
    if job.second_loss == "orpo":
        odds = {side: mean.exp() / (1 - mean.exp()) for side, mean in means.items()}
        nll = -torch.cat(rows["chosen"]).mean()
        return (
            nll - job.orpo.beta * torch.log(torch.sigmoid(torch.log(odds["chosen"] / odds["rejected"]))).mean()
        ).item()
    margin = job.simpo.beta * (means["chosen"] - means["rejected"]) - job.simpo.gamma
    nll = -torch.cat([row[-number:] for row, number in zip(rows["chosen"], lengths["chosen"], strict=True)]).mean()
    return (-torch.log(torch.sigmoid(margin)).mean() + job.simpo.sft_loss_weight * nll).item()


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_the_first_loss_is_the_formula_and_training_widens_the_margin(
    loss: SecondLoss, tiny_model: Path, tmp_path: Path
) -> None:
    job = describe_job(loss, tiny_model, tmp_path)
    result = train_here(job)
    assert result.dpo_losses[0] == pytest.approx(work_out_loss(job), rel=1e-4)
    assert result.dpo_losses[-1] < result.dpo_losses[0]
    assert result.dpo_margins[-1] > result.dpo_margins[0]
    assert result.dpo_change is not None
    assert result.dpo_change > 0
    assert result.second_loss == loss
    assert len(result.dpo_accuracies) == (0 if loss == "kto" else 2)
    # Both sides of each pair, twice.
    sides = [measure_rows(job, side) for side in ("chosen", "rejected")]
    assert result.num_tokens == 2 * sum(len(row) + 1 for rows in sides for row in rows)
    log = json.loads((result.path / "training_log.json").read_text())
    assert list(log) == [loss]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kto", "orpo", "simpo"])
def test_adapters_are_trained_by_every_loss(loss: SecondLoss, tiny_model: Path, tmp_path: Path) -> None:
    job = describe_job(loss, tiny_model, tmp_path, lora=LoraSettings(r=2, alpha=4))
    result: TrainResult = train_here(job)
    # Adapters begin as nothing, so the first loss is the start model's here too.
    assert result.dpo_losses[0] == pytest.approx(work_out_loss(job), rel=1e-4)
    assert result.dpo_change is not None
    assert result.dpo_change > 0


def test_a_pair_is_a_good_and_a_bad_row_and_no_row_is_matched_with_its_own_pair() -> None:
    """Six pairs: the first six rows are one of each pair, good and bad in turn, and the other six their other sides."""
    pairs = [{"prompt_ids": [n], "chosen_ids": [n, 1], "rejected_ids": [n, 0]} for n in range(6)]
    rows = unpair(pairs, rng_seed=3)
    assert [row["label"] for row in rows] == [True, False] * 3 + [False, True] * 3
    assert sorted(row["prompt_ids"][0] for row in rows[:6]) == list(range(6))
    assert [row["prompt_ids"] for row in rows[:6]] == [row["prompt_ids"] for row in rows[6:]]
    assert all(row["completion_ids"] == [*row["prompt_ids"], int(row["label"])] for row in rows)
    assert unpair(pairs, rng_seed=4) != rows
    matched = match_others(rows, 4)
    assert matched[0]["KL_completion_ids"] == rows[3]["completion_ids"]
    assert matched[4]["KL_completion_ids"] == rows[7]["completion_ids"]
    assert matched[5]["KL_completion_ids"] == rows[4]["completion_ids"]
    assert all(row["KL_completion_ids"][0] != row["prompt_ids"][0] for row in matched)


def test_labels_of_a_pair_are_of_its_completion_and_end_with_max_length() -> None:
    row = join_pair({"prompt_ids": [5, 6], "chosen_ids": [7, 8, 9], "rejected_ids": [4]}, 4)
    assert row["chosen_input_ids"] == [5, 6, 7, 8]
    assert row["chosen_labels"] == [-100, -100, 7, 8]
    assert row["rejected_labels"] == [-100, -100, 4]
    assert row["rejected_attention_mask"] == [1, 1, 1]


def test_a_loss_changes_the_job_and_the_settings_of_another_do_not(tiny_model: Path, tmp_path: Path) -> None:
    jobs = {loss: describe_job(loss, tiny_model, tmp_path) for loss in PAIR_LOSSES}
    assert len({fingerprint_job(job) for job in jobs.values()}) == len(jobs)
    same = jobs["dpo"].model_copy(update={"kto": KtoSettings(beta=9)})
    assert fingerprint_job(same) == fingerprint_job(jobs["dpo"])
    other = jobs["kto"].model_copy(update={"kto": KtoSettings(beta=9)})
    assert fingerprint_job(other) != fingerprint_job(jobs["kto"])


def test_a_batch_of_kto_is_one_part_and_has_two_rows_at_least(tiny_model: Path, tmp_path: Path) -> None:
    """The KL is estimated within a part: another number of parts is another loss, so memory does not choose it."""
    job = describe_job("kto", tiny_model, tmp_path, memory_gib=0.5)
    rows = [{"prompt_ids": [1] * 8, "chosen_ids": [2] * 8, "rejected_ids": [3] * 8}]
    assert settle_stage(job, job.kto, rows).num_parts == 1
    with pytest.raises(ValidationError, match="batch_size 4 in 3 parts leaves less than two rows for one"):
        KtoSettings(batch_size=4, gradient_accumulation_steps=3)
    assert settle_stage(job, KtoSettings(batch_size=4, gradient_accumulation_steps=2), rows).num_parts == 2
