"""A turn that has begun: every engine goes on from there, and says so where it cannot."""

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from lance_assets.records import Request, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import PrefillIgnoredError, sample_in_order
from resources.engines.durable_stage import hash_request
from resources.engines.encoding import encode_requests
from resources.engines.openai.engine import OpenAIEngine
from resources.engines.transformers.engine import TransformersEngine
from resources.models.chat_format import encode_messages
from tests.resources.faulty_server import FaultyServer, respond

GREEDY = SamplingSettings(0.0, 1.0, 60)
PLAIN = Request("q0", ({"role": "user", "content": "Sort the list 3 1 2."},), 7)
BEGUN = replace(PLAIN, prefill="The sm")


@pytest.fixture
def server():
    started = FaultyServer().start()
    yield started
    started.stop()


def test_a_request_without_a_prefill_is_hashed_as_before_there_were_prefills() -> None:
    request = Request("r1", ({"role": "user", "content": "Sort 3 1 2."},), 5)
    assert hash_request(request, SamplingSettings(0.7, 0.9, 512)) == "77c7387d02afe0de1ee9e5e0853620f6"
    hashes = {hash_request(replace(request, prefill=prefill)) for prefill in ("", "a", "b")}
    assert len(hashes) == 3


def test_the_model_goes_on_from_its_begun_turn() -> None:
    """A greedy completion, begun with its own first tokens, is given its own rest."""
    engine, tokenizer = TransformersEngine(SMALL_MODEL), AutoTokenizer.from_pretrained(SMALL_MODEL)
    [whole] = sample_in_order(engine, [PLAIN], GREEDY)
    tokens = tokenizer(whole.text, add_special_tokens=False)["input_ids"]
    begun = tokenizer.decode(tokens[:5])
    assert engine.can_prefill()
    assert len(tokens) > 10
    assert whole.text.startswith(begun)
    [rest] = sample_in_order(engine, [replace(PLAIN, prefill=begun)], GREEDY)
    assert (begun + rest.text, rest.finish_reason) == (whole.text, "stop")
    assert (rest.prompt_tokens, rest.completion_tokens) == (whole.prompt_tokens + 5, whole.completion_tokens - 5)


def test_a_begun_turn_is_neither_ended_nor_opened_by_what_its_text_says() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SMALL_MODEL)
    [end] = tokenizer(tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    prefill = f"It is {tokenizer.eos_token} 4"
    prompts, failed = encode_requests(tokenizer, [replace(PLAIN, prefill=prefill)], max_new_tokens=1, context=None)
    chat = encode_messages(tokenizer, PLAIN.messages)
    assert not failed
    assert prompts[0][: len(chat)] == chat
    assert end not in prompts[0][len(chat) :]
    assert len(prompts[0]) > len(chat)


def test_a_server_is_sent_the_begun_turn_once_it_has_proved_that_it_goes_on(server: FaultyServer) -> None:
    server.continues = True
    engine = OpenAIEngine(base_url=server.url)
    assert engine.can_prefill()
    assert len(server.bodies) == 2
    samples = sample_in_order(engine, [BEGUN, replace(PLAIN, row_id="q1")], GREEDY)
    begun, plain = sorted(server.bodies[2:], key=lambda body: -len(body["messages"]))
    assert begun["messages"][-1] == {"role": "assistant", "content": "The sm"}
    assert (begun["continue_final_message"], begun["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in plain
    assert "add_generation_prompt" not in plain
    assert [sample.row_id for sample in samples] == ["q0", "q1"]


@pytest.mark.parametrize("kind", ["ignores the fields", "refuses the fields", "counts nothing"])
def test_a_server_that_does_not_go_on_is_told_before_any_row(server: FaultyServer, kind: str) -> None:
    if kind == "refuses the fields":
        server.script["a"] = [respond(400, "continue_final_message: Extra inputs are not allowed")]
    if kind == "counts nothing":
        server.continues, server.usage = True, None
    engine = OpenAIEngine(base_url=server.url)
    with pytest.raises(PrefillIgnoredError, match=r"the server at .* does not go on from there .*; use vLLM or SGLang"):
        sample_in_order(engine, [BEGUN], GREEDY)
    assert not engine.can_prefill()
    assert server.count_asked() == {"Say hello.": 1, "a": 1}
