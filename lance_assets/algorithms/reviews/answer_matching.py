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
9. "2 million", "2M" and "200万" are 2,000,000; their code reads 2, 2 and 200.
10. What stands around an answer is no part of it: a colon after the mark, an empty line before it, brackets, a stop,
    LaTeX's \boxed{} and $...$; their code compares it.
11. A gold answer of several lines is its first line too, as the answer of the completion it came from is.

Units are ignored, so that "$18", "18 dollars" and "18%" are 18, but not words that multiply ("dozen", "万"). Numbers in
words, powers, decimal commas, times and sums are not read as numbers but compared as text.
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
_EXPONENT = r"(?:[eE][-+][0-9]{1,3}+(?![0-9]))?+"
"""As Python and JSON write small numbers, 1e-05; of "5e3" the e may be a name."""
_NUMBER = re.compile(
    rf"(?P<sign>[-+]\s?|(?:minus|negative)\s)?(?:(?:US|USD)?\s?[{_CURRENCY}]\s?|USD\s)?(?P<inner_sign>[-+])?"
    rf"(?:(?P<whole>[0-9]++)\s(?P<part>[0-9]++)\s?/\s?(?P<parts>[0-9]++)"
    rf"|(?P<number>(?:{_PLAIN}){_EXPONENT})(?:\s?/\s?(?P<divisor>{_PLAIN}))?+)(?P<rest>.*)",
    re.IGNORECASE,
)
_UNIT = re.compile(rf"\s?[%°{_CURRENCY}]?(?:[^\W\d]|[\s.,;:!'’\"/()%°]|(?<!\s)-(?=[^\W\d]))*")
_WORDS = re.compile(r"[^\W\d_]+")
_NO_UNITS = frozenset(
    ("and", "or", "to", "by", "plus", "minus", "times", "point", "squared", "cubed", "k", "n", "x", "y", "z")
)
"""Words after a number that make it another number, several numbers or a term."""
_LONG = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_LONG |= {"lakh": 10**5, "crore": 10**7}
_SHORT = {"mn": 10**6, "mln": 10**6, "mio": 10**6, "bn": 10**9, "mrd": 10**9, "tn": 10**12}
_MAGNITUDES = _LONG | {f"{word}s": factor for word, factor in _LONG.items()} | _SHORT
"""Words that multiply the number before them, in lower case."""
_CAPITALS = {"M": 10**6, "B": 10**9}
"""The same as one capital; "5 m" is a length."""
_SIGNS = {"万": 10**4, "萬": 10**4, "만": 10**4, "亿": 10**8, "億": 10**8, "억": 10**8, "兆": 10**12, "조": 10**12}
_SMALL_SIGNS = {"十": 10, "百": 10**2, "千": 10**3}
"""Signs that multiply, or begin a unit, as 千克, a kilogram."""
_WRAPPED = re.compile(r"\\(?:boxed|fbox|mbox|text[a-z]*|math[a-z]*)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))")
_SPACING = re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\[,;:!()\[\]]")
"""LaTeX that says how something looks, and delimiters of its formulas."""
_BRACKETS = ("()", "[]", "{}", '""', "''", "“”", "‘’", "「」", "$$")
_LOOSE = " \t\r\n.,;:!?*_`"
"""What may stand at the ends of a text without being part of it."""


def extract_final_answer(text: str, mark: str = "####") -> str | None:
    r"""Read what follows the last mark, on its line or on the next one that has anything.

    Args:
        text: a completion.
        mark: the text before the answer.

    Returns:
        The answer without spaces around it and without a colon before it; None where there is no mark, or nothing after
        the last one.

    Raises:
        ValueError: the mark is empty.

    >>> extract_final_answer("48 / 2 = 24\n#### 24\nDone.")
    '24'
    >>> extract_final_answer("#### 12? No:\n#### -12"), extract_final_answer("It is 24.")
    ('-12', None)
    >>> extract_final_answer("The answer is:\n24", "The answer is")
    '24'
    """
    if not mark:
        raise ValueError("mark must not be empty: name the text before the answer, as '####'")
    _, found, after = text.rpartition(mark)
    if not found:
        return None
    lines = (line.strip().lstrip(":：=").strip() for line in after.split("\n"))
    return next((line for line in lines if line), None)


