r"""Read the final answer out of a completion and match it with the gold answer.

Source: LLM2LLM (arXiv 2403.15042), `filter.py` of the authors' code (SqueezeAILab/LLM2LLM, bcbcb1a): the text after
GSM8K's mark, reduced to digits and dots and compared as floats, else compared as text.

Differences from the authors' code:

1. The minus counts; their code drops it, so that -5 is 5.
2. "1/2" is a half and "1 1/2" three halves; their code drops the slash and reads 12 and 112.
3. The last mark counts; their code takes the first, which may belong to a step or to an answer that is corrected
   later. The answer stands behind it, on the next line where nothing is behind it, or between two marks.
4. "7", "7." and "7.0." are one number; their code cannot read "7.0." and compares it as text.
5. Numbers are exact fractions; in their code they are floats, so that large ones are equal by rounding.
6. The mark is as given; their code takes any run of "#" before a space, headings among them.
7. Without an answer there is `None`, which matches nothing; their code has the answer "WRONG".
8. A text with several numbers ("3 of 5") is no number; their code joins the digits to 35.
9. "2 million", "2M" and "200万" are 2,000,000 and "1e-05" is 0.00001; their code reads 2, 2, 200 and 1.
10. LaTeX around a number and its fractions are read; what is no number is compared without emphasis, LaTeX and signs
    around it, and a choice by its letter ("(B)" is "B").

Gold and student have one normal form, so that a seed's own completion matches its gold answer. Units are ignored, so
that "$18", "18 dollars" and "18%" are 18; "3!" and "5²" are no 3 and 5. Numbers in words, decimal commas, times and
sums are not read as numbers but compared as text.
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
_MARKUP = re.compile(r"(?<![\w)])\*\*(?=\S)|(?<=\S)\*\*(?![\w(])|`|\\(?=[$%#&])")
"""Emphasis (but no power, as in 5**2), code marks, and the backslash of an escaped sign."""
_LATEX = (
    (re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]{1,40})\}|([0-9]))\s*(?:\{([^{}]{1,40})\}|([0-9]))"), r" \1\2/\3\4"),
    (
        re.compile(
            r"\\(?:boxed|text(?:bf|it|rm)?|math(?:bf|rm|it)|mbox|displaystyle|fbox|underline|large|left|right)(?![a-zA-Z])"
        ),
        "",
    ),
    (re.compile(r"(?<=[0-9])(?:\{,\}|\\[,!]|[\u00a0\u202f\u2009'’])(?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"\\[,;:! ]|~|\\q?quad(?![a-zA-Z])"), " "),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "×"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?"), "°"),
    (re.compile(r"\\[()\[\]]"), ""),
)
"""What LaTeX writes around a number, and for a fraction, a thousands sign, a blank, a product."""
_GROUP = re.compile(r"\{([^{}]*)\}")
# Possessive quantifiers (++) give nothing back, so that a long run of digits is tried in one way only.
_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]++)(?:\.[0-9]*+)?+|\.[0-9]++"
_CODES = "USD|EUR|GBP|INR|JPY|CNY|RMB|CAD|AUD|CHF"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]\s?|(?:minus|negative)\s)?(?:(?P<currency>(?:US|A|AU|C|CA|NZ|HK|S|R|{_CODES})?\s?[{_CURRENCY}])\s?"
    rf"|(?:{_CODES}|Rs\.?)\s?)?(?P<inner_sign>[-+])?"
    rf"(?:(?P<whole>[0-9]++)\s(?P<part>[0-9]++)\s?/\s?(?P<parts>[0-9]++)"
    rf"|(?P<number>{_PLAIN})(?:(?:\s?[×x*]\s?10\s?(?:\^|\*\*)\s?|(?-i:[eE]))(?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9])"
    rf"|\s?/\s?(?P<divisor>{_PLAIN}))?+)(?P<rest>.*)",
    re.IGNORECASE,
)
_UNIT = re.compile(
    rf"(?!\s?[!²³¹⁰⁴-⁹])\s?[%°{_CURRENCY}]?(?:[^\W\d]|[²³]|[\s.,;:!'’\"/()%°{_CURRENCY}]|(?<!\s)-(?=[^\W\d]))*"
)
_WORDS = re.compile(r"[^\W\d_]+")
_NO_UNITS = frozenset(
    [
        "and",
        "or",
        "to",
        "by",
        "plus",
        "minus",
        "times",
        "over",
        "mod",
        "choose",
        "factorial",
        "point",
        "squared",
        "cubed",
        "half",
        "halves",
        "thirds",
        "fourths",
        "fifths",
        "sixths",
        "sevenths",
        "eighths",
        "ninths",
        "tenths",
        "hundredths",
        "thousandths",
        "gross",
        "n",
        "x",
        "y",
        "z",
        "i",
        "e",
        "b",
        "q",
        "r",
        "u",
        "π",
        "pi",
        "sqrt",
        "log",
    ]
)
"""Words after a number that make it another number, several numbers or a term."""
_MAGNITUDES = {
    **dict.fromkeys(("dozen", "dozens"), 12),
    **dict.fromkeys(("hundred", "hundreds", "백"), 10**2),
    **dict.fromkeys(("thousand", "thousands", "k", "mil", "mille", "tausend", "тыс", "тысяч", "тысячи", "천"), 10**3),
    **dict.fromkeys(("lakh", "lakhs", "लाख"), 10**5),
    **dict.fromkeys(("million", "millions", "millionen", "millones", "milhões", "milioni", "mio", "mn", "млн"), 10**6),
    **dict.fromkeys(("crore", "crores", "करोड़"), 10**7),
    **dict.fromkeys(("billion", "billions", "bn", "milliarden", "milliards", "mrd", "млрд"), 10**9),
    **dict.fromkeys(("trillion", "trillions", "tn"), 10**12),
}
_CAPITALS = {"M": 10**6, "MM": 10**6, "B": 10**9, "T": 10**12}
"""Magnitudes in capitals alone: "5m" is five metres, unless a currency comes before it."""
_CJK_MAGNITUDES = (
    {"百": 10**2, "千": 10**3, "만": 10**4, "억": 10**8}
    | dict.fromkeys("万萬", 10**4)
    | {
        **dict.fromkeys("亿億", 10**8),
        "兆": 10**12,
    }
)
_CJK_UNIT = re.compile("千(?=[克米瓦卡赫字帕])|百(?=分)|兆(?=[瓦赫字帕])")
"""Where the sign of a magnitude is part of a unit, as in 千克, a kilogram."""
_CHOICE = re.compile(r"(?:(?:option|choice|answer) )?(?:[(\[]?([a-z])[)\]](?:\s.*)?|([a-z])[.:]?)", re.I)
_ENDS = " \t\r\n.。*_`\"“”'’‘,;:"
"""What may surround a text without being part of it."""
_OPENING = re.compile(
    r"\A[\s*_]*(?:(?:is\b[\s*_]*)?[:：=]+|(?:the )?(?:final )?answer[\s*_]*(?:is\b[\s*_]*[:：=]*|[:：=]+))"
    r"[\s*_]*(?=\S)",
    re.I,
)
_AFTER_MARK_ONLY = re.compile(r"[\s:：]*(?:\*\*|__)?[\s:：]*")


def extract_final_answer(text: str, mark: str = "####") -> str | None:
    r"""Read what follows the last mark, on its line or else on the next.

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
    before, found, after = text.rpartition(mark)
    if not found:
        return None
    line, _, later = after.partition("\n")
    if _AFTER_MARK_ONLY.fullmatch(line):
        # The answer stands on the next line, or between two marks ("#### 24 ####").
        between = before.rpartition("\n")[2].rpartition(mark)
        line = next((one for one in later.split("\n") if one.strip()), "") or (between[2] if between[1] else "") or line
    return _OPENING.sub("", line.strip()).strip() or None


