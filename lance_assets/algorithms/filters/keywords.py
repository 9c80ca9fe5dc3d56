"""Rows that hold certain words, and what Kun looks for in a language: keywords, and the tags of a verdict.

Source: Kun (arXiv 2401.06477), `delete_key_input.py`, `delete_key_output.py` and `select_data.py` of the authors' code
(Zheng0428/COIG-Kun, commit a9c6df1). The Chinese lists and tags are the published ones.

Differences from the authors' code:

1. The English profile is ours; the authors have none. Each of its keywords translates one of the Chinese ones, with
   its plural where it has one. 作为 ("as a") opens a refusal in Chinese and means little in English, so its
   translation names what the model says it is.
2. English keywords match whole words in upper or lower case, with any blanks between their words; Chinese ones match
   anywhere, as in the authors' code, and in simplified characters alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

from pydantic import Field

from lance_assets.algorithms.filters.contract import Candidate, RowFilter


@dataclass(frozen=True)
class LanguageProfile:
    """The keywords and tags of a language; a further language is one more value."""

    prompt_keywords: tuple[str, ...]
    """A prompt with one of them asks about something that is not shown."""
    output_keywords: tuple[str, ...]
    """A completion with one of them is boilerplate, a refusal, or names what it was copied from."""
    good_tag: str
    """What a verdict writes for a good prompt: a word in 【】 or []."""
    bad_tag: str
    """The same for a bad one."""
    whole_words: bool
    """Whether keywords match whole words in any case (True), or anywhere as written (False)."""


CHINESE = LanguageProfile(
    prompt_keywords=(
        "新闻",
        "材料",
        "图片",
        "链接",
        "网址",
        "根据",
        "简历",
        "简介",
        "文章",
        "摘要",
        "文本",
        "提取",
        "关键词",
        "网站",
    ),
    output_keywords=("作为", "根据", "知识库", "2023", "抱歉"),
    good_tag="【好】",
    bad_tag="【差】",
    whole_words=False,
)

ENGLISH = LanguageProfile(
    prompt_keywords=(
        "news",
        "material",
        "materials",
        "picture",
        "pictures",
        "image",
        "images",
        "link",
        "links",
        "url",
        "urls",
        "according to",
        "based on",
        "resume",
        "resumes",
        "résumé",
        "introduction",
        "article",
        "articles",
        "abstract",
        "abstracts",
        "text",
        "texts",
        "extract",
        "keyword",
        "keywords",
        "website",
        "websites",
    ),
    output_keywords=(
        "as an ai",
        "as a language model",
        "as a large language model",
        "as an assistant",
        "according to",
        "knowledge base",
        "2023",
        "sorry",
    ),
    good_tag="[good]",
    bad_tag="[bad]",
    whole_words=True,
)

PROFILES: dict[str, LanguageProfile] = {"chinese": CHINESE, "english": ENGLISH}
"""By the name an experiment gives."""


@cache
def _compile_word(keyword: str) -> re.Pattern[str]:
    words = r"\s+".join(map(re.escape, keyword.lower().split()))
    return re.compile(rf"(?<!\w){words}(?!\w)")


def find_keyword(text: str, keywords: Sequence[str], *, whole_words: bool) -> str | None:
    """The first of the keywords, in their order, that a text holds; None where it holds none.

    Args:
        text: any text.
        keywords: single words, or several each, with any blanks between them where whole words are matched.
        whole_words: whether they match whole words in any case, or anywhere as written.

    >>> find_keyword("What does the ARTICLE say?", ["image", "article"], whole_words=True)
    'article'
    >>> find_keyword("Name the particles of an atom.", ["article"], whole_words=True)
    >>> find_keyword("请总结这篇文章。", ["图片", "文章"], whole_words=False)
    '文章'
    """
    if not whole_words:
        return next((keyword for keyword in keywords if keyword in text), None)
    lowered = text.lower()
    for keyword in keywords:
        # most keywords are absent, and the plain search is ten times as fast as the pattern
        if keyword.lower().split()[0] in lowered and _compile_word(keyword).search(lowered):
            return keyword
    return None


class Keywords(RowFilter):
    """Drops rows whose prompt or completion holds one of some words: "keyword:<word>", the first of the list."""

    of: Literal["prompt", "completion"] = Field("completion", description="Which text of a row is searched.")
    keywords: tuple[Annotated[str, Field(pattern=r"\S")], ...] = Field(
        min_length=1, description="What may not occur: single words, or several words each."
    )
    whole_words: bool = Field(
        True, description="Whether they match whole words in any case, or anywhere exactly as they are written."
    )

    def find_reason(self, row: Candidate) -> str | None:
        """The first keyword that the text holds."""
        text = row.prompt if self.of == "prompt" else row.completion
        keyword = find_keyword(text or "", self.keywords, whole_words=self.whole_words)
        return None if keyword is None else f"keyword:{keyword}"
