r"""Read the verdict on a prompt, good or bad, or say why there is none.

Source: Kun (arXiv 2401.06477), `select_data.py` of the authors' code (Zheng0428/COIG-Kun, commit a9c6df1): a prompt is
kept where the verdict contains 【好】 and not 【差】.

Differences from the authors' code:

1. A verdict with both tags, or with none, is unread with its reason; their code rejects it like a bad one.
2. Upper and lower case, blanks and emphasis inside the brackets, and `[]` or `［］` for `【】` make no difference.
3. What a model thinks before it writes (`<think>`) is no part of the verdict.
4. A verdict that the token limit cut inside a bracket is `cut_off`: the other tag may have followed.

As in their code, a tag counts anywhere: "not [good]" is good. The prompt that asks for verdicts must ask for a tag.
"""

import re
from functools import cache
from typing import Literal

from lance_assets.algorithms.filters.keywords import LanguageProfile
from lance_assets.algorithms.reviews.pairwise import Unread
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.records import FinishReason

PromptVerdict = Literal["good", "bad"]

_BRACKETS = str.maketrans("【】［］", "[][]")
_MARKUP = r"[\s*_`]{0,6}"
_OPEN_BRACKET = re.compile(r"\[[^\[\]]{0,20}\Z")


@cache
def _compile_tag(tag: str) -> re.Pattern[str]:
    plain = tag.translate(_BRACKETS)
    if not (plain.startswith("[") and plain.endswith("]") and plain[1:-1].strip()):
        raise ValueError(f"a tag must be a word in 【】 or [], got {tag!r}")
    return re.compile(rf"\[{_MARKUP}{re.escape(plain[1:-1].strip())}{_MARKUP}\]", re.I)


def read_verdict(text: str, profile: LanguageProfile, finish_reason: FinishReason = "stop") -> PromptVerdict | Unread:
    """Read the verdict on a prompt.

    Args:
        text: the verdict as the model wrote it.
        profile: whose tags to look for.
        finish_reason: how the sample ended.

    Returns:
        "good", "bad", or why it cannot be read, with a reason of `pairwise.UNREAD_REASONS`: "error", "empty",
        "cut_off", "no_verdict", or "ambiguous" for both tags.

    Raises:
        ValueError: a tag of the profile is no word in brackets.

    >>> from lance_assets.algorithms.filters.keywords import PROFILES
    >>> read_verdict("指令清晰完整。【好】", PROFILES["chinese"])
    'good'
    >>> read_verdict("Names a private person. **[Bad]**", PROFILES["english"])
    'bad'
    >>> read_verdict("【好】还是【差】？", PROFILES["chinese"]).reason
    'ambiguous'
    """
    if finish_reason == "error":
        return Unread("error", text)
    if not text.strip():
        return Unread("empty", text)
    plain = strip_thinking(text).translate(_BRACKETS)
    is_good = _compile_tag(profile.good_tag).search(plain) is not None
    is_bad = _compile_tag(profile.bad_tag).search(plain) is not None
    if is_good and is_bad:
        return Unread("ambiguous", text)
    if finish_reason == "length" and (not (is_good or is_bad) or _OPEN_BRACKET.search(plain)):
        return Unread("cut_off", text)
    if not (is_good or is_bad):
        return Unread("no_verdict", text)
    return "good" if is_good else "bad"
