"""Training that diverged ends at once, and its weights are never saved.

A loss, a gradient or a weight that is NaN or infinite never becomes a number again. By default transformers logs the
loss of the step before in place of one that is NaN (`logging_nan_inf_filter`), so that a stage of NaN weights ends like
any other.

1. The loss and the norm of the gradients are looked at after each step (`FiniteCallback`).
2. The weights are looked at before they are saved (`require_finite`), since those of a last step have no loss after
   them. Weights of 1e9 are finite and their model is not, so its logits on a few tokens are looked at too.
"""

import math

import torch
from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from resources.training.trainer import DIVERGED

_NUM_PROBED = 16


class DivergedError(RuntimeError):
    """Training gave a loss, a gradient or a weight that is NaN or infinite."""


class FiniteCallback(TrainerCallback):
    """Ends a stage at the first step whose loss or gradient norm is NaN or infinite."""

    def __init__(self, stage: str) -> None:
        """Name the stage."""
        self.stage = stage

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Look at the step's loss and gradient norm.

        Raises:
            DivergedError: one of them is NaN or infinite.
        """
        for name, told in (("loss", "the loss"), ("grad_norm", "the gradient norm")):
            value = float(logs[name]) if logs and name in logs else 0.0
            if not math.isfinite(value):
                raise DivergedError(
                    f"{DIVERGED}{told} of {self.stage} is {value} at step {state.global_step} of {state.max_steps}"
                )


def require_finite(model: PreTrainedModel | PeftModel, stage: str) -> None:
    """Check a trained model before it is saved: its weights, and its logits on a few tokens.

    Args:
        model: trained, with its adapters where it has any; it is in evaluation mode afterwards.
        stage: what trained it, such as "sft".

    Raises:
        DivergedError: a weight or a logit is NaN or infinite.
    """
    for name, weight in model.named_parameters():
        wrong = weight.detach()[~torch.isfinite(weight.detach())]
        if wrong.numel():
            raise DivergedError(
                f"{DIVERGED}{wrong.numel()} of {weight.numel()} weights in {name} are {wrong[0].item()} or likewise "
                f"after the last step of {stage}"
            )
    model.eval()
    tokens = torch.arange(min(_NUM_PROBED, model.config.get_text_config().vocab_size)).unsqueeze(0)
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
    wrong = logits[~torch.isfinite(logits)]
    if wrong.numel():
        largest = max(weight.detach().abs().max().item() for weight in model.parameters())
        raise DivergedError(
            f"{DIVERGED}the logits are {wrong[0].item()} after the last step of {stage}, and the largest weight is "
            f"{largest:.3g}"
        )
