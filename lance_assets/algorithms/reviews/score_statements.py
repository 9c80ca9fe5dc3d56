r"""Where a review states its score: words in many languages, patterns over them, and which of several counts.

All words and patterns are ours: no library reads scores. A word that means other things too is among `CAREFUL_WORDS`,
which count only with a scale or at the end of a line, or among `SCALED_WORDS`, which need the scale. `review_parsing`
says what is read and what is not. Every pattern is bounded, so that the search is linear in the text.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

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
    "|итоговая оценка|общая оценка|балл|التقييم النهائي|الدرجة|التقييم|امتیاز|स्कोर"
)
"""Words that mean a score and little else; right after a letter or digit they are part of another."""
CJK_SCORE_WORDS = "评分|評分|得分|总分|總分|分数|分數|打分|スコア|点数|評点|得点|採点|점수|총점|평점"
CAREFUL_WORDS = (
    "bewertung|gesamtbewertung|[ée]valuation|evaluaci[oó]n|valoraci[oó]n|avalia[cç][aã]o|valutazione|voto"
    "|beoordeling|cijfer|ocena|wynik|оценка|评价|評価|평가|grade"
)
"""Words that also mean the review itself, or a school grade."""
SCALED_WORDS = "note|nota|total|overall|verdict|points?|punkte|баллы|合计|總計|总计|total points"
"""Words that also open a remark or a sum."""
BETWEEN = r"-|–|—|~|→|->|(?:to|or|and|bis|oder|und|à|ou|et|a|o|y|до|или|и)\b|到|至|或|から|または|에서|또는|إلى|أو"
"""What is written between the two ends of a range, or between two scores."""
OF = "/|(?:out ?of|of|over|von|sur|sobre|su|de(?: cada)?|em|van(?: de)?|из)(?: |(?=[0-9]))|من|از"
"""What is written before a scale."""
HALVES = (
    "and a half|y media|et demie?|e mezzo|e meia|einhalb|с половиной|半|반"  # 7.5 in languages whose form is not read
)

# `normalise_review` leaves single spaces and single line ends, so that no pattern below can run away on long blanks
_S = " ?"
# "10点満点中8点": the scale before the number
_OUT_OF = r"[0-9]++ ?(?:点満点(?:中|で)?|点中|점 ?(?:만점(?: ?중| ?에)?|중(?:에)?)|分中|分满分中?)"
_FULL = rf"(?:(?P<full>{_OUT_OF}) ?)"
_SCALE = (
    rf"(?:{_S}(?P<percent>%|percent\b|per cent\b|prozent\b)|{_S}(?:{UNIT})?{_S}(?:{OF}){_S}"
    rf"(?:an?{_S}(?:possible|maximum|total|max){_S}(?:of{_S})?)?(?P<scale>[0-9]++(?:[.,][0-9]++)?+|ten\b))"
)
# Models wrap scores in markdown, quotes, brackets and LaTeX; a few signs are let through, and never without end.
_OPEN, _CLOSE = r"[ ~<>\[({}\"'$|\\]{0,9}", r"[>\])}\"'$]{0,9}"
_NO_LETTER, _NO_LETTER_AFTER = r"(?<![a-z0-9à-ÿа-я])", r"(?![a-z0-9à-ÿа-я])"
# "Tom's score", "the maximum score": words about another score
_OTHER_WORDS = ("'s", "his", "her", "their", "max", r"max\.", "maximum", "highest", "possible", "minimum", "confidence")
_OTHERS = "".join(rf"(?<!{word} )" for word in _OTHER_WORDS)
_WORD = rf"(?:{_NO_LETTER}{_OTHERS}(?:{SCORE_WORDS}){_NO_LETTER_AFTER}|(?:{CJK_SCORE_WORDS}))"
_QUALIFIER = (
    rf"(?:{_S}(?:\([^()\n]{{0,40}}\)|\[[^\[\]\n]{{0,40}}\]|/{_S}[0-9]+|out{_S}of{_S}[0-9]+"
    rf"|for{_S}(?:this|the|that)(?: [a-z'-]+){{1,6}}?))?"
)
_IS = (
    rf"(?:is|was|of|would{_S}be|should{_S}be|will{_S}be|comes{_S}to|ist|beträgt|est(?: de)?|es(?: de)?|è|é|составляет)"
    rf"(?:{_S}(?:therefore|thus|then|now))?"
)
_QUOTES = r"[\"')\]]{0,4}"
_SIGN = rf"(?:[:=]+>?|->|→|>|\||[–—]|-(?=\s)|为|為|是|は|은|는)(?:{_S}is\b)?"
_LABEL = re.compile(
    rf"{_WORD}{_S}{_QUOTES}(?P<qualifier>{_QUALIFIER}){_S}{_QUOTES}{_S}{_SIGN}"
    rf"|\b(?:final|total|overall){_S}{_WORD}(?P<total_qualifier>{_QUALIFIER}){_S}(?:{_IS}\b|(?=[0-9]))",
    re.I,
)
_PROSE = re.compile(
    rf"(?:{_WORD}(?P<qualifier>{_QUALIFIER}){_S}(?:{_IS}\b)?|[给給打](?:出|它)?(?={_S}[0-9.]+{_S}分))", re.I
)
# "Overall:" may open a remark as well, so these labels need more proof than a colon.
_WEAK_LABEL = re.compile(
    rf"{_NO_LETTER}(?:(?P<careful>{CAREFUL_WORDS})|{SCALED_WORDS}){_NO_LETTER_AFTER}"
    rf"{_S}{_QUOTES}(?P<qualifier>{_QUALIFIER}){_S}{_QUOTES}{_S}(?:[:=|]|[–—])",
    re.I,
)
# "I would give it 8/10" has no word for a score, and is distinguished from a remark by its scale.
_GIVEN = re.compile(
    r"(?:\bon an? scale (?P<qualifier>(?:of|from) [0-9]{1,3} ?(?:to|-|–) ?[0-9]{1,3}),? )?"
    r"\b(?:I|we)(?:'d| would| will|'ll)? (?:give|rate|award|assign|grade|score)"
    r"(?: (?:it|this|that|the|question|prompt|response|answer|completion|pair|an?|overall|as|at|with)\b){0,5}"
    rf"|(?<![a-z0-9])(?={_OUT_OF} ?[0-9])",
    re.I,
)
# These may come between the label and the number: "score: a solid 8".
_FILLER_WORDS = "about|around|approximately|roughly|between|from|exactly|maybe|perhaps|an?|solid|strong"
_FILLER = rf"(?:(?:{_FILLER_WORDS})\b{_S}){{0,2}}"
# A sum is skipped up to its "=", since the number after it is the total.
_SUM = rf"(?:[0-9(+](?:[0-9.,/+× -]|\([a-z ]{{1,24}}\)|[()])*+={_S})?"
_VALUE = rf"{_FULL}?(?P<number>{NUMBER}){_CLOSE}(?:{_SCALE})?{_CLOSE}"
_SAME_LINE = re.compile(rf"{_S}{_FILLER}{_OPEN}{_SUM}{_VALUE}", re.I)
_OWN_LINE = re.compile(rf"{_S}\n{_OPEN}{_SUM}{_VALUE}(?={_S}(?:{UNIT})?[ |]?[.!]?{_S}(?:\n|\Z))", re.I)
# "score: n/a" is an answer, and not a label whose number is missing.
_NO_NUMBER = re.compile(r"\s*[\"'<\[(]*(?:n/?a\b|none\b|null\b|unknown\b|\?)", re.I)
_WHOLE = re.compile(rf"\A{_OPEN}{_VALUE}(?={_S}(?:{UNIT})?[.!]*\Z)", re.I)
_CLOSING = re.compile(
    rf"(?<![a-zà-ÿ0-9.,/+-])(?P<range>{NUMBER}{_S}(?:{UNIT})?{_S}(?:{BETWEEN}){_S})?"
    rf"(?P<number>{NUMBER}){_CLOSE}(?:{_SCALE}){_CLOSE}(?=[.!)]*\Z)",
    re.I,
)
_SCALED = re.compile(rf"(?<![a-zà-ÿ0-9.,/+-])(?P<number>{NUMBER}){_SCALE}", re.I)
# A second number after the first makes a range, a sum or a choice, so that neither is the score.
_SECOND_NUMBER = re.compile(
    rf"{_S}(?:{UNIT})?{_S}~{{0,4}}{_S}(?:{BETWEEN}|,{_S}得|[,;/+&:|])?{_S}~{{0,4}}(?P<number>{NUMBER})"
    rf"|{_S}\([a-z ]{{1,24}}\){_S}[,;+]{_S}{NUMBER}| ?\.[0-9]| \. [0-9]"
    rf"|{_S}(?:{UNIT})?{_S}(?:{HALVES})|{_S}\+(?![0-9])|{_S}stars?\b",
    re.I,
)
_LINE_END = re.compile(rf"{_S}(?:{UNIT})?{_S}[.!]?{_S}(?:\n|\||\Z)", re.I)
_CLAUSE_END = re.compile(rf"{_S}(?:{UNIT})?{_S}(?:[.,;!)(|\n–—-]|\Z)", re.I)
# in the same clause, or in the same sentence: what is said is not the score
_DENIED = re.compile(
    r"\b(?:not|cannot|never|neither|nor|no|than|above|below|under|over|instead of|short of"
    r"|to (?:reach|get|earn|achieve|receive|obtain|deserve|warrant))\b|n't\b",
    re.I,
)
_SUPPOSED = re.compile(
    r"\b(?:if|unless|until|had it|were it|(?:would|to) (?:need|require|have|merit)|could (?:be|have been|get|reach))\b",
    re.I,
)
# "Score: 1. The question is clear.\n2. ...": a list begins, not a score
_LIST = re.compile(r"1[.)] [^\n]{1,400}\n(?:[^\n]{0,400}\n){0,2}2[.)] ")
# right before a label: the score of a part
_PARTS = (
    r"(?:\b(?:question|prompt|instruction|task|response|answer|completion|clarity|relevance|depth|breadth|safety"
    r"|accuracy|correctness|style|format|helpfulness)(?:'s)?|问题|提问|回答|答案|清晰度|相关性|准确性)"
)
_PART = re.compile(rf"{_PARTS} ?\Z", re.I)
_PART_NAMED = re.compile(rf"for (?:the|this|that) {_PARTS}\Z", re.I)
_FOR_A_PART = re.compile(rf"{_S}(?:{UNIT})?{_S}for\b(?! (?:this|that|the|its|an?|being)\b)", re.I)
# "4 (out of 5)", "4 on a scale of 1 to 5", "4 (4/5)"
_LATER_SCALE = re.compile(
    rf"{_S}[(\[]?(?:on (?:an?|the) )?(?:(?:[a-z]+ )?scale(?: of| from)?|(?:out )?of(?: a)?(?: possible| maximum)?"
    rf"|max(?:imum)?(?: of)?):?{_S}(?:[0-9]++{_S}(?:-|–|to){_S})?(?P<scale>[0-9]++)|{_S}\({NUMBER}/(?P<of>[0-9]++)\)"
    rf"|{_S}(?:{UNIT})?{_S}[,(]?{_S}(?:满分|滿分|만점){_S}(?P<full_marks>[0-9]++)|{_S}(?:{UNIT})?{_S}\((?P<full_first>{_OUT_OF})",
    re.I,
)


@dataclass(frozen=True)
class Statement:
    """A number that claims to be the score."""

    value: re.Match[str]
    qualifier: str
    """What is written between the word and the number, as "(out of 10)"."""
    is_one_of_several: bool = False
    """Whether it is the score of a part, and so are others."""


def _match_value(match: re.Match[str], plain: str) -> re.Match[str] | None:
    # A heading has its score on the next line.
    value = _SAME_LINE.match(plain, match.end()) or _OWN_LINE.match(plain, match.end())
    return None if value is None or _LIST.match(plain, value.start("number")) else value


def _is_denied(start: int, plain: str) -> bool:
    """Whether what comes before in the sentence says that no such score is given."""
    # Words such as "if" reach over the sentence, "not" only over its clause.
    sentence = re.split(r"[.!?\n]", plain[max(0, start - 100) : start])[-1]
    return bool(_SUPPOSED.search(sentence) or _DENIED.search(re.split(r"[,;:]", sentence)[-1]))


def _read_statement(match: re.Match[str], value: re.Match[str]) -> Statement:
    groups = match.groupdict()
    return Statement(value, groups.get("qualifier") or groups.get("total_qualifier") or "")


def _is_part(match: re.Match[str], value: re.Match[str] | None, plain: str) -> bool:
    """Whether a statement is about a part: "question score: 4", "score: 1 for clarity"."""
    qualifier = match.groupdict()["qualifier"] or match.groupdict().get("total_qualifier") or ""
    if _PART.search(plain, max(0, match.start() - 16), match.start()) or _PART_NAMED.search(qualifier):
        return True
    return value is not None and _FOR_A_PART.match(plain, value.end()) is not None


def _choose(statements: Iterable[tuple[Statement, bool]]) -> Statement | None:
    """The first that is of the whole, else the first of a part, marked where there are others."""
    parts = []
    for statement, is_part in statements:
        if not is_part:
            return statement
        parts.append(statement)
    return replace(parts[0], is_one_of_several=len(parts) > 1) if parts else None


def _find_labelled(plain: str) -> tuple[Statement | None, bool]:
    """The last labelled statement of the whole, and whether a later one says that there is no score."""
    found: list[tuple[Statement, bool]] = []
    for match in reversed(list(_LABEL.finditer(plain))):
        value = _match_value(match, plain)
        is_part = _is_part(match, value, plain)
        if value:
            found.append((_read_statement(match, value), is_part))
        # A later "score: none" takes back the number before it.
        elif not is_part and _NO_NUMBER.match(plain, match.end()):
            return None, True
        if value and not is_part:
            break
    return _choose(found), False


def _find_in_prose(plain: str) -> Statement | None:
    """The last "score of 8" of the whole that nothing in its sentence denies."""
    found: list[tuple[Statement, bool]] = []
    for match in reversed(list(_PROSE.finditer(plain))):
        value = _match_value(match, plain)
        if value and not _is_denied(match.start(), plain):
            found.append((_read_statement(match, value), _is_part(match, value, plain)))
    return _choose(found)


def _find_weakly_labelled(plain: str) -> Statement | None:
    """The last statement whose label means other things too, where what follows leaves no doubt."""
    for match in reversed(list(_WEAK_LABEL.finditer(plain))):
        value = _match_value(match, plain)
        if value and value["scale"] and _CLAUSE_END.match(plain, value.end()):
            return _read_statement(match, value)
        if value and match["careful"] and _LINE_END.match(plain, value.end()):
            return _read_statement(match, value)
    return None


def _find_given(plain: str) -> Statement | None:
    for match in reversed(list(_GIVEN.finditer(plain))):
        value = _SAME_LINE.match(plain, match.end())
        has_scale = value and (value["scale"] or value["full"] or match["qualifier"])
        if value and has_scale and not _is_denied(match.start(), plain):
            return _read_statement(match, value)
    return None


def _find_closing(plain: str) -> Statement | None:
    """A lone number, or the "8/10" that ends the text, one of several where another "7/10" comes before it."""
    whole = _WHOLE.match(plain)
    if whole:
        return Statement(whole, "")
    closing = _CLOSING.search(plain)
    if closing is None or _is_denied(closing.start(), plain):
        return None
    # "Style 7/10, content 9/10" closes with the score of a part.
    others = [match for match in _SCALED.finditer(plain, 0, closing.start()) if match["scale"] == closing["scale"]]
    return Statement(closing, "", is_one_of_several=any(match["number"] != closing["number"] for match in others))


def _list_statements(plain: str) -> Iterator[Statement | None]:
    yield _find_in_prose(plain)
    yield _find_weakly_labelled(plain)
    yield _find_given(plain)
    yield _find_closing(plain)


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


def find_statement(plain: str) -> Statement | None:
    """The last labelled statement, or else in prose, weakly labelled, given, closing ("8/10"), or a lone number."""
    labelled, is_denied = _find_labelled(plain)
    if labelled or is_denied:
        return labelled
    return next((statement for statement in _list_statements(plain) if statement), None)


def is_ambiguous(statement: Statement, plain: str, *, highest: float) -> bool:
    """Whether a statement is one of several parts, a range, a share, or on another scale than up to `highest`."""
    value = statement.value
    groups = value.groupdict()
    if statement.is_one_of_several or groups["percent"] or groups.get("range"):
        return True
    later = _LATER_SCALE.match(plain, value.end())
    written = filter(None, [groups["scale"], groups.get("full"), *(later.groups() if later else [])])
    scales = [
        read_number(found[0]) for text in written if (found := re.match(r"[0-9]+(?:[.,][0-9]+)?|ten", text, re.I))
    ]
    # "score (0 to 10): 8" names its scale by the largest number in the bracket.
    named = [read_number(number) for number in re.findall(r"[0-9]+(?:\.[0-9]+)?", statement.qualifier)]
    if any(scale != highest for scale in scales) or (named and max(named) != highest):
        return True
    second = _SECOND_NUMBER.match(plain, value.end())
    return second is not None and (
        second["number"] is None or read_number(second["number"]) != read_number(value["number"])
    )
