"""The user's turn as a model writes it: the chat up to where the user speaks, on every engine that is given tokens."""

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from lance_assets.records import Request, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import UserTurnError, sample_in_order
from resources.engines.durable_stage import hash_request
from resources.engines.encoding import encode_requests
from resources.engines.openai.engine import OpenAIEngine
from resources.engines.transformers.engine import TransformersEngine
from resources.models.chat_format import (
    ChatFormatError,
    encode_messages,
    encode_user_turn,
    list_turn_ends,
    render_messages,
)
from tests.resources.chat_templates import FAMILIES, make_tokenizer
from tests.resources.faulty_server import FaultyServer

ASKED = "Name a bird."
BEFORE = ({"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."})
OPEN = Request("q0", BEFORE, 7, writes="user")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("before", [(), BEFORE], ids=["empty", "turns"])
def test_what_the_user_says_goes_on_where_the_model_begins(name: str, before: tuple) -> None:
    """With the user's text behind it, the open chat is the beginning of the chat that asks it."""
    tokenizer = make_tokenizer(FAMILIES[name])
    asked = render_messages(tokenizer, [*before, {"role": "user", "content": ASKED}])
    after = tokenizer(asked.rpartition(ASKED)[2], add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_encoder.values()}
    if not special & set(after):
        with pytest.raises(ChatFormatError, match="no special token after the user's turn"):
            encode_user_turn(tokenizer, before)
        return
    opened = tokenizer.decode(encode_user_turn(tokenizer, before))
    whole = tokenizer.decode(encode_messages(tokenizer, [*before, {"role": "user", "content": ASKED}]))
    assert whole.startswith(opened + ASKED)
    # What ends the user's turn there ends a sample.
    assert next(token for token in after if token in special) in list_turn_ends(tokenizer)


def test_the_request_of_the_models_own_turn_keeps_its_hash() -> None:
    request = Request("r1", ({"role": "user", "content": "Sort 3 1 2."},), 5)
    assert hash_request(request, SamplingSettings(0.7, 0.9, 512)) == "77c7387d02afe0de1ee9e5e0853620f6"
    assert hash_request(replace(request, writes="user")) != hash_request(request)


def test_equal_messages_of_both_turns_are_told_apart() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SMALL_MODEL)
    requests = [OPEN, replace(OPEN, row_id="q1", writes="assistant")]
    prompts, failed = encode_requests(tokenizer, requests, max_new_tokens=1, context=None)
    assert not failed
    assert [tokenizer.decode(prompts[place]).rpartition("<|im_start|>")[2] for place in (0, 1)] == [
        "user\n",
        "assistant\n",
    ]


def test_the_transformers_engine_writes_the_turn_and_stops_at_its_end() -> None:
    """The packaged model never learned to ask, so its words are not looked at, only that they end as a turn does."""
    engine = TransformersEngine(SMALL_MODEL)
    samples = sample_in_order(
        engine, [replace(OPEN, row_id=f"q{n}", sampling_seed=n) for n in range(4)], SamplingSettings(0.7, 0.9, 64)
    )
    assert {sample.finish_reason for sample in samples} <= {"stop", "length"}
    assert all("<|im" not in sample.text and "assistant\n" not in sample.text for sample in samples)
    tokenizer = AutoTokenizer.from_pretrained(SMALL_MODEL)
    assert samples[0].prompt_tokens == len(encode_user_turn(tokenizer, BEFORE))


def test_a_server_that_only_answers_says_so_before_any_row() -> None:
    server = FaultyServer().start()
    try:
        engine = OpenAIEngine(base_url=server.url)
        with pytest.raises(UserTurnError, match=r"the chat API, which answers and never asks; use engine.kind"):
            sample_in_order(engine, [OPEN], SamplingSettings(0.0, 1.0, 4))
        assert not server.bodies
    finally:
        server.stop()
