"""Chat markup inside the data never becomes a turn, whoever tokenizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.records import Request, SamplingSettings
from resources.engines.encoding import encode_requests
from resources.engines.openai.chat_completions import build_body
from resources.models.chat_format import encode_row
from resources.models.chat_markup import JOINER, MARKUP, break_markup, guard_turns
from tests.resources.chat_templates import FAMILIES, make_tokenizer

MARKS = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|user|>", "<|end|>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<bos>", "<eos>"),
    *("[TOOL_CALLS]", "[/AVAILABLE_TOOLS]", "<｜User｜>", "<｜Assistant｜>", "<pad>", "<unk>", "[SYSTEM_PROMPT]"),
]
PIECES = st.lists(
    st.sampled_from([*MARKS, "user\n", "assistant\n", "Obey.", " ", "\n", "<", "|", ">", "[", "é"]), min_size=1
)
DATA = PIECES.map("".join).map(str.strip).filter(bool)
SAMPLING = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=4)
TOKENIZERS = {name: make_tokenizer(family) for name, family in FAMILIES.items()}


def ask(text: str, prefill: str = "") -> Request:
    messages = ({"role": "system", "content": text}, {"role": "user", "content": text})
    return Request(row_id="a", messages=messages, sampling_seed=0, prefill=prefill)


def count_turns(name: str, tokens: Sequence[int]) -> tuple[int, int]:
    """Special tokens, and the markup that the template writes in plain letters."""
    tokenizer = TOKENIZERS[name]
    text = tokenizer.decode(tokens)
    plain = [mark for mark in set(MARKUP.findall(FAMILIES[name].template)) if mark not in tokenizer.get_added_vocab()]
    return sum(token >= 256 for token in tokens), sum(text.count(mark) for mark in plain)


@pytest.mark.parametrize("name", sorted(FAMILIES))
@given(text=DATA)
def test_markup_in_a_seed_becomes_no_turn_in_generation_and_training(name: str, text: str) -> None:
    """As many turns as of an innocent seed: what is asked (transformers, vLLM), begun and trained."""
    tokenizer, plain = TOKENIZERS[name], "Four."
    prompts, failed = encode_requests(tokenizer, [ask(text, text)], max_new_tokens=4, context=None)
    innocent, _ = encode_requests(tokenizer, [ask(plain, plain)], max_new_tokens=4, context=None)
    assert not failed
    # What begins the model's turn is the model's own text, and stays as it is.
    without, _ = encode_requests(tokenizer, [ask(text)], max_new_tokens=4, context=None)
    assert sum(token >= 256 for token in prompts[0]) == sum(token >= 256 for token in innocent[0])
    assert count_turns(name, without[0]) == count_turns(name, innocent[0])
    chat = [{"role": "user", "content": text}]
    for side, wanted in zip(
        encode_row(tokenizer, chat, text), encode_row(tokenizer, [{**chat[0], "content": plain}], plain), strict=True
    ):
        assert count_turns(name, side) == count_turns(name, wanted)


@given(text=DATA)
def test_a_server_is_sent_no_markup_of_a_seed(text: str) -> None:
    body = build_body(ask(text, text), SAMPLING, model="m", dialect=None)
    assert len(body["messages"]) == 3
    for message in body["messages"]:
        assert not MARKUP.search(message["content"])
        assert message["content"].replace(JOINER, "") == text
    innocent = build_body(ask("What is 2 < 3 [sic]?"), SAMPLING, model="m", dialect=None)
    assert [message["content"] for message in innocent["messages"]] == ["What is 2 < 3 [sic]?"] * 2


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"parts"}))
@given(text=DATA)
def test_the_harness_is_given_items_whose_markup_is_no_turn(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]

    def apply(model: Any, chat: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        return str(
            model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt)
        )

    def count(content: str) -> tuple[int, int]:
        written = guard_turns(apply)(SimpleNamespace(tokenizer=tokenizer), [{"role": "user", "content": content}])
        return count_turns(name, tokenizer(written, add_special_tokens=False)["input_ids"])

    assert count(text) == count("Four.")


@given(st.text())
def test_a_text_without_markup_is_given_as_it_is(text: str) -> None:
    if not MARKUP.search(text):
        assert break_markup(text) == text
    assert break_markup(text).replace(JOINER, "") == text.replace(JOINER, "")


def test_one_room_writes_chats(project_root: Path) -> None:
    """Whatever renders a chat by itself would know nothing of markup in the data."""
    rooms = [project_root / "lance_assets", project_root / "resources"]
    users = {file.name for room in rooms for file in room.rglob("*.py") if "apply_chat_template(" in file.read_text()}
    assert users == {"chat_format.py"}
