"""Texts that end a completion: every engine ends there, and a stage without any is asked and hashed as before."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from lance_assets.recipes.contract import find_recipe
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import cut_at_stop, sample_in_order
from resources.engines.openai.chat_completions import build_body
from resources.engines.openai.chat_completions import read_sample as read_answer
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.vllm.dispatch import read_sample as read_finished

REQUESTS = [
    Request(f"q{number}", ({"role": "user", "content": prompt},), number)
    for number, prompt in enumerate(["Sort the list 3 1 2.", "Reverse the list 4 5.", "Add the numbers 1 2 3."])
]
GREEDY = SamplingSettings(0.0, 1.0, 40)


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(SMALL_MODEL, batch_size=8, device="cpu", dtype="float32", num_threads=1)


def test_the_text_before_the_first_stop_is_the_completion(engine: TransformersEngine) -> None:
    plain = sample_in_order(engine, REQUESTS, GREEDY)
    middle = [len(sample.text) // 2 for sample in plain]
    # A stop that begins and ends within tokens, from the first row's own text.
    stop = (plain[0].text[middle[0] : middle[0] + 4], "no such text")
    cut = sample_in_order(engine, REQUESTS, replace(GREEDY, stop=stop))
    for before, after in zip(plain, cut, strict=True):
        expected = cut_at_stop(before.text, stop)
        assert after.text == (before.text if expected is None else expected)
        assert after.finish_reason == "stop"
        assert after.completion_tokens <= before.completion_tokens
    assert cut[0].text != plain[0].text
    assert cut[0].completion_tokens < plain[0].completion_tokens
    assert sample_in_order(engine, REQUESTS, replace(GREEDY, stop=("no such text",))) == plain


def test_of_several_stops_the_first_in_the_text_counts() -> None:
    assert cut_at_stop("one two three", ["three", "two"]) == "one "
    assert cut_at_stop("one two", []) is cut_at_stop("one two", ["four"]) is None


def test_a_server_is_sent_the_stops_and_its_text_is_cut_all_the_same() -> None:
    asked = {"model": "m", "dialect": None}
    assert "stop" not in build_body(REQUESTS[0], GREEDY, **asked)
    assert build_body(REQUESTS[0], replace(GREEDY, stop=("\n\n",)), **asked)["stop"] == ["\n\n"]
    answer = {"choices": [{"message": {"content": "A gull.\n\nQ: more"}, "finish_reason": "length"}]}
    assert read_answer(answer, REQUESTS[0], tail_tokens=0, stop=("\n\n",)).text == "A gull."
    assert read_answer(answer, REQUESTS[0], tail_tokens=0).finish_reason == "length"


def test_what_vllm_sends_holds_the_stop_and_is_cut(engine: TransformersEngine) -> None:
    _, tokenizer = engine.load()
    tokens = tokenizer.encode("It is 1 2 3.", add_special_tokens=False)
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    row = (tokenizer, REQUESTS[0], 5, (0, tokens, "stop", 0, []))
    plain = read_finished(*row, stop_ids=frozenset(), tail_tokens=0)
    assert (plain.text, plain.finish_reason) == (text, "stop")
    assert read_finished(*row, stop_ids=frozenset(), tail_tokens=0, stop=(" 2",)) == Sample(
        "q0", text.partition(" 2")[0], "stop", 5, len(tokens)
    )


def test_a_stage_names_its_stops_and_no_other_has_them() -> None:
    settings = LanceSettings.model_validate({"stages": {"new_prompt": {"stop": ["\n\n"]}}})
    lance = find_recipe("lance")
    assert lance.find_sampling("new_prompt", settings).stop == ("\n\n",)
    assert lance.find_sampling("completion", settings) == SamplingSettings(0.7, 0.9, 512)
    assert "stop" not in SamplingSettings(0.7, 0.9, 512).describe()
    for wrong in ([""], ["a"] * 5):
        with pytest.raises(ValidationError, match="stop"):
            LanceSettings.model_validate({"stages": {"new_prompt": {"stop": wrong}}})
