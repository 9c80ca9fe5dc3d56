r"""The words and signs with which models write a score: in languages, digits, fractions, markup.

`normalise_review` brings a review to plain ASCII signs and digits; the patterns are what `review_parsing` builds its
own of. All are ours: no library reads scores. A word that means other things too is among `CAREFUL_WORDS`, which count
only with a scale or at the end of a line, or among `SCALED_WORDS`, which need the scale.
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
"""Emphasis, invisible marks, what makes a digit a keycap, and the pictures that stand around a score."""
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

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CJK_NUMBERS = "零一二三四五六七八九十"
_WORDS = "|".join(NUMBER_WORDS)
DIGITS = r"[+-]?(?:[0-9]++(?:[.,][0-9]++)?+|\.[0-9]++)(?=points?\b|pts?\b|[^a-z0-9]|\Z)"
"""A number in digits."""
UNIT = "(?:points?|pts?|stars?|punkten?|puntos?|pontos?|punti|балл(?:а|ов)?|نقاط|分|点|點|점)"
"""What a score is counted in."""
_CLAUSE_END = (
    rf"(?=(?: {UNIT})?(?: ?[.,;:!?)\]}}\"'>|/(–—\n]| - |\Z| out of| of (?:[0-9]|ten\b)| over (?:[0-9]|ten\b)"
    rf"| (?:to|or) (?:an? )?(?:[0-9]|(?:{_WORDS})\b)))"
)
WORDED = (
    rf"\b(?:{_WORDS})(?:[ -]and[ -]a[ -]half| point (?:{_WORDS}))?\b(?![ -](?:hundred|thousand|of the)){_CLAUSE_END}"
    rf"|[{CJK_NUMBERS}](?=分(?![0-9{CJK_NUMBERS}]))"
)
"""A number in words, where nothing but a scale or the end of the clause follows: not "one of the best"."""
NUMBER = rf"(?:{DIGITS}|{WORDED})"

SCORE_WORDS = (
    "(?:final|total|overall)?score|rating|(?:gesamt)?punktzahl|punktwert|endnote|gesamtnote"
    "|note (?:finale|globale|totale|d'ensemble)|(?:nota|voto) finale?|puntaje|puanı?|skor"
    "|(?:puntuaci[oó]n|calificaci[oó]n|pontua[cç][aã]o|punteggio)(?: finale?| totale?)?"
    "|итоговая оценка|общая оценка|балл|التقييم النهائي|الدرجة|التقييم|امتیاز|स्कोर"
)
"""Words that mean a score and little else; where a letter or digit stands right before, they are part of another."""
CJK_SCORE_WORDS = "评分|評分|得分|总分|總分|分数|分數|打分|スコア|点数|評点|得点|採点|점수|총점|평점"
CAREFUL_WORDS = (
    "bewertung|gesamtbewertung|[ée]valuation|evaluaci[oó]n|valoraci[oó]n|avalia[cç][aã]o|valutazione|voto"
    "|beoordeling|cijfer|ocena|wynik|оценка|评价|評価|평가|grade"
)
"""Words that also mean the review itself, or a school grade."""
SCALED_WORDS = "note|nota|total|overall|verdict|points?|punkte|баллы|合计|總計|总计|total points"
"""Words that also open a remark or a sum."""
BETWEEN = r"-|–|—|~|→|->|(?:to|or|and|bis|oder|und|à|ou|et|a|o|y|до|или|и)\b|到|至|或|から|または|에서|또는|إلى|أو"
"""What stands between the two ends of a range, or between two scores."""
OF = "/|(?:out ?of|of|over|von|sur|sobre|su|de(?: cada)?|em|van(?: de)?|из)(?: |(?=[0-9]))|من|از"
"""What stands before a scale."""
HALVES = (
    "and a half|y media|et demie?|e mezzo|e meia|einhalb|с половиной|半|반"  # 7.5 in languages whose form is not read
)


def strip_thinking(text: str) -> str:
    """What follows a model's thinking; nothing where it opens with a thought that never ends.

    >>> strip_thinking("<think>Perhaps score: 3?</think>score: 8"), strip_thinking("<think>score: 3")
    ('score: 8', '')
    """
    ends = list(_THOUGHT.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    return "" if _THINKING.match(text) and _THINKING.match(rest) else rest


def normalise_review(text: str) -> str:
    r"""A review in plain signs: ASCII digits, no emphasis, no tags, single spaces and line ends, decimal fractions.

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


def read_number(written: str) -> float:
    """The number as a float: "8,5" is 8.5, "1,000" is 1000, "ten" is 10, "seven and a half" is 7.5.

    >>> read_number("8,5"), read_number("1,000"), read_number("seven point five"), read_number("八")
    (8.5, 1000.0, 7.5, 8.0)
    """
    words = re.split(r"[ -]", written.lower())
    if written in CJK_NUMBERS:
        return float(CJK_NUMBERS.index(written))
    if words[0] in NUMBER_WORDS:
        value = float(NUMBER_WORDS.index(words[0]))
        if words[1:2] == ["point"]:
            return value + NUMBER_WORDS.index(words[2]) / 10
        return value + (0.5 if "half" in words else 0.0)
    whole, comma, decimals = written.partition(",")
    return float(whole + decimals if len(decimals) == 3 else whole + ("." if comma else "") + decimals)
