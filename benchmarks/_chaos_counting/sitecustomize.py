"""Counts every sample that the engine gives, those of processes that are killed included.

Python imports this first in each process whose PYTHONPATH names its folder. `LANCE_CHAOS_SAMPLES` names the file that
takes a line for each sample.
"""

import importlib.abc
import importlib.util
import os
import sys
from typing import Any

ENGINE = "resources.engines.transformers.engine"


class CountingFinder(importlib.abc.MetaPathFinder):
    """Finds the engine's module once, and lets its engine count."""

    def find_spec(self, name: str, path: object, target: object = None) -> Any:
        """The module's own spec, with a loader that counts afterwards."""
        if name != ENGINE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_count(module: Any) -> None:
            run(module)
            count(module.TransformersEngine)

        spec.loader.exec_module = run_and_count  # type: ignore[method-assign]
        return spec


def count(engine: Any) -> None:
    """Let an engine write a line for each sample that it gives."""
    generate = engine.generate

    def generate_and_count(self: Any, requests: Any, sampling: Any) -> Any:
        for group in generate(self, requests, sampling):
            with open(os.environ["LANCE_CHAOS_SAMPLES"], "a") as file:
                file.write("".join(f"{sample.row_id}\n" for sample in group))
            yield group

    engine.generate = generate_and_count


if "LANCE_CHAOS_SAMPLES" in os.environ:
    sys.meta_path.insert(0, CountingFinder())
