"""The equations of a worked solution: what rejection sampling calls one way of reasoning, and whether they hold.

Source: Yuan et al., "Scaling Relationship on Learning Mathematical Reasoning" (RFT, arXiv 2308.01825): two solutions
reason alike where the lists of their equations are equal, and a solution with a calculation that is wrong is left out.

A chain such as 3 * 4 + 2 = 12 + 2 = 14 is an equation for each of its signs. An equation of which the text shows a part
alone is none, since nobody said that the part holds: what goes on in words, letters or magnitudes (10 apples - 3 * 2 =
4, 3 + 4 = 7 + x, 3 * 1000 = 3 thousand), and numbers that can be read in two ways (3,5 or 1 000).
"""

import re
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Literal, TypeVar

from lance_assets.algorithms.verifying.calculations import holds

R = TypeVar("R")
Reason = Literal["wrong_equation", "same_reasoning"]
"""Why a completion is left out: an equation of it does not hold, or an earlier one has the same equations."""

_SIGNS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "$": None, "€": None, "£": None, "\xa0": " "}
)
_SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:times|cdot)(?![a-z])", "*"),
        (r"\\div(?![a-z])", "/"),
        (r"\\[()\[\]]", ";"),
        (r"\\(?=%)|\{,\}(?=\d{3})|(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"(?<=[\d)%])[ \t]*[xX][ \t]*(?=[(.\d])", "*"),
        (r"(?<=\d)[ \t]*(?:%|percent\b|per cent\b)", "%"),
        (r"\.(?!\d)", ";"),
        (r"(?<!\s)\s*={1,2}\s*", "="),
    )
)
"""One way of writing for each sign; a line that begins or ends with "=" is one line with the other side."""
_NUMBER = re.compile(r"\d+(?:[.,:'’_]\d+)*")
_PLAIN_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_RUN = re.compile(r"[-+*/^%().=0-9 \t]+")
_GROUPED = frozenset("-+*/^%.0123456789 \t")
_BULLET = re.compile(r"[ \t]*[-+*][ \t]+")
_HAS_OPERATOR = re.compile(r"[\d)%][-+*/^]")
_NO_SIDE = re.compile(r"[\d)%][ \t]+[\d(.]|%[\d(]|/[\d.]+\(")
"""Two numbers with a blank between them, and what may multiply or not."""
_SIDE = re.compile(r"(?:-(?! ))?(?:[(\d.].*[\d)%]|\d)")
_GOES_BEFORE = re.compile(
    r"[-+*/^][ \t]*\[[ \t]*$"
    r"|\b(?:plus|minus|times|over|(?:divided|multiplied) by|twice|thrice|double|triple|half)[ \t]*$"
    r"|(?:%|\d|\b(?:half|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?))[ \t]+of[ \t]*$",
    re.I,
)
_GOES_ON = re.compile(
    r"[ \t]*(?:plus|minus|times|over|divided|multiplied|squared|cubed|dozen|hundred|thousand|(?:m|b|tr)illion)\b"
    r"|[ \t]*of[ \t]+\d|[ \t]*(?![aI]\b)[a-z]\b",
    re.I,
)
_LOOKED_AT = 24
"""Characters before and after an equation that are looked at for words that belong to it."""


def list_equations(text: str) -> list[str]:
    """The equations of numbers in a text, in order, without blanks, currencies and thousands commas.

    >>> list_equations("She has 3 + 4 = 7 apples, so $2 x 7 = $14. The answer is 14.")
    ['3+4=7', '2*7=14']
    >>> list_equations("3 * 4 + 2 = 12 + 2 = 14, and 10 apples - 3 * 2 = 4")
    ['3*4+2=12+2', '12+2=14']
    """
    plain = text.replace("\\$", "").translate(_SIGNS)
    for pattern, replacement in _SPELLINGS:
        plain = pattern.sub(replacement, plain)
    plain = _NUMBER.sub(lambda found: found[0] if _PLAIN_NUMBER.fullmatch(found[0]) else "\x00", plain)
    plain = _mark_remarks(plain)
    return [one for run in _RUN.finditer(plain) if "=" in run[0] for one in _read_chain(plain, run)]


