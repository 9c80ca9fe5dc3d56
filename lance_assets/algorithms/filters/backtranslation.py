r"""Prompts that a model wrote for given texts: how to repair one, and which are beyond repair.

Source: Kun (arXiv 2401.06477), `delete_key_output.py` of the authors' code (Zheng0428/COIG-Kun, commit a9c6df1). The
repair does not run as released (it puts the completion in the prompt's place); the rule here is what it means to do.

Differences from the authors' code:

1. An empty prompt is dropped; the authors' code gives it a verdict.
2. Every row is judged; the authors' 128 shards lose the rows after the last multiple of 128, and all rows where there
   are fewer.
3. Blanks at both ends are removed before a prompt is repaired; the authors' code empties a prompt that opens with five.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lance_assets.algorithms.filters.contract import Candidate, Filter, Known

REPAIR_REASONS = {
    "cut_at_blanks": "kept up to a run of five blanks or line ends",
    "repeated_line": "its first line occurs again and is kept alone",
    "repeated_later_line": "a line occurs twice and the prompt does not begin with it, so it is dropped",
    "empty": "nothing is written, so it is dropped",
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


def repair_prompt(prompt: str) -> Repaired:
    r"""Cut what a model wrote after its prompt: everything behind a run of five blanks, or the prompt again.

    Where there is no such run and a line occurs again, the longest of those lines is the prompt if the prompt begins
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


class RepairPrompt(Filter):
    """Repairs each prompt in its row, and drops those beyond repair: "empty", "repeated_later_line".

    For prompts that no completion was sampled from: a completion's prompt is not changed with its parent's.
    """

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Put the repaired prompt in place of each one that was read."""
        for row in rows:
            if row.prompt is not None:
                repaired = repair_prompt(row.prompt)
                row.prompt = repaired.prompt
                row.drop_reason = repaired.reason if repaired.prompt is None else None
