r"""How a model is written to: one room for chat templates, used by engines, training, states and the evaluation.

A checkpoint is asked as it is trained, token by token, whatever its template does:

1. **No system role** (Gemma, Mistral v0.1: the template raises, or leaves the text out). The system text goes in front
   of the first user message, with an empty line between.
2. **Content in parts.** Where the template shows nothing of a plain text, each content becomes
   `[{"type": "text", "text": ...}]`.
3. **A generation prompt that the whole chat does not begin with**, as in templates that open a thought there
   (DeepSeek-R1). A training row is then the prompt as at serving, the completion, and what the template puts after
   the model's turn. An opened thought is closed before a completion that does not close it.
4. **Chat markup inside the data.** `<|im_end|>` in a message is encoded as text and never ends a turn. The pieces
   around it are encoded by themselves, which SentencePiece may begin with a space. Markup that is no special token
   (`[INST]` of Llama 2) gets a WORD JOINER, which is not seen, behind its first sign. The tags of a thought stay in the
   model's own turns.
5. **No end of turn.** A template without a special token after the model's turn is refused before training: the model
   would never learn to stop.
6. **A header between the generation prompt and what the model says** (gpt-oss: `<|channel|>final<|message|>`). It is
   part of what is asked: written by the model, its letters would be part of each completion.
7. **Today's date** (Llama 3.2, gpt-oss). The day that Llama 3.1 writes stands in, so that a row has the same tokens on
   each day.

The first two and the last two are put into the template itself, as its first and last lines, so that whatever reads the
template follows them (`adapt_folder`, for lm-evaluation-harness). A beginning of text is the template's affair: chats
are encoded without the one that a tokenizer adds to plain text, so it is never there twice.

Hand-written: transformers renders templates and knows none of these rules; TRL's templates are a list of known models.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from lance_assets.algorithms.reviews.thoughts import list_closings
from resources.models.chat_markup import JOINER, MARKUP, break_for
from resources.models.thought_tags import (
    Tags,
    find_thought_tags,
    list_names,
    open_thought,
    rename_own,
    restore_own,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]
"""A chat: messages with role and content, both text."""

# A variable at the end, since a template's first line break is dropped after a block.
MERGE_SYSTEM = (
    "{%- if messages | length > 1 and messages[0]['role'] == 'system' -%}{%- set messages = [{'role': "
    "messages[1]['role'], 'content': messages[0]['content'] ~ '\\n\\n' ~ messages[1]['content']}] + messages[2:] -%}"
    "{%- endif -%}{{- '' }}"
)
"""Put before a template that has no system role."""
PART_CONTENTS = (
    "{%- set parted = namespace(all=[]) -%}{%- for message in messages -%}{%- set parted.all = parted.all + [{'role': "
    "message['role'], 'content': [{'type': 'text', 'text': message['content']}]}] -%}{%- endfor -%}"
    "{%- set messages = parted.all -%}{{- '' }}"
)
"""Put before a template that shows contents in parts alone."""
_DAY = {
    **{"%d": "26", "%-d": "26", "%e": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24"},
    **{"%A": "Friday", "%a": "Fri", "%j": "208", "%F": "2024-07-26", "%H": "00", "%M": "00", "%S": "00"},
}
FIXED_DAY = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace({name!r}, {value!r})" for name, value in _DAY.items())
    + " }}{%- endmacro -%}{{- '' }}"
)
"""Put before a template that writes the day on which it is rendered."""

_OPENED = re.compile(r"[<\[◁](?:\w+:)?(?:think(?:ing)?|thoughts?|reasoning)[>\]▷]\s*\Z", re.I)
_THOUGHT = re.compile(r"[<\[◁]/?(?:\w+:)?(?:think(?:ing)?|thoughts?|reasoning)[>\]▷]", re.I)
_MARK = re.compile("\ue000([\ue100-\uf8ff])\ue001")
_SYSTEM, _USER, _MODEL = "Answer QX1 briefly.", 'What is "QX2"?', "It is QX3."


class ChatFormatError(ValueError):
    """A chat template that no rule makes fit for what is asked of it."""


@dataclass(frozen=True)
class ChatFormat:
    """What is known of a tokenizer's chat template, found once by rendering three short chats."""

    template: str
    """The template, with what is put before it."""
    rules: tuple[str, ...]
    """Sentences: what is done because of this template."""
    turn_end: int | None
    """The special token after the model's turn; None where there is none."""
    after_turn: str
    """All that the template puts after the model's turn."""
    opened: str
    """The tag of a thought that the generation prompt opens, such as `<think>`; empty where it opens none."""
    closing: str
    """What closes that thought before a completion."""
    special: tuple[str, ...]
    """The special tokens' names, the longest first: one may be part of another."""
    plain: tuple[str, ...] = ()
    """Markup that the template writes and that is no special token, such as Llama 2's `[INST]`, the longest first."""
    thoughts: tuple[Tags, ...] = ()
    """The tags of the model's thoughts (`thought_tags`)."""
    thought_tokens: frozenset[int] = frozenset()
    """Those of these tags that are special tokens."""
    user_end: int | None = None
    """The special token after the user's turn, where the model's turn is to follow; None where there is none."""


