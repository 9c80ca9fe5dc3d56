"""What a model thinks is no part of its answer in lm-evaluation-harness either: the rule of `reviews.thoughts`.

The harness (0.4.13) takes the number of GSM8K, for example, from the end of all that was written, and a thought that
the token limit cut ends in one. It has an option of its own for thoughts (`think_end_token`), which has to be named for
each model, and takes a thought that was cut for the answer.

Its filters are given what was said; what was written stays in its samples (`resps`). A text without thoughts reaches
them as it was written, to the letter.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lance_assets.algorithms.reviews.thoughts import part_thoughts
from resources.models.chat_format import ChatFormatError, read_text
from resources.models.thought_tags import open_thought


def read_answer(text: str, context: str, *, opened: str) -> str:
    r"""What a completion says, without thoughts; empty where a thought never ends.

    Args:
        text: as the model wrote it.
        context: what it was given, few-shot examples and all.
        opened: the tag of a thought that the chat template opens at the context's end; empty where it opens none.

    >>> read_answer("<think>Is it 5?</think>\n\nIt is 4.", "Q: 2 + 2?", opened="")
    'It is 4.'
    >>> read_answer("Is it 5", "2 + 2?<|Assistant|><think>\n", opened="<think>"), read_answer(" 4", "Q:", opened="")
    ('', ' 4')
    """
    began = open_thought(text, opened if opened and context.rstrip().endswith(opened) else "")
    said = part_thoughts(began).said
    return text if said == text else said.lstrip()


def leave_thoughts_out(apply: Callable[[Any, list[Any]], None], opened: str) -> Callable[[Any, list[Any]], None]:
    """`FilterEnsemble.apply`, whose filters are given what was said.

    Args:
        apply: the harness's own.
        opened: as for `read_answer`.
    """

    def apply_to_said(ensemble: Any, instances: list[Any]) -> None:
        written = [instance.resps for instance in instances]
        for instance in instances:
            if instance.request_type == "generate_until":
                context = instance.args[0]
                instance.resps = [read_answer(text, context, opened=opened) for text in instance.resps]
        try:
            apply(ensemble, instances)
        finally:
            for instance, resps in zip(instances, written, strict=True):
                instance.resps = resps

    return apply_to_said


def keep_tags(decode: Callable[..., str]) -> Callable[..., str]:
    """`HFLM.tok_decode`, which keeps the tags of thoughts that are special tokens, and renames a model's own."""

    def decode_with_tags(model: Any, tokens: Any, skip_special_tokens: bool = True) -> str:
        if skip_special_tokens and isinstance(tokens, Sequence) and all(isinstance(one, int) for one in tokens):
            try:
                return read_text(model.tokenizer, tokens, begins_turn=False)
            except ChatFormatError:
                # A model that is asked without a chat has no tags of its own.
                pass
        return decode(model, tokens, skip_special_tokens=skip_special_tokens)

    return decode_with_tags
