r"""The tags that a model's own chat template or tokenizer puts around a thought, whatever they are called.

`algorithms.reviews.thoughts` knows the tags of the families by their names. A model may have others. They are found by
what is done with them, since a name says nothing:

1. the template writes a thought that it is given (`reasoning_content` and its relatives) between them;
2. the generation prompt ends with an opening tag, whose closing one is in the template or a token of its own;
3. the template keeps of an earlier turn what follows a closing tag: `content.split('</ponder>')[-1]`.

A completion has `<think>` and `</think>` in the place of such tags, so that one rule reads all of them; a row that is
trained on with its thought gets the model's own again. Tags that are special tokens, of known names too (`[THINK]`),
are kept where the other special tokens are left out: without them a thought would be part of the answer.

Hand-written: transformers has response schemas, which few models bring; vLLM's reasoning parsers are a list of models.
"""

import re
from collections.abc import Callable, Collection, Sequence

from lance_assets.algorithms.reviews.thoughts import list_closings, part_thoughts, write_closing

Tags = tuple[str, str]
"""What opens a thought, and what closes it."""

OPENS, CLOSES = "<think>", "</think>"
"""What stands for the tags that only one model has."""

_TAG = r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]|◁[^◁▷\s]{1,40}▷"
_AT_END, _AT_START = re.compile(rf"(?P<tag>{_TAG})\s*\Z"), re.compile(rf"\s*(?P<tag>{_TAG})")
_SPLIT = re.compile(rf"\.split\(\s*(?P<quote>['\"])(?P<tag>{_TAG})(?P=quote)\s*\)\s*(?:\[\s*-\s*1\s*\]|\|\s*last\b)")
_CLOSING = re.compile(r"(?P<before>[<\[◁](?:[|｜])?)/")
_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
"""What templates call the thought of an earlier turn."""
_OTHER = re.compile(r"tool|function|call|answer|response|output|inst|turn|system|user|assistant", re.I)
"""Names of tags that hold something else."""
_THOUGHT = "QX4 is so"
_CHANNELS = ("<|channel|>", "<|message|>")
"""Of gpt-oss, whose thoughts are in a channel of that name (`algorithms.reviews.thoughts`)."""


def is_known(tags: Tags) -> bool:
    """Whether `part_thoughts` knows both tags by their names.

    >>> is_known(("<think>", "</think>")), is_known(("<ponder>", "</ponder>"))
    (True, False)
    """
    opened, closed = tags
    return part_thoughts(f"{opened}a{closed}b").said == "b" and part_thoughts(f"{opened}a").is_open


def find_thought_tags(
    template: str, tokens: Collection[str], asked: str, render: Callable[[dict[str, str]], str]
) -> tuple[Tags, ...]:
    """The tags of a model's thoughts, known names among them.

    Args:
        template: the chat template's source.
        tokens: the tokens that the tokenizer adds to its vocabulary.
        asked: a chat as it is rendered where the model's turn begins.
        render: gives a chat whose last turn is the model's with some further fields; empty where it cannot.

    Returns:
        Each pair once, those first that the template writes.
    """
    found = [_find_around(render({field: _THOUGHT})) for field in _FIELDS]
    if opened := _AT_END.search(asked):
        near = [closed for closed in list_closings(opened["tag"]) if closed in template or closed in tokens]
        found += [(opened["tag"], near[0]) if near else None]
    for split in _SPLIT.finditer(template):
        if _CLOSING.match(split["tag"]):
            found.append((_CLOSING.sub(r"\g<before>", split["tag"], count=1), split["tag"]))
    # Of tokens that no template names only the known names say what they are.
    for token in sorted(tokens):
        found += [(token, closed) for closed in list_closings(token) if closed in tokens and is_known((token, closed))]
    return tuple(dict.fromkeys(tags for tags in found if tags is not None and _is_fit(tags)))


def list_names(tags: Sequence[Tags], tokens: Collection[str]) -> set[str]:
    """The tokens that are part of a thought's tags, to be kept in a completion.

    Args:
        tags: the model's.
        tokens: the tokens that the tokenizer adds to its vocabulary.
    """
    names = {name for pair in tags for name in pair} & set(tokens)
    return names | (set(_CHANNELS) if set(_CHANNELS) <= set(tokens) else set())


def _find_around(rendered: str) -> Tags | None:
    """The tags around the thought in a rendered chat."""
    before, is_there, after = rendered.partition(_THOUGHT)
    opened, closed = _AT_END.search(before), _AT_START.match(after)
    if not is_there or opened is None or closed is None:
        return None
    return opened["tag"], closed["tag"]


def _is_fit(tags: Tags) -> bool:
    opened, closed = tags
    is_pair = closed in list_closings(opened) or is_known(tags)
    return is_pair and not _CLOSING.match(opened) and (is_known(tags) or _OTHER.search(opened) is None)


def rename_own(text: str, tags: Sequence[Tags]) -> str:
    """A completion with `<think>` and `</think>` for the tags that only this model has.

    >>> rename_own("<ponder>So.</ponder>Yes.", [("<ponder>", "</ponder>")])
    '<think>So.</think>Yes.'
    """
    for opened, closed in tags:
        if not is_known((opened, closed)):
            text = text.replace(opened, OPENS).replace(closed, CLOSES)
    return text


def restore_own(text: str, tags: Sequence[Tags]) -> str:
    """A text with the model's own tags for `<think>` and `</think>`, where it has only others.

    >>> restore_own("<think>So.</think>Yes.", [("<ponder>", "</ponder>")])
    '<ponder>So.</ponder>Yes.'
    """
    if not tags or any(is_known(one) for one in tags):
        return text
    opened, closed = tags[0]
    return text.replace(OPENS, opened).replace(CLOSES, closed)


def begin_own(text: str, tags: Sequence[Tags], opened: str, closed: str) -> str:
    r"""A turn that has begun, as the model itself would have written it: its thought in its own tags.

    Args:
        text: with which the turn begins, its thought closed as `write_closing` closes it.
        tags: the model's.
        opened: the tag of a thought that the prompt has opened, which is not written again; empty for none.
        closed: the tag that closes that thought.

    >>> begin_own("<think>So.\n</think>\nscore: ", [], "[THINK]", "[/THINK]")
    'So.\n[/THINK]\nscore: '
    >>> begin_own("<|think|>So.<|/think|>", [("<|think|>", "<|end_think|>")], "", "")
    '<|think|>So.<|end_think|>'
    """
    if opened and text.startswith(OPENS):
        text = text.removeprefix(OPENS).replace(CLOSES, closed, 1)
    elif begun := next((pair for pair in tags if text.lstrip().startswith(pair[0])), None):
        text = text.replace(write_closing(begun[0]), begun[1], 1)
    return restore_own(text, tags)


def open_thought(text: str, opened: str) -> str:
    """What follows a prompt that has opened a thought, with the tag where nothing in it closes one.

    Args:
        text: of the completion, its own tags renamed.
        opened: the tag at the prompt's end; empty for none.

    >>> open_thought("So 2 and", "<think>"), open_thought("So.</think>Yes.", "<think>"), open_thought("Yes.", "")
    ('<think>So 2 and', 'So.</think>Yes.', 'Yes.')
    """
    is_cut = bool(opened) and not part_thoughts(text).is_open and part_thoughts(f"{OPENS}{text}").is_open
    return f"{OPENS}{text}" if is_cut else text