_KNOWN: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, ChatFormat]]" = WeakKeyDictionary()


_DESCRIBED: dict[tuple[str, str, str, bool], dict[str, str]] = {}


def read_format(tokenizer: "PreTrainedTokenizerBase") -> ChatFormat:
    """What a tokenizer's chat template needs, found at the first call for it.

    Raises:
        ChatFormatError: it has no template, or one that shows nothing of what is asked.
    """
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise ChatFormatError(f"there is no chat template: {error}") from error
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != template:
        known = _KNOWN[tokenizer] = (template, _find_format(tokenizer, template))
    return known[1]


def _find_format(tokenizer: "PreTrainedTokenizerBase", template: str) -> ChatFormat:
    user, model = {"role": "user", "content": _USER}, {"role": "assistant", "content": _MODEL}
    rules, used = [], template
    if "strftime_now" in template:
        used = template = FIXED_DAY + template
        rules.append("the template writes the day on which it is rendered: 26 July 2024 stands in")
    if not _shows(tokenizer, used, [user]):
        used = PART_CONTENTS + template
        if not _shows(tokenizer, used, [user]):
            raise ChatFormatError(
                f"the chat template shows nothing of a user's message {_USER!r}: "
                f"{_explain(tokenizer, template, [user])}; mend chat_template.jinja, or use another model"
            )
        rules.append("contents are given to the template as a list of parts")
    system = {"role": "system", "content": _SYSTEM}
    if not _shows(tokenizer, used, [system, user]):
        used = MERGE_SYSTEM + used
        if not _shows(tokenizer, used, [system, user]):
            raise ChatFormatError("the chat template shows no system text, even in the user's turn; mend it")
        rules.append("the template has no system role: the system text goes in front of the first user message")
    asked = _render(tokenizer, used, [user], is_asked=True)
    whole = _render(tokenizer, used, [user, model], is_asked=False)
    if _MODEL not in whole:
        raise ChatFormatError(f"the chat template shows nothing of the model's turn {_MODEL!r}; mend it")
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    thoughts = find_thought_tags(template, added, asked, lambda fields: _try(tokenizer, used, [user, model | fields]))
    if header := _find_header(tokenizer, asked, whole, tags=[tag for pair in thoughts for tag in pair]):
        # The line break at a template's end is dropped, and behind it would be kept.
        used = used.removesuffix("\n") + "{{ " + repr(header) + " if add_generation_prompt else '' }}"
        asked += header
        rules.append(f"what the template puts before the model's text ({header}) is part of what is asked")
    after = whole[whole.rindex(_MODEL) + len(_MODEL) :]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_encoder.values()}
    ends, user_ends = (
        [token for token in tokenizer(text, add_special_tokens=False)["input_ids"] if token in special]
        for text in (after, asked[asked.rindex(_USER) + len(_USER) :])
    )
    known = _OPENED.search(asked)
    opened = known[0].strip() if known else ""
    opened = opened or next((tag for tag, _ in thoughts if asked.rstrip().endswith(tag)), "")
    closed = dict(thoughts).get(opened, list_closings(opened)[0] if opened else "")
    if opened:
        rules.append(f"the template opens a thought ({opened}) where the model begins")
    if own := [f"{one} {other}" for one, other in thoughts if (one, other) != (opened, closed)]:
        rules.append(f"thoughts stand between {', '.join(own)}")
    if not whole.startswith(asked):
        rules.append("a training row is composed: the whole chat does not begin as it is asked at serving")
    return ChatFormat(
        template=used,
        rules=tuple(rules),
        turn_end=ends[0] if ends else None,
        after_turn=after,
        opened=opened,
        closing=f"{closed}\n\n" if opened else "",
        thoughts=thoughts,
        thought_tokens=frozenset(added[name] for name in list_names(thoughts, added)),
        special=(names := _list_special(tokenizer)),
        plain=tuple(sorted(set(MARKUP.findall(used)) - set(names), key=lambda name: (-len(name), name))),
        user_end=user_ends[0] if user_ends else None,
    )


