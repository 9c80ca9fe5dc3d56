r"""Read the score out of a review, or say why there is none.

Source: LANCE's review prompt asks for a rationale of at most 100 words and then `score: <total>`, 0 to 10; its code
(Control-derek/LANCE, `review_instances_vllm.py`) reads `score: (\d+(\.\d+)?)`.

Differences from the authors' code:

1. The last score statement counts; theirs takes the first, so that "score: 1 for clarity ... score: 9" became 1.
2. Markdown, brackets, full-width signs, `=`, no space or several, "8/10", "8 out of 10", "8,5" and "4 + 5 = 9" are
   read. "score of 8" and "score is 8" are read where no labelled statement ("score: 8", "final score is 8") stands, and
   "8/10" without the word only where it ends the text, or a lone number where it is the text.
3. A range, several numbers, or a scale other than 10 is `ambiguous`; theirs takes the first number.
4. A number that a token limit may have cut in two ("score: 1" of 10) is `cut_off`.
5. A review without a score is `Unscored`; theirs becomes 0 where all three fail.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lance_assets.records import FinishReason

UNSCORED_REASONS = {
    "error": "the sample failed in the engine",
    "empty": "nothing was written",
    "cut_off": "the token limit came before the score, or perhaps inside it",
    "no_score": "no score statement: a refusal, a rationale alone, or a placeholder",
    "out_of_range": "the score lies outside the scale",
    "ambiguous": "a range, several different numbers, or a scale other than the one asked for",
}
"""Why a review has no score."""

_FULL_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x2212: "-", 0x3000: " ", 0x5F: " ", 0x2A: "", 0x60: ""}
"""Full-width signs to ASCII; markdown's emphasis away, underscores to spaces."""
_BLANKS, _LINE_ENDS = re.compile(r"[^\S\n]+"), re.compile(r" ?\n(?: ?\n)* ?")
_FRACTION = re.compile(r" ?([½¼¾])")
_DECIMALS = {"½": ".5", "¼": ".25", "¾": ".75"}

# `_plain` leaves single spaces and single line ends, so that no pattern below can run away on long blanks
_S = " ?"
_NUMBER = r"[+-]?(?:[0-9]++(?:[.,][0-9]++)?+|\.[0-9]++)(?=points?\b|pts?\b|[^a-z0-9]|\Z)"
_SCALE = (
    rf"(?:{_S}(?P<percent>%)|{_S}(?:points?|pts?|分)?{_S}(?:/|out{_S}of|of|over){_S}"
    rf"(?:an?{_S}(?:possible|maximum|total|max){_S}(?:of{_S})?)?(?P<scale>[0-9]++(?:[.,][0-9]++)?+|ten\b))"
)
_OPEN, _CLOSE = r"[ ~<>\[({}\"'$|\\]{0,9}(?:boxed|text)?[{\"'$]{0,4}", r"[>\])}\"'$]{0,9}"
_WORD = r"(?<![a-z0-9])(?<!'s )(?<!his )(?<!her )(?<!their )(?:score|rating)(?![a-z0-9])"
_QUALIFIER = (
    rf"(?:{_S}(?:\([^()\n]{{0,40}}\)|\[[^\[\]\n]{{0,40}}\]|/{_S}[0-9]+|out{_S}of{_S}[0-9]+"
    rf"|for{_S}(?:this|the|that)(?: [a-z'-]+){{1,6}}?))?"
)
_IS = rf"(?:is|was|of|would{_S}be|should{_S}be|will{_S}be|comes{_S}to)(?:{_S}(?:therefore|thus|then|now))?"
_LABEL = re.compile(
    rf"{_WORD}{_S}[\"')\]]{{0,4}}(?P<qualifier>{_QUALIFIER}){_S}[\"')\]]{{0,4}}{_S}(?:[:=]+>?|->|→|>|\||[–—]|-(?=\s))(?:{_S}is\b)?"
    rf"|\b(?:final|total|overall){_S}{_WORD}(?P<total_qualifier>{_QUALIFIER}){_S}{_IS}\b",
    re.I,
)
_PROSE = re.compile(rf"{_WORD}(?P<qualifier>{_QUALIFIER}){_S}(?:{_IS}\b)?", re.I)
_FILLER_WORDS = "about|around|approximately|roughly|between|from|exactly|maybe|perhaps|an?|solid|strong"
_FILLER = rf"(?:(?:{_FILLER_WORDS})\b{_S}){{0,2}}"
_SUM = rf"(?:[0-9(+][0-9.,/+()× -]*+={_S})?"
_SAME_LINE = re.compile(rf"{_S}{_FILLER}{_OPEN}{_SUM}(?P<number>{_NUMBER}){_CLOSE}(?:{_SCALE})?{_CLOSE}", re.I)
_OWN_LINE = re.compile(
    rf"{_S}\n{_OPEN}{_SUM}(?P<number>{_NUMBER}){_CLOSE}(?:{_SCALE})?{_CLOSE}(?={_S}[.!]?{_S}(?:\n|\Z))", re.I
)
_NO_NUMBER = re.compile(r"\s*[\"'<\[(]*(?:n/?a\b|none\b|null\b|unknown\b|\?)", re.I)
_WHOLE = re.compile(rf"\A{_OPEN}(?P<number>{_NUMBER}){_CLOSE}(?:{_SCALE})?{_CLOSE}(?=[.!]*\Z)", re.I)
_CLOSING = re.compile(
    rf"(?<![\w.,/+-])(?P<range>{_NUMBER}{_S}(?:-|–|—|~|to|or|and){_S})?"
    rf"(?P<number>{_NUMBER}){_CLOSE}(?:{_SCALE}){_CLOSE}(?=[.!)]*\Z)",
    re.I,
)
_SECOND_NUMBER = re.compile(
    rf"{_S}~{{0,4}}{_S}(?:-|–|—|~|→|->|,|;|/|\+|&|:|\||to\b|or\b|and\b)?{_S}~{{0,4}}(?P<number>{_NUMBER})"
    rf"|\.[0-9]|{_S}and{_S}a{_S}half",
    re.I,
)
_MAY_GO_ON = re.compile(r"[\s.,/–—-]*\Z")
_ENDS_OPEN = re.compile(r"[0-9０-９\s.,/–—-]\Z")


