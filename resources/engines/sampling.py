"""Sampling in which every row has a random stream of its own, so that a sample does not depend on its neighbours.

Source: nucleus sampling (arXiv 1904.09751). How it differs from transformers' `do_sample=True`:
1. Each row draws from a Philox stream keyed by its sampling seed, one uniform for each new token, instead of all rows
   drawing from torch's global generator: the batch a row lands in does not change what is drawn for it.
2. The token is found by inverse CDF over the nucleus in order of falling probability, ties by token id, so the same
   uniform gives the same token on every device (to float rounding of the logits).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from lance_assets.records import SamplingSettings


NUM_VALUES = 2**21
"""Logits that are sampled from at once on a CPU: 8 MiB stay in its cache, and memory of 32 MiB and more is given back
to the system after every operation and cleared at the next one."""
NUM_COLUMNS = 4096
"""The likeliest tokens of a step, in which its nucleus is looked for first; on a CPU the others are put in order only
where it is not among these."""


def draw_uniforms(sampling_seeds: Sequence[int], num_draws: int) -> np.ndarray:
    """The rows' uniforms: float64 [num_rows, num_draws] in [0, 1), row i from the stream of `sampling_seeds[i]`."""
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(num_draws) for seed in sampling_seeds]
    return np.stack(rows) if rows else np.empty((0, num_draws))


