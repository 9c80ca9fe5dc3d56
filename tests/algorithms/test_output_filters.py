"""Kun's filter of completions against hand-worked cases, a plain search for repetitions, and real texts."""

import json
import random
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lance_assets.algorithms.filters.contract import Candidate, find_first_reason
from lance_assets.algorithms.filters.keywords import PROFILES, Keywords, LanguageProfile
from lance_assets.algorithms.filters.output_filters import (
    PLAIN_RUN_CHARS,
    CompletionChars,
    RepeatedPiece,
    Repetition,
    find_repetition,
)

CHINESE, ENGLISH = PROFILES["chinese"], PROFILES["english"]


def filter_output(text: str | None, profile: LanguageProfile, *, min_chars: int = 20) -> str | None:
    """The reason that Kun's three filters of completions give in their order."""
    filters = (
        Keywords(keywords=profile.output_keywords, whole_words=profile.whole_words),
        CompletionChars(min_chars=min_chars),
        Repetition(),
    )
    return find_first_reason(Candidate("r", "named_prompt", "t", "t", "Why?", text), filters)


KEPT = [
    "天空呈现蓝色，是因为大气分子对短波长的蓝光散射得更强，这种现象叫做瑞利散射。",
    "光合作用是绿色植物利用光能，把二氧化碳和水转化为有机物并释放氧气的过程。",
    "可以使用内置函数 sorted(列表)，它会返回一个新的有序列表，原列表不变。",
    "1. 固定作息时间；2. 睡前少看手机；3. 保持卧室安静；4. 避免咖啡因；5. 适量运动。",
    "哈哈哈哈哈哈，这个问题很有意思！企鹅不会飞，因为它们的翅膀适应了游泳。",
    "圆周率约等于3.14159265358979，而1000000的平方根正好是1000。",
    "| 能源 | 优点 |\n|------------------|------------------|\n| 太阳能 | 清洁，来源广泛 |",
    "姓名：______________  日期：______________  请在横线上填写完整的信息。",
    "第一章 绪论........................1\n第二章 方法........................12",
]
DROPPED = {
    "keyword:作为": "作为一个人工智能助手，我没有个人的感情和偏好，无法回答。",
    "keyword:根据": "根据您提供的内容，作者认为环境保护需要每个人的参与。",
    "keyword:知识库": "我的知识库里没有这一方面的内容，建议您咨询专业人士。",
    "keyword:2023": "截至2023年底，该城市的常住人口约为一千三百万人左右。",
    "keyword:抱歉": "很抱歉，我无法提供这方面的帮助，请您换一个问题再试。",
    "too_short": "长城全长两万多公里。",
}


@pytest.mark.parametrize("text", KEPT)
def test_good_completions_are_kept(text: str) -> None:
    assert filter_output(text, CHINESE) is None


@pytest.mark.parametrize("reason", DROPPED)
def test_each_reason(reason: str) -> None:
    assert filter_output(DROPPED[reason], CHINESE) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("As an AI, I have no favourite colour at all.", "keyword:as an ai"),
        ("I'm sorry, but that cannot be answered here.", "keyword:sorry"),
        ("As a result, the water boils at a lower heat.", None),
        ("As an airline grows, so does its list of routes.", None),
        ("It grew to 20231 people over twenty long years.", None),
        ("According to the passage, whales are mammals.", "keyword:according to"),
        ("The answer is B.", "too_short"),
    ],
)
def test_english(text: str, reason: str | None) -> None:
    assert filter_output(text, ENGLISH) == reason


def test_twenty_characters_are_enough() -> None:
    text = "一二三四五六七八九十甲乙丙丁戊己庚辛壬癸"
    assert filter_output(text, CHINESE) is None
    assert filter_output(text[:-1], CHINESE) == "too_short"
    assert filter_output("     " + text[:-1] + "\n\n", CHINESE) == "too_short"
    assert filter_output("", CHINESE) == "too_short"
    assert filter_output("", CHINESE, min_chars=0) is None
    assert filter_output(None, CHINESE) is None, "a row without a completion has none that is short"


