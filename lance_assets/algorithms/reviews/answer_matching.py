r"""Read the final answer out of a completion and match it with the gold answer.

Source: LLM2LLM (arXiv 2403.15042), `filter.py` of the authors' code (SqueezeAILab/LLM2LLM, bcbcb1a): the text after
GSM8K's mark, reduced to digits and dots and compared as floats, else compared as text.

Differences from the authors' code:

1. The minus counts; their code drops it, so that -5 is 5.
2. "1/2" is a half and "1 1/2" three halves; their code drops the slash and reads 12 and 112.
3. The last mark counts; their code takes the first, which may belong to a step or to an answer that is corrected later.
4. "7", "7." and "7.0." are one number; their code cannot read "7.0." and compares it as text.
5. Numbers are exact fractions; in their code they are floats, so that large ones are equal by rounding.
6. The mark is as given; their code takes any run of "#" before a space, headings among them.
7. Without an answer there is `None`, which matches nothing; their code has the answer "WRONG".
8. A text with several numbers ("3 of 5") is no number; their code joins the digits to 35.
9. "2 million" is 2,000,000; their code reads 2.

Units are ignored, so that "$18", "18 dollars" and "18%" are 18. Numbers in words, exponents, LaTeX fractions, decimal
commas, times and sums are not read as numbers but compared as text.
"""

import math
import re
import unicodedata
from fractions import Fraction

MAX_CHARS = 4000
"""Characters up to which a text is read as a number; Python reads no integer of more than 4,300 digits."""

_CURRENCY = "$€£¥¢₹₱₩₪₫₦₽"
_TABLE = {0xFF01 + i: 0x21 + i for i in range(94)} | dict.fromkeys(map(ord, "‐‑–−﹣"), "-") | {0x2044: "/"}
"""Full-width signs to ASCII, every dash used as a minus to "-", the fraction slash to "/"."""
_ONE_SIGN_FRACTION = re.compile("[¼-¾⅐-⅞]")
_MARKUP = re.compile(r"(?<![\w)])\*\*(?=\S)|(?<=\S)\*\*(?![\w(])|`|\\(?=[$%])")
"""Emphasis (but no power, as in 5**2), code marks, and the backslash of an escaped sign."""
# Possessive quantifiers (++) give nothing back, so that a long run of digits is tried in one way only.
_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]++)(?:\.[0-9]*+)?+|\.[0-9]++"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]\s?|(?:minus|negative)\s)?(?:(?:US|USD)?\s?[{_CURRENCY}]\s?|USD\s)?(?P<inner_sign>[-+])?"
    rf"(?:(?P<whole>[0-9]++)\s(?P<part>[0-9]++)\s?/\s?(?P<parts>[0-9]++)"
    rf"|(?P<number>{_PLAIN})(?:\s?/\s?(?P<divisor>{_PLAIN}))?+)(?P<rest>.*)",
    re.IGNORECASE,
)
_UNIT = re.compile(rf"\s?[%°{_CURRENCY}]?(?:[^\W\d]|[\s.,;:!'’\"/()%°]|(?<!\s)-(?=[^\W\d]))*")
_WORDS = re.compile(r"[^\W\d_]+")
_NO_UNITS = frozenset(
    ("and", "or", "to", "by", "plus", "minus", "times", "point", "squared", "cubed", "k", "n", "x", "y", "z")
)
"""Words after a number that make it another number, several numbers or a term."""
_MAGNITUDES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def extract_final_answer(text: str, mark: str = "####") -> str | None:
    r"""Read what follows the last mark on its line.

    Args:
        text: a completion.
        mark: the text before the answer.

    Returns:
        The answer without spaces around it; None where there is no mark, or nothing after the last one.

    Raises:
        ValueError: the mark is empty.

    >>> extract_final_answer("48 / 2 = 24\n#### 24\nDone.")
    '24'
    >>> extract_final_answer("#### 12? No:\n#### -12"), extract_final_answer("It is 24.")
    ('-12', None)
    """
    if not mark:
        raise ValueError("mark must not be empty: name the text before the answer, as '####'")
    _, found, after = text.rpartition(mark)
    return (after.partition("\n")[0].strip() or None) if found else None


