"""Imports of transformers without libraries that only models of pictures and a way of decoding use.

transformers 5.19 imports scipy with the losses of every model, for object detection, and sklearn with generation, for
a threshold of assisted decoding. A language model that is asked, read or trained needs neither, and every process that
loads one would wait for both. transformers asks whether they are installed; while it is imported here, they are not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

UNNEEDED = ("is_scipy_available", "is_sklearn_available")
"""What transformers asks, by the names in `transformers.utils`."""


def _is_absent() -> bool:
    return False


@contextmanager
def without_unneeded() -> Iterator[None]:
    """What transformers imports meanwhile goes without scipy and sklearn; what it has imported before stays."""
    from transformers import utils

    asked = {name: getattr(utils, name) for name in UNNEEDED}
    for name in asked:
        setattr(utils, name, _is_absent)
    try:
        yield
    finally:
        for name, answer in asked.items():
            setattr(utils, name, answer)


def import_language_models() -> None:
    """Import what loads and decodes a language model."""
    with without_unneeded():
        import transformers.generation.candidate_generator
        import transformers.loss.loss_utils
        import transformers.modeling_utils  # noqa: F401