@pytest.mark.parametrize(
    ("text", "repetition"),
    [
        ("好的" * 5, None),
        ("好的" * 6, RepeatedPiece("好的", 6)),
        ("天空是蓝色的。" + "好的" * 6, RepeatedPiece("好的", 6)),
        ("天空是蓝色的。" + "好的" * 6 + "完", RepeatedPiece("好的", 6)),
        ("天空是蓝色的。\n" * 6, RepeatedPiece(" 天空是蓝色的。", 6)),
        ("天空\n天空 天空\n\n天空\t天空\u3000天空", RepeatedPiece(" 天空", 6)),
        ("ha ha ha ha ha", None),
        ("ha ha ha ha ha ha", RepeatedPiece(" ha", 6)),
        ("哈" * 99, None),
        ("哈" * 100, RepeatedPiece("哈", 100)),
        ("!" * 99 + "?", None),
        ("Fine." + "!" * 300, RepeatedPiece("!", 300)),
        ("#ffffff and 1000000 and 0.333333333333333", None),
        (str([0] * 20), None),
        (str([0] * 60), RepeatedPiece(", 0", 59)),
        ("no, " * 6, RepeatedPiece(" no,", 6)),
        ("-" * 1000, None),
        ("=-" * 500, None),
        ("─" * 200 + "—" * 200, None),
        ("a" + " " * 500 + "b" + "\n" * 500, None),
        ("|---|---|---|---|---|---|---|---|", None),
        ("| - | - | - | - | - | - | - |", None),
        ("| yes | yes | yes | yes | yes | yes |", RepeatedPiece("| yes ", 6)),
        ("", None),
        (" \n", None),
    ],
)
def test_repetition_worked_by_hand(text: str, repetition: RepeatedPiece | None) -> None:
    found = find_repetition(text)
    assert found == repetition or (
        # the same run may be named by a turned unit: " no," and "no, "
        found is not None
        and repetition is not None
        and found.num_repeats == repetition.num_repeats
        and found.unit in repetition.unit * 2
        and len(found.unit) == len(repetition.unit)
    )


def test_a_long_paragraph_over_and_over() -> None:
    random.seed(0)
    paragraph = "".join(random.choice("的一是在不了有和人这中大为上个国我以要他") for _ in range(800))
    assert find_repetition("开头。" + paragraph * 5) is None
    found = find_repetition("开头。" + paragraph * 6)
    assert found is not None
    assert (len(found.unit), found.num_repeats) == (800, 6)


def test_repetition_behind_a_sentence_is_found_where_the_authors_miss_it() -> None:
    """Defect 7 of the authors' code: they look at the beginning alone."""
    repeated = "我们要努力学习。" * 6
    assert filter_output(repeated, CHINESE) == "repetition"
    assert filter_output("学习的方法有很多。" + repeated, CHINESE) == "repetition"


