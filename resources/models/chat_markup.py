r"""Chat markup in a text that another program will tokenize: broken, so that it stays text.

Where this platform makes the tokens itself (generation by transformers and vLLM, training, states), the markup of the
data is encoded letter by letter (`resources.models.chat_format`). Two readers tokenize by themselves and take
`<|im_end|>` for the end of a turn wherever it stands: a server with the OpenAI API, and lm-evaluation-harness. What
they are given has a WORD JOINER (U+2060) behind the first sign of each markup, which is not seen and no token's name
has. A text without markup is given as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resources.models.chat_format import break_markup


def break_messages(messages: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Messages whose contents, where they are text, hold no markup."""
    return [
        {**message, "content": break_markup(message["content"], names)}
        if isinstance(message.get("content"), str)
        else {**message}
        for message in messages
    ]


def guard_turns(apply: Callable[..., str]) -> Callable[..., str]:
    """The harness's method that writes a chat as one text, given messages that hold no markup of its tokenizer."""

    def apply_guarded(model: Any, chat_history: Sequence[Mapping[str, Any]], *given: Any, **options: Any) -> str:
        added = [str(token) for token in model.tokenizer.get_added_vocab()]
        names = {*model.tokenizer.all_special_tokens, *added}
        return apply(model, break_messages(chat_history, sorted(names)), *given, **options)

    return apply_guarded
