"""Every chat template that TRL ships, as real models have it: what is asked, trained, ended, and never let in."""

from datetime import datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from resources.models.chat_format import (
    ChatFormatError,
    describe_format,
    encode_messages,
    encode_row,
    encode_user_turn,
    find_turn_end,
    list_turn_ends,
    read_format,
    render_messages,
    require_turn_end,
)
from resources.models.chat_markup import JOINER, MARKUP, break_markup
from resources.training.train_worker import build_sft_rows, encode_rows
from tests.resources.chat_templates import make_tokenizer
from tests.resources.trl_templates import NAMES, read_family

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}
ANSWER, MORE = {"role": "assistant", "content": "Four."}, {"role": "user", "content": "And 3 + 3?"}
NO_END = {"glm4moe"}
"""GLM ends the model's turn by the user's next one."""
ENDED = [name for name in NAMES if name not in NO_END]
MERGED = {"gemma", "gemma_training"}
OPENS_THOUGHT = ("deepseek", "nemotron", "qwen3_5_think", "qwen3_6", "qwen3_8")
HEADERS = {"gptoss": "<|channel|>final<|message|>", "muse_glimmer": " to=user<|message|>"}
WRITES_DAY = {"llama3_2", "gptoss", "gptoss_training", "muse_glimmer", "muse_glimmer_training"}
ENDS = {
    **{"cohere": "<|END_OF_TURN_TOKEN|>", "cohere2": "<|END_RESPONSE|>", "deepseek": "<｜end▁of▁sentence｜>"},
    **{"gemma": "<end_of_turn>", "gemma4": "<turn|>", "diffusion_gemma": "<turn|>", "glm4moe": "<|user|>"},
    **{"gptoss": "<|return|>", "idefics3": "<end_of_utterance>", "smolvlm": "<end_of_utterance>"},
    **{"lfm2": "<|im_end|>", "nemotron": "<|im_end|>", "qwen": "<|im_end|>", "llama3": "<|eot_id|>"},
    **{"llava_next": "</s>", "muse_glimmer": "<|eot|>", "phi3": "<|end|>"},
}
"""By what the names of a family's templates begin with."""


@cache
def open_tokenizer(name: str) -> PreTrainedTokenizerBase:
    return make_tokenizer(read_family(name))


def look_up(name: str, known: dict[str, str]) -> str | None:
    begins = [begin for begin in known if name.startswith(begin)]
    return known[max(begins, key=len)] if begins else None


@pytest.mark.parametrize("name", ENDED)
def test_what_is_asked_is_what_is_trained_and_ended(name: str) -> None:
    tokenizer = open_tokenizer(name)
    told = describe_format(tokenizer, [SYSTEM, USER], ANSWER["content"])
    asked, trained = told["example"].removesuffix("⟩").split("⟨")
    assert asked.index(SYSTEM["content"]) < asked.index(USER["content"])
    assert "Four." in trained
    assert "Four." not in asked
    assert ("no system role" in told["template"]) == (name in MERGED)
    (row,), _ = encode_rows(
        tokenizer, build_sft_rows([{"prompt": USER["content"], "completion": "Four."}], "Be brief."), 4096
    )
    prompt = list(encode_messages(tokenizer, [SYSTEM, USER]))
    assert row["input_ids"][: len(prompt)] == prompt
    end = find_turn_end(tokenizer)
    assert tokenizer.convert_ids_to_tokens(end) == look_up(name, ENDS)
    rest = row["input_ids"][len(prompt) :]
    # What the model says stands before the end of its turn, and nothing of the template's markup within it.
    said = tokenizer.decode(rest[: rest.index(end)])
    assert said.split("</think>")[-1].strip() == "Four."
    assert prompt.count(tokenizer.bos_token_id) == (told["beginning_of_text"] == "by the template")


@pytest.mark.parametrize("name", sorted(NO_END))
def test_a_template_without_an_end_of_turn_is_refused(name: str) -> None:
    with pytest.raises(ChatFormatError, match=r"never learns to stop; put <\|endoftext\|> behind"):
        require_turn_end(open_tokenizer(name))
    assert encode_messages(open_tokenizer(name), [SYSTEM, USER])


@pytest.mark.parametrize("name", ENDED)
def test_a_thought_is_opened_and_closed_once(name: str) -> None:
    tokenizer = open_tokenizer(name)
    opens = name.startswith(OPENS_THOUGHT)
    assert bool(read_format(tokenizer).opened) == opens
    prompt, trained = (tokenizer.decode(side) for side in encode_row(tokenizer, [USER], "Four."))
    assert prompt.endswith("<think>\n") == opens
    if opens:
        assert trained.count("</think>") == 1
        assert "<think>" not in trained
        _, kept = encode_row(tokenizer, [USER], "<think>\nAdd.\n</think>\n\nFour.")
        assert tokenizer.decode(kept).split("</think>")[0].strip() == "Add."
        assert tokenizer.decode(kept).count("think>") == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_before_the_model_s_text_is_asked(name: str) -> None:
    header = look_up(name, HEADERS)
    prompt = tokenizer_text(name, [USER])
    assert header is None or prompt.endswith(f"<|start|>assistant{header}")
    assert any("part of what is asked" in rule for rule in read_format(open_tokenizer(name)).rules) == bool(header)


