"""The model that a benchmark's `--model` names, found as `lance model` finds it, and the prompt profile of its size."""

import argparse
from pathlib import Path

from lance_assets.settings.values import name_model
from lance_assets.small_world import SMALL_MODEL

NUM_SMALL = 1e9
"""Parameters below which a model is asked with the profile `small`, as `prompt_profile` says."""


def find_model(name: str, parser: argparse.ArgumentParser) -> Path:
    """The folder of a model: of a folder, a GGUF file, a hub id, `package.module:NAME`, or `small`, the packaged one.

    What is not here is brought here. What cannot be found or used ends the command with the words of `lance model`.
    """
    from resources.models.obtaining import obtain

    try:
        return obtain(name_model(name), say=lambda text: print(text, flush=True))
    except ValueError as error:
        parser.error(f"--model: {error}")


def tell_model(name: str) -> str:
    """What a figure says of a model: its name, and of a path the last part alone.

    >>> tell_model("owner/model"), tell_model(str(SMALL_MODEL)) == SMALL_MODEL.name
    ('owner/model', True)
    """
    place = Path(name).expanduser()
    return place.resolve().name if place.exists() else name


def choose_profile(folder: Path) -> str:
    """The prompt profile that a model of this size gets.

    >>> choose_profile(SMALL_MODEL)
    'compact'
    """
    from resources.models.model_shapes import find_model as find_shape

    if folder == SMALL_MODEL:
        return "compact"
    return "small" if find_shape(str(folder)).shape.num_parameters < NUM_SMALL else "full"