def _mark_remarks(text: str) -> str:
    """A text with square brackets for each round one that holds more than a calculation, or has no other half."""
    marked, opened = list(text), list[tuple[int, bool]]()
    for place, char in enumerate(text):
        if char == "(":
            opened.append((place, True))
        elif char == ")":
            start, groups = opened.pop() if opened else (place, False)
            if not groups:
                marked[start], marked[place] = "[", "]"
                if opened:
                    opened[-1] = (opened[-1][0], False)
        elif opened and char not in _GROUPED:
            opened[-1] = (opened[-1][0], False)
    for place, _ in opened:
        marked[place] = "["
    return "".join(marked)


def _read_chain(text: str, run: re.Match[str]) -> list[str]:
    """The equations of one run of numbers and signs."""
    start, end = run.span()
    before, after = text[max(0, start - _LOOKED_AT) : start], text[end : end + _LOOKED_AT]
    chain = run[0]
    if before[-1:] in ("", "\n") and (bullet := _BULLET.match(chain)):
        chain = chain[bullet.end() :]
    sides = [_read_side(side) for side in chain.split("=")]
    if _is_a_part(before, chain[:1], r"[\w)\]}\\√|\x00]", _GOES_BEFORE.search(before)):
        sides[0] = None
    # In "10 apples -3 * 2" it takes away.
    if (sides[0] or "").startswith("-") and re.search(r"[\w)\]}][ \t]*$", before):
        sides[0] = None
    if _is_a_part(after[::-1], chain[-1:], r"[^\W\d]|[(\[{\\√²³]", _GOES_ON.match(after)):
        sides[-1] = None
    # "Day 2 = 3 + 4" names a day, so a chain begins with a calculation.
    return [
        f"{left}={right}"
        for place, (left, right) in enumerate(pairwise(sides))
        if left is not None and right is not None and (place > 0 or _HAS_OPERATOR.search(left))
    ]


def _is_a_part(beside: str, border: str, glued: str, words: re.Match[str] | None) -> bool:
    """Whether a calculation goes on beyond its border: by a letter or a bracket close to it, or in words."""
    return words is not None or (border not in (" ", "\t") and re.match(glued, beside[-1:]) is not None)


def _read_side(written: str) -> str | None:
    """One side of an equation without blanks and emphasis; None where it is no whole calculation."""
    side = re.sub(r"^\*{1,2}(?=[\d(.-])|(?<=[\d)%])\*{1,2}$", "", written.strip())
    if _NO_SIDE.search(side) or not _SIDE.fullmatch(side):
        return None
    side = re.sub(r"(?<=[\d)])\(|(?<=\))(?=\d)", lambda found: f"*{found[0]}", side)
    return side.replace(" ", "").replace("\t", "")


def identify_reasoning(completion: str) -> Hashable:
    """What two completions share that reason alike: their equations; without any, their words.

    >>> identify_reasoning("First 3 + 4 = 7.") == identify_reasoning("We add: 3+4=7, done.")
    True
    """
    found = list_equations(completion)
    return tuple(found) if found else " ".join(completion.lower().split())


def list_reasons(
    rows: Sequence[R], *, prompt: Callable[[R], str], completion: Callable[[R], str]
) -> list[Reason | None]:
    """Why each row is left out, in order; None for the first row of each way of reasoning of each prompt.

    >>> rows = [("q", "2 + 2 = 4"), ("q", "2+2=4!"), ("q", "1 + 3 = 4"), ("q", "1 + 2 = 4")]
    >>> list_reasons(rows, prompt=lambda row: row[0], completion=lambda row: row[1])
    [None, 'same_reasoning', None, 'wrong_equation']
    """
    seen: set[tuple[str, Hashable]] = set()
    reasons: list[Reason | None] = []
    for row in rows:
        key = (prompt(row), identify_reasoning(completion(row)))
        if any(holds(one) is False for one in list_equations(completion(row))):
            reasons.append("wrong_equation")
            continue
        reasons.append("same_reasoning" if key in seen else None)
        seen.add(key)
    return reasons
