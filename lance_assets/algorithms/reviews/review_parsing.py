r"""Read the score out of a review, as written or as the probabilities expect it, or say why there is none.

`normalise_review` brings what a model wrote to plain signs and digits without markup, so that the readers of scores and
verdicts need one pattern each. A review never yields a number that it did not give as its score; where that cannot be
told, it is unscored.

Source: LANCE's review prompt asks for a rationale of at most 100 words and then `score: <total>`, 0 to 10; its code
(Control-derek/LANCE, `review_instances_vllm.py`) reads `score: (\d+(\.\d+)?)`.

Differences from the authors' code:

1. The last score statement counts. Their code takes the first, so that "score: 1 for clarity ... score: 9" became 1. Of
   several statements that each name a part ("question score: 4") none is the score.
2. Markdown, brackets, full-width signs, `=`, no space or several, "8/10", "8 out of 10", "8,5", "7 1/2", "4 + 5 = 9",
   English number words and the words for a score in other languages (`score_statements`) are read. A label
   counts where it opens its clause ("score: 8", "so my score is: 8"). "I give it a score of 8" and "8/10" without the
   word are read where there is no such label: given, or at the end, or a number alone. What is quoted, supposed, asked,
   another's, a part's or a rubric's is not read (`claims`).
3. A range, several numbers, or a scale other than 10 is `ambiguous`; their code takes the first number.
4. A review that the token limit cut is `cut_off`, unless its score opens it: what stands later may be a first guess, or
   a number that was cut in two ("score: 1" of 10).
   In a review that ended, a score in the midst of the text (`MAX_AFTER`, `MAX_BEFORE`) is none.
5. A review without a score is `Unscored`; in their code it becomes 0 where all three fail.
6. What a model thinks (`thoughts`) is no part of the review.

Source of the expected score: G-Eval (Liu et al. 2023, arXiv 2303.16634), section 2: the sum over the scale of p(score)
times score, which distinguishes rows that whole scores leave tied.

Differences from the paper:

1. p is the model's own, of the likeliest tokens at the place where the sampled review has its score. The paper samples
   20 times where the API gives no probabilities. So it is the expectation given this rationale.
2. The sum is over the scores among those tokens, divided by their probability (`covered`). The other tokens do not
   count; where scores hold less than `MIN_MASS`, there is no expected score.
3. A token "1" begins both 1 and 10. Where "1" was sampled, its probability is split by those of the next token. Where
   another was sampled, or the next token is not known, it counts as 1, and `max_error` is by how much the value would
   rise if all of it were 10.
4. Of a score with decimals only the place of the whole number is read: where 8.5 was sampled, 8 is what 8.5 counts as.
"""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lance_assets.algorithms.reviews.score_words import read_number
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.records import FinishReason, Sample, TokenChoice

_DIGITS = {
    code: str(unicodedata.decimal(chr(code)))
    for code in range(0x660, 0xFF00)
    if unicodedata.category(chr(code)) == "Nd"
}
"""Decimal digits of every script of the basic plane, Arabic and Devanagari among them, to ASCII."""
_SIGNS = {0x2212: "-", 0x301C: "~", 0x066B: ".", 0x066A: "%", 0x3000: " ", 0x3001: ",", 0x3002: ".", 0x1F51F: "10"} | {
    ord(bracket): plain for bracket, plain in zip("【】「」『』〈〉《》“”„«»", "[]" + '"' * 13, strict=True)
}
_GONE = dict.fromkeys(
    (*b"*`", *range(0x200B, 0x2010), 0x2060, 0xFE0F, 0x20E3, 0xFEFF, *map(ord, "⭐🌟✨✅🎯📊📝👉★")), ""
)
"""Emphasis, invisible marks, what makes a digit a keycap, and the pictures that surround a score."""
_TABLE = {0xFF01 + i: 0x21 + i for i in range(94)} | _DIGITS | _SIGNS | _GONE | {0x5F: " "}