@dataclass(frozen=True)
class Unscored:
    """A review that gives no score."""

    reason: str
    """One of `UNSCORED_REASONS`."""
    raw_text: str
    """The review as written."""


@dataclass(frozen=True)
class ReviewResult:
    """The reviews of one row, read."""

    scores: list[float | None]
    """The score of each review, 0..10; None where it is unscored."""
    unscored_reasons: list[str | None]
    """One of `UNSCORED_REASONS` for each review without a score; None where it has one."""
    review_score: float | None
    """Mean of the scores; None when no review has one."""


@dataclass(frozen=True)
class _Statement:
    """A number that claims to be the score."""

    value: re.Match[str]
    qualifier: str
    """What stands between the word and the number, as "(out of 10)"."""


def _plain(text: str) -> str:
    translated = text.translate(_FULL_WIDTH)
    spaced = _LINE_ENDS.sub("\n", _BLANKS.sub(" ", translated)).strip()
    return _FRACTION.sub(lambda match: _DECIMALS[match[1]], spaced)


def _read_number(written: str) -> float:
    """The number as a float: "8,5" is 8.5, "1,000" is 1000, "ten" is 10."""
    if written.lower() == "ten":
        return 10.0
    whole, comma, decimals = written.partition(",")
    return float(whole + decimals if len(decimals) == 3 else whole + ("." if comma else "") + decimals)


def _find_statement(plain: str) -> _Statement | None:
    """The last labelled statement, else the last in prose, else a closing "8/10" or a lone number."""
    for pattern in (_LABEL, _PROSE):
        for match in reversed(list(pattern.finditer(plain))):
            value = _SAME_LINE.match(plain, match.end()) or _OWN_LINE.match(plain, match.end())
            if value:
                groups = match.groupdict()
                return _Statement(value, groups["qualifier"] or groups.get("total_qualifier") or "")
            if pattern is _LABEL and _NO_NUMBER.match(plain, match.end()):
                return None
    value = _WHOLE.match(plain) or _CLOSING.search(plain)
    return _Statement(value, "") if value else None


def _is_ambiguous(statement: _Statement, plain: str, *, highest: float) -> bool:
    value = statement.value
    groups = value.groupdict()
    if groups["percent"] or groups.get("range"):
        return True
    if groups["scale"] and _read_number(groups["scale"]) != highest:
        return True
    named = [float(number) for number in re.findall(r"[0-9]+(?:\.[0-9]+)?", statement.qualifier)]
    if named and max(named) != highest:
        return True
    second = _SECOND_NUMBER.match(plain, value.end())
    return second is not None and (
        second["number"] is None or _read_number(second["number"]) != _read_number(value["number"])
    )


def parse_review(
    text: str, *, finish_reason: FinishReason = "stop", lowest: float = 0.0, highest: float = 10.0
) -> float | Unscored:
    """Read a review's score.

    Args:
        text: the review as the model wrote it.
        finish_reason: how the sample ended.
        lowest: the smallest score allowed.
        highest: the largest, and the only scale accepted after "/" and "out of".

    Returns:
        The score in [lowest, highest], or why there is none.

    >>> parse_review("Clear and correct. **Score:** 8/10")
    8.0
    >>> parse_review("Between good and very good. score: 7-8").reason
    'ambiguous'
    """
    if finish_reason == "error":
        return Unscored("error", text)
    if not text.strip():
        return Unscored("empty", text)
    plain = _plain(text)
    statement = _find_statement(plain)
    if statement is None:
        return Unscored("cut_off" if finish_reason == "length" else "no_score", text)
    may_go_on = _MAY_GO_ON.match(plain, statement.value.end("number")) and _ENDS_OPEN.search(text[-1:])
    if finish_reason == "length" and may_go_on:
        return Unscored("cut_off", text)
    if _is_ambiguous(statement, plain, highest=highest):
        return Unscored("ambiguous", text)
    score = _read_number(statement.value["number"])
    return score if lowest <= score <= highest else Unscored("out_of_range", text)


def score_reviews(texts: Sequence[str], finish_reasons: Sequence[FinishReason]) -> ReviewResult:
    """Read all reviews of one row.

    Args:
        texts: the reviews.
        finish_reasons: how each sample ended.

    Raises:
        ValueError: the lengths differ.

    >>> score_reviews(["score: 9", "Fine.", "score: 6"], ["stop", "stop", "stop"])
    ReviewResult(scores=[9.0, None, 6.0], unscored_reasons=[None, 'no_score', None], review_score=7.5)
    """
    parsed = [parse_review(text, finish_reason=reason) for text, reason in zip(texts, finish_reasons, strict=True)]
    scores = [None if isinstance(result, Unscored) else result for result in parsed]
    known = [score for score in scores if score is not None]
    reasons = [result.reason if isinstance(result, Unscored) else None for result in parsed]
    return ReviewResult(scores, reasons, fmean(known) if known else None)