def _read_multiplier(rest: str, *, is_money: bool) -> int | None:
    """The factor that the words after a number mean: 1 for a unit; None where they are no unit."""
    words = _WORDS.findall(rest)
    # "18 dollars" is 18, but after "3 of 5" or "2 x" the number is only a part of the answer.
    if (
        not _UNIT.fullmatch(rest)
        or not _NO_UNITS.isdisjoint(word.lower() for word in words if word != "B")
        or words[:1] == ["G"]
    ):
        return None
    factors = []
    for place, word in enumerate(words):
        if word.lower() in _MAGNITUDES:
            factors.append(_MAGNITUDES[word.lower()])
        elif place == 0 and (word in _CAPITALS or (is_money and word.upper() in _CAPITALS)):
            factors.append(_CAPITALS[word.upper()])
        else:
            # 5万元, and not 5千克
            signs = "" if _CJK_UNIT.match(word) else re.match("[百千万萬亿億兆만억]*", word)[0]  # type: ignore[index]
            factors += [_CJK_MAGNITUDES[sign] for sign in signs]
            break
    return math.prod(factors)


def _read_amount(match: re.Match[str]) -> Fraction | None:
    """The number without sign and unit; None for a division by zero or a mixed number like "1 3/2"."""
    if match["whole"] is not None:
        whole, part, parts = int(match["whole"]), int(match["part"]), int(match["parts"])
        # "1 3/2" is no mixed number: it may as well be two numbers.
        return whole + Fraction(part, parts) if part < parts else None
    if match["exponent"] is not None:
        exponent = int(match["exponent"])
        return Fraction(match["number"].replace(",", "")) * Fraction(10) ** exponent
    number, divisor = (Fraction((match[name] or "1").replace(",", "")) for name in ("number", "divisor"))
    return number / divisor if divisor else None


