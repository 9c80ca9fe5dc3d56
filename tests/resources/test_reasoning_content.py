"""Thoughts that a server gives in a field of their own are read like those that stand in the completion."""

import pytest

from lance_assets.algorithms.reviews.thoughts import part_thoughts, strip_thinking
from lance_assets.recipes.asking import close_thoughts
from lance_assets.records import Request, Sample
from resources.engines.openai.chat_completions import REASONING, read_sample

ASKED = Request("r1", ({"role": "user", "content": "What is two and two?"},), 1)


def answer(reason: str = "stop", **message: object) -> Sample:
    body = {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": reason}]}
    return read_sample(body, ASKED, tail_tokens=0, stop=("END",))


@pytest.mark.parametrize("field", REASONING)
@pytest.mark.parametrize("thought", ["Two and two.\nIt is score: 3", "Ends with END here"])
def test_thoughts_stand_before_the_answer_and_one_rule_takes_them_out(field: str, thought: str) -> None:
    sample = answer(**{field: thought, "content": "It is 4. END of it"})
    assert thought in sample.text, "a stop text ends the answer, and not the thought"
    assert strip_thinking(sample.text).strip() == "It is 4."
    assert sample.finish_reason == "stop"


def test_a_thought_without_an_answer_is_cut() -> None:
    """The model never came to its answer, so nothing of it is trained on."""
    sample = answer("length", reasoning_content="Two and", content=None)
    assert part_thoughts(sample.text).is_open
    assert sample.finish_reason == "length"
    assert strip_thinking(sample.text).strip() == ""
    assert close_thoughts([sample])[0].finish_reason == "length"


@pytest.mark.parametrize("nothing", [{}, {"reasoning_content": None}, {"reasoning_content": " "}, {"reasoning": []}])
def test_without_thoughts_the_text_is_the_content(nothing: dict[str, object]) -> None:
    assert answer(content="It is 4.", **nothing).text == "It is 4."
