import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.pairwise import Unread, parse_verdict
from lance_assets.algorithms.reviews.review_parsing import Unscored, parse_review
from lance_assets.algorithms.reviews.thoughts import Parted, part_thoughts, strip_thinking
from lance_assets.recipes.asking import read_final
from lance_assets.recipes.steps.teaching import read_answer
from lance_assets.records import Sample

PAIRS = [
    ("<think>", "</think>"),
    ("<Thinking>", "</Thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<reasoning effort='high'>", "</reasoning>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("<antThinking>", "</antThinking>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
]
# what a thought may say, none of it a tag
THOUGHTS = st.text(alphabet="abc score: 3 verdict B Final Answer: #### 7\n", max_size=60)


@pytest.mark.parametrize(("opened", "closed"), PAIRS)
def test_every_relative(opened: str, closed: str) -> None:
    assert part_thoughts(f"{opened}So.{closed}Yes.") == Parted("Yes.", is_open=False)
    assert part_thoughts(f"So.{closed}Yes.") == Parted("Yes.", is_open=False)
    assert part_thoughts(f"{opened}So. Yes.") == Parted("", is_open=True)
    assert part_thoughts(f"Yes. {opened}So.") == Parted(f"Yes. {opened}So.", is_open=False)
    assert strip_thinking(f"{opened}So.{closed}Yes {opened}But.{closed}and no.") == "Yes and no."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("I think so.", "I think so."),
        ("a < b > c", "a < b > c"),
        ("<think> opens, </think> closes, as I know.</think>Yes.", "Yes."),
        ("<think>a <think> b</think>Yes.", "Yes."),
        ("Write `<think>` first and `</think>` last.", "Write `<think>` first and `</think>` last."),
        ("```xml\n<thought>a</thought>\n```", "```xml\n<thought>a</thought>\n```"),
        ("<think>```py\nx = 1</think>Use ```x```.", "Use ```x```."),
        ("<thinker>a</thinker>", "<thinker>a</thinker>"),
    ],
)
def test_what_is_said(text: str, said: str) -> None:
    assert strip_thinking(text) == said


@given(st.text(max_size=80))
def test_a_text_without_tags_is_as_it_was(text: str) -> None:
    if not any(sign in text for sign in "<[◁"):
        assert part_thoughts(text) == Parted(text, is_open=False)


@given(THOUGHTS, st.sampled_from(PAIRS), st.booleans())
def test_no_reader_takes_anything_out_of_a_thought(thought: str, pair: tuple[str, str], is_opened: bool) -> None:
    """The same rule for reviews, verdicts, proposals and answers: what follows counts, and nothing else."""
    before = (pair[0] if is_opened else "") + thought + pair[1] + "\n"
    assert parse_review(before + "score: 8") == 8
    assert isinstance(parse_review(before + "It is fine."), Unscored)
    assert parse_verdict(before + "verdict: A") == "A"
    assert isinstance(parse_verdict(before + "Both are long."), Unread)
    assert read_final(Sample("r", before + "Final Answer: Sort 3 1.", "stop", 1, 1)) == "Sort 3 1."
    assert read_final(Sample("r", before + "Sort 3 1.", "stop", 1, 1)) is None
    assert read_answer(before + "#### 5", "####") == "5"
    assert read_answer(before + "It is 5", "####") is None


@given(THOUGHTS, st.sampled_from(PAIRS), st.sampled_from(["stop", "length"]))
def test_a_thought_that_never_ends_gives_nothing(thought: str, pair: tuple[str, str], finish_reason: str) -> None:
    text = pair[0] + thought
    assert isinstance(parse_review(text, finish_reason=finish_reason), Unscored)
    assert isinstance(parse_verdict(text, finish_reason=finish_reason), Unread)
    assert read_final(Sample("r", text, finish_reason, 1, 1)) is None
    assert read_answer(text, "####") is None


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 30_000,
        "</think>" * 30_000,
        "<think></think>" * 20_000,
        "```" * 50_000,
        "`" * 99_999,
        "<think " * 30_000,
    ],
)
def test_long_text_takes_linear_time(text: str) -> None:
    started = time.process_time()
    strip_thinking(text)
    assert time.process_time() - started < 3
