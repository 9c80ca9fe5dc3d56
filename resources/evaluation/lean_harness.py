"""lm-evaluation-harness, imported without what none of its tasks uses.

The harness imports `evaluate` for its metrics, and evaluate 0.4 imports the pipelines of transformers with models for
sound and pictures, and scipy.stats, for evaluators that the harness never calls. It asks for both in a `try` and does
without. What a metric imports itself is there.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from resources.models.lean_imports import import_language_models

UNUSED = ("transformers.pipelines", "scipy.stats")
"""What evaluate tries to import."""


@contextmanager
def without_modules(names: tuple[str, ...]) -> Iterator[None]:
    """Imports of these modules fail meanwhile; one that was imported before stays."""
    absent = [name for name in names if name not in sys.modules]
    # None in its place is Python's own way to say that there is no such module.
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def import_harness() -> None:
    """Import the harness, with what loads language models."""
    import_language_models()
    with without_modules(UNUSED):
        import evaluate  # noqa: F401
        import lm_eval  # noqa: F401
