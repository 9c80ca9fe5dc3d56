"""Requests as a model's tokens, and its tokens as the tail of a sample: what engines share that hold a tokenizer."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from lance_assets.records import Request, Sample, SamplingSettings
from resources.engines.contract import fail
from resources.models.chat_format import encode_messages, encode_user_turn, read_format
from resources.models.thought_tags import begin_own

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prefill(tokenizer: "PreTrainedTokenizerBase", prefill: str) -> tuple[int, ...]:
    """Token ids of the text with which the model's turn has begun, to be put behind `encode_messages`.

    It is encoded by itself, as the model's own turn is decoded by itself. The tags of a thought are the model's own;
    those that are special tokens are encoded as these tokens, since `read_text` has read them. Where the text holds
    the name of another special token, such as `<|im_end|>`, it is encoded letter by letter and ends no turn.
    """
    if not prefill:
        return ()
    chat_format = read_format(tokenizer)
    text = begin_own(prefill, chat_format.thoughts, chat_format.opened, chat_format.closing.strip())
    names = {tokenizer.decode([token]): token for token in chat_format.thought_tokens}
    # Tokens that are not special are taken whole by the tokenizer itself.
    tags = {name: names[name] for name in chat_format.special if name in names}
    tokens: list[int] = []
    for piece in filter(None, re.split(f"({'|'.join(map(re.escape, tags))})", text) if tags else [text]):
        if piece in tags:
            tokens.append(tags[piece])
        else:
            tokens += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return tuple(tokens)


def encode_requests(
    tokenizer: "PreTrainedTokenizerBase", requests: Sequence[Request], *, max_new_tokens: int, context: int | None
) -> tuple[dict[int, tuple[int, ...]], list[Sample]]:
    """Token ids of every request's chat, and of the turn that it begins, by its place; what fails is a failed sample.

    Args:
        tokenizer: the model's.
        requests: what is asked; equal messages are encoded once.
        max_new_tokens: room each row needs after its prompt.
        context: tokens the model can hold; None where it says nothing.
    """
    prompts: dict[int, tuple[int, ...]] = {}
    failed: list[Sample] = []
    known: dict[tuple[object, ...], tuple[int, ...]] = {}
    for place, request in enumerate(requests):
        key = (request.writes, *(tuple(message.items()) for message in request.messages))
        encode = encode_user_turn if request.writes == "user" else encode_messages
        try:
            if key not in known:
                known[key] = encode(tokenizer, request.messages)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            failed.append(fail(request, 0, f"the chat template failed on the messages: {error!r}"))
            continue
        prompt = (*known[key], *encode_prefill(tokenizer, request.prefill)) if request.prefill else known[key]
        if context is not None and len(prompt) + max_new_tokens > context:
            room = f"{len(prompt)} prompt tokens and max_new_tokens={max_new_tokens}"
            failed.append(fail(request, len(prompt), f"{room} exceed the model's context of {context} tokens"))
        else:
            prompts[place] = prompt
    return prompts, failed


def begins_turn(request: Request, sampling: SamplingSettings) -> bool:
    """Whether a free completion begins where the model's turn does: behind no prefill, and held to no grammar."""
    return not request.prefill and request.writes != "user" and sampling.grammar is None
