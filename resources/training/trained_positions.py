"""Training that computes logits only where a token is trained on, and reads the prompt of a pair once.

What is computed is TRL's loss, to float rounding. Measured with TRL 1.16 on two CPU cores, which it was built for:

1. Without Triton TRL's fused output embedding scores every position, prompts and padding too, and multiplies their
   gradients in float32. Here the states of the trained positions are picked before it (with Triton TRL does so itself).
2. TRL reads a pair's prompt once for the chosen and once for the rejected completion. Here both lie behind one prompt
   (`resources.models.shared_context`), for the reference model too.
3. Rows are padded on the right, where causal attention needs no mask to hide the padding.

`python -m benchmarks.training` measures it.
"""
# ruff: noqa: TID253 (runs in the trainer's process)

import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from trl import DPOTrainer, SFTTrainer

from resources.engines.transformers.continuations import reads_together
from resources.models.shared_context import ContextRow, SharedRows, lay_out

IGNORED = -100
"""The label of a token that is not trained on."""


def compute_what_is_trained(trainer: SFTTrainer | DPOTrainer) -> None:
    """Have a trainer's models compute no more than its loss needs.

    Args:
        trainer: has given its models TRL's fused output embedding.
    """
    for model in (trainer.model, getattr(trainer, "ref_model", None)):
        if model is not None:
            base = model.get_base_model() if isinstance(model, PeftModel) else model
            _patch_forward(base, has_pairs=isinstance(trainer, DPOTrainer))


def _patch_forward(model: PreTrainedModel, *, has_pairs: bool) -> None:
    score_all = model.forward
    can_share = has_pairs and reads_together(model)

    def forward(
        self: PreTrainedModel,
        *given: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        **named: Any,
    ) -> Any:
        if not fused_lm_head or labels is None:
            return score_all(*given, fused_lm_head=fused_lm_head, labels=labels, **named)
        is_trained = labels[:, 1:] != IGNORED
        shared = _share_prompts(named["input_ids"], labels) if can_share else None
        if shared is not None:
            named |= {"input_ids": shared.input_ids, "position_ids": shared.positions, "attention_mask": shared.mask}
            at_row, at_place, expected = shared.at_row, shared.at_place, shared.expected
        else:
            at_row, at_place = is_trained.nonzero(as_tuple=True)
            expected = labels[:, 1:][is_trained]
            if _needs_no_mask(self, named):
                named["attention_mask"] = None
        if not len(expected):
            return score_all(*given, fused_lm_head=True, labels=labels, **named)
        with _pick_states(self.base_model, at_row, at_place):
            found = score_all(*given, fused_lm_head=True, shift_labels=expected.unsqueeze(0), **named)
        for name in ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1"):
            values = getattr(found, name)
            if values is not None:
                setattr(found, name, values.new_zeros(is_trained.shape).masked_scatter(is_trained, values))
        found.label_mask = is_trained
        return found

    model.forward = types.MethodType(forward, model)


@contextmanager
def _pick_states(backbone: torch.nn.Module, at_row: torch.Tensor, at_place: torch.Tensor) -> Iterator[None]:
    """Within it, the backbone returns the states of these positions alone, [1, num_positions, hidden]."""

    def pick(_module: torch.nn.Module, _given: tuple[object, ...], output: Any) -> Any:
        states = output.last_hidden_state
        flat = at_row * states.shape[1] + at_place
        output.last_hidden_state = states.flatten(0, 1).index_select(0, flat).unsqueeze(0)
        return output

    handle = backbone.register_forward_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def _needs_no_mask(model: PreTrainedModel, named: dict[str, Any]) -> bool:
    """Whether plain causal attention gives the trained positions what the mask gives them."""
    mask = named.get("attention_mask")
    # The load balancing of experts counts by the mask.
    counts_by_mask = named.get("output_router_logits") or getattr(model.config, "output_router_logits", False)
    if mask is None or mask.dim() != 2 or counts_by_mask or model.config._attn_implementation != "sdpa":
        return False
    return bool((mask[:, 1:] <= mask[:, :-1]).all())


def _share_prompts(input_ids: torch.Tensor, labels: torch.Tensor) -> SharedRows | None:
    """Pairs as one row each, in TRL's order: every chosen completion, then every rejected one.

    Args:
        input_ids: int64 [2 * num_pairs, length]; the chosen sides come first.
        labels: the same shape; `IGNORED` where a token is not trained on.

    Returns:
        None where a pair has no prompt in common, or a side without a trained token.
    """
    num_pairs = len(input_ids) // 2
    sides = [_split_row(*row) for row in zip(input_ids.tolist(), labels.tolist(), strict=True)]
    rows: list[ContextRow] = []
    for chosen, rejected in zip(sides[:num_pairs], sides[num_pairs:], strict=True):
        if chosen is None or rejected is None or chosen[0] != rejected[0]:
            return None
        rows.append((chosen[0], [chosen[1], rejected[1]]))
    shared = lay_out(rows, pad_id=0, device=input_ids.device)
    order = [*range(0, 2 * num_pairs, 2), *range(1, 2 * num_pairs, 2)]

    def reorder(values: torch.Tensor) -> torch.Tensor:
        parts = values.split(shared.lengths)
        return torch.cat([parts[number] for number in order])

    return SharedRows(
        shared.input_ids,
        shared.positions,
        shared.mask,
        reorder(shared.at_row),
        reorder(shared.at_place),
        reorder(shared.expected),
        [shared.lengths[number] for number in order],
    )


def _split_row(tokens: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """The prompt and the completion of a row; None without a prompt or with gaps in what is trained on."""
    trained = [place for place, label in enumerate(labels) if label != IGNORED]
    if not trained or trained[0] == 0 or trained[-1] - trained[0] + 1 != len(trained):
        return None
    return list(tokens[: trained[0]]), list(tokens[trained[0] : trained[-1] + 1])