def _find_header(tokenizer: "PreTrainedTokenizerBase", asked: str, whole: str, *, tags: Sequence[str]) -> str:
    """What stands between the generation prompt and the model's text, where it holds a special token and no thought."""
    if not whole.startswith(asked):
        return ""
    header = whole[len(asked) : whole.rindex(_MODEL)]
    is_special = any(name in header for name in _list_special(tokenizer))
    is_thought = _THOUGHT.search(header) is not None or any(tag in header for tag in tags)
    return header if is_special and not is_thought else ""


def _render(tokenizer: "PreTrainedTokenizerBase", template: str, messages: Messages, *, is_asked: bool) -> str:
    # Tokenized at once, the text could not be looked at before.
    return str(
        tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=is_asked,
        )
    )


def _try(tokenizer: "PreTrainedTokenizerBase", template: str, messages: Messages) -> str:
    """A chat as text; empty where the template fails on it."""
    try:
        return _render(tokenizer, template, messages, is_asked=False)
    except (TemplateError, TypeError, ValueError, KeyError):
        return ""


def _explain(tokenizer: "PreTrainedTokenizerBase", template: str, messages: Messages) -> str:
    try:
        return f"it gives {_render(tokenizer, template, messages, is_asked=True)!r}"
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        return repr(error)


def _shows(tokenizer: "PreTrainedTokenizerBase", template: str, messages: Messages) -> bool:
    try:
        text = _render(tokenizer, template, messages, is_asked=True)
    except (TemplateError, TypeError, ValueError, KeyError):
        return False
    # A list of parts that is printed as it is holds the text too, and more.
    return all(message["content"] in text for message in messages) and "'type': 'text'" not in text


def render_messages(tokenizer: "PreTrainedTokenizerBase", messages: Messages, *, is_asked: bool = True) -> str:
    """A chat as text, with every special token of the data behind a mark (`encode_text` takes them away again).

    Args:
        tokenizer: the model's.
        messages: the chat.
        is_asked: whether the model's turn begins at its end.

    Raises:
        ValueError: a message without role or content, or one that the template leaves out.
        jinja2.TemplateError: the template refuses the messages.
    """
    marked = _mark(tokenizer, messages)
    text = _render(tokenizer, read_format(tokenizer).template, marked, is_asked=is_asked)
    for message in marked:
        # Earlier turns of the model may be shown without their thoughts.
        if message["role"] != "assistant" and message["content"].strip() not in text:
            shown = message["content"].strip()[:80]
            raise ValueError(f"the chat template leaves out what the {message['role']}'s message says: {shown!r}")
    return text


