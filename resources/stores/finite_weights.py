"""Whether the weights of a model folder are numbers: no NaN and nothing infinite, read off the files alone.

Hand-written: safetensors' numpy reader raises on bfloat16, and importing torch takes two seconds of a step that needs
nothing else of it. A float is NaN or infinite where all bits of its exponent are set,
so that the raw bits are enough. Cost: one read of the files, and memory for a few million weights.

A round looks three times: when a checkpoint is published, when its training is judged, and when the next round begins
with it. So what was found of a file is remembered by its size, times and number, which stay when its folder is renamed.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resources.stores.remembered import remember

EXPONENTS = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E5M2": (np.uint8, 0x7C),
    # It has no infinity, and one NaN of each sign.
    "F8_E4M3": (np.uint8, 0x7F),
}
"""By the name of a dtype in safetensors: an integer of its width, and the bits that NaN and infinity have all set."""
_VALUES_AT_ONCE = 1 << 22
SETTLED_SECONDS = 2.0
"""A file that was changed so short a time ago may change once more with the same time, so nothing is remembered."""


@dataclass(frozen=True)
class NotFinite:
    """A tensor that holds NaN or infinity."""

    file: Path
    """The file it is in."""
    tensor: str
    """Its name."""
    num_wrong: int
    """How many of its weights are NaN or infinite."""
    num_weights: int
    """How many it has."""


def find_not_finite(folder: Path) -> NotFinite | None:
    """The first tensor of a model folder that holds NaN or infinity; None where all weights are numbers.

    Args:
        folder: with safetensors, whose headers are whole; the adapter in it is looked at too.
    """
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("adapter/*.safetensors")]):
        if found := _look_once(file):
            return NotFinite(file, found["tensor"], int(found["num_wrong"]), int(found["num_weights"]))
    return None


def _look_once(file: Path) -> dict[str, str]:
    """What was found of a file before, while it is the same one, or is found now."""
    state = file.stat()
    # The time of the last change of the inode cannot be set back by a program that keeps the other one. Where the clock
    # was set back, the age is below zero.
    if time.time() - max(state.st_mtime, state.st_ctime) < SETTLED_SECONDS:
        return _look(file)
    key = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} {state.st_dev}"
    return remember("finite_weights", key, lambda: _look(file))


def _look(file: Path) -> dict[str, str]:
    """The first tensor of a file that holds NaN or infinity, as text; empty where there is none."""
    for tensor, bits, exponent in _read_tensors(file):
        num_wrong = sum(
            int(((part & exponent) == exponent).sum())
            for part in (bits[start : start + _VALUES_AT_ONCE] for start in range(0, len(bits), _VALUES_AT_ONCE))
        )
        if num_wrong:
            return {"tensor": tensor, "num_wrong": str(num_wrong), "num_weights": str(len(bits))}
    return {}


def _read_tensors(file: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    """Each tensor of floats: its name, its bits as integers, and those that NaN and infinity have set."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(length))
    if file.stat().st_size == 8 + length:
        return
    stored = np.memmap(file, dtype=np.uint8, mode="r", offset=8 + length)
    for tensor, entry in header.items():
        if tensor == "__metadata__" or entry["dtype"] not in EXPONENTS:
            continue
        width, exponent = EXPONENTS[entry["dtype"]]
        start, end = entry["data_offsets"]
        # Sliced by bytes, since a header may have any length: a tensor need not lie where its width divides the place.
        yield tensor, np.asarray(stored[start:end]).view(width), exponent