class SeededTopP:
    """Picks the next token of each row: greedy at temperature 0, else top-p from the row's own stream."""

    def __init__(self, sampling_seeds: Sequence[int], sampling: "SamplingSettings", *, device: "torch.device") -> None:
        """Draw every row's uniforms up front.

        Args:
            sampling_seeds: one a row, 0 or more.
            sampling: temperature, top_p and the number of new tokens.
            device: where the logits will be.

        Raises:
            ValueError: a setting is out of range.
        """
        import torch

        if sampling.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, got {sampling.temperature}")
        if not 0 < sampling.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {sampling.top_p}")
        if sampling.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be above 0 (1 for none), got {sampling.repetition_penalty}")
        if sampling.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, got {sampling.max_new_tokens}")
        self.sampling = sampling
        # A greedy row draws nothing.
        num_draws = sampling.max_new_tokens if sampling.temperature > 0 else 0
        self.uniforms = torch.from_numpy(draw_uniforms(sampling_seeds, num_draws)).to(device)

    def pick(self, logits: "torch.Tensor", *, rows: "torch.Tensor", step: int) -> "torch.Tensor":
        """The next token of each row.

        Args:
            logits: [num_rows, vocabulary], any float dtype.
            rows: int64 [num_rows], which of the sampling seeds each row of logits has.
            step: number of tokens the rows have so far.

        Returns:
            Token ids, int64 [num_rows].
        """
        import torch

        if self.sampling.temperature == 0:
            return logits.argmax(dim=-1)
        uniforms, sampling = self.uniforms[rows, step], self.sampling
        given = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        block = max(1, NUM_VALUES // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
        parts = zip(logits.split(block), uniforms.split(block), strict=True)
        return torch.cat([pick_tokens(part, drawn, **given) for part, drawn in parts])


def penalise_repetition(logits: "torch.Tensor", seen: "torch.Tensor", penalty: float) -> "torch.Tensor":
    """The logits with every token less likely that was seen, as transformers and vLLM count it.

    Args:
        logits: [num_rows, vocabulary], any float dtype.
        seen: bool [num_rows, vocabulary]: the tokens of each row's prompt and completion so far.
        penalty: above 0; 1 changes nothing, and below 1 repetition becomes likelier.

    Returns:
        A new tensor of the same shape and dtype.
    """
    import torch

    # Few tokens are seen, of a large vocabulary.
    places, penalised = seen.nonzero(as_tuple=True), logits.clone()
    values = logits[places]
    penalised[places] = torch.where(values < 0, values * penalty, values / penalty)
    return penalised


def pick_tokens(
    logits: "torch.Tensor", uniforms: "torch.Tensor", *, temperature: float, top_p: float
) -> "torch.Tensor":
    """One token a row, by inverse CDF over its nucleus.

    Args:
        logits: [num_rows, vocabulary], any float dtype.
        uniforms: float64 [num_rows] in [0, 1).
        temperature: above 0.
        top_p: in (0, 1].

    Returns:
        Token ids, int64 [num_rows].
    """
    # In half precision many tokens would have equal scores, and ties go by id.
    scores = logits.float() / temperature
    if scores.device.type != "cpu" or scores.shape[-1] <= NUM_COLUMNS:
        return _pick_in_order(scores, uniforms, top_p)
    likeliest = take_likeliest(scores)
    mass = add_up(scores, likeliest)
    # The whole vocabulary has the mass 1.
    is_among = mass[:, -1] >= top_p if top_p < 1 else mass[:, -1] > uniforms
    last = (mass[:, :-1] < top_p).sum(dim=-1, keepdim=True)
    target = uniforms.unsqueeze(-1) * (mass.gather(-1, last) if top_p < 1 else 1.0)
    tokens = _find_tokens(scores, likeliest, mass, target, last)
    if not is_among.all():
        # Few rows of a step, unless the temperature is high.
        tokens[~is_among] = _pick_in_order(scores[~is_among], uniforms[~is_among], top_p)
    return tokens


def _pick_in_order(scores: "torch.Tensor", uniforms: "torch.Tensor", top_p: float) -> "torch.Tensor":
    """One token a row, of all tokens in order."""
    ordered = sort_descending(scores)
    probabilities = ordered.softmax(dim=-1)
    # The sum of a large vocabulary in float32 would lose the last tokens of the nucleus.
    mass = probabilities[:, :NUM_COLUMNS].double().cumsum(dim=-1)
    if (mass[:, -1] < top_p).any():
        mass = probabilities.double().cumsum(dim=-1)
    ordered = ordered[:, : mass.shape[1]]
    # A token is in the nucleus when the mass before it is below top_p, so the first one always is.
    last = (mass[:, :-1] < top_p).sum(dim=-1, keepdim=True)
    # The uniform is stretched over the mass of the nucleus, so that the rest has no probability.
    return _find_tokens(scores, ordered, mass, uniforms.unsqueeze(-1) * mass.gather(-1, last), last)


def _find_tokens(
    scores: "torch.Tensor", ordered: "torch.Tensor", mass: "torch.Tensor", target: "torch.Tensor", last: "torch.Tensor"
) -> "torch.Tensor":
    """The tokens at which the mass exceeds the target.

    Args:
        scores: float32 [num_rows, vocabulary].
        ordered: float32 [num_rows, num_columns], the largest of them, falling.
        mass: float64 [num_rows, num_columns], the probability of each with all before it.
        target: float64 [num_rows, 1].
        last: int64 [num_rows, 1], the column of the last token that may be taken.

    Returns:
        Token ids, int64 [num_rows].
    """
    import torch

    place = (mass <= target).sum(dim=-1, keepdim=True).minimum(last)
    value = ordered.gather(-1, place)
    # Of several tokens with this value the first by id is taken, unless equal values come before it in the order.
    number = place - (ordered > value).sum(dim=-1, keepdim=True)
    equal = scores == value
    if number.any():
        equal &= equal.cumsum(dim=-1) == number + 1
    return equal.to(torch.uint8).argmax(dim=-1)


def take_likeliest(scores: "torch.Tensor") -> "torch.Tensor":
    """Each row's largest values in falling order, float32 [num_rows, NUM_COLUMNS], on a CPU.

    By far the most tokens of a large vocabulary are in no nucleus, and need no order.
    """
    import torch

    found = np.partition(scores.numpy(), -NUM_COLUMNS, axis=-1)[:, -NUM_COLUMNS:]
    return torch.from_numpy(np.sort(found, axis=-1)).flip(-1)


def add_up(scores: "torch.Tensor", likeliest: "torch.Tensor") -> "torch.Tensor":
    """The probability of each of the largest scores with all before it, float64 as `likeliest`.

    Args:
        scores: float32 [num_rows, vocabulary].
        likeliest: float32 [num_rows, num_columns], the largest of them, falling.
    """
    # A row's softmax and its largest value are the same whichever rows are beside it; a sum is not.
    first = scores.softmax(dim=-1).amax(dim=-1, keepdim=True)
    return ((likeliest - likeliest[:, :1]).exp() * first).double().cumsum(dim=-1)


def sort_descending(scores: "torch.Tensor") -> "torch.Tensor":
    """Each row's values in falling order, float32 [num_rows, num_columns].

    On a CPU by numpy, which sorts values in a thirtieth of the time that torch takes with their places (512 x 512,
    AVX-512): there, sampling would cost a small model as much as its forward pass.
    """
    import torch

    if scores.device.type != "cpu":
        return scores.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(scores.numpy(), axis=-1)).flip(-1)