def _mark(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> list[dict[str, str]]:
    """The messages, each special token that their contents name replaced by a mark."""
    for message in messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise ValueError(f"a message needs a role and a content, both text, got {message!r}")
        if found := _MARK.search(message["content"]):
            raise ValueError(f"a message holds {found[0]!r}, private characters which are used to mark special tokens")
    marked = [{"role": message["role"], "content": message["content"]} for message in messages]
    # In the model's own turn the tags of a thought are what they are.
    own = {name for pair in read_format(tokenizer).thoughts for name in pair}
    for place, name in enumerate(read_format(tokenizer).special):
        for message in marked:
            if name in message["content"] and not (name in own and message["role"] == "assistant"):
                message["content"] = message["content"].replace(name, f"\ue000{chr(0xE100 + place)}\ue001")
    for message in marked:
        for name in read_format(tokenizer).plain:
            if name in own and message["role"] == "assistant":
                continue
            # Letter by letter it would be the same tokens as the template's own.
            message["content"] = message["content"].replace(name, name[0] + JOINER + name[1:])
    return marked


def _list_special(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    names = {name for name in {*added, *tokenizer.all_special_tokens} if name.strip()}
    return tuple(sorted(names, key=lambda name: (-len(name), name)))


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a rendered chat; what is behind a mark is encoded as text.

    Raises:
        ValueError: the tokenizer has no other tokens for it.
    """
    if _MARK.search(text) is None:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [token for piece in _encode_pieces(tokenizer, text) for token in piece]


def _encode_pieces(tokenizer: "PreTrainedTokenizerBase", text: str) -> Iterator[list[int]]:
    names, special = read_format(tokenizer).special, set(tokenizer.all_special_ids)
    special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    for place, piece in enumerate(_MARK.split(text)):
        if place % 2 == 0:
            if piece:
                yield list(tokenizer(piece, add_special_tokens=False)["input_ids"])
            continue
        name = names[ord(piece) - 0xE100]
        tokens = list(tokenizer(name, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        if special & set(tokens):
            raise ValueError(f"a message holds {name!r}, which this tokenizer cannot encode as text; take the row out")
        yield tokens


def encode_messages(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> tuple[int, ...]:
    """Token ids of a chat up to where the model's turn begins.

    Raises:
        ValueError: a message without role or content, or one that the template leaves out.
        jinja2.TemplateError: the template refuses the messages, such as two of one role in a row.
    """
    return tuple(encode_text(tokenizer, render_messages(tokenizer, messages)))


def encode_user_turn(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> tuple[int, ...]:
    """Token ids of a chat up to where the user's turn begins, so that the model writes what a user would ask.

    Args:
        tokenizer: the model's.
        messages: what comes before: nothing, a system message, or turns of which the last is the model's.

    Raises:
        ChatFormatError: the template ends the user's turn with no special token, so that such a turn would not end.
        ValueError: as `encode_messages`.
        jinja2.TemplateError: as `encode_messages`.
    """
    if read_format(tokenizer).user_end is None:
        raise ChatFormatError(
            "the chat template puts no special token after the user's turn, so a model that writes one never ends it; "
            "ask for prompts by the template (parameters.proposals: template)"
        )
    text = render_messages(tokenizer, [*messages, {"role": "user", "content": _USER}])
    return tuple(encode_text(tokenizer, text[: text.rindex(_USER)]))


def encode_row(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, completion: str
) -> tuple[list[int], list[int]]:
    """Token ids of a training row: the chat as it is asked, and the completion with what ends the model's turn.

    Raises:
        ValueError: as `encode_messages`.
        jinja2.TemplateError: as `encode_messages`.
    """
    asked = render_messages(tokenizer, messages)
    rest = _find_rest(tokenizer, messages, restore_own(completion, read_format(tokenizer).thoughts), asked)
    prompt, whole = encode_text(tokenizer, asked), encode_text(tokenizer, asked + rest)
    # Where tokens would merge over the border, the completion is encoded by itself: at serving there is a border too.
    return prompt, whole[len(prompt) :] if whole[: len(prompt)] == prompt else encode_text(tokenizer, rest)


def _find_rest(tokenizer: "PreTrainedTokenizerBase", messages: Messages, completion: str, asked: str) -> str:
    """What follows the prompt, marked."""
    chat = [*messages, {"role": "assistant", "content": completion}]
    whole, said = render_messages(tokenizer, chat, is_asked=False), _mark(tokenizer, chat)[-1]["content"].strip()
    chat_format, rest = read_format(tokenizer), whole[len(asked) :]
    end = chat_format.closing.strip()
    # A template may put a thought of its own before one that the completion brings along.
    is_twice = bool(end) and 0 < said.count(end) < rest.count(end)
    if whole.startswith(asked) and said in rest and not is_twice:
        return rest
    if chat_format.opened:
        said = said.removeprefix(chat_format.opened).lstrip()
        said = said if chat_format.closing.strip() in said else chat_format.closing + said
    return said + chat_format.after_turn


def read_text(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int], *, begins_turn: bool = True) -> str:
    """What a model wrote, without special tokens but those around a thought.

    Args:
        tokenizer: the model's.
        tokens: of the completion, without what ended it.
        begins_turn: whether the model began where the generation prompt ends, which may have opened a thought.

    Returns:
        The text. Tags that only this model has are `<think>` and `</think>`, and an opened thought that nothing closes
        begins with `<think>`.
    """
    chat_format = read_format(tokenizer)
    kept, pieces, start = chat_format.thought_tokens, [], 0
    for place, token in enumerate(tokens if kept else ()):
        if token in kept:
            pieces.append(tokenizer.decode(tokens[start:place], skip_special_tokens=True))
            pieces.append(tokenizer.decode([token]))
            start = place + 1
    # At once where there is no such token: pieces may be decoded otherwise at their borders.
    text = "".join([*pieces, tokenizer.decode(tokens[start:], skip_special_tokens=True)])
    text = rename_own(text, chat_format.thoughts)
    return open_thought(text, chat_format.opened) if begins_turn else text


def find_turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token that a chat template puts after the model's turn; None where it puts none.

    A base model's generation config may name the end of a document alone (Qwen2-7B: `<|endoftext|>`), while its
    template, and so its training, ends a turn with another token (`<|im_end|>`): without it samples run to the limit.
    """
    return read_format(tokenizer).turn_end


def list_turn_ends(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The special tokens that end a turn of the model or, where it writes one, of the user."""
    chat_format = read_format(tokenizer)
    return [token for token in (chat_format.turn_end, chat_format.user_end) if token is not None]


def require_turn_end(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that ends the model's turn.

    Raises:
        ChatFormatError: there is none.
    """
    chat_format = read_format(tokenizer)
    if chat_format.turn_end is None:
        token = tokenizer.eos_token or "<|im_end|>"
        raise ChatFormatError(
            f"the chat template puts {chat_format.after_turn!r} after the model's turn, which holds no special token: "
            f"a model that is trained so never learns to stop; put {token} behind the assistant's content in "
            "chat_template.jinja"
        )
    return chat_format.turn_end


def describe_format(tokenizer: "PreTrainedTokenizerBase", messages: Messages, completion: str) -> dict[str, str]:
    """What a person should know of a model's chats before its first use, each proved on one row.

    Args:
        tokenizer: the model's.
        messages: a chat as the experiment asks it.
        completion: what it is answered with.

    Raises:
        ChatFormatError: an invariant does not hold: the template has no end of turn, or what it shows is not what is
            asked or trained.
    """
    try:
        return _describe(tokenizer, messages, completion)
    except TemplateError as error:
        raise ChatFormatError(
            f"the chat template refuses {messages!r}: {error}; mend it, or use another model"
        ) from error


def _describe(tokenizer: "PreTrainedTokenizerBase", messages: Messages, completion: str) -> dict[str, str]:
    chat_format, end = read_format(tokenizer), require_turn_end(tokenizer)
    asked, (prompt, trained) = list(encode_messages(tokenizer, messages)), encode_row(tokenizer, messages, completion)
    if prompt != asked:
        raise ChatFormatError("the prompt of a training row is not what is asked at serving; mend chat_template.jinja")
    if end not in trained:
        raise ChatFormatError(
            "the token that ends a turn is not among those that are trained; mend chat_template.jinja"
        )
    names = {"begins": tokenizer.bos_token_id, "pad": tokenizer.pad_token_id}
    plain = tokenizer("a")["input_ids"]
    is_told = names["begins"] is not None and prompt[:1] == [names["begins"]]
    adds = names["begins"] is not None and plain[:1] == [names["begins"]]
    begins = "by the template" if is_told else "not there" + (", though plain text has it" if adds else "")
    pad = repr(tokenizer.pad_token) if names["pad"] is not None else "none: the end of text stands in"
    return {
        "template": "; ".join(chat_format.rules) or "as it is",
        "end_of_turn": f"{tokenizer.convert_ids_to_tokens(end)!r}, trained and stopped at",
        "beginning_of_text": begins,
        "padding": pad,
        "example": tokenizer.decode(prompt) + "⟨" + tokenizer.decode(trained) + "⟩",
    }


def describe_chat(
    model_path: Path, content_hash: str, messages: Messages, completion: str, *, asks_harness: bool = False
) -> dict[str, str]:
    """`describe_format` of a model's folder, once for each content of it and chat.

    Args:
        model_path: folder of the model.
        content_hash: of the model, by which it is known.
        messages: a chat as the experiment asks it.
        completion: what it is answered with.
        asks_harness: whether lm-evaluation-harness asks the model chats, which are then compared.

    Raises:
        ChatFormatError: as `describe_format`; or the harness asks with other tokens.
    """
    key = (content_hash, repr(messages), completion, asks_harness)
    if key not in _DESCRIBED:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True, trust_remote_code=False)
        told = describe_format(tokenizer, messages, completion)
        if asks_harness:
            # As they are where they hold no markup; else the harness gets it broken, and our engines letter by letter.
            broken = break_for(tokenizer, messages)
            asked = encode_messages(tokenizer, broken)
            theirs = encode_as_harness(model_path, messages)
            if asked != theirs:
                raise ChatFormatError(
                    f"lm-evaluation-harness asks {tokenizer.decode(theirs)!r} ({len(theirs)} tokens) where training "
                    f"and generation ask {tokenizer.decode(asked)!r} ({len(asked)} tokens); mend chat_template.jinja, "
                    "or set evaluation.lm_eval.apply_chat_template: false"
                )
            told["harness"] = "lm-evaluation-harness asks with the same tokens"
            if broken != [dict(message) for message in messages]:
                told["harness"] += ", but for the markup in the messages, which it is given broken"
        _DESCRIBED[key] = told
    return dict(_DESCRIBED[key])


def encode_as_harness(model_path: Path, messages: Messages) -> tuple[int, ...]:
    """Token ids of a chat as lm-evaluation-harness's `HFLM` (0.4.13) makes them, from the folder that it is given.

    The data's markup is broken, as `resources.models.chat_markup` has it.

    Args:
        model_path: folder of the model.
        messages: the chat.
    """
    from transformers import AutoTokenizer

    with TemporaryDirectory() as view:
        folder = adapt_folder(model_path, Path(view))
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    broken = break_for(tokenizer, messages)
    text = _render(tokenizer, tokenizer.get_chat_template(), broken, is_asked=True)
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def read_opened(model_path: Path) -> str:
    """The tag of a thought that a model's chat template opens where the model begins; empty where it opens none.

    Args:
        model_path: folder of the model.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True, trust_remote_code=False)
    try:
        return read_format(tokenizer).opened
    except ChatFormatError:
        return ""


def adapt_folder(model_path: Path, folder: Path) -> Path:
    """A model's folder whose template follows the rules, for what reads it by itself; `model_path` where it does.

    Args:
        model_path: folder of the model.
        folder: an empty folder, which gets links to the model's files and its own template.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True, trust_remote_code=False)
    try:
        chat_format = read_format(tokenizer)
    except ChatFormatError:
        # The harness says itself what the template refuses.
        return model_path
    if chat_format.template == tokenizer.get_chat_template():
        return model_path
    for file in model_path.iterdir():
        if not file.name.startswith("chat_template"):
            (folder / file.name).symlink_to(file.resolve())
    # A file of the template comes before one in tokenizer_config.json.
    (folder / "chat_template.jinja").write_text(chat_format.template, encoding="utf-8")
    return folder
