"""Training that computes logits only where a token is trained on, and reads the prompt of a pair once.

What is computed is TRL's loss, to float rounding. How it differs from TRL 1.16:

1. Without Triton TRL's fused output embedding scores every position, prompts and padding too. Here the states of the
   trained positions are picked before it. With Triton TRL does so itself.
2. Without Triton TRL goes over the vocabulary in tiles and multiplies the gradients in float32: 3.4 ms a position of
   SmolLM2-135M on two CPU cores. `score_states` is torch's own linear layer and log_softmax, and takes 1.4 ms.
3. TRL reads a pair's prompt once for the chosen and once for the rejected completion. Here both lie behind one prompt
   (`resources.models.shared_context`), for the reference model too.
4. On a CPU the rows of a batch lie behind each other without padding (`resources.training.packed_rows`). Otherwise they
   are padded on the right, where causal attention needs no mask to hide the padding.

`python -m benchmarks.training` measures the whole.
"""
# ruff: noqa: TID253 (runs in the trainer's process)

import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from trl import DPOTrainer, SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from lance_assets.algorithms.forecast.costs import TRAINED_LOGITS_AT_ONCE
from resources.engines.transformers.continuations import count_block, has_plain_head, reads_together
from resources.models.shared_context import ContextRow, lay_out
from resources.training.launching import count_processes
from resources.training.packed_rows import can_pack, pack, read_packed

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
            score_trained_positions(base, has_pairs=isinstance(trainer, DPOTrainer))


def score_trained_positions(model: PreTrainedModel, *, has_pairs: bool = False) -> None:
    """Have a model that has TRL's fused output embedding compute no more than its labels ask for.

    Args:
        model: without PEFT around it.
        has_pairs: whether a batch holds the chosen sides of pairs, and then their rejected ones.
    """
    score_all = model.forward
    can_share = has_pairs and reads_together(model)
    scores_here = packs = False
    if _is_alone_on_cpu(model):
        was_training = model.training
        # Dropout would draw random numbers, and part what is compared.
        model.eval()
        scores_here = has_plain_head(model)
        packs = scores_here and reads_together(model) and can_pack(model)
        model.train(was_training)

    def forward(
        self: PreTrainedModel,
        *given: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        **named: Any,
    ) -> Any:
        is_trained = None if labels is None else labels[:, 1:] != IGNORED
        if not fused_lm_head or labels is None or is_trained is None or given or not is_trained.any():
            return score_all(*given, fused_lm_head=fused_lm_head, labels=labels, **named)
        rows = _split_rows(named["input_ids"], labels, named.get("attention_mask")) if packs or can_share else None
        if can_share and rows is not None:
            rows = _share_prompts(rows)
        num_sides = 2 if can_share else 1
        # Activations that are computed again would be so without the packed rows.
        if packs and rows is not None and not self.is_gradient_checkpointing:
            packed = pack(rows, device=labels.device)
            states = read_packed(self, packed)
            found = score_states(self.get_output_embeddings(), states, packed.expected)
            return _spread(found, is_trained, _find_order(packed.lengths, num_sides))
        if can_share and rows is not None:
            shared = lay_out(rows, pad_id=0, device=labels.device)
            named |= {"input_ids": shared.input_ids, "position_ids": shared.positions, "attention_mask": shared.mask}
            flat, expected = shared.at_row * shared.input_ids.shape[1] + shared.at_place, shared.expected
            order = _find_order(shared.lengths, num_sides)
        else:
            at_row, at_place = is_trained.nonzero(as_tuple=True)
            flat, expected, order = at_row * labels.shape[1] + at_place, labels[:, 1:][is_trained], None
            if _needs_no_mask(self, named):
                named["attention_mask"] = None
        if scores_here:
            states = self.base_model(**named | {"use_cache": False}).last_hidden_state
            picked = states.flatten(0, 1).index_select(0, flat)
            return _spread(score_states(self.get_output_embeddings(), picked, expected), is_trained, order)
        with _pick_states(self.base_model, flat):
            found = score_all(fused_lm_head=True, shift_labels=expected.unsqueeze(0), **named)
        return _spread(found, is_trained, order)

    model.forward = types.MethodType(forward, model)


def score_states(head: torch.nn.Module, states: torch.Tensor, expected: torch.Tensor) -> FusedCausalLMOutput:
    """Score what an output embedding predicts, a block of positions at a time.

    Args:
        head: the output embedding.
        states: float [num_positions, hidden], of at least one position.
        expected: int64 [num_positions], the token that each should predict.

    Returns:
        Of each position, [num_positions]: the log-probability of its token in nats, and, without gradients, the entropy
        of what is predicted, the mean logit, and whether the token is the likeliest.
    """
    block = count_block(head, at_once=TRAINED_LOGITS_AT_ONCE)
    parts = list(zip(states.split(block), expected.split(block), strict=True))
    if len(parts) == 1:
        found = [_score_block(head, *parts[0])]
    else:
        # The logits of a block are computed again for its gradients, so that only one block's are held at once.
        found = [checkpoint(_score_block, head, *part, use_reentrant=False) for part in parts]
    log_probs, entropy, mean_logits, is_top1 = (torch.cat(values) for values in zip(*found, strict=True))
    return FusedCausalLMOutput(
        loss=-log_probs.mean(), log_probs=log_probs, entropy=entropy, mean_logits=mean_logits, is_top1=is_top1
    )


