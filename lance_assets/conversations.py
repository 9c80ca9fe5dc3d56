r"""A prompt that is a conversation: its turns in one text, and the text as turns again.

Every table has one column `prompt`, and a prompt of one user turn stands there as it is. A prompt with a system message
of its own or with earlier turns is written as its turns, each under a line that names who speaks:

    ␞ system
    Be brief.
    ␞ user
    Name a bird.
    ␞ assistant
    A hen.
    ␞ user
    Another?

So ids, links, near-duplicates and every step between seeds and training see the whole conversation, and no step can
lose a part of it. What is sent to a model, and trained on, is the turns themselves (`prompts.build_messages`).

No text can pass for a turn. A line of a turn that begins with the mark gets a second mark, a prompt of one turn that
begins with the mark is written under `␞ user`, and what is not written so is one user turn, whatever it looks like.

Hand-written: the columns of TRL and of the OpenAI API are lists of messages. A list would need its own place beside the
prompt in seven tables, in every recipe and in every filter, and who forgot it would lose turns in silence.
"""

from collections.abc import Sequence
from typing import NamedTuple

MARK = "\N{SYMBOL FOR RECORD SEPARATOR}"
"""What begins the line that names who speaks."""

NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
"""Who may speak, and how a person or a reviewing model is shown it."""


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    text: str
    """What it says."""


def write_conversation(turns: Sequence[Turn]) -> str:
    r"""A conversation as a prompt; one user turn alone is its text.

    Args:
        turns: the last one is the user's, which asks for the completion.

    Raises:
        ValueError: the last turn is not the user's, or another role than those of `NAMES` speaks.

    >>> write_conversation([Turn("user", "Name a bird.")])
    'Name a bird.'
    >>> write_conversation([Turn("system", "Be brief."), Turn("user", "Name a bird.")])
    '␞ system\nBe brief.\n␞ user\nName a bird.'
    """
    roles = [turn.role for turn in turns]
    if not roles or roles[-1] != "user" or not set(roles) <= NAMES.keys():
        told = ", ".join(roles) or "none"
        raise ValueError(f"a prompt's turns must be of {', '.join(NAMES)}, and the last the user's, got {told}")
    if len(turns) == 1 and not turns[0].text.startswith(MARK):
        return turns[0].text
    return "\n".join(line for turn in turns for line in (f"{MARK} {turn.role}", *map(_quote, turn.text.split("\n"))))


def read_conversation(prompt: str) -> list[Turn]:
    r"""The turns of a prompt, at least one; a text that `write_conversation` has not written is one user turn.

    >>> read_conversation("Name a bird.")
    [Turn(role='user', text='Name a bird.')]
    >>> read_conversation(write_conversation([Turn("user", "␞ user\nHi"), Turn("assistant", "Ho"), Turn("user", "?")]))
    [Turn(role='user', text='␞ user\nHi'), Turn(role='assistant', text='Ho'), Turn(role='user', text='?')]
    """
    as_it_is = [Turn("user", prompt)]
    if not prompt.startswith(MARK):
        return as_it_is
    found: list[tuple[str, list[str]]] = []
    for line in prompt.split("\n"):
        if not line.startswith(MARK) or (found and line.startswith(MARK * 2)):
            found[-1][1].append(line.removeprefix(MARK))
        elif line.removeprefix(f"{MARK} ") in NAMES:
            found.append((line.removeprefix(f"{MARK} "), []))
        else:
            return as_it_is
    turns = [Turn(role, "\n".join(lines)) for role, lines in found]
    is_ours = turns[-1].role == "user" and write_conversation(turns) == prompt
    return turns if is_ours else as_it_is


def _quote(line: str) -> str:
    return f"{MARK}{line}" if line.startswith(MARK) else line


def quote_prompt(text: str) -> str:
    r"""A text that somebody wrote, as a prompt of one user turn: the text itself, unless it begins with the mark.

    >>> quote_prompt("Name a bird."), quote_prompt("␞ assistant")
    ('Name a bird.', '␞ user\n␞␞ assistant')
    """
    return write_conversation([Turn("user", text)])


def show_prompt(prompt: str) -> str:
    r"""A prompt as a person or a reviewing model is shown it: of several turns a transcript.

    Lines after the first one of a turn are indented, so that only a turn stands at a line's start.

    >>> turns = [Turn("user", "Hi.\nUser: Ho."), Turn("assistant", "?"), Turn("user", "!")]
    >>> print(show_prompt(write_conversation(turns)))
    User: Hi.
      User: Ho.
    <BLANKLINE>
    Assistant: ?
    <BLANKLINE>
    User: !
    """
    turns = read_conversation(prompt)
    if len(turns) == 1:
        return turns[0].text
    return "\n\n".join(f"{NAMES[role]}: " + "\n".join(_indent(text.split("\n"))) for role, text in turns)


def _indent(lines: Sequence[str]) -> list[str]:
    return [lines[0], *(f"  {line}" if line else "" for line in lines[1:])]


def list_turn_texts(prompt: str) -> list[str]:
    """What each turn of a prompt says, in order; of a prompt of one turn its text.

    >>> list_turn_texts(write_conversation([Turn("system", "Be brief."), Turn("user", "Name a bird.")]))
    ['Be brief.', 'Name a bird.']
    """
    return [turn.text for turn in read_conversation(prompt)]
