"""What the platform's models of the harness have in common: how requests are cut, grouped and ended, as `HFLM` does it.

The harness (0.4.13) has these rules inside of `HFLM.generate_until` and `HFLM._loglikelihood_tokens`, where nothing
else can call them.
"""
# ruff: noqa: TID253 (imported in the harness's process)

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences
from transformers import GenerationConfig

GREEDY = {"until", "max_gen_toks", "do_sample", "temperature"}
"""What a task may ask of greedy generation, by the harness's own names."""
HARMLESS = {
    *("transformers_version", "_from_model_config", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("do_sample", "temperature", "top_p", "top_k", "min_p", "max_length", "use_cache", "cache_implementation"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "repetition_penalty"),
}
"""What a generation config may set without changing which token is the likeliest, and the penalty that we follow."""


def list_harmful(config: GenerationConfig) -> list[str]:
    """What a generation config sets that changes which token is the likeliest in ways that we do not follow."""
    return sorted(config.to_diff_dict().keys() - HARMLESS)


def group_by_wishes(requests: Iterable[Any]) -> list[list[int]]:
    """The places of requests, together where they ask the same of generation."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, request in enumerate(requests):
        groups[repr(request.args[1])].append(place)
    return list(groups.values())


def cut_pair(context: Sequence[int], continuation: Sequence[int], *, longest: int) -> tuple[tuple[int, ...], int]:
    """The tokens of a context and its continuation, the last ones where they are too many, and the context's number.

    >>> cut_pair([1, 2, 3], [4, 5], longest=4)
    ((2, 3, 4, 5), 2)
    """
    kept = (*context, *continuation)[-longest:]
    return kept, len(kept) - len(continuation)


def encode_context(model: HFLM, context: str, *, max_gen_toks: int) -> tuple[int, ...]:
    """The tokens of a text to go on from, the last ones where there are too many.

    Raises:
        ValueError: the task asks for as many new tokens as the model can hold.
    """
    room = model.max_length - max_gen_toks
    if room < 1:
        raise ValueError(
            f"the task asks for {max_gen_toks} new tokens, and the model's context is {model.max_length}: "
            "lower max_gen_toks in the task's generation_kwargs"
        )
    input_ids, _ = model.tok_batch_encode([context], left_truncate_len=room, truncation=model.truncation)
    return tuple(input_ids[0].tolist())


def list_stops(model: HFLM, until: list[str]) -> list[str]:
    """The texts that end a completion: the task's, and the end of the model's turn."""
    stops: list[str] = handle_stop_sequences(until, eos=model.tok_decode([model.eot_token_id], False))
    return stops


def list_ends(model: HFLM, config: GenerationConfig) -> set[int]:
    """The tokens that end a completion: the tokenizer's end, and those of a generation config."""
    configured = config.eos_token_id
    return {model.eot_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
