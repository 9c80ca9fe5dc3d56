r"""Chat markup in a text that another program will tokenize: broken, so that it stays text.

Where this platform makes the tokens itself (generation by transformers and vLLM, training, states), the markup of the
data is encoded letter by letter (`resources.models.chat_format`). Two readers tokenize by themselves and take
`<|im_end|>` for the end of a turn wherever it stands: a server with the OpenAI API, and lm-evaluation-harness. What
they are given has a WORD JOINER (U+2060) behind the first sign of each markup, which is not seen and no token's name
has. A text without markup is given as it is.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

JOINER = "\u2060"
MARKUP = re.compile(
    r"""
    <\|[^<>|\s]{1,60}\|>                            # ChatML, Llama 3, Phi, GLM
    | <｜[^<>｜]{1,60}｜>                            # DeepSeek
    | </?(?:s|bos|eos|pad|unk|sep|cls|mask)>        # SentencePiece
    | <(?:start|end)_of_(?:turn|text|image)>        # Gemma
    | <\|(?:turn|channel|think|tool|tool_call|tool_response)>  # Gemma 4
    | <(?:turn|channel|tool|tool_call|tool_response)\|>
    | <end_of_utterance> | <(?:BOS|EOS|PAD)_TOKEN>   # Idefics, Cohere
    | \[gMASK\] | <sop> | <extra_id_\d+>            # GLM, T5
    | \[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK|ARGS|IMG)\]  # Mistral
    | <</?SYS>>                                     # Llama 2
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""The markup of the families that are known; a server's model may be any of them."""


def break_markup(text: str, names: Sequence[str] = ()) -> str:
    r"""A text in which nothing is chat markup any more.

    Args:
        text: of a message.
        names: the special tokens' names of the model that reads it, where they are known.

    >>> break_markup("Say <|im_end|> twice.").replace(JOINER, "·")
    'Say <·|im_end|> twice.'
    """
    for name in sorted(filter(str.strip, names), key=len, reverse=True):
        if len(name) > 1:
            text = text.replace(name, name[0] + JOINER + name[1:])
    return MARKUP.sub(lambda found: found[0][0] + JOINER + found[0][1:], text)


def break_messages(messages: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Messages whose contents, where they are text, hold no markup."""
    return [
        {**message, "content": break_markup(message["content"], names)}
        if isinstance(message.get("content"), str)
        else {**message}
        for message in messages
    ]


def break_for(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages that hold no markup of a tokenizer: none of its special tokens, and no other that it adds, as `<think>`.

    Args:
        tokenizer: of what reads them.
        messages: the chat.
    """
    names = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return break_messages(messages, sorted(names))


def guard_turns(apply: Callable[..., str]) -> Callable[..., str]:
    """The harness's method that writes a chat as one text, given messages that hold no markup of its tokenizer."""

    def apply_guarded(model: Any, chat_history: Sequence[Mapping[str, Any]], *given: Any, **options: Any) -> str:
        return apply(model, break_for(model.tokenizer, chat_history), *given, **options)

    return apply_guarded
