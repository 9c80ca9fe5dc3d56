"""The language and the script that a text is written in.

The language is found by lingua (`lingua-language-detector`, which needs no network and no model folder), and only where
there is enough to tell: short texts, numbers and code have no language that anybody could name. The script is looked up
in Unicode's own property, which the package `regex` knows and the standard library does not.

Differences that were decided here:

1. Lines between code fences, links and digits are no part of what is looked at.
2. A text is dropped for its language only where lingua is sure (`min_confidence`) and finds no allowed language likely.
3. Letters decide about the script; digits, signs and marks belong to all scripts.
"""

import re
from collections import Counter
from functools import cache
from typing import Any, ClassVar, Self

import regex
from pydantic import Field, field_validator, model_validator

from lance_assets.algorithms.filters.contract import Candidate, RowFilter, list_written
from lance_assets.extras import import_extra, require_extra

SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Katakana", "Hangul", "Bopomofo", "Arabic", "Hebrew", "Thai"),
    *("Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala"),
    *("Lao", "Tibetan", "Myanmar", "Georgian", "Ethiopic", "Khmer", "Mongolian", "Armenian", "Cherokee", "Thaana"),
)
"""Unicode's scripts that a setting may name; letters of any other count as `OTHER`."""
OTHER = "Other"
MOST_CHARACTERS = 600
"""Characters of a text that are looked at: more change nothing, and take time."""
_NO_WORDS = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S+@\S+|[\d_]+", re.S)
_SCRIPTS = [(name, regex.compile(rf"\p{{Script={name}}}")) for name in SCRIPTS]
_COMMON = regex.compile(r"\p{Script=Common}|\p{Script=Inherited}")


@cache
def find_script(letter: str) -> str | None:
    """The script of a letter; None for one that all scripts share.

    >>> find_script("a"), find_script("я"), find_script("漢")
    ('Latin', 'Cyrillic', 'Han')
    """
    if _COMMON.match(letter):
        return None
    return next((name for name, pattern in _SCRIPTS if pattern.match(letter)), OTHER)


def count_scripts(text: str) -> Counter[str]:
    """How many letters of a text each script has.

    >>> count_scripts("Да, yes 1!")
    Counter({'Latin': 3, 'Cyrillic': 2})
    """
    found: Counter[str] = Counter()
    # A text has far fewer different characters than characters.
    for sign, number in Counter(text).items():
        if sign.isalpha() and (name := find_script(sign)) is not None:
            found[name] += number
    return found


@cache
def _open_detector() -> Any:
    lingua = import_extra("lingua", extra="filters", needed_by="the filter language")
    # Three letters in a row decide; all five lengths take ten times the time and half a gigabyte more, for texts below
    # a line, about which nothing is decided here.
    return lingua.LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()


def keep_words(text: str) -> str:
    """A text without code, links, addresses and digits, its blanks made single.

    >>> keep_words("See https://a.b/c and `x = 1`: 42 birds")
    'See and : birds'
    """
    return " ".join(_NO_WORDS.sub(" ", text).split())


class Script(RowFilter):
    """Drops rows of which a written text has too many letters of other scripts: "script"."""

    allowed: tuple[str, ...] = Field(min_length=1, description="Unicode's scripts that may be written: [Latin].")
    max_other_rate: float = Field(
        0.1, ge=0, lt=1, description="Share of a text's letters that may be of other scripts: names, quotes, formulas."
    )

    @field_validator("allowed")
    @classmethod
    def _knows_the_scripts(cls, allowed: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in allowed if name not in SCRIPTS]:
            raise ValueError(f"there is no script {unknown[0]!r} here; name some of {', '.join(SCRIPTS)}")
        return allowed

    def find_reason(self, row: Candidate) -> str | None:
        """Count the letters of each written text."""
        return "script" if any(map(self._is_other, list_written(row))) else None

    def _is_other(self, text: str) -> bool:
        counts = count_scripts(text)
        others = sum(number for name, number in counts.items() if name not in self.allowed)
        return others > self.max_other_rate * counts.total()


class Language(RowFilter):
    """Drops rows of which a written text is surely in another language: "language"."""

    libraries: ClassVar[tuple[str, ...]] = ("lingua-language-detector", "regex")

    allowed: tuple[str, ...] = Field(min_length=1, description="ISO 639-1 codes of what may be written: [en, de].")
    min_letters: int = Field(100, ge=1, description="Letters below which nothing is decided about a text.")
    min_confidence: float = Field(
        0.95, gt=0, le=1, description="Confidence in another language from which on a text is dropped."
    )

    @model_validator(mode="after")
    def _knows_the_languages(self) -> Self:
        require_extra("lingua", extra="filters", needed_by="the filter language")
        lingua = import_extra("lingua", extra="filters", needed_by="the filter language")
        known = sorted(one.iso_code_639_1.name.lower() for one in lingua.Language.all())
        if unknown := [code for code in self.allowed if code not in known]:
            raise ValueError(f"lingua knows no language {unknown[0]!r}; name some of {', '.join(known)}")
        return self

    def find_reason(self, row: Candidate) -> str | None:
        """Ask about each written text."""
        return "language" if any(map(self._is_other, list_written(row))) else None

    def _is_other(self, text: str) -> bool:
        plain = keep_words(text)
        if count_scripts(plain).total() < self.min_letters:
            return False
        likeliest = _open_detector().compute_language_confidence_values(plain[:MOST_CHARACTERS])[0]
        code = likeliest.language.iso_code_639_1.name.lower()
        return code not in self.allowed and likeliest.value >= self.min_confidence
