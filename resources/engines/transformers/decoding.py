"""A decode loop for batches of rows of unequal length, in place of `model.generate`.

No library offers this on a CPU: `generate` keeps finished rows in the batch until the last one ends, so one runaway row
makes all of them cost `max_new_tokens` steps. With equal greedy tokens, it differs:
1. Finished rows leave the batch (and the cache) once they are an eighth of it.
2. Equal prompts of a batch, such as the four completions of one prompt, are read by the model once.
3. Keys and values are written in place (`resources.engines.transformers.growing_cache`) and attended without repeats
   (`resources.engines.transformers.grouped_attention`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resources.engines.sampling import SeededTopP

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel

FINISHED_SHARE = 1 / 8
"""Of the rows in the batch: below it, computing finished rows costs less than copying the cache of the others."""


@dataclass(frozen=True)
class Decoded:
    """One row's completion."""

    tokens: list[int]
    """New token ids, a stop id included where there was one."""
    is_prompt_shared: bool
    """Whether the model read its prompt for an equal one earlier in the batch."""
    tail: list[tuple[int, list[tuple[int, float]]]]
    """The last tokens, each with the likeliest token ids there and their log-probabilities in nats."""


@dataclass
class _Batch:
    """The rows under way, and what the model needs of them for its next step."""

    model: "PreTrainedModel"
    cache: "DynamicCache"
    rows: "torch.Tensor"
    """int64 [num_rows]: which prompt each one continues."""
    mask: "torch.Tensor"
    """int64 [num_rows, length]: 1 where a token is, 0 where padding."""
    positions: "torch.Tensor"
    """int64 [num_rows, 1]: of each one's last token."""
    logits: "torch.Tensor"
    """[num_rows, vocabulary]: of each one's next token."""

    def step(self, tokens: "torch.Tensor") -> None:
        """Read one new token a row."""
        import torch

        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.rows), 1))], dim=1)
        self.positions = self.positions + 1
        self.logits = _read(self.model, self.cache, tokens.unsqueeze(-1), self.mask, self.positions)

    def keep(self, places: "torch.Tensor") -> None:
        """Let all other rows go."""
        self.cache.batch_select_indices(places)
        self.rows, self.mask, self.positions = (kept[places] for kept in (self.rows, self.mask, self.positions))


def _read(
    model: "PreTrainedModel",
    cache: "DynamicCache",
    input_ids: "torch.Tensor",
    mask: "torch.Tensor",
    positions: "torch.Tensor",
) -> "torch.Tensor":
    """The logits [num_rows, vocabulary] behind the last of these tokens."""
    inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
    logits: torch.Tensor = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits[:, -1]


def _pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    length = max(map(len, prompts))
    input_ids = torch.full((len(prompts), length), pad_id)
    mask = torch.zeros((len(prompts), length), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return input_ids, mask


def _read_prompts(model: "PreTrainedModel", prompts: Sequence[Sequence[int]], pad_id: int) -> _Batch:
    """A batch with one row a prompt, of which equal ones were read once."""
    import torch

    from resources.engines.transformers.growing_cache import build_growing_cache

    distinct = list(dict.fromkeys(map(tuple, prompts)))
    place = {prompt: row for row, prompt in enumerate(distinct)}
    source = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=model.device)
    input_ids, mask = (tensor.to(model.device) for tensor in _pad_left(distinct, pad_id))
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = build_growing_cache(model.config)
    logits = _read(model, cache, input_ids, mask, positions)
    if len(distinct) < len(prompts):
        cache.batch_select_indices(source)
    rows = torch.arange(len(prompts), device=model.device)
    return _Batch(model, cache, rows, mask[source], positions[source, -1:], logits[source])


def decode_batch(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    sampler: SeededTopP,
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    tail_tokens: int = 0,
    num_alternatives: int = 20,
) -> list[Decoded]:
    """Sample a completion for each prompt.

    Args:
        model: a causal language model in eval mode.
        prompts: token ids; equal ones are read once.
        sampler: with one sampling seed for each prompt, in order.
        stop_ids: tokens that end a completion.
        pad_id: any token id; padding is masked.
        tail_tokens: last tokens of each row whose alternatives are kept, beside a stop id.
        num_alternatives: likeliest tokens kept for each of them.

    Returns:
        One for each prompt, in order.
    """
    import torch

    completions: list[list[int]] = [[] for _ in prompts]
    tails: list[deque[tuple[int, list[tuple[int, float]]]]] = [deque(maxlen=tail_tokens + 1) for _ in prompts]
    finished: set[int] = set()
    with torch.inference_mode():
        batch = _read_prompts(model, prompts, pad_id)
        for step in range(sampler.sampling.max_new_tokens):
            tokens = sampler.pick(batch.logits, rows=batch.rows, step=step)
            choices = _find_choices(batch.logits, tokens, num_alternatives) if tail_tokens else None
            rows, going_on = batch.rows.tolist(), []
            for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                if row in finished:
                    continue
                completions[row].append(token)
                if choices is not None:
                    tails[row].append(choices[place])
                if token in stop_ids:
                    finished.add(row)
                else:
                    going_on.append(place)
            if not going_on or step + 1 == sampler.sampling.max_new_tokens:
                break
            if len(rows) - len(going_on) >= FINISHED_SHARE * len(rows):
                places = torch.tensor(going_on, device=model.device)
                batch.keep(places)
                tokens = tokens[places]
            batch.step(tokens)
    first: dict[tuple[int, ...], int] = {}
    for row, prompt in enumerate(prompts):
        first.setdefault(tuple(prompt), row)
    return [
        Decoded(tokens, is_prompt_shared=first[tuple(prompt)] != row, tail=list(tail))
        for row, (prompt, tokens, tail) in enumerate(zip(prompts, completions, tails, strict=True))
    ]


def _find_choices(
    logits: "torch.Tensor", tokens: "torch.Tensor", num_alternatives: int
) -> list[tuple[int, list[tuple[int, float]]]]:
    """Each row's token with the likeliest ones at its place and, where it is none of them, itself."""
    logprobs = logits.float().log_softmax(dim=-1)
    values, places = logprobs.topk(min(num_alternatives, logprobs.shape[-1]), dim=-1)
    own = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    found = []
    for token, value, top, top_values in zip(
        tokens.tolist(), own.tolist(), places.tolist(), values.tolist(), strict=True
    ):
        others = list(zip(top, top_values, strict=True))
        found.append((token, others if token in top else [*others, (token, value)]))
    return found
