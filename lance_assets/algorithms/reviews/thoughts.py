r"""What a model thinks before it writes: the one rule for `<think>` and its relatives, wherever a text is read.

Source: the chat templates and model cards of reasoning models: `<think>` (DeepSeek-R1, Qwen3), `<seed:think>`
(Seed-OSS), `[THINK]` (Magistral), `◁think▷` (Kimi), `<|begin_of_thought|>` (Sky-T1), `<|START_THINKING|>` (Command A),
`<|channel|>analysis<|message|>` (gpt-oss), and the tags that prompts ask for: `<thought>`, `<reasoning>`.

The rule: a text between an opening and a closing tag is a thought. What comes before a closing tag that nothing opened
is one too, since some templates open the thought themselves. A thought that opens the text and is
never closed reaches to the end: the model was cut, or never came to its answer. Behind other text such a tag is a word
of that text, as is a tag inside code.

The names are a fixed list, since a name that is unknown may be part of what was said. Tags that only one model has are
found in its chat template and renamed where its tokens become text (`resources.models.thought_tags`).
"""

import re
from dataclasses import dataclass

_NAMES = (
    r"(?:think(?:ing)?|thoughts?|(?:thought|thinking|reasoning)[ _-]?process|reasoning|reflection|deliberation"
    r"|scratch[ _-]?pad|inner[ _-]?(?:monologue|thoughts?|voice)|chain[ _-]of[ _-]thought|cot)"
)
_OPENED = (
    rf"<(?:[a-z]{{2,12}}:|ant)?{_NAMES}(?: [^<>\n]{{0,60}})?>|\[(?:think(?:ing)?|thought|reasoning)\]"
    rf"|◁{_NAMES}▷|<\|(?:(?:begin|start)[ _-]?(?:of[ _-])?)?{_NAMES}\|>"
    r"|<\|channel\|>(?:analysis|commentary)[^<\n]{0,60}<\|message\|>"
)
_CLOSED = (
    rf"</(?:[a-z]{{2,12}}:|ant)?{_NAMES} ?>|\[/(?:think(?:ing)?|thought|reasoning)\]"
    rf"|◁/{_NAMES}▷|<\|(?:end[ _-]?(?:of[ _-])?|/){_NAMES}\|>|<\|channel\|>final<\|message\|>"
)
_CLOSE, _OPEN = re.compile(_CLOSED, re.I), re.compile(_OPENED, re.I)
# Code comes first, so that a tag in it is no tag; a fence that never ends is no code.
_CODE = r"(?P<code>```(?:(?!```)[\s\S])*+```|`[^`\n]*+`)"
_CODE_OR_TAG = re.compile(rf"{_CODE}|(?P<close>{_CLOSED})|(?P<open>{_OPENED})", re.I)


@dataclass(frozen=True)
class Parted:
    """A text, parted into what was thought and what was said."""

    said: str
    """Everything outside the thoughts."""
    is_open: bool
    """Whether the last thought never ends."""


def part_thoughts(text: str) -> Parted:
    """Part a text into thoughts and the rest.

    Args:
        text: what a model wrote.

    Returns:
        The rest, with the blanks around it as written, and whether a thought is open at the end.

    >>> part_thoughts("<thought>Perhaps 3?</thought>score: 8")
    Parted(said='score: 8', is_open=False)
    >>> part_thoughts("Perhaps 3?</think>score: 8").said, part_thoughts("<think>score: 3")
    ('score: 8', Parted(said='', is_open=True))
    """
    said: list[str] = []
    place = start = 0
    while found := _CODE_OR_TAG.search(text, place):
        place = found.end()
        if found["code"]:
            continue
        if found["close"]:
            # Nothing opened it, so all before it was thought.
            said.clear()
        else:
            # An open thought may speak of its own tags, or hold half a code block: only its end is looked for.
            end = _CLOSE.search(text, place)
            if end is None:
                before = "".join([*said, text[start : found.start()]])
                return (
                    Parted(before + text[found.start() :], is_open=False)
                    if before.strip()
                    else Parted("", is_open=True)
                )
            said.append(text[start : found.start()])
            place = end.end()
        start = place
    return Parted("".join([*said, text[start:]]), is_open=False)


def strip_thinking(text: str) -> str:
    """Remove a model's thoughts; see `part_thoughts`.

    >>> strip_thinking("<think>Perhaps score: 3?</think>score: 8"), strip_thinking("<reasoning>score: 3")
    ('score: 8', '')
    """
    return part_thoughts(text).said


def list_closings(opened: str) -> list[str]:
    """What may close a tag.

    >>> list_closings("<ponder>"), list_closings("<|begin_of_musing|>")
    (['</ponder>'], ['<|/begin_of_musing|>', '<|end_of_musing|>'])
    """
    slashed = re.sub(r"\A([<\[◁][|｜]?)", r"\1/", opened)
    ended = re.sub(r"(?i)\A(<[|｜])(begin|start)", lambda found: found[1] + _end_like(found[2]), opened)
    return [slashed] if ended == opened else [slashed, ended]


def _end_like(word: str) -> str:
    return "END" if word.isupper() else "end"


def write_closing(text: str) -> str:
    r"""The tag that closes the thought which is open at a text's end, as the family of its opening tag has it.

    Args:
        text: one whose `part_thoughts(text).is_open`; of any other the text's first tag is taken for open.

    Returns:
        The tag; `</think>` where there is none of a known name.

    >>> [write_closing(text) for text in ("<think>So", "[THINK]So", "<|START_THINKING|>So", "<think a=\"b\">So")]
    ['</think>', '[/THINK]', '<|END_THINKING|>', '</think>']
    """
    begins = max((found.end() for found in _CLOSE.finditer(text)), default=0)
    opened = _OPEN.search(text, begins)
    if opened is None:
        return "</think>"
    if opened[0].startswith("<|channel|>"):
        return "<|channel|>final<|message|>"
    # A tag may have attributes, which its closing has not; some names have a blank.
    tags = (opened[0], re.sub(r" [^<>]*>\Z", ">", opened[0]))
    return next((closed for tag in tags for closed in list_closings(tag) if _CLOSE.fullmatch(closed)), "</think>")