def starts_with_repetition(text: str) -> bool:
    """The authors' rule."""
    return any(text.startswith(text[:length] * 6) for length in range(1, len(text) // 6 + 1))


@given(st.text("ab是 ", min_size=2, max_size=6), st.text("ab是。-0", max_size=8))
def test_what_the_authors_find_is_found(unit: str, after: str) -> None:
    text = unit * 6 + after
    assert starts_with_repetition(text)
    if len(set(" ".join((unit * 6).split()))) > 1:
        assert find_repetition(text) is not None


def search_plainly(text: str, max_repeats: int) -> int | None:
    """The length of the shortest unit that counts, over every unit at every place; for texts of these signs alone."""
    plain = f" {' '.join(text.split())} "
    for length in range(1, len(plain)):
        for start in range(len(plain) - length * (max_repeats + 1) + 1):
            unit = plain[start : start + length]
            if not plain.startswith(unit * (max_repeats + 1), start):
                continue
            first, end = start, start + length
            while first > 0 and plain[first - 1] == plain[first - 1 + length]:
                first -= 1
            while end < len(plain) and plain[end] == plain[end - length]:
                end += 1
            is_word = len(set(unit)) > 1 and any(sign in unit for sign in "ab")
            is_line = set(unit) <= {" ", "-"}
            if is_word or (not is_line and end - first >= PLAIN_RUN_CHARS):
                return length
    return None


@example([("0", 99)], 5)
@example([("0", 100)], 5)
@example([("0-", 50), ("a", 7)], 5)
@example([("-", 120), ("ab", 6)], 5)
@given(
    st.lists(st.tuples(st.text("ab0 -", min_size=1, max_size=3), st.sampled_from([1, 2, 5, 6, 7, 40])), max_size=4),
    st.integers(1, 6),
)
def test_as_the_plain_search_finds(pieces: list[tuple[str, int]], max_repeats: int) -> None:
    text = "".join(unit * count for unit, count in pieces)
    found = find_repetition(text, max_repeats=max_repeats)
    assert (None if found is None else len(found.unit)) == search_plainly(text, max_repeats)
    if found is not None:
        assert found.num_repeats > max_repeats
        assert found.unit * found.num_repeats in f" {' '.join(text.split())} "


@given(st.text(), st.sampled_from(sorted(PROFILES)))
def test_any_text_has_one_reason_or_none(text: str, name: str) -> None:
    reason = filter_output(text, PROFILES[name])
    assert reason in (None, "too_short", "repetition") or reason.startswith("keyword:")


@given(st.text("\ud800a是", max_size=30))
def test_half_a_surrogate_pair_raises_nothing(text: str) -> None:
    filter_output(text, CHINESE)


def almost_periodic(num_chars: int) -> str:
    first, second = "a", "ab"
    while len(second) < num_chars:
        first, second = second, second + first
    return second[:num_chars]


@pytest.mark.parametrize(
    "text",
    [
        "-" * 20_000,
        "- " * 10_000,
        "".join("-" * random.Random(number).randint(50, 99) + "ab"[number % 2] for number in range(260)),
        almost_periodic(20_000),
        "".join(random.Random(0).choices("0123456789", k=20_000)),
        "".join(random.Random(0).choices("的一是在不了有和人这", k=20_000)),
    ],
    ids=["line", "dashes", "lines", "fibonacci", "digits", "chinese"],
)
def test_long_text_takes_little_time(text: str) -> None:
    """`(.+?)\\1{5}` takes about 4 s for 20,000 characters of prose; here the slowest takes 0.15 s."""
    started = time.process_time()
    assert find_repetition(text) is None
    assert time.process_time() - started < 1


def test_impossible_bounds() -> None:
    for impossible in ({"min_chars": -1}, {"max_repeats": 0}):
        with pytest.raises(ValueError, match="greater than or equal to"):
            (CompletionChars if "min_chars" in impossible else Repetition)(**impossible)
    with pytest.raises(ValueError, match="max_repeats must be at least 1, got 0"):
        find_repetition("a", max_repeats=0)


def test_real_completions(real_data: Path) -> None:
    """175 completions of people: 32 short ones, 6 with a keyword, none that repeats."""
    lines = (real_data / "self_instruct_seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    completions = [json.loads(line)["instances"][0]["output"] for line in lines]
    reasons = [filter_output(completion, ENGLISH) for completion in completions]
    assert [reasons.count(reason) for reason in (None, "too_short", "repetition")] == [137, 32, 0]


def test_real_passages_do_not_repeat(real_data: Path) -> None:
    """T0's passages hold table rules, "!!!!!!" and "oooooo": in 208 of all of them a unit occurs six times."""
    prompts = pl.read_parquet(real_data / "t0_train_50k.parquet")["prompt"].gather_every(25).to_list()
    assert [prompt for prompt in prompts if find_repetition(prompt) is not None] == []
    planted = [prompt[: len(prompt) // 2] + "and so on, " * 6 + prompt[len(prompt) // 2 :] for prompt in prompts[:200]]
    assert all(find_repetition(text) is not None for text in planted)
