"""In which order rows are trained on, seen by the loss or the tokens of each step."""

import json
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from lance_assets.records import SFT_SET
from resources.training.stage_settings import DpoSettings, GrpoSettings, KtoSettings, OrpoSettings, SftSettings
from resources.training.train_worker import build_sft_rows, fill_budget, read_rows, train
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


def build_mixed(model: Path, folder: Path, order: str) -> TrainJob:
    """32 short rows and 32 long ones in turn, four a step, and steps that change nothing."""
    folder.mkdir()
    blank = dict.fromkeys(SFT_SET)
    rows = [
        blank | {"row_id": str(place), "prompt": f"Say {place:02}.", "completion": text}
        for place, text in enumerate(["One.", "1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9"] * 32)
    ]
    pl.DataFrame(rows, schema=SFT_SET).write_parquet(folder / "sft.parquet")
    sft = SftSettings(batch_size=4, learning_rate=1e-12, max_length=64, warmup_steps=0, order=order)
    named = {"sft_path": folder / "sft.parquet", "pairs_path": None, "staging": folder / "staging"}
    return TrainJob(start_checkpoint=model, sft=sft, dpo=DpoSettings(), num_threads=1, rng_seed=3, **named)


def read_steps(job: TrainJob, folder: Path) -> list[dict]:
    train(job, folder)
    return json.loads((folder / "checkpoint" / "training_log.json").read_text())["sft"]["steps"]


@pytest.mark.slow
def test_shuffled_rows_come_in_the_batches_of_trl(tiny_model: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    job = build_mixed(tiny_model, tmp_path / "ours", "shuffled")
    found = [step["loss"] for step in read_steps(job, tmp_path / "ours")]
    bare = SFTTrainer(
        str(tiny_model),
        args=SFTConfig(
            output_dir=str(tmp_path / "bare"),
            per_device_train_batch_size=4,
            learning_rate=1e-12,
            num_train_epochs=1,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            seed=3,
        ),
        train_dataset=Dataset.from_list(build_sft_rows(read_rows(job.sft_path, job.sft), job.system_message)),
    )
    bare.train()
    expected = [step["loss"] for step in bare.state.log_history if "loss" in step]
    assert len(set(expected)) > 8, "batches have losses of their own"
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_rows_of_like_length_share_a_batch_where_the_file_says_so(tiny_model: Path, tmp_path: Path) -> None:
    pure = {}
    for order in ("shuffled", "by_length"):
        steps = read_steps(build_mixed(tiny_model, tmp_path / order, order), tmp_path / order)
        ends = [0, *(step["num_tokens"] for step in steps)]
        sizes = [end - start for start, end in pairwise(ends)]
        pure[order] = sum(size in (min(sizes), max(sizes)) for size in sizes)
    assert pure["shuffled"] < 8 <= pure["by_length"], "of 16 batches; transformers sorts 16 drawn rows at a time"


@pytest.mark.parametrize(
    ("loss", "order"),
    [(DpoSettings, "by_length"), (OrpoSettings, "by_length"), (KtoSettings, "best_first"), (GrpoSettings, "by_length")],
)
def test_an_order_that_a_loss_cannot_have_is_refused(loss: type[SftSettings], order: str) -> None:
    with pytest.raises(ValueError, match=f"{order} is not for this loss"):
        loss(order=order)
