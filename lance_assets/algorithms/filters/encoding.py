"""Texts whose characters were damaged on their way: decoded with the wrong table, replaced, or no text at all.

Mojibake ("schÃ¶n" for "schön") is found with ftfy (Robyn Speer's, the kept library for it): a text is damaged where
ftfy would decode it in another way. Beside it two signs need no library: U+FFFD, which stands where a decoder gave up,
and control characters, which no tokenizer was trained on.

A model writes them where it was trained on them, or where a reply is cut within a character of several bytes.
"""

import re
import unicodedata
from typing import ClassVar, Self

from pydantic import model_validator

from lance_assets.algorithms.filters.contract import Candidate, RowFilter, list_written
from lance_assets.extras import import_extra, require_extra

REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are no text."""
_KEPT = "\t\n\r\x0b\x0c\x85"
"""Control characters that are blanks and line ends."""
_CONTROL = re.compile(
    "[" + "".join(re.escape(chr(code)) for code in range(160) if unicodedata.category(chr(code)) == "Cc"
                  and chr(code) not in _KEPT) + "\ufdd0-\ufdef\ufffe\uffff]"
)  # fmt: skip


def find_damage(text: str) -> str | None:
    r"""How a text is damaged: "replacement_character", "control_character" or "mojibake"; None where it is whole.

    Raises:
        ValueError: ftfy is not installed.

    >>> find_damage("a \ufffd b"), find_damage("a\x00b")
    ('replacement_character', 'control_character')
    """
    if REPLACEMENT in text:
        return "replacement_character"
    if _CONTROL.search(text):
        return "control_character"
    if text.isascii():
        return None
    ftfy = import_extra("ftfy", extra="filters", needed_by="the filter encoding")
    return "mojibake" if ftfy.fix_encoding(text) != text else None


class Encoding(RowFilter):
    """Drops rows of which a written text is damaged: the reasons are those of `find_damage`."""

    libraries: ClassVar[tuple[str, ...]] = ("ftfy",)

    @model_validator(mode="after")
    def _has_its_library(self) -> Self:
        require_extra("ftfy", extra="filters", needed_by="the filter encoding")
        return self

    def find_reason(self, row: Candidate) -> str | None:
        """The first damage of the written texts."""
        return next((found for text in list_written(row) if (found := find_damage(text)) is not None), None)
