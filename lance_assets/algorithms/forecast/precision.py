"""In which precision a model trains and reads, by its size and its device."""

from typing import Literal

Device = Literal["cpu", "cuda"]
"""What a model is trained on."""
Precision = Literal["float32", "bfloat16_autocast"]
"""What the products are computed in; the weights, their gradients and the optimizer's states are float32 in both."""

FEWEST_PARAMETERS = 20_000_000
"""On a CPU a smaller model trains and reads in float32: casting pays for long rows alone, and without it the results
are those of any machine."""


def choose_precision(
    wanted: Literal["auto", "float32", "bfloat16_autocast"],
    *,
    device: Device,
    num_parameters: int,
    has_bfloat16: bool,
) -> Precision:
    """The precision that "auto" stands for, or the one that is asked for.

    "auto" is bfloat16 autocast where the device multiplies bfloat16 by instructions of its own, and float32 elsewhere
    and, on a CPU, for a model of fewer than `FEWEST_PARAMETERS`.

    >>> choose_precision("auto", device="cpu", num_parameters=134_515_008, has_bfloat16=True)
    'bfloat16_autocast'
    >>> choose_precision("auto", device="cpu", num_parameters=1_748_160, has_bfloat16=True)
    'float32'
    """
    if wanted != "auto":
        return wanted
    is_small = device == "cpu" and num_parameters < FEWEST_PARAMETERS
    return "bfloat16_autocast" if has_bfloat16 and not is_small else "float32"