def _read_latex(text: str) -> str:
    """The text without LaTeX around and within it, its fractions as a/b; any other text as it is."""
    if "\\" not in text and "{" not in text:
        return text
    plain, before = _SPACING.sub("", text.replace("{,}", ",")), ""
    # From the inside outwards, since braces lie within each other; each turn leaves fewer of them.
    while plain != before:
        before = plain
        plain = _FRACTION.sub(lambda found: f" {found[1] or found[2]}/{found[3] or found[4]} ", plain)
        plain = _WRAPPED.sub(r"\1", plain)
    return plain


def _unwrap(text: str) -> str:
    """The text without brackets, quotes or dollar signs that are around all of it."""
    plain = text.strip()
    while len(plain) > 2 and plain[0] + plain[-1] in _BRACKETS and plain[-1] not in plain[1:-1]:
        plain = plain[1:-1].strip()
    return plain


def _read_sign_multiplier(word: str) -> int | None:
    """The factor of the signs that a word begins with: 1 where it begins with none, None where they may be a unit."""
    signs = _SIGNS | _SMALL_SIGNS
    size = next((place for place, sign in enumerate(word) if sign not in signs), len(word))
    if size and size < len(word) and word[size - 1] in _SMALL_SIGNS:
        return None
    return math.prod(signs[sign] for sign in word[:size])


def _read_multiplier(rest: str) -> int | None:
    """The factor that the words after a number mean: 1 for a unit; None where they are no unit."""
    words = _WORDS.findall(rest)
    # "18 dollars" is 18, but after "3 of 5" or "2 x" the number is only a part of the answer, and 3! is 6.
    if not _UNIT.fullmatch(rest) or not _NO_UNITS.isdisjoint(word.lower() for word in words) or rest[:1] == "!":
        return None
    factor = _read_sign_multiplier(words[0]) if words else 1
    if factor is None or words[:1] == ["T"]:
        return None
    if words and words[0] in _CAPITALS:
        return _CAPITALS[words[0]]
    lower = [word.lower() for word in words]
    num_magnitudes = next((place for place, word in enumerate(lower) if word not in _MAGNITUDES), len(lower))
    return factor * math.prod(_MAGNITUDES[word] for word in lower[:num_magnitudes])


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
    spelt = _ONE_SIGN_FRACTION.sub(lambda sign: f" {unicodedata.normalize('NFKC', sign[0])}", _read_latex(text))
    plain = " ".join(_MARKUP.sub("", spelt.translate(_TABLE)).strip("*_ \t\r\n").split())
    match = _NUMBER.fullmatch(_unwrap(plain))
    # Two signs, as in -$-5, are a term.
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    amount, multiplier = _read_amount(match), _read_multiplier(match["rest"])
    if amount is None or multiplier is None:
        return None
    sign = (match["sign"] or match["inner_sign"] or "+").strip().lower()
    return amount * multiplier * (1 if sign == "+" else -1)


def normalise_answer(answer: str) -> Fraction | str:
    """What equal answers have in common: their number where they are one, else their words.

    >>> normalise_answer("$1,200.00"), normalise_answer("(B)"), normalise_answer("Play  Music.")
    (Fraction(1200, 1), 'b', 'play music')
    """
    number = parse_number(answer)
    if number is not None:
        return number
    # casefold equates what differs in case alone in any script, as ß and SS.
    plain = " ".join(answer.casefold().split())
    # Of an answer of signs alone nothing else is left to compare.
    return _unwrap(_read_latex(plain).strip(_LOOSE)).strip(_LOOSE) or plain


def match_answers(gold: str, predicted: str | None) -> bool:
    """Whether an answer is the gold one: as numbers where both are, else as text.

    Args:
        gold: the gold answer.
        predicted: the answer of a completion, None where it has none.

    Returns:
        Equality of the numbers, or of the texts without case, with single spaces and without what is around them. An
        answer without text is wrong.

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
    # Of a completion the answer is one line, so of a gold answer of several lines the first one is the same answer.
    first = next(line for line in gold.split("\n") if line.strip())
    return normalise_answer(predicted) in (normalise_answer(gold), normalise_answer(first))
