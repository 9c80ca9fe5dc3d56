"""The turns of a row: a system message, the user's and the assistant's, in whatever spelling; and what becomes of them.

What comes before the last user turn is carried along as turns of the prompt, or what else the experiment chooses
(`Turns`). Nothing is lost: an image, a tool or another part that is no text is an error.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal

from lance_assets.conversations import Turn, quote_prompt, write_conversation
from resources.readers.mistakes import RowError, show_value

Turns = Literal["carry", "split", "join", "last", "refuse"]
"""What becomes of a system message and of earlier turns: they stay turns of the prompt; every completion of the
conversation is a row, with the turns before it; they are written into the text of one user turn; they are left out; or
the row is an error."""

TOLD = {"carry": "carried", "split": "carried", "join": "written into the prompt", "last": "left out"}
"""What a person is told of earlier turns."""

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bard", "bing", "claude"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Who speaks, by the names that data sets have for it, in lower case."""

LABELS = {"user": "User", "assistant": "Assistant"}
"""Who speaks, in a prompt that earlier turns are written into."""

ROLE_KEYS = ("role", "from")
TEXT_KEYS = ("content", "value", "text")
PAIR_KEYS = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("input", "output"),
    ("human", "gpt"),
    ("prompt", "response"),
)
"""Keys of a message that holds a question and its answer."""

PARTS_OF_A_MESSAGE = (
    *("tool_calls", "function_call", "tools", "images", "image", "audio", "video", "refusal"),
    *("reasoning_content", "reasoning", "thinking"),
)
"""Keys of a message that belong to it and that no round can carry."""


def is_missing(value: object) -> bool:
    """Whether a value says nothing: null, NaN, a blank text or an empty list."""
    return value is None or value != value or (isinstance(value, str) and not value.strip()) or value in ([], {}, ())


def load_nested(value: object) -> object:
    """A list as it is, one that is written as JSON in a text (in CSV), or one whose fields are columns of lists."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            return json.loads(value)
        except ValueError:
            return value
    if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
        return [dict(zip(value, ones, strict=False)) for ones in zip(*value.values(), strict=False)]
    return value


def find_role_key(value: object) -> str | None:
    """The key that says who speaks in a list of messages, "" for pairs; None for what is no such list."""
    value = load_nested(value)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value or not isinstance(value[0], dict):
        return None
    keys = value[0].keys()
    if any(set(pair) <= keys for pair in PAIR_KEYS):
        return ""
    return next((key for key in ROLE_KEYS if key in keys and any(text in keys for text in TEXT_KEYS)), None)


def read_turns(column: str, value: object) -> list[Turn]:
    """The turns of a list of messages, of pairs, or of `[question, answer]` lists; none of a missing value.

    Raises:
        RowError: it is something else, or holds what no round can carry.
    """
    value = load_nested(value)
    if is_missing(value):
        return []
    if not isinstance(value, list):
        raise RowError(f"column {column!r} must be a list of messages, got {_name(value)}; write it as JSON")
    turns: list[Turn] = []
    for number, message in enumerate(value, start=1):
        where = f"column {column!r}, message {number}"
        if isinstance(message, list) and len(message) == 2:
            turns += _read_pair(where, message)
        elif isinstance(message, dict):
            turns += _read_message(where, message)
        else:
            raise RowError(f"{where}, must be an object with role and content, got {_name(message)}; correct it")
    return turns


def _read_message(where: str, message: dict[str, Any]) -> list[Turn]:
    for pair in PAIR_KEYS:
        if set(pair) <= message.keys() and not set(ROLE_KEYS) & message.keys():
            return _read_pair(where, [message[key] for key in pair])
    for key in PARTS_OF_A_MESSAGE:
        if key in message and not is_missing(message[key]):
            raise RowError(
                f"{where}, has {key} {show_value(message[key])}, which a round cannot carry; remove the row or the part"
            )
    role_key = next((key for key in ROLE_KEYS if key in message), None)
    text_key = next((key for key in TEXT_KEYS if key in message), None)
    if role_key is None or text_key is None:
        raise RowError(f"{where}, must have role and content, or from and value, got {sorted(message)}; correct it")
    role = message[role_key]
    if not isinstance(role, str) or role.lower() not in ROLES:
        known = ", ".join(ROLES)
        raise RowError(f"{where}, has the {role_key} {show_value(role)}, which is none of {known}; remove the row")
    return [Turn(ROLES[role.lower()], _join_parts(where, text_key, message[text_key]))]


def _read_pair(where: str, pair: Sequence[object]) -> list[Turn]:
    roles = ("user", "assistant")
    return [Turn(role, _join_parts(where, role, text)) for role, text in zip(roles, pair, strict=True)]


def _join_parts(where: str, key: str, content: object) -> str:
    """A message's text: as it is, or of the parts of the OpenAI API."""
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, str):
            texts.append(part)
        else:
            kind = f"a part of type {part['type']!r}" if isinstance(part, dict) and "type" in part else _name(part)
            raise RowError(f"{where}, {key} must be text, got {kind}; remove the row or the part")
    text = "\n".join(texts)
    if not text.strip():
        raise RowError(f"{where}, {key} is empty, got {show_value(content)}; fill it or remove the row")
    return text