_BLANKS, _LINE_ENDS = re.compile(r"[^\S\n]+"), re.compile(r" ?\n(?: ?\n)* ?")
_TAGS = re.compile(r"</?(?:b|strong|i|em|u|p|div|span|h[1-6]|code|td|tr|th|br)(?:\s[^<>\n]{0,80})?/?>", re.I)
_RULES = re.compile(r"\n[ |:]{0,4}-{2,}[ |:-]{0,200}(?=\n)")
_TIMES = re.compile(r"(?<=[0-9])\*{1,2}(?=[0-9])")
_LATEX = re.compile(r"\\(?:boxed|text(?:bf|it)?|math(?:bf|rm)|large|displaystyle)\b", re.I)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac ?\{ ?([0-9]{1,3}(?:\.[0-9])?) ?\} ?\{ ?([0-9]{1,3}) ?\}")
_FRACTION = re.compile(r"(?P<whole>[0-9])? ?(?P<sign>[¼½¾⅐-⅞])")
_MIXED = re.compile(r"(?<![0-9/.,])([0-9]{1,3}) ([1-9])/([2-9])(?![0-9/.,]?[0-9/])")
_AND_A_HALF = re.compile(r"(?<![0-9.,/])([0-9]{1,3})(?: and a half\b| ?分半)", re.I)

UNSCORED_REASONS = {
    "error": "the sample failed in the engine",
    "empty": "nothing was written",
    "cut_off": "the token limit came before the score, or perhaps inside it",
    "no_score": "no score statement: a refusal, a rationale alone, or a placeholder",
    "out_of_range": "the score lies outside the scale",
    "ambiguous": "a range, several different numbers, or a scale other than the one asked for",
    "no_tail": "an expected score was asked for, and the engine gave no probabilities at its place",
    "not_continued": "its ending was to be forced, and the engine does not go on from a turn that has begun",
    "low_mass": "an expected score was asked for, and scores hold less than half of the probability there",
}
"""Why a review has no score; `no_tail` and `low_mass` only where the expected score is asked for
(`compute_expected_score`), and `not_continued` only where endings are forced (`forced_endings`)."""

_NOT_CLOSED = re.compile(r"\[\[ ?[0-9.,]*\Z")
"""A text that ends within double brackets, whose number may have been cut in two."""
_MAY_GO_ON = re.compile(r"[\s.,/–—-]*\Z")
_ENDS_OPEN = re.compile(r"(?:[^\W_]|[\s.,/–—-])\Z")
MAX_AFTER = 400
"""Characters that may follow the score of a review that does not begin with it."""
MAX_BEFORE = 200
"""Characters that may stand before a label and its score where more than `MAX_AFTER` follow: a short remark."""
MIN_MASS = 0.5
"""Probability that scores must hold at the score's place."""


def normalise_review(text: str) -> str:
    r"""Bring a review to plain signs: ASCII digits, no emphasis, no tags, single spaces, decimal fractions.

    >>> normalise_review("**Score**：\n\n ７½ / 10"), normalise_review("评分: 7 1/2"), normalise_review("7 and a half")
    ('Score:\n7.5 / 10', '评分: 7.5', '7.5')
    """
    # Emphasis goes, but what multiplies two numbers must not make one of them.
    plain = _TAGS.sub("", _TIMES.sub("×", text).translate(_TABLE))
    plain = _LINE_ENDS.sub("\n", _BLANKS.sub(" ", _LATEX.sub("", plain)))
    plain = _LATEX_FRACTION.sub(r"\1/\2", _LINE_ENDS.sub("\n", _RULES.sub("", plain)).strip())
    plain = _FRACTION.sub(lambda match: (match["whole"] or "0") + _decimals(unicodedata.numeric(match["sign"])), plain)
    plain = _MIXED.sub(
        lambda match: match[1] + _decimals(int(match[2]) / int(match[3])) if match[2] < match[3] else match[0], plain
    )
    return _AND_A_HALF.sub(r"\1.5", plain)


def _decimals(fraction: float) -> str:
    return f"{fraction:.4f}".lstrip("0").rstrip("0")


@dataclass(frozen=True)
class Unscored:
    """A review that gives no score."""

    reason: str
    """One of `UNSCORED_REASONS`."""
    raw_text: str
    """The review as written."""