def _plain(text: str) -> str:
    """A text without emphasis and LaTeX, with single spaces."""
    # The space before it makes 1½ the mixed number "1 1/2" and not 11/2.
    spelt = _ONE_SIGN_FRACTION.sub(lambda sign: f" {unicodedata.normalize('NFKC', sign[0])}", text)
    plain = spelt.translate(_TABLE)
    for pattern, written in _LATEX:
        plain = pattern.sub(written, plain)
    # Innermost groups first; a text has few.
    for _ in range(4):
        plain = _GROUP.sub(r"\1", plain) if "\\" in text and "{" in plain else plain
    plain = _MARKUP.sub("", plain).strip("*_ \t\r\n")
    if len(plain) > 1 and plain[0] == plain[-1] == "$":
        plain = plain.strip("$")
    return " ".join(plain.split())


def parse_number(text: str) -> Fraction | None:
    """The one number that a text is, exactly.

    Args:
        text: an answer: a sign, a currency, digits with thousands commas and a decimal point, a fraction or a mixed
            number, an exponent, a magnitude ("million", "M", "dozen", "万") or a unit; with emphasis or LaTeX, and
            with a stop at its end.

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
    plain = _plain(text)
    match = _NUMBER.fullmatch(plain)
    # Two signs, as in -$-5, are a term.
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    amount, multiplier = _read_amount(match), _read_multiplier(match["rest"], is_money=match["currency"] is not None)
    if amount is None or multiplier is None:
        return None
    sign = (match["sign"] or match["inner_sign"] or "+").strip().lower()
    return amount * multiplier * (1 if sign == "+" else -1)


def normalise_answer(text: str) -> Fraction | str:
    r"""What equal answers have in common: the number, the letter of a choice, or the text as it is compared.

    Args:
        text: an answer, gold or a student's.

    Returns:
        The number where the text is one (`parse_number`); else the text without case, emphasis, LaTeX, signs around it
        and repeated spaces; of "(B)", "B." and "(B) the second" the letter. A text of such signs alone is itself.

    >>> normalise_answer("$\\boxed{24}$"), normalise_answer("**Yes.**"), normalise_answer("(B)")
    (Fraction(24, 1), 'yes', 'b')
    """
    number = parse_number(text)
    if number is not None:
        return number
    plain = _plain(text[: 4 * MAX_CHARS]) + text[4 * MAX_CHARS :]
    choice = _CHOICE.fullmatch(plain)
    if choice:
        return next(letter for letter in choice.groups() if letter).casefold()
    tidy = plain.strip(_ENDS)
    # "3!" is no 3, but "Yes!" is "yes".
    tidy = tidy.rstrip("!").rstrip(_ENDS) if re.search(r"[^\W\d]!+\Z", tidy) else tidy
    # casefold equates what differs in case alone in any script, as ß and SS.
    return " ".join((tidy or text).casefold().split())


def match_answers(gold: str, predicted: str | None) -> bool:
    """Whether an answer is the gold one: as numbers where both are, else as text.

    Args:
        gold: the gold answer.
        predicted: the answer of a completion, None where it has none.

    Returns:
        Equality of the normal forms (`normalise_answer`). Of a gold answer of several lines the first alone is enough,
        since only it stands behind the mark. An answer without text is wrong.

    Raises:
        ValueError: the gold answer has no text.

    >>> match_answers("1,200", "$1200.00"), match_answers("5", "-5"), match_answers("1/2", "0.5")
    (True, False, True)
    >>> match_answers("Play Music", "play  music"), match_answers("5", None)
    (True, False)
    """
    if not gold.strip():
        raise ValueError(f"a gold answer must have text, got {gold!r}: correct the row, or leave it out")
    if predicted is None or not predicted.strip():
        return False
    if normalise_answer(gold) == normalise_answer(predicted):
        return True
    # Of a gold answer of several lines only the first stands behind the mark.
    first, several, _ = gold.strip().partition("\n")
    return bool(several) and "\n" not in predicted.strip() and normalise_answer(first) == normalise_answer(predicted)