def split_last(turns: Sequence[Turn]) -> tuple[list[Turn], str, str | None]:
    """What comes before the last user turn, that turn, and the completion after it; None where there is none.

    Raises:
        RowError: the user says nothing, or the order is no dialogue's.
    """
    said = list(turns)
    completion = said.pop().text if said and said[-1].role == "assistant" else None
    if not said or said[-1].role != "user":
        roles = ", ".join(turn.role for turn in turns) or "none"
        raise RowError(f"the messages must end in one of the user and one of the assistant, got {roles}; correct them")
    return said[:-1], said[-1].text, completion


def list_exchanges(turns: Sequence[Turn]) -> list[tuple[list[Turn], str, str]]:
    """Every completion of a conversation: the turns before the prompt, the prompt and the completion.

    A turn of the assistant that follows no user's is carried by what comes after it, and is no completion.

    >>> said = [Turn(role, text) for role, text in zip(("user", "assistant") * 2, "abcd")]
    >>> [(len(before), prompt, completion) for before, prompt, completion in list_exchanges(said)]
    [(0, 'a', 'b'), (2, 'c', 'd')]
    """
    return [
        (list(turns[: place - 1]), turns[place - 1].text, turn.text)
        for place, turn in enumerate(turns)
        if place > 0 and turn.role == "assistant" and turns[place - 1].role == "user"
    ]


def write_prompt(before: Sequence[Turn], prompt: str, turns: Turns) -> str:
    """The last user turn with what comes before it, as the experiment chooses."""
    if turns == "join":
        return quote_prompt(join_turns(before, prompt))
    return quote_prompt(prompt) if turns == "last" else write_conversation([*before, Turn("user", prompt)])


def join_turns(before: Sequence[Turn], prompt: str) -> str:
    r"""A prompt that earlier turns are written into, each under the name of who speaks; a system message stands first.

    >>> join_turns([Turn("system", "Be brief.")], "Why?")
    'Be brief.\n\nWhy?'
    >>> join_turns([Turn("user", "Name a bird."), Turn("assistant", "A hen.")], "Another?")
    'User: Name a bird.\n\nAssistant: A hen.\n\nUser: Another?'
    """
    system = [turn.text for turn in before if turn.role == "system"]
    said = [turn for turn in before if turn.role != "system"]
    if not said:
        return "\n\n".join([*system, prompt])
    return "\n\n".join([*system, *(f"{LABELS[role]}: {text}" for role, text in (*said, Turn("user", prompt)))])


def _name(value: object) -> str:
    return f"{type(value).__name__} {show_value(value)}"
