"""Counts every sample of the engine and every step of the trainer, those of processes that are killed included.

Python imports this first in each process whose PYTHONPATH names its folder. `LANCE_CHAOS_COUNTS` names the folder that
holds `samples.txt`, a line for each sample, and `train_steps.txt`, a line for each step: the trainer's process number,
its job and its stage.
"""

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(name: str, text: str) -> None:
    """Add lines to one of the two files."""
    with (Path(os.environ["LANCE_CHAOS_COUNTS"]) / name).open("a") as file:
        file.write(text)


def count_samples(module: Any) -> None:
    """Let the engine write a line for each sample that it gives."""
    engine = module.TransformersEngine
    generate = engine.generate

    def generate_and_count(self: Any, requests: Any, sampling: Any) -> Any:
        for group in generate(self, requests, sampling):
            write("samples.txt", "".join(f"{sample.row_id}\n" for sample in group))
            yield group

    engine.generate = generate_and_count


def count_train_steps(module: Any) -> None:
    """Let the trainer write a line for each step that it has made."""
    callback = module.FiniteCallback
    on_log = callback.on_log

    def log_and_count(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> Any:
        if logs and "loss" in logs:
            write("train_steps.txt", f"{os.getpid()} {sys.argv[1]} {self.stage}\n")
        return on_log(self, args, state, control, logs=logs, **more)

    callback.on_log = log_and_count


COUNTED: dict[str, Callable[[Any], None]] = {
    "resources.engines.transformers.engine": count_samples,
    "resources.training.divergence": count_train_steps,
}
"""What is changed of a module once it is loaded."""


class CountingFinder(importlib.abc.MetaPathFinder):
    """Finds the counted modules, and changes them once they are loaded."""

    def find_spec(self, name: str, path: object, target: object = None) -> Any:
        """The module's own spec, with a loader that counts afterwards."""
        if name not in COUNTED:
            return None
        change = COUNTED.pop(name)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_count(module: Any) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_and_count  # type: ignore[method-assign]
        return spec


if "LANCE_CHAOS_COUNTS" in os.environ:
    sys.meta_path.insert(0, CountingFinder())