@dataclass(frozen=True)
class ReadScore:
    """A review's score and its place."""

    value: float
    """In the range asked for."""
    written: str
    """The number as written, as "8", "8.5" or "eight"."""
    num_later: int
    """Runs of digits after its first one, as 2 for "8.5/10"."""


@dataclass(frozen=True)
class ReviewResult:
    """The reviews of one row, read."""

    scores: list[float | None]
    """The score of each review; None where it is unscored."""
    unscored_reasons: list[str | None]
    """One of `UNSCORED_REASONS` for each review without a score; None where it has one."""
    review_score: float | None
    """Mean of the scores; None when no review has one."""


@dataclass(frozen=True)
class ExpectedScore:
    """A review's expected score."""

    value: float
    """In the range asked for."""
    covered: float
    """Probability of the scores it is the mean of, `MIN_MASS` to 1."""
    max_error: float
    """By how much the value is too low at most, for tokens "1" that might have become 10."""


def read_score(
    text: str, *, finish_reason: FinishReason = "stop", lowest: float = 0.0, highest: float = 10.0
) -> ReadScore | Unscored:
    """Read a review's score and its place; see `parse_review`."""
    # Its patterns take longer to compile than a module to import, and whoever loads recipes alone reads no review.
    from lance_assets.algorithms.reviews.score_statements import find_statement, is_ambiguous

    if finish_reason == "error":
        return Unscored("error", text)
    if not text.strip():
        return Unscored("empty", text)
    plain = normalise_review(strip_thinking(text))
    statement = find_statement(plain)
    if statement is None:
        return Unscored("cut_off" if finish_reason == "length" else "no_score", text)
    # The limit can have cut the number (1 of 10, 8 of 8.5) only where the text ends with it.
    may_go_on = _MAY_GO_ON.match(plain, statement.value.end("number")) and _ENDS_OPEN.search(text[-1:])
    # And what stands inside a review that was cut may be a first guess, or the score of a part.
    is_early = not statement.is_labelled or re.search(r"\w", plain[: statement.start]) is not None
    if _NOT_CLOSED.search(plain) or (finish_reason == "length" and (may_go_on or is_early)):
        return Unscored("cut_off", text)
    # A score that ends no review is a point's, a guess or a figure: it opens the text, or little comes after it.
    goes_on = len(plain) - statement.value.end() > MAX_AFTER
    if is_early and goes_on and (not statement.is_labelled or statement.start > MAX_BEFORE):
        return Unscored("no_score", text)
    if is_ambiguous(statement, plain, highest=highest):
        return Unscored("ambiguous", text)
    score, written = read_number(statement.value["number"]), statement.value["number"]
    if not lowest <= score <= highest:
        return Unscored("out_of_range", text)
    # The probabilities cover the end of the text alone, so the score's place is counted from the end.
    num_runs = len(re.findall(r"[0-9]+", plain[statement.value.start("number") :]))
    return ReadScore(score, written, max(0, num_runs - 1))


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
    result = read_score(text, finish_reason=finish_reason, lowest=lowest, highest=highest)
    return result if isinstance(result, Unscored) else result.value


def combine_reviews(reviews: Sequence[float | Unscored]) -> ReviewResult:
    """The reviews of one row together.

    >>> combine_reviews([9.0, Unscored("no_score", "Fine."), 6.0])
    ReviewResult(scores=[9.0, None, 6.0], unscored_reasons=[None, 'no_score', None], review_score=7.5)
    """
    scores = [None if isinstance(review, Unscored) else review for review in reviews]
    known = [score for score in scores if score is not None]
    reasons = [review.reason if isinstance(review, Unscored) else None for review in reviews]
    return ReviewResult(scores, reasons, fmean(known) if known else None)


def _find_place(read: ReadScore, tail: Sequence[TokenChoice]) -> tuple[int, str] | None:
    """The token in which the written score begins, and what of it comes before; None where the tail lacks it."""
    match = re.match(r"[0-9]+", read.written)
    text = "".join(choice.text for choice in tail)
    # The tail need not begin where the review does, hence the count from the end.
    runs = list(re.finditer(r"[0-9]+", text, re.ASCII))
    if match is None or len(runs) <= read.num_later or runs[-1 - read.num_later][0] != match[0]:
        return None
    start = runs[-1 - read.num_later].start()
    for place, choice in enumerate(tail):
        if start < len(choice.text):
            return place, choice.text[:start]
        start -= len(choice.text)
    return None