def _score_block(head: torch.nn.Module, states: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logits = head(states).float()
    log_probs = logits.log_softmax(dim=-1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
        mean_logits, is_top1 = logits.mean(dim=-1), logits.argmax(dim=-1) == expected
    return log_probs.gather(-1, expected.unsqueeze(-1)).squeeze(-1), entropy, mean_logits, is_top1


def _spread(found: FusedCausalLMOutput, is_trained: torch.Tensor, order: torch.Tensor | None) -> FusedCausalLMOutput:
    """What was found of the trained positions, in this order, at their places, and 0 elsewhere, as TRL returns it."""
    for name in ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1"):
        values = getattr(found, name)
        if values is not None:
            values = values.flatten() if order is None else values.flatten()[order.to(values.device)]
            setattr(found, name, values.new_zeros(is_trained.shape).masked_scatter(is_trained, values))
    found.label_mask = is_trained
    return found


def _find_order(lengths: Sequence[int], num_sides: int) -> torch.Tensor | None:
    """Where the positions of each completion are, in TRL's order: every chosen completion, then every rejected one.

    Args:
        lengths: of the completions, those of a pair behind each other.
        num_sides: 2 for pairs, 1 for rows.
    """
    if num_sides == 1:
        return None
    parts = torch.arange(sum(lengths)).split(list(lengths))
    return torch.cat([part for side in range(num_sides) for part in parts[side::num_sides]])


@contextmanager
def _pick_states(backbone: torch.nn.Module, flat: torch.Tensor) -> Iterator[None]:
    """Within it, the backbone returns the states of these positions alone, [1, num_positions, hidden]."""

    def pick(_module: torch.nn.Module, _given: tuple[object, ...], output: Any) -> Any:
        states = output.last_hidden_state
        output.last_hidden_state = states.flatten(0, 1).index_select(0, flat).unsqueeze(0)
        return output

    handle = backbone.register_forward_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def _is_alone_on_cpu(model: PreTrainedModel) -> bool:
    """Whether the platform's own loops are faster than TRL's and know what the model does.

    On a GPU TRL's kernels are faster, and TRL knows weights that are spread over processes and experts whose load is
    balanced.
    """
    is_alone = count_processes() == 1 and model.device.type == "cpu"
    return is_alone and not getattr(model.config, "output_router_logits", False)


def _needs_no_mask(model: PreTrainedModel, named: dict[str, Any]) -> bool:
    """Whether plain causal attention gives the trained positions what the mask gives them."""
    mask = named.get("attention_mask")
    # The load balancing of experts counts by the mask.
    counts_by_mask = named.get("output_router_logits") or getattr(model.config, "output_router_logits", False)
    if mask is None or mask.dim() != 2 or counts_by_mask or model.config._attn_implementation != "sdpa":
        return False
    return bool((mask[:, 1:] <= mask[:, :-1]).all())


def _split_rows(input_ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> list[ContextRow] | None:
    """The prompt and the completion of each row; None where what is trained on has gaps, or a row has none."""
    if mask is not None and mask.dim() != 2:
        return None
    rows: list[ContextRow] = []
    for place, (tokens, wanted) in enumerate(zip(input_ids, labels, strict=True)):
        is_read = slice(None) if mask is None else mask[place].bool()
        num_trained = int((wanted[1:] != IGNORED).sum())
        tokens, wanted = tokens[is_read].tolist(), wanted[is_read].tolist()
        # Nothing predicts a first token.
        trained = [number for number, label in enumerate(wanted) if label != IGNORED and number > 0]
        if not trained or not num_trained == len(trained) == trained[-1] - trained[0] + 1:
            return None
        rows.append((tokens[: trained[0]], [tokens[trained[0] : trained[-1] + 1]]))
    return rows


def _share_prompts(rows: Sequence[ContextRow]) -> list[ContextRow] | None:
    """Pairs as one row each, of rows of which the chosen ones come first; None where a pair has two prompts."""
    num_pairs = len(rows) // 2
    pairs: list[ContextRow] = []
    for (prompt, chosen), (other, rejected) in zip(rows[:num_pairs], rows[num_pairs:], strict=True):
        if prompt != other:
            return None
        pairs.append((prompt, [*chosen, *rejected]))
    return pairs
