"""A stage of training that was killed goes on from a state that it saved, and ends with the same weights.

The states are transformers' own checkpoints: weights, optimizer, schedule, random states and the log so far. Beside
what transformers has:

1. A state is saved every so many seconds, while transformers counts steps.
2. A state counts once it is whole: `WHOLE` is written into it last, when every process has written its part. Only the
   newest is kept, until its stage ends: a state is there to go on from, and no older one serves for that. Nothing is
   evaluated within a stage, so none would be the best; which checkpoints of rounds are kept, the best among them, says
   `retention` in the experiment's file.
3. TRL counts the tokens that were trained on from the start of its process; here the count goes on.
"""
# ruff: noqa: TID253 (runs in the trainer's process)

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from resources.stores.files import write_file_atomically

WHOLE = "whole"
"""The file that says that a state was saved to its end, and by what."""
ALONE = "one process"


class KeepStateCallback(TrainerCallback):
    """Saves the stage's state when enough time has passed since it began or since the last state."""

    def __init__(self, every_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Name the time.

        Args:
            every_seconds: between two states, 0 or more; 0 saves one after each step.
            clock: gives seconds.
        """
        self.every_seconds = every_seconds
        self.clock = clock
        self._saved_at = clock()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Begin to count."""
        self._saved_at = self.clock()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Have the state saved if it is time; not after the last step, whose weights are saved anyway."""
        is_due = self.clock() - self._saved_at >= self.every_seconds and state.global_step < state.max_steps
        if PartialState().num_processes > 1:
            # Their clocks differ, and all of them save together.
            is_due = bool(reduce(torch.tensor(float(is_due), device=PartialState().device), reduction="sum").item())
        if is_due:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Mark the state as whole, and remove the ones before."""
        self._saved_at = self.clock()
        # Each process writes a part of its own.
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        assert args.output_dir is not None, "every stage has a folder"
        saved = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        write_file_atomically(saved / WHOLE, describe_processes().encode())
        for other in list_states(saved.parent):
            if other != saved:
                shutil.rmtree(other)
        print(f"the state at step {state.global_step} of {state.max_steps} is kept")


def describe_processes() -> str:
    """What trains, in words; a state is gone on from by the same alone."""
    number = PartialState().num_processes
    if number == 1:
        return ALONE
    is_sharded = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
    return f"{number} processes{' under FSDP' if is_sharded else ''}"


def list_states(folder: Path) -> list[Path]:
    """The states in a stage's folder, whole or not, by their steps."""
    states = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    return sorted(states, key=lambda path: int(path.name.rpartition("-")[2]))


def find_state(folder: Path) -> Path | None:
    """The newest whole state in a stage's folder; None where there is none."""
    whole = [path for path in list_states(folder) if (path / WHOLE).exists()]
    return whole[-1] if whole else None


def train_on(trainer: Trainer, folder: Path, stage: str) -> None:
    """Train a stage to its end, from the newest whole state in its folder where there is one.

    Args:
        trainer: of the stage, with that folder as its output.
        folder: of the stage's states.
        stage: what the log calls it.
    """
    state = find_state(folder)
    if state is None:
        trainer.train()
        return
    kept = TrainerState.load_from_json(str(state / TRAINER_STATE_NAME))
    if (before := (state / WHOLE).read_text() or ALONE) != (now := describe_processes()):
        # Random states are each process's own, and a sharded optimizer is kept in another form.
        print(f"{stage}: a killed run left a state of {before} at step {kept.global_step}; with {now} it begins again")
        trainer.train()
        return
    print(f"{stage}: going on from the state at step {kept.global_step} of a killed run")
    counts = [entry["num_tokens"] for entry in kept.log_history if "num_tokens" in entry]
    trainer._total_train_tokens = int(counts[-1]) if counts else 0
    trainer.train(resume_from_checkpoint=str(state))