def _read_digits(token: str, before: str) -> str | None:
    """The digits with which a token continues after what the sampled token has before its digits."""
    match = re.match(r"[0-9]+", token.strip().removeprefix(before.strip()).lstrip())
    return match[0] if match else None


def _weigh(alternatives: dict[str, float], before: str) -> dict[str, float]:
    """The probability of each run of digits that the token may be or begin."""
    mass: defaultdict[str, float] = defaultdict(float)
    for token, log_probability in alternatives.items():
        # Different tokens may hold the same digits, with and without a space before them.
        digits = _read_digits(token, before)
        if digits is not None:
            mass[digits] += math.exp(log_probability)
    return dict(mass)


def _split_one(mass: dict[str, float], next_choice: TokenChoice) -> dict[str, float]:
    """The mass of "1" over what the next token makes of it: 10, another number, or 1."""
    following = _weigh(next_choice.alternatives, "")
    longer = {f"1{digits}": mass["1"] * probability for digits, probability in following.items()}
    # Only the likeliest next tokens are known; whatever else follows leaves the score at 1.
    rest = {"1": mass["1"] * max(0.0, 1.0 - sum(following.values()))}
    return {
        digits: mass.get(digits, 0.0) * (digits != "1") + longer.get(digits, 0.0) + rest.get(digits, 0.0)
        for digits in {*mass, *longer, *rest}
    }


def compute_expected_score(sample: Sample, *, lowest: float = 0.0, highest: float = 10.0) -> ExpectedScore | Unscored:
    """The probability-weighted score of a review.

    Args:
        sample: the review with its `tail`.
        lowest: the smallest score allowed.
        highest: the largest, 10 at most.

    Returns:
        The expected score in [lowest, highest]; or why there is none: as `parse_review` where the text has no score,
        `no_tail` where there are no probabilities for its place, `low_mass` where scores hold too little of them.

    Raises:
        ValueError: highest is above 10, whose scores may begin in more ways than "1" and "10".

    >>> tail = (TokenChoice("score: ", {}), TokenChoice("8", {"8": math.log(0.75), "9": math.log(0.25)}))
    >>> compute_expected_score(Sample("r", "Good. score: 8", "stop", 9, 5, tail=tail))
    ExpectedScore(value=8.25, covered=1.0, max_error=0.0)
    """
    if highest > 10:
        raise ValueError(f"expected scores are read on scales up to 10, got highest={highest}: use score_from text")
    read = read_score(sample.text, finish_reason=sample.finish_reason, lowest=lowest, highest=highest)
    if isinstance(read, Unscored):
        return read
    found = _find_place(read, sample.tail)
    if found is None or not sample.tail[found[0]].alternatives:
        return Unscored("no_tail", sample.text)
    place, before = found
    choice = sample.tail[place]
    mass = _weigh(choice.alternatives, before)
    # On a scale below 10 no score begins with another one.
    unsplit = mass["1"] if "1" in mass and highest >= 10 else 0.0
    if unsplit and _read_digits(choice.text, before) == "1" and place + 1 < len(sample.tail):
        mass, unsplit = _split_one(mass, sample.tail[place + 1]), 0.0
    on_scale = {int(digits): p for digits, p in mass.items() if lowest <= int(digits) <= highest and p > 0}
    covered = sum(on_scale.values())
    # With little mass on scores the model was about to write something else, and the mean would say nothing.
    if covered < MIN_MASS:
        return Unscored("low_mass", sample.text)
    value = sum(score * p for score, p in on_scale.items()) / covered
    return ExpectedScore(
        # The sum of rounded probabilities may lead a little out of the range.
        min(highest, max(lowest, value)),
        min(1.0, covered),
        (highest - 1) * unsplit / covered if unsplit else 0.0,
    )
