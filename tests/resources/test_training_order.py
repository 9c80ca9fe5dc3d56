"""Rows are trained on in the order of their quality, where the file says so: seen by the loss of each step."""

import json
from pathlib import Path

import polars as pl
import pytest

from lance_assets.records import SFT_SET
from resources.training.stage_settings import DpoSettings, SftSettings
from resources.training.train_worker import fill_budget, read_rows, train
from resources.training.trainer import TrainJob

TEXTS = ("One.", "The answer is 2 3 4 5 6 7 8.", "Who knows what it is, nobody does.", "3 1 2")


def write(path: Path, scores: tuple[float, ...]) -> Path:
    """A row of each text, with a score."""
    blank = dict.fromkeys(SFT_SET)
    rows = [
        {
            "row_id": str(place),
            "prompt": f"Say {place}.",
            "completion": text,
            "source": "generated",
            "review_score": score,
        }
        for place, (text, score) in enumerate(zip(TEXTS, scores, strict=True))
    ]
    pl.DataFrame([blank | row for row in rows], schema=SFT_SET).write_parquet(path)
    return path


def build_job(model: Path, folder: Path, scores: tuple[float, ...], **given: object) -> TrainJob:
    """One row a step, and steps that change nothing."""
    folder.mkdir()
    sft = SftSettings(
        num_epochs=1, batch_size=1, learning_rate=1e-12, max_length=64, warmup_steps=0, order="best_first"
    )
    return TrainJob(
        start_checkpoint=model,
        sft_path=write(folder / "sft.parquet", scores),
        pairs_path=None,
        staging=folder / "staging",
        sft=sft,
        dpo=DpoSettings(),
        num_threads=1,
        **given,
    )


def read_losses(job: TrainJob, folder: Path) -> list[float]:
    train(job, folder)
    log = json.loads((folder / "checkpoint" / "training_log.json").read_text())
    return [round(step["loss"], 3) for step in log["sft"]["steps"]]


@pytest.mark.slow
def test_the_best_row_is_the_first_step(tiny_model: Path, tmp_path: Path) -> None:
    """With the scores turned round the same losses come in the other order."""
    up, down = (
        read_losses(build_job(tiny_model, tmp_path / name, scores), tmp_path / name)
        for name, scores in (("up", (1.0, 2.0, 3.0, 4.0)), ("down", (4.0, 3.0, 2.0, 1.0)))
    )
    assert len(set(up)) == 4, "each row has a loss of its own"
    assert up == down[::-1]


@pytest.mark.slow
def test_a_budget_is_filled_in_the_order_of_quality_too(tiny_model: Path, tmp_path: Path) -> None:
    job = build_job(tiny_model, tmp_path / "job", (1.0, 4.0, 2.0, 3.0), token_budget=200)
    rows = [{"prompt": [{"role": "user", "content": "Say."}], "completion": [{"content": text}]} for text in TEXTS]
    filled = [row["completion"][0]["content"] for row in fill_budget(job, rows, [])]
    assert len(filled) > 4
    assert filled == [TEXTS[place % 4] for place in range(len(filled))]
    assert [row["review_score"] for row in read_rows(job.sft_path, job.sft)] == [4.0, 3.0, 2.0, 1.0]
