"""A pool is read with bfloat16 products where that is faster: on a CPU that has instructions for them.

SmolLM2-135M in float32, one thread of a Xeon with AVX-512 BF16, tokens a second: 32 rows of 128 tokens 400, under
bfloat16 autocast 1,280. Decoding multiplies by few rows at a time, would be slower, and stays in float32.

Likelihoods are not read so, and neither is anything of an evaluation. Weights that were trained in small steps lose a
part of them when they are rounded: SmolLM2 after one round on 24 seeds needs 0.825 bits for a byte of held-out answers
when it is read so and 0.816 in float32, where the raw model's 0.959 stays the same to 0.0005. Which rows of a pool are
unlike each other depends on that less. The weights stay float32, and so do sums over tokens and over the vocabulary.
The choice depends on the machine, as that of training does, so it is in no fingerprint; a GPU reads in bfloat16 in any
case.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lance_assets.algorithms.forecast.precision import choose_precision
from resources.machine.instructions import has_bfloat16_instructions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_rounded(model: "PreTrainedModel") -> bool:
    """Whether rows are read with bfloat16 products: by a model in float32, of 20M parameters or more, on such a CPU."""
    import torch

    if model.device.type != "cpu" or model.dtype != torch.float32:
        return False
    able = {"num_parameters": model.num_parameters(), "has_bfloat16": has_bfloat16_instructions()}
    return choose_precision("auto", device="cpu", **able) != "float32"


@contextlib.contextmanager
def reading(model: "PreTrainedModel", *, is_exact: bool = False) -> Iterator[None]:
    """Within the block the model reads, without gradients.

    Args:
        model: what reads.
        is_exact: whether products are those of its weights on any machine.
    """
    import torch

    rounds = not is_exact and is_rounded(model)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounds):
        yield
