"""The small world: checkable tasks on a ladder of difficulty, and the small model that lives in it.

No library offers it, since it has to fit a model of a few megabytes: `tasks` says what is true there,
`jobs` what the model is asked to do, `train` makes the model, `seeds` an experiment's start, and `model/` holds it.
"""

from pathlib import Path

SMALL_MODEL = Path(__file__).parent / "model"
"""The packaged small model: bf16 safetensors, tokenizer, chat template and the log of its training."""
