from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.filters.keywords import PROFILES
from lance_assets.algorithms.reviews.pairwise import UNREAD_REASONS, Unread
from lance_assets.algorithms.reviews.verdicts import read_verdict

CHINESE, ENGLISH = PROFILES["chinese"], PROFILES["english"]


def keeps(text: str) -> bool:
    """The authors' rule of selection."""
    return "【好】" in text and "【差】" not in text


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("【好】", "good"),
        ("【差】", "bad"),
        ("这个指令清晰、完整、可行。【好】", "good"),
        ("【差】。指令包含个人隐私信息，例如人名。", "bad"),
        ("评价：【好】\n理由：目标明确，步骤清楚。", "good"),
        ("**【差】**：缺少上下文，图片没有给出。", "bad"),
        ("【**好**】", "good"),
        ("【 好 】", "good"),
        ("[差]", "bad"),
        ("［好］", "good"),
        ("【好】【好】【好】", "good"),
        ("<think>也许是【差】？不，很清楚。</think>【好】", "good"),
        ("不是【好】的指令", "good"),
    ],
)
def test_chinese_verdicts(text: str, verdict: str) -> None:
    assert read_verdict(text, CHINESE) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[good]", "good"),
        ("[Good]", "good"),
        ("**[GOOD]** A clear goal.", "good"),
        ("[**good**]", "good"),
        ("[ bad ]", "bad"),
        ("[[bad]]", "bad"),
        ("Verdict: `[Bad]`", "bad"),
        ("[_bad_]", "bad"),
        ("【bad】", "bad"),
        ("It is a good prompt, clear and bad at nothing: [good]", "good"),
        ("<think>[good]?</think> [bad]", "bad"),
    ],
)
def test_english_verdicts(text: str, verdict: str) -> None:
    assert read_verdict(text, ENGLISH) == verdict


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("【好】", "error", "error"),
        ("", "stop", "empty"),
        (" \n\u3000", "length", "empty"),
        ("【好】/【差】", "stop", "ambiguous"),
        ("如果很清楚就是【好】，否则是【差】。", "stop", "ambiguous"),
        ("【好】/【差】", "length", "ambiguous"),
        ("好", "stop", "no_verdict"),
        ("差评", "stop", "no_verdict"),
        ("【坏】", "stop", "no_verdict"),
        ("【好/差】", "stop", "no_verdict"),
        ("【好的】", "stop", "no_verdict"),
        ("抱歉，我无法评价这个指令。", "stop", "no_verdict"),
        ("<think>【好】还是不好", "stop", "no_verdict"),
        ("<think>【好】</think>指令清晰。", "stop", "no_verdict"),
        ("这个指令的目标很明确，", "length", "cut_off"),
        ("【好", "length", "cut_off"),
        ("【好】还是【", "length", "cut_off"),
        ("【好】/【差", "length", "cut_off"),
    ],
)
def test_unread_chinese_verdicts(text: str, finish_reason: str, reason: str) -> None:
    assert read_verdict(text, CHINESE, finish_reason) == Unread(reason, text)


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("This is a good prompt.", "stop", "no_verdict"),
        ("(good)", "stop", "no_verdict"),
        ("[good/bad]", "stop", "no_verdict"),
        ("[not good]", "stop", "no_verdict"),
        ("[goodness]", "stop", "no_verdict"),
        ("[good] or [bad]", "stop", "ambiguous"),
        ("[good] or [b", "length", "cut_off"),
        ("【好】", "stop", "no_verdict"),
    ],
)
def test_unread_english_verdicts(text: str, finish_reason: str, reason: str) -> None:
    assert read_verdict(text, ENGLISH, finish_reason) == Unread(reason, text)


def test_a_verdict_before_a_rationale_that_was_cut_is_read() -> None:
    assert read_verdict("【好】。指令的目标很明确，没有", CHINESE, "length") == "good"
    assert read_verdict("[bad] [1] It names a private", ENGLISH, "length") == "bad"


PIECES = st.lists(st.sampled_from(["【好】", "【差】", "好", "差", "【", "】", "\n", "指令清晰，", "**", "/"]))


@given(PIECES.map("".join))
def test_good_is_what_the_authors_keep(text: str) -> None:
    """In texts of their own tags, ours are good where theirs are kept; what they reject is bad or unread."""
    verdict = read_verdict(text, CHINESE)
    if keeps(text):
        assert verdict == "good"
    elif verdict == "good":
        # emphasis inside the brackets: theirs rejects it, difference 2
        assert keeps(text.replace("*", "").replace("\n", ""))
    assert (verdict == "bad") <= ("差" in text)


@given(st.text(), st.sampled_from(["stop", "length", "error"]), st.sampled_from(sorted(PROFILES)))
def test_never_raises_and_never_invents(text: str, finish_reason: str, name: str) -> None:
    profile = PROFILES[name]
    verdict = read_verdict(text, profile, finish_reason)
    if isinstance(verdict, Unread):
        assert verdict.reason in UNREAD_REASONS
        assert verdict.raw_text == text
    else:
        word = profile.good_tag[1:-1] if verdict == "good" else profile.bad_tag[1:-1]
        assert word in text.lower()


@pytest.mark.parametrize("tag", ["good", "[]", "[ ]", "<good>"])
def test_a_tag_without_brackets(tag: str) -> None:
    with pytest.raises(ValueError, match="a tag must be a word in 【】 or"):
        read_verdict("good", replace(ENGLISH, good_tag=tag))