def _read_multiplier(rest: str) -> int | None:
    """The factor that the words after a number mean: 1 for a unit; None where they are no unit."""
    words = _WORDS.findall(rest.lower())
    # "18 dollars" is 18, but after "3 of 5" or "2 x" the number is only a part of the answer.
    if not _UNIT.fullmatch(rest) or not _NO_UNITS.isdisjoint(words):
        return None
    num_magnitudes = next((place for place, word in enumerate(words) if word not in _MAGNITUDES), len(words))
    return math.prod(_MAGNITUDES[word] for word in words[:num_magnitudes])


def _read_amount(match: re.Match[str]) -> Fraction | None:
    """The number without sign and unit; None for a division by zero or a mixed number like "1 3/2"."""
    if match["whole"] is not None:
        whole, part, parts = int(match["whole"]), int(match["part"]), int(match["parts"])
        # "1 3/2" is no mixed number: it may as well be two numbers.
        return whole + Fraction(part, parts) if part < parts else None
    number, divisor = (Fraction((match[name] or "1").replace(",", "")) for name in ("number", "divisor"))
    return number / divisor if divisor else None


def parse_number(text: str) -> Fraction | None:
    """The one number that a text is, exactly.

    Args:
        text: an answer: a sign, a currency, digits with thousands commas and a decimal point, a fraction or a mixed
            number, a magnitude ("million") or a unit; with emphasis, and with a stop at its end.

    Returns:
        The number. Units, currencies and "%" are ignored: "50%" is 50. None where the text is no number, has
        further numbers, or has more than `MAX_CHARS` characters.

    >>> parse_number("-$1,234.50"), parse_number("7.0."), parse_number("1 1/2 cups"), parse_number("−5%")
    (Fraction(-2469, 2), Fraction(7, 1), Fraction(3, 2), Fraction(-5, 1))
    >>> parse_number("10 + 2"), parse_number("3 of 5"), parse_number("1/0"), parse_number("seven")
    (None, None, None, None)
    """
    if len(text) > MAX_CHARS:
        return None
    # The space before it makes 1½ the mixed number "1 1/2" and not 11/2.
    spelt = _ONE_SIGN_FRACTION.sub(lambda sign: f" {unicodedata.normalize('NFKC', sign[0])}", text)
    plain = " ".join(_MARKUP.sub("", spelt.translate(_TABLE)).strip("*_ \t\r\n").split())
    match = _NUMBER.fullmatch(plain)
    # Two signs, as in -$-5, are a term.
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    amount, multiplier = _read_amount(match), _read_multiplier(match["rest"])
    if amount is None or multiplier is None:
        return None
    sign = (match["sign"] or match["inner_sign"] or "+").strip().lower()
    return amount * multiplier * (1 if sign == "+" else -1)


def match_answers(gold: str, predicted: str | None) -> bool:
    """Whether an answer is the gold one: as numbers where both are, else as text.

    Args:
        gold: the gold answer.
        predicted: the answer of a completion, None where it has none.

    Returns:
        Equality of the numbers, or of the texts without case and with single spaces. An answer without text is wrong.

    Raises:
        ValueError: the gold answer has no text.

    >>> match_answers("1,200", "$1200.00"), match_answers("5", "-5"), match_answers("1/2", "0.5")
    (True, False, True)
    >>> match_answers("Play Music", "play  music"), match_answers("5", None)
    (True, False)
    """
    if not gold.strip():
        raise ValueError(f"a gold answer must have text, got {gold!r}: correct the row, or leave it out")
    if predicted is None:
        return False
    numbers = parse_number(gold), parse_number(predicted)
    if None not in numbers:
        return numbers[0] == numbers[1]
    # casefold equates what differs in case alone in any script, as ß and SS.
    return gold.casefold().split() == predicted.casefold().split()
