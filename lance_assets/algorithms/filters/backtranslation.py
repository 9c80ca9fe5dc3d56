r"""Prompts written for given texts: which to drop, and how to repair one.

Source: Kun (arXiv 2401.06477), `delete_key_input.py` and `delete_key_output.py` of the authors'
code (Zheng0428/COIG-Kun, commit a9c6df1). Their repair does not run as released (it puts the completion in the
prompt's place); what follows is what it means to do.

Differences from the authors' code:

1. An empty prompt is dropped; theirs goes on to the verdict.
2. Every row is judged; their shards lose the rows after the last multiple of 128, or all rows where there are fewer.
3. Blanks at both ends go before a prompt is repaired; theirs empties a prompt that opens with five.
"""

import re
from collections import Counter
from dataclasses import dataclass

from lance_assets.algorithms.filters.language_profiles import LanguageProfile, find_keyword

REPAIR_REASONS = {
    "cut_at_blanks": "kept up to a run of five blanks or line ends",
    "repeated_line": "its first line came again; kept alone",
    "repeated_later_line": "a line comes again and the prompt does not begin with it; dropped",
    "empty": "nothing is written; dropped",
}
"""Why a prompt was changed or dropped by its repair."""

_BLANKS = re.compile(r"\s{5}")


@dataclass(frozen=True)
class Repaired:
    """A prompt after its repair."""

    prompt: str | None
    """The prompt, without blanks at its ends; None where it is dropped."""
    reason: str | None
    """One of `REPAIR_REASONS`; None where nothing but blanks at the ends changed."""


def filter_prompt(prompt: str, profile: LanguageProfile) -> str | None:
    """Why a back-translated prompt is dropped: "empty" or "keyword:<word>", the first of the profile's; None to keep.

    >>> from lance_assets.algorithms.filters.language_profiles import PROFILES
    >>> filter_prompt("根据材料回答问题。", PROFILES["chinese"])
    'keyword:材料'
    >>> filter_prompt("为什么天空是蓝色的？", PROFILES["chinese"])
    """
    if not prompt.strip():
        return "empty"
    keyword = find_keyword(prompt, profile.prompt_keywords, profile)
    return None if keyword is None else f"keyword:{keyword}"


def repair_prompt(prompt: str) -> Repaired:
    r"""Cut what a model wrote after its prompt: everything behind a run of five blanks, or the prompt again.

    Where there is no such run and a line comes again, the longest of those lines is the prompt if the prompt begins
    with it, also as the beginning of a longer line; else the prompt is dropped. Of equally long lines the first counts.
    Code in a prompt suffers: an indentation of five is a run, and two lines "}" drop it.

    >>> repair_prompt("什么是光合作用？\n\n\n\n\n\n植物...")
    Repaired(prompt='什么是光合作用？', reason='cut_at_blanks')
    >>> repair_prompt("Why is the sky blue?\nWhy is the sky blue?")
    Repaired(prompt='Why is the sky blue?', reason='repeated_line')
    """
    stripped = prompt.strip()
    if not stripped:
        return Repaired(None, "empty")
    blanks = _BLANKS.search(stripped)
    if blanks is not None:
        return Repaired(stripped[: blanks.start()], "cut_at_blanks")
    counts = Counter(line.strip() for line in stripped.split("\n"))
    repeated = [line for line, count in counts.items() if line and count > 1]
    if not repeated:
        return Repaired(stripped, None)
    longest = max(repeated, key=len)
    if stripped.startswith(longest):
        return Repaired(longest, "repeated_line")
    return Repaired(None, "repeated_later_line")
