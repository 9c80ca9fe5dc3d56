"""Whether the weights of a model folder are numbers: no NaN and nothing infinite, read off the files alone.

Hand-written: safetensors' numpy reader raises on bfloat16, and importing torch takes two seconds of a step that needs
nothing else of it. A float is NaN or infinite where all bits of its exponent are set,
so that the raw bits are enough. Cost: one read of the files, and memory for a few million weights.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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


def look_at_file(file: Path) -> dict[str, str]:
    """The first tensor of a file that holds NaN or infinity, as text that can be kept; empty where there is none.

    Args:
        file: safetensors whose header is whole.
    """
    for tensor, bits, exponent in _read_tensors(file):
        num_wrong = sum(
            int(((part & exponent) == exponent).sum())
            for part in (bits[start : start + _VALUES_AT_ONCE] for start in range(0, len(bits), _VALUES_AT_ONCE))
        )
        if num_wrong:
            return {"tensor": tensor, "num_wrong": str(num_wrong), "num_weights": str(len(bits))}
    return {}


def find_not_finite(folder: Path, *, look: Callable[[Path], dict[str, str]] = look_at_file) -> NotFinite | None:
    """The first tensor of a model folder that holds NaN or infinity; None where all weights are numbers.

    Args:
        folder: with safetensors, whose headers are whole; the adapter in it is looked at too.
        look: gives what `look_at_file` gives.
    """
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("adapter/*.safetensors")]):
        if found := look(file):
            return NotFinite(file, found["tensor"], int(found["num_wrong"]), int(found["num_weights"]))
    return None


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
