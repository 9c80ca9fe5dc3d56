r"""What a model wrote, without its thoughts and in plain signs: what readers of scores and verdicts start from.

`normalise_review` brings a text to ASCII signs and digits, without markup, so that the readers need one pattern each.
"""

import re
import unicodedata

_DIGITS = {
    code: str(unicodedata.decimal(chr(code)))
    for code in range(0x660, 0xFF00)
    if unicodedata.category(chr(code)) == "Nd"
}
"""Decimal digits of every script of the basic plane, Arabic and Devanagari among them, to ASCII."""
_SIGNS = {0x2212: "-", 0x301C: "~", 0x066B: ".", 0x066A: "%", 0x3000: " ", 0x3001: ",", 0x3002: ".", 0x1F51F: "10"} | {
    ord(bracket): plain for bracket, plain in zip("【】「」『』〈〉《》", '[][][]""""', strict=False)
}
_GONE = dict.fromkeys(
    (*b"*`", *range(0x200B, 0x2010), 0x2060, 0xFE0F, 0x20E3, 0xFEFF, *map(ord, "⭐🌟✨✅🎯📊📝👉★")), ""
)
"""Emphasis, invisible marks, what makes a digit a keycap, and the pictures that surround a score."""
_TABLE = {0xFF01 + i: 0x21 + i for i in range(94)} | _DIGITS | _SIGNS | _GONE | {0x5F: " "}

_BLANKS, _LINE_ENDS = re.compile(r"[^\S\n]+"), re.compile(r" ?\n(?: ?\n)* ?")
_TAGS = re.compile(r"</?(?:b|strong|i|em|u|p|div|span|h[1-6]|code|td|tr|th|br)(?:\s[^<>\n]{0,80})?/?>", re.I)
_RULES = re.compile(r"\n[ |:]{0,4}-{2,}[ |:-]{0,200}(?=\n)")
_LATEX = re.compile(r"\\(?:boxed|text(?:bf|it)?|math(?:bf|rm)|large|displaystyle)\b", re.I)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac ?\{ ?([0-9]{1,3}(?:\.[0-9])?) ?\} ?\{ ?([0-9]{1,3}) ?\}")
_FRACTION = re.compile(r"(?P<whole>[0-9])? ?(?P<sign>[¼½¾⅐-⅞])")
_MIXED = re.compile(r"(?<![0-9/.,])([0-9]{1,3}) ([1-9])/([2-9])(?![0-9/.,]?[0-9/])")
_AND_A_HALF = re.compile(r"(?<![0-9.,/])([0-9]{1,3})(?: and a half\b| ?分半)", re.I)
_THINKING = re.compile(r"\A\s*<think(?:ing)?>", re.I)
_THOUGHT = re.compile(r"</think(?:ing)?>", re.I)


def strip_thinking(text: str) -> str:
    """Remove a model's thinking; the rest is empty where the text opens with a thought that never ends.

    >>> strip_thinking("<think>Perhaps score: 3?</think>score: 8"), strip_thinking("<think>score: 3")
    ('score: 8', '')
    """
    ends = list(_THOUGHT.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    return "" if _THINKING.match(text) and _THINKING.match(rest) else rest


def normalise_review(text: str) -> str:
    r"""Bring a review to plain signs: ASCII digits, no emphasis, no tags, single spaces, decimal fractions.

    >>> normalise_review("**Score**：\n\n ７½ / 10"), normalise_review("评分: 7 1/2"), normalise_review("7 and a half")
    ('Score:\n7.5 / 10', '评分: 7.5', '7.5')
    """
    plain = _TAGS.sub("", text.translate(_TABLE))
    plain = _LINE_ENDS.sub("\n", _BLANKS.sub(" ", _LATEX.sub("", plain)))
    plain = _LATEX_FRACTION.sub(r"\1/\2", _LINE_ENDS.sub("\n", _RULES.sub("", plain)).strip())
    plain = _FRACTION.sub(lambda match: (match["whole"] or "0") + _decimals(unicodedata.numeric(match["sign"])), plain)
    plain = _MIXED.sub(
        lambda match: match[1] + _decimals(int(match[2]) / int(match[3])) if match[2] < match[3] else match[0], plain
    )
    return _AND_A_HALF.sub(r"\1.5", plain)


def _decimals(fraction: float) -> str:
    return f"{fraction:.4f}".lstrip("0").rstrip("0")
