"""Kun's filter and repair of prompts against hand-worked cases; where the authors' code is wrong, the test names it."""

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.filters.backtranslation import REPAIR_REASONS, Repaired, RepairPrompt, repair_prompt
from lance_assets.algorithms.filters.contract import Candidate, Known, apply_filters
from lance_assets.algorithms.filters.keywords import PROFILES, Keywords, LanguageProfile

CHINESE, ENGLISH = PROFILES["chinese"], PROFILES["english"]


def filter_prompt(prompt: str | None, profile: LanguageProfile) -> str | None:
    """The reason that Kun's filters of prompts give in their order."""
    row = Candidate("r", "named_prompt", "t", "t", prompt, "a text")
    keywords = Keywords(of="prompt", keywords=profile.prompt_keywords, whole_words=profile.whole_words)
    apply_filters(Known([row]), [RepairPrompt(), keywords])
    return row.drop_reason


KEPT = [
    "为什么天空是蓝色的？",
    "请解释光合作用的过程。",
    "如何用Python对列表排序？",
    "写一首关于秋天的诗。",
    "什么是通货膨胀，它对普通家庭有什么影响？",
    "列出五种提高睡眠质量的方法。",
    "长城有多长？",
    "请比较太阳能和风能的优缺点。",
    "怎样才能学好数学？",
    "人体有多少块骨头？",
    "请推荐三本适合初中生阅读的科普书。",
    "如何制作红烧肉？",
    "请帮我制定一份一周的健身计划。",
    "相对论的主要内容是什么？",
    "地震发生时应该怎么做？",
]
DROPPED = {
    "新闻": "请概括这条新闻的主要内容。",
    "材料": "阅读材料，回答下列问题。",
    "图片": "描述这张图片中的人物。",
    "链接": "请打开下面的链接并总结。",
    "网址": "这个网址是做什么的？",
    "根据": "根据上面的内容，作者的观点是什么？",
    "简历": "帮我修改这份简历。",
    "简介": "写出该公司的简介。",
    "文章": "这篇文章的中心思想是什么？",
    "摘要": "请为下面的段落写摘要。",
    "文本": "把这段文本翻译成英文。",
    "提取": "从下面的句子中提取人名。",
    "关键词": "列出这段话的关键词。",
    "网站": "介绍一下这个网站的功能。",
}


@pytest.mark.parametrize("prompt", KEPT)
def test_prompts_that_stand_alone_are_kept(prompt: str) -> None:
    assert filter_prompt(prompt, CHINESE) is None
    assert repair_prompt(prompt) == Repaired(prompt, None)


@pytest.mark.parametrize("keyword", CHINESE.prompt_keywords)
def test_prompts_about_what_is_not_shown_are_dropped(keyword: str) -> None:
    assert filter_prompt(DROPPED[keyword], CHINESE) == f"keyword:{keyword}"


@pytest.mark.parametrize("prompt", ["", "  \n", "\u3000"])
def test_an_empty_prompt_is_dropped_where_the_authors_keep_it(prompt: str) -> None:
    assert filter_prompt(prompt, CHINESE) == filter_prompt(prompt, ENGLISH) == "empty"
    assert repair_prompt(prompt) == Repaired(None, "empty")


@pytest.mark.parametrize("num_rows", [100, 127, 300])
def test_no_row_is_lost_to_shards(num_rows: int) -> None:
    """Defect 5 of the authors' code: of 300 rows their 128 shards hold 256, of 100 rows none."""
    prompts = [f"请列出{number}个水果。" for number in range(num_rows)]
    assert sum(filter_prompt(prompt, CHINESE) is None for prompt in prompts) == num_rows


