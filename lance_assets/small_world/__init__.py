"""The small world: checkable tasks on a ladder of difficulty, and the small model that lives in it.

It is one plug-in of the platform: experiments name `lance_assets.small_world:WORLD` and `:SMALL_MODEL`, and no other
room imports it. No library offers it, since it has to fit a model of a few megabytes: `tasks` says what is true there
and meets the platform's contract, `ways` asks how a problem is worked out, `jobs` says what the model is asked to do,
`train` and `extend` make the models, and `seeds` writes what an experiment starts from.
"""

from pathlib import Path

from lance_assets.small_world.tasks import WORLD
from lance_assets.small_world.ways import WAYS_WORLD

__all__ = ["KUN_MODEL", "SMALL_MODEL", "TEACHER_MODEL", "WAYS_WORLD", "WORLD"]

SMALL_MODEL = Path(__file__).parent / "model"
"""The packaged small model: bf16 safetensors, tokenizer, chat template and the log of its training."""

TEACHER_MODEL = Path(__file__).parent / "teacher"
"""The small model after more training on worked problems of every rung, see `extend`."""

KUN_MODEL = Path(__file__).parent / "kun"
"""The small model after training on the jobs that Kun asks for, see `extend`."""