def tokenizer_text(name: str, messages: list[dict[str, str]]) -> str:
    tokenizer = open_tokenizer(name)
    return tokenizer.decode(encode_messages(tokenizer, messages))


@pytest.mark.parametrize("name", NAMES)
def test_no_template_writes_the_day(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is made again tomorrow has the same tokens."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2031, 3, 2, tzinfo=tz)

    tokenizer = open_tokenizer(name)
    before = tokenizer_text(name, [USER])
    plain = tokenizer.apply_chat_template([USER], tokenize=False)
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert tokenizer_text(name, [USER]) == before
    # Without the rule it would have other ones.
    has_parts = "list of parts" in "".join(read_format(tokenizer).rules)
    assert has_parts or (tokenizer.apply_chat_template([USER], tokenize=False) != plain) == (name in WRITES_DAY)


@pytest.mark.parametrize("name", NAMES)
def test_earlier_turns_are_kept(name: str) -> None:
    text = tokenizer_text(name, [SYSTEM, USER, ANSWER, MORE])
    assert text.index("Be brief.") < text.index("2 + 2") < text.index("Four.") < text.index("3 + 3")


@pytest.mark.parametrize("name", NAMES)
def test_two_questions_in_a_row_are_shown_or_refused(name: str) -> None:
    """Never is one of them left out silently."""
    try:
        text = render_messages(open_tokenizer(name), [USER, MORE])
    except (TemplateError, ValueError):
        return
    assert text.index("2 + 2") < text.index("3 + 3")


@pytest.mark.parametrize("name", NAMES)
def test_the_user_s_turn_goes_on_where_the_model_begins(name: str) -> None:
    tokenizer = open_tokenizer(name)
    if read_format(tokenizer).user_end is None:
        with pytest.raises(ChatFormatError, match="no special token after the user's turn"):
            encode_user_turn(tokenizer, [SYSTEM])
        return
    opened = tokenizer.decode(encode_user_turn(tokenizer, [SYSTEM]))
    assert tokenizer_text(name, [SYSTEM, USER]).startswith(opened + USER["content"])
    assert read_format(tokenizer).user_end in list_turn_ends(tokenizer)


def list_turn_tokens(name: str) -> list[str]:
    """The tokens that a chat's structure is written in."""
    tokenizer = open_tokenizer(name)
    chat = encode_messages(tokenizer, [SYSTEM, USER, ANSWER, MORE])
    added = tokenizer.get_added_vocab()
    written = set(tokenizer.convert_ids_to_tokens(chat)) & added.keys()
    return sorted({*written, *tokenizer.convert_ids_to_tokens(list_turn_ends(tokenizer))} - {"<think>", "</think>"})


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_markup_in_data_becomes_no_turn(name: str, data: st.DataObject) -> None:
    """As many tokens of structure as of an innocent chat, and every letter is there."""
    tokenizer, turns = open_tokenizer(name), list_turn_tokens(name)
    plain = sorted(set(MARKUP.findall(read_family(name).template)) - tokenizer.get_added_vocab().keys())
    marks = st.sampled_from(
        [*turns, *plain, *tokenizer.all_special_tokens, "user\n", "assistant\n", "Obey.", "\n", " "]
    )
    evil = "a" + "".join(data.draw(st.lists(marks, min_size=1, max_size=6))) + "b"

    def count(tokens: list[int]) -> tuple[int, ...]:
        text = tokenizer.decode(tokens)
        ids = set(tokenizer.convert_tokens_to_ids(turns))
        return sum(token in ids for token in tokens), *(text.count(mark) for mark in plain)

    chat = [SYSTEM, {"role": "user", "content": evil}]
    prompt, trained = encode_row(tokenizer, chat, evil)
    plain_prompt, plain_trained = encode_row(tokenizer, [SYSTEM, USER], "Four.")
    assert (count(prompt), count(trained)) == (count(plain_prompt), count(plain_trained))
    assert evil in tokenizer.decode(prompt).replace(JOINER, "")
    assert evil in tokenizer.decode(trained).replace(JOINER, "")


@pytest.mark.parametrize("name", NAMES)
def test_a_server_s_model_is_sent_no_markup_of_its_own(name: str) -> None:
    """A server's model is not known, so the markup of every family is broken by its looks."""
    for token in list_turn_tokens(name):
        assert token not in break_markup(f"Say {token} twice.")
