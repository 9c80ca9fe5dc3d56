"""The products of a model's weights on a CPU, by oneDNN and from weights that were laid out for it once.

torch multiplies float32 by MKL, which lays the weights out anew at every call, and which on an AMD processor does
without the wide instructions. oneDNN is a part of torch, and torch's own compiler calls the same two operators; the
compiler itself takes minutes for a model and begins again at every new shape of a batch. Measured on two cores of an
AMD EPYC with AVX-512, 64 rows by the layers of SmolLM2-135M (576 to 1,536 wide, and 49,152 tokens), thousand millions
of operations a second:

| | MKL | oneDNN, laid out once |
| --- | ---: | ---: |
| float32, a layer | 127 | 384 |
| float32, the vocabulary | 100 | 401 |

The products are float32 in both, and differ by the order of their sums. A model below `FEWEST_PARAMETERS` is left as it
is: its layers lie in the processor's cache, and its texts stay those that they were.
"""
# ruff: noqa: TID253 (imported once a model is loaded)

import platform
from typing import TYPE_CHECKING

import torch
from torch import nn

from lance_assets.algorithms.forecast.precision import FEWEST_PARAMETERS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_ROWS = 64
"""Rows of a product that the layout is made for: those that the engine decodes together. Other numbers are as right."""


class PackedLinear(nn.Module):
    """A linear layer whose weight is laid out for oneDNN."""

    def __init__(self, linear: nn.Linear, *, keeps_weight: bool) -> None:
        """Lay the weight out.

        Args:
            linear: in float32 on a CPU.
            keeps_weight: whether the plain weight is kept too, as one that is the input embedding's as well.
        """
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self._packed = pack(linear.weight.detach())
        self._rounded: torch.Tensor | None = None
        # On the device "meta" it has a shape and no memory, and counts among the parameters of the model all the same.
        self.plain = linear.weight if keeps_weight else nn.Parameter(linear.weight.to("meta"), requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:
        """The plain weight, float32 [out_features, in_features], made anew unless it was kept."""
        return self._packed.to_dense() if self.plain.is_meta else self.plain

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The product [..., out_features] of states [..., in_features]: float32, and bfloat16 under autocast."""
        is_rounded = torch.is_autocast_enabled("cpu")
        if is_rounded and self._rounded is None:
            self._rounded = pack(self.weight.bfloat16())
        packed, dtype = (self._rounded, torch.bfloat16) if is_rounded else (self._packed, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states.to(dtype), packed, bias, "none", [], "")
        return found


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A weight [out_features, in_features] as oneDNN reads it fastest, of the same dtype; `to_dense` undoes it."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, NUM_ROWS)
    return packed


def can_pack(model: "PreTrainedModel") -> bool:
    """Whether a model's products are oneDNN's: in float32 on an x86 CPU, with `FEWEST_PARAMETERS` or more."""
    return (
        model.device.type == "cpu"
        and model.dtype == torch.float32
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and model.num_parameters() >= FEWEST_PARAMETERS
    )


def pack_products(model: "PreTrainedModel") -> None:
    """Lay the weights of all plain linear layers of a model out for oneDNN, if `can_pack`; leave any other as it is.

    The model can be read and not trained afterwards, and its weights cannot be saved. The output embedding's plain
    weight is kept, since it is often the input embedding's too; of all others it is made anew where it is read.

    Args:
        model: in eval mode.
    """
    if not can_pack(model):
        return
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            # Subclasses, such as quantized layers and adapters, compute something of their own.
            if type(layer) is nn.Linear and layer.weight.dtype == torch.float32:
                setattr(parent, name, PackedLinear(layer, keeps_weight=layer is head))
