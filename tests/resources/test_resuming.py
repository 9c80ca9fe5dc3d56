"""A stage that was killed goes on from its last whole state, and ends as one that was not."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from resources.training import train_worker
from resources.training.resuming import WHOLE, KeepStateCallback, find_state, list_states
from resources.training.stage_settings import (
    DpoSettings,
    KtoSettings,
    LoraSettings,
    OrpoSettings,
    SftSettings,
    SimpoSettings,
)
from resources.training.trainer import TrainJob, TrainResult, find_job_folder, fingerprint_job
from tests.resources.test_trainer import SFT_ROWS, train_here, weights_of, write_pairs, write_sft

KILLED_AT = 3
"""The optimizer step after which the process ends; the state of the step before is whole."""


class KilledError(BaseException):
    """Stands for the end of the process."""


def build_job(folder: Path, model: Path, *, stage: str, lora: LoraSettings | None, minutes: float | None) -> TrainJob:
    folder.mkdir()
    rows: dict[str, Any] = {"sft_path": write_sft(folder / "sft.parquet", SFT_ROWS)}
    if stage != "sft":
        rows = {"pairs_path": write_pairs(folder / "pairs.parquet", 7), "second_loss": stage}
    on_pairs = {"num_epochs": 2, "batch_size": 2, "learning_rate": 2e-3, "max_length": 64}
    return TrainJob(
        start_checkpoint=model,
        staging=folder / "staging",
        sft=SftSettings(num_epochs=3, batch_size=4, learning_rate=5e-3, max_length=64, warmup_steps=3),
        dpo=DpoSettings(sft_loss_weight=0.2, **on_pairs),
        kto=KtoSettings(**on_pairs | {"batch_size": 4}),
        orpo=OrpoSettings(**on_pairs),
        simpo=SimpoSettings(**on_pairs),
        lora=lora,
        dtype="float32",
        save_dtype="float32",
        save_every_minutes=minutes,
        **rows,
    )


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = train_worker.LogCallback.on_log

    def log(self: Any, args: Any, state: TrainerState, control: Any, **named: Any) -> None:
        if state.global_step == step:
            raise KilledError
        real(self, args, state, control, **named)

    monkeypatch.setattr(train_worker.LogCallback, "on_log", log)


def read_losses(result: TrainResult) -> list[list[float]]:
    measures = [result.dpo_accuracies, result.dpo_margins, result.dpo_chosen_logps]
    return [result.sft_losses, result.dpo_losses, *measures]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraSettings(r=2, alpha=4, dropout=0.1)], ids=["full", "lora"])
@pytest.mark.parametrize("stage", ["sft", "dpo", "kto", "orpo", "simpo"])
def test_a_killed_stage_ends_with_the_same_weights(
    stage: str, lora: LoraSettings | None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, tokens, log and every byte of the weights are those of a run without a kill; so are dropout's draws."""
    whole = train_here(build_job(tmp_path / "whole", tiny_model, stage=stage, lora=lora, minutes=None))
    job = build_job(tmp_path / "killed", tiny_model, stage=stage, lora=lora, minutes=0.0)
    with monkeypatch.context() as killing:
        kill_at(killing, KILLED_AT)
        with pytest.raises(KilledError):
            train_here(job)
    folder = find_job_folder(job)
    (kept,) = list_states(folder / train_worker.STATES / stage)
    assert kept.name == f"checkpoint-{KILLED_AT - 1}"
    trained: list[int] = []
    count_steps(monkeypatch, trained)
    resumed = train_here(job)
    assert trained[0] == KILLED_AT
    assert read_losses(resumed) == read_losses(whole)
    assert resumed.num_tokens == whole.num_tokens
    assert weights_of(resumed.path) == weights_of(whole.path)
    logs = [(result.path / "training_log.json").read_text() for result in (whole, resumed)]
    assert len(json.loads(logs[0])[stage]["steps"]) > KILLED_AT
    assert logs[0] == logs[1]
    assert not (folder / train_worker.STATES).exists()


def count_steps(monkeypatch: pytest.MonkeyPatch, trained: list[int]) -> None:
    """The number of each optimizer step that is taken."""
    real = train_worker.LogCallback.on_log

    def log(self: Any, args: Any, state: TrainerState, control: Any, **named: Any) -> None:
        trained.append(state.global_step)
        real(self, args, state, control, **named)

    monkeypatch.setattr(train_worker.LogCallback, "on_log", log)


def test_a_state_that_is_not_whole_is_passed_over(tmp_path: Path) -> None:
    assert find_state(tmp_path / "none") is None
    for step, is_whole in ((9, True), (10, True), (100, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if is_whole:
            (tmp_path / f"checkpoint-{step}" / WHOLE).touch()
    assert find_state(tmp_path) == tmp_path / "checkpoint-10"


def test_states_are_saved_by_time_and_the_newest_is_kept(tmp_path: Path) -> None:
    """At 60 seconds between two states and 25 a step: after steps 3 and 6, and not after the last one, the ninth."""
    seconds = iter(range(0, 10_000, 25))
    now = [0]
    callback = KeepStateCallback(60, clock=lambda: now[0])
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    saved = []
    for step in range(1, 10):
        state, control = TrainerState(global_step=step, max_steps=9, is_world_process_zero=True), TrainerControl()
        now[0] = next(seconds) + 25
        callback.on_step_end(arguments, state, control)
        if control.should_save:
            (tmp_path / f"checkpoint-{step}").mkdir()
            callback.on_save(arguments, state, control)
            saved.append(step)
    assert saved == [3, 6]
    assert list_states(tmp_path) == [tmp_path / "checkpoint-6"]


def test_how_often_states_are_saved_changes_no_result(tiny_model: Path, tmp_path: Path) -> None:
    job = build_job(tmp_path / "job", tiny_model, stage="sft", lora=None, minutes=10.0)
    assert fingerprint_job(job) == fingerprint_job(job.model_copy(update={"save_every_minutes": None}))
