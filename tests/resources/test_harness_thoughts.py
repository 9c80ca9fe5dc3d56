"""The harness's filters are given what was said, and its samples keep what was written."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.filter import FilterEnsemble
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble

from lance_assets.algorithms.reviews.thoughts import part_thoughts
from resources.evaluation.harness_thoughts import keep_tags, leave_thoughts_out, read_answer
from tests.resources.chat_templates import FAMILIES, Family, make_tokenizer

LAST_NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
"""GSM8K's flexible-extract."""
NONE = "[invalid]"
TAGS = [("<think>", "</think>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷")]


def build_filters() -> FilterEnsemble:
    regex = ("regex", {"group_select": -1, "regex_pattern": LAST_NUMBER})
    return build_filter_ensemble("flexible-extract", [regex, ("take_first", None)])


def ask(*texts: str, context: str = "Q: 2 + 2?", kind: Any = "generate_until") -> Instance:
    instance = Instance(request_type=kind, doc={}, arguments=(context, {"until": []}), idx=0)
    instance.resps = list(texts)
    return instance


def read(instance: Instance, *, opened: str = "") -> Any:
    leave_thoughts_out(FilterEnsemble.apply, opened)(build_filters(), [instance])
    return instance.filtered_resps["flexible-extract"]


@pytest.mark.parametrize(("start", "end"), TAGS)
def test_a_number_in_a_thought_is_no_answer(start: str, end: str) -> None:
    assert read(ask(f"{start}Is it 17?{end}\n\nIt is 4.")) == "4."
    assert read(ask(f"Is it 17?{end}It is 4.")) == "4."
    assert read(ask(f"{start}It is 17{end}It is four.")) == NONE
    assert read(ask(f"{start}Let me see: 17")) == NONE
    assert read(ask(f"It is 4. {start}17")) == "17", "behind other text the tag is a word"


@pytest.mark.parametrize(("start", "end"), [("<think>", "</think>"), ("<ponder>", "</ponder>"), ("[MUSE]", "[/MUSE]")])
def test_a_thought_that_the_template_opened_and_that_was_cut_is_no_answer(start: str, end: str) -> None:
    """Completions have `<think>` in the place of a model's own tags; the prompt has the tag itself."""
    context = f"<|im_start|>assistant\n{start}\n"
    assert read(ask("Let me see: 17", context=context), opened=start) == NONE
    assert read(ask("Let me see: 17</think>It is 4.", context=context), opened=start) == "4."
    assert read(ask("It is 17"), opened=start) == "17", "this context has opened none"


def test_what_was_written_stays() -> None:
    instance = ask("<think>17</think>It is 4.", "It is 5.")
    read(instance)
    assert instance.resps == ["<think>17</think>It is 4.", "It is 5."]


@given(st.text(max_size=60), st.text(max_size=20))
def test_without_thoughts_the_filters_are_given_the_same(text: str, context: str) -> None:
    if part_thoughts(text).said == text:
        instance, other = ask(text, context=context), ask(text, context=context)
        build_filters().apply([other])
        assert read(instance) == other.filtered_resps["flexible-extract"]
        assert read_answer(text, context, opened="") == text


def test_choices_are_left_alone() -> None:
    instance = ask(kind="loglikelihood")
    instance.resps = [(-1.5, True)]
    ensemble = build_filter_ensemble("none", [("take_first", None)])
    leave_thoughts_out(FilterEnsemble.apply, "<think>")(ensemble, [instance])
    assert instance.filtered_resps["none"] == (-1.5, True)


class _Model:
    def __init__(self, family: Family) -> None:
        self.tokenizer = make_tokenizer(family)

    def tok_decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))


def test_tags_that_are_special_tokens_reach_the_filters() -> None:
    decode = keep_tags(_Model.tok_decode)
    thinking = _Model(FAMILIES["chatml"]._replace(special=("<|im_start|>", "[THINK]", "[/THINK]")))
    tokens = thinking.tokenizer("[THINK]17[/THINK]It is 4.<|im_end|>", add_special_tokens=False)["input_ids"]
    assert thinking.tok_decode(tokens) == "17It is 4."
    assert decode(thinking, tokens) == "[THINK]17[/THINK]It is 4."
    assert decode(thinking, tokens, skip_special_tokens=False) == "[THINK]17[/THINK]It is 4.<|im_end|>"
    plain = _Model(FAMILIES["llama"])
    tokens = plain.tokenizer("Four.<|eot_id|>", add_special_tokens=False)["input_ids"]
    assert decode(plain, tokens) == plain.tok_decode(tokens) == "Four."
    plain.tokenizer.chat_template = None
    assert decode(plain, tokens) == "Four."
