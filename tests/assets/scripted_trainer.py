"""Acts as the training process: `scripted_trainer.py -m resources.training.train_worker job.json --watch-stdin`."""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

from resources.training.trainer import TrainJob, TrainResult


def main() -> None:
    """Copy the start checkpoint, change four of the last bytes of its weights by the job, and write a result."""
    file = Path(sys.argv[3])
    job = TrainJob.model_validate_json(file.read_text())
    checkpoint = file.parent / "checkpoint"
    shutil.copytree(job.start_checkpoint, checkpoint, dirs_exist_ok=True)
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    # Other settings give another checkpoint, as of a real trainer.
    weights[-2] = hashlib.sha256(f"{job.sft} {job.second_settings}".encode()).digest()[0]
    # So do other rows; the low byte of a number, so that it stays one.
    rows = b"".join(path.read_bytes() for path in (job.sft_path, job.pairs_path) if path is not None)
    weights[-4], weights[-6] = hashlib.sha256(rows).digest()[:2]
    (checkpoint / "model.safetensors").write_bytes(weights)
    given: dict[str, Any] = {"second_loss": job.second_loss, "sft_losses": [1.0, 0.5] if job.sft_path else []}
    if job.prompts_path is not None:
        step = {"reward_std": 0.5, "alike_rate": 0.0, "completion_tokens": 9.0, "cut_off_rate": 0.0}
        rewards = [step | {"step": number, "reward": 0.25 * number} for number in (1, 2)]
        given |= {"dpo_losses": [0.0, 0.0], "dpo_change": 1.0, "rewards": rewards}
    result = TrainResult(path=checkpoint, num_truncated=0, num_tokens=1, seconds=0.0, **given)
    (file.parent / "result.json").write_text(result.model_dump_json())


if __name__ == "__main__":
    main()
