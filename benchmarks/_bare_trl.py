"""A bare TRL script, as its documentation has it: `python -m benchmarks._bare_trl JOB`; every default is TRL's.

JOB is a JSON file with `kind` (sft, lora or dpo), `model`, `rows` (Parquet with prompt and completion, or with prompt,
chosen and rejected), `batch_size`, `learning_rate`, `max_length` and `out`, the folder of the trained model. With
`in_order` the rows come as they lie, and with `in_float32` nothing is computed in bfloat16. The last line is JSON: the
seconds of training, the tokens trained on, the most memory held in GiB, and the loss of each step.
"""
# ruff: noqa: TID253 (a process of its own)

import json
import resource
import sys
from pathlib import Path

import polars as pl
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


def read_dataset(file: Path) -> Dataset:
    """The rows as conversations, as TRL takes them."""
    sides = {"completion": "completion", "chosen": "chosen", "rejected": "rejected"}
    rows = pl.read_parquet(file).to_dicts()
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                **{side: [{"role": "assistant", "content": row[side]}] for side in sides if row.get(side) is not None},
            }
            for row in rows
        ]
    )


def main() -> None:
    """Train."""
    job = json.loads(Path(sys.argv[1]).read_text())
    given = {
        "output_dir": job["out"],
        "per_device_train_batch_size": job["batch_size"],
        "learning_rate": job["learning_rate"],
        "max_length": job["max_length"],
        "num_train_epochs": 1,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": not torch.cuda.is_available(),
    }
    if job.get("in_order"):
        given["train_sampling_strategy"] = "sequential"
    if job.get("in_float32"):
        given["bf16"] = False
    dataset = read_dataset(Path(job["rows"]))
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if job["kind"] == "lora" else None
    named = {"model": job["model"], "train_dataset": dataset, "peft_config": lora}
    if job["kind"] == "dpo":
        trainer = DPOTrainer(args=DPOConfig(**given), **named)
    else:
        trainer = SFTTrainer(args=SFTConfig(**given), **named)
    found = trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if lora is None:
        trainer.save_model(job["out"])
    else:
        trainer.model.merge_and_unload().save_pretrained(job["out"])
        trainer.processing_class.save_pretrained(job["out"])
    tokens = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    figures = {"seconds": found.metrics["train_runtime"], "num_tokens": tokens[-1], "peak_gib": peak, "losses": losses}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
