r"""The words in which scores are written, in many languages, and the numbers among them.

A word that means other things too is among `CAREFUL_WORDS`, which count only with a scale or at the end of a line, or
among `SCALED_WORDS`, which need the scale.
"""

import re

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CJK_NUMBERS = "零一二三四五六七八九十"
_WORDS = "|".join(NUMBER_WORDS)
DIGITS = r"[+-]?(?:[0-9]++(?:[.,][0-9]++)?+|\.[0-9]++)(?=points?\b|pts?\b|[^a-z0-9]|\Z)"
"""A number in digits."""
UNIT = "(?:points?|pts?|stars?|punkten?|puntos?|pontos?|punti|балл(?:а|ов)?|نقاط|分|点|點|점)"
"""What a score is counted in."""
_WORDED_END = (
    rf"(?=(?: {UNIT})?(?: ?[.,;:!?)\]}}\"'>|/(–—\n]| - |\Z| out of| of (?:[0-9]|ten\b)| over (?:[0-9]|ten\b)"
    rf"| (?:to|or) (?:an? )?(?:[0-9]|(?:{_WORDS})\b)))"
)
WORDED = (
    rf"\b(?:{_WORDS})(?:[ -]and[ -]a[ -]half| point (?:{_WORDS}))?\b(?![ -](?:hundred|thousand|of the)){_WORDED_END}"
    rf"|[{CJK_NUMBERS}](?=分(?![0-9{CJK_NUMBERS}]))"
)
"""A number in words, where nothing but a scale or the end of the clause follows: not "one of the best"."""
NUMBER = rf"(?:{DIGITS}|{WORDED})"

SCORE_WORDS = (
    "(?:final|total|overall)?score|rating|(?:gesamt)?punktzahl|punktwert|endnote|gesamtnote"
    "|note (?:finale|globale|totale|d'ensemble)|(?:nota|voto) finale?|puntaje|puanı?|skor"
    "|(?:puntuaci[oó]n|calificaci[oó]n|pontua[cç][aã]o|punteggio)(?: finale?| totale?)?"
    "|điểm(?: số)?|nilai|betyg|poäng|pontszám|punctaj|scor|βαθμολογία|ציון|স্কোর|skóre|arvosana|оцінка"
    "|итоговая оценка|общая оценка|балл|التقييم النهائي|الدرجة|التقييم|امتیاز|स्कोर"
)
"""Words that mean a score and little else; right after a letter or digit they are part of another."""
CJK_SCORE_WORDS = "评分|評分|得分|总分|總分|分数|分數|打分|スコア|点数|評点|得点|採点|점수|총점|평점|คะแนน"
CAREFUL_WORDS = (
    "bewertung|gesamtbewertung|[ée]valuation|evaluaci[oó]n|valoraci[oó]n|avalia[cç][aã]o|valutazione|voto"
    "|beoordeling|cijfer|ocena|wynik|оценка|评价|評価|평가|grade"
)
"""Words that also mean the review itself, or a school grade."""
SCALED_WORDS = "note|nota|overall|verdict|marks?|points?|punkte|баллы"
"""Words that also open a remark."""
SUM_WORDS = (
    "(?:sum of |final |overall )?(?:total(?: points?| marks?)?|points? in total|points? total|total of points?"
    "|(?:total )?points (?:awarded|earned|given))|gesamt(?:punkte)?|total (?:de )?(?:points|puntos|pontos)"
    "|puntos totales|pontos totais|punti totali|итого|合计|合計|總計|总计|共计|총계"
)
"""Words that open a sum: with points after them, or as their own."""
BETWEEN = (
    r"-|–|—|~|→|->|(?:to|or|and|plus|times|bis|oder|und|à|ou|et|a|o|e|y|до|или|и)\b|[x×*·]"
    "|到|至|或|和|与|と|加|から|または|에서|또는|إلى|أو"
)
"""What is written between the two ends of a range, or between two scores."""
OF = "/|(?:out ?of|of|over|von|sur|sobre|su|de(?: cada)?|em|van(?: de)?|из)(?: |(?=[0-9]))|من|از"
"""What is written before a scale."""
HALVES = (
    "and a half|y media|et demie?|e mezzo|e meia|einhalb|с половиной|半|반"  # 7.5 in languages whose form is not read
)


def read_number(written: str) -> float:
    """The number as a float: "8,5" is 8.5, "1,000" is 1000, "ten" is 10, "seven and a half" is 7.5.

    >>> read_number("8,5"), read_number("1,000"), read_number("seven point five"), read_number("八")
    (8.5, 1000.0, 7.5, 8.0)
    """
    words = re.split(r"[ -]", written.lower())
    if written in CJK_NUMBERS:
        return float(CJK_NUMBERS.index(written))
    if words[0] in NUMBER_WORDS:
        # Only words up to ten are read, since no scale here goes beyond.
        value = float(NUMBER_WORDS.index(words[0]))
        if words[1:2] == ["point"]:
            return value + NUMBER_WORDS.index(words[2]) / 10
        return value + (0.5 if "half" in words else 0.0)
    whole, comma, decimals = written.partition(",")
    # Three digits after a comma are thousands; no score has three decimals.
    return float(whole + decimals if len(decimals) == 3 else whole + ("." if comma else "") + decimals)
