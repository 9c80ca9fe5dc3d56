"""A process that loads a language model does without libraries that others need."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import utils

from lance_assets.small_world import SMALL_MODEL
from resources.models.lean_imports import UNNEEDED, without_unneeded


def test_transformers_is_told_the_truth_again_afterwards() -> None:
    before = {name: getattr(utils, name) for name in UNNEEDED}
    with without_unneeded():
        told = [getattr(utils, name)() for name in UNNEEDED]
    assert told == [False, False]
    assert {name: getattr(utils, name) for name in UNNEEDED} == before


@pytest.mark.slow
def test_a_loaded_model_brings_neither_along(project_root: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from resources.engines.transformers.engine import TransformersEngine\n"
        f"TransformersEngine(Path({str(SMALL_MODEL)!r})).load()\n"
        "print(*[name for name in ('scipy', 'sklearn', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch"]