@pytest.mark.parametrize(
    ("written", "prompt", "reason"),
    [
        ("什么是熵？", "什么是熵？", None),
        ("什么是熵？ \n", "什么是熵？", None),
        ("什么是熵？    它有什么用？", "什么是熵？    它有什么用？", None),
        ("什么是熵？     它有什么用？", "什么是熵？", "cut_at_blanks"),
        ("什么是熵？\u3000\u3000\u3000\u3000\u3000熵是", "什么是熵？", "cut_at_blanks"),
        ("什么是熵？ \n \n 熵是状态函数。", "什么是熵？", "cut_at_blanks"),
        ("什么是熵？\n\n\n\n熵是状态函数。", "什么是熵？\n\n\n\n熵是状态函数。", None),
        ("什么是熵？\n什么是熵？", "什么是熵？", "repeated_line"),
        ("什么是熵？\n  什么是熵？ \n\n它有什么用？", "什么是熵？", "repeated_line"),
        ("甲\n乙乙\n甲\n乙乙", None, "repeated_later_line"),
        ("甲甲\n乙\n甲甲\n乙", "甲甲", "repeated_line"),
        ("请回答：\n是\n是", None, "repeated_later_line"),
        ("列出\n甲\n乙", "列出\n甲\n乙", None),
        ("甲甲\n乙乙\n甲甲\n乙乙", "甲甲", "repeated_line"),
        ("什么是熵？再问一次\n什么是熵？\n什么是熵？", "什么是熵？", "repeated_line"),
        ("甲\n甲\n\n\n\n\n\n乙", "甲\n甲", "cut_at_blanks"),
        ("Add these:\n\n1\n\n2\n\n3", "Add these:\n\n1\n\n2\n\n3", None),
    ],
)
def test_repair_worked_by_hand(written: str, prompt: str | None, reason: str | None) -> None:
    assert repair_prompt(written) == Repaired(prompt, reason)


def test_blanks_in_front_do_not_empty_a_prompt() -> None:
    """The authors keep what stands before the first five blanks: nothing."""
    assert repair_prompt("     什么是熵？") == Repaired("什么是熵？", None)
    assert repair_prompt("  什么是熵？\n什么是熵？") == Repaired("什么是熵？", "repeated_line")


def test_the_repair_changes_the_prompt_alone() -> None:
    """Defect 6 of the authors' code: it puts the completion where the prompt was."""
    rows = [
        Candidate(str(i), "named_prompt", "t", "t", text, "熵是")
        for i, text in enumerate(["甲\n甲", "乙\n甲\n甲", None])
    ]
    apply_filters(Known(rows), [RepairPrompt()])
    assert [(row.prompt, row.completion, row.drop_reason) for row in rows] == [
        ("甲", "熵是", None),
        (None, "熵是", "repeated_later_line"),
        (None, "熵是", None),
    ]


LINES = st.lists(st.text("ab ?\t\u3000", max_size=8), max_size=8).map("\n".join)


@given(st.one_of(LINES, st.text()))
def test_a_repaired_prompt_is_the_beginning_of_what_was_written(written: str) -> None:
    repaired = repair_prompt(written)
    assert repaired.reason is None or repaired.reason in REPAIR_REASONS
    if repaired.prompt is None:
        assert repaired.reason in ("empty", "repeated_later_line")
        return
    assert repaired.prompt == repaired.prompt.strip() != ""
    assert written.strip().startswith(repaired.prompt)
    if repaired.reason is None:
        assert repaired.prompt == written.strip()
        assert repair_prompt(repaired.prompt) == repaired
    assert max(map(len, "".join(" " if c.isspace() else "x" for c in repaired.prompt).split("x"))) < 5


def test_most_real_prompts_that_stand_alone_are_kept(real_data: Path) -> None:
    lines = (real_data / "self_instruct_seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line)["instruction"] for line in lines]
    reasons = Counter(filter_prompt(prompt, ENGLISH) for prompt in prompts)
    assert len(prompts) == reasons.total() == 175
    assert reasons[None] == 155
    assert all(repair_prompt(prompt) == Repaired(prompt.strip(), None) for prompt in prompts)


def test_more_of_the_prompts_with_a_passage_are_dropped(real_data: Path) -> None:
    """T0's prompts hold a passage and ask about it: the very kind that Kun's filter is for, and long ones."""
    prompts = pl.read_parquet(real_data / "t0_train_50k.parquet")["prompt"].gather_every(50)
    kept_rate = sum(filter_prompt(prompt, ENGLISH) is None for prompt in prompts) / len(prompts)
    assert 0.6 < kept_rate < 0.75
    repaired = [repair_prompt(prompt) for prompt in prompts]
    assert sum(row.reason is None for row in repaired) / len(prompts) > 0.95
