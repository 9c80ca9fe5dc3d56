r"""Where a review states its score: patterns over the words of `score_words`, and which of several counts.

A number counts where its label opens its clause (`claims`), or where the words before it give it ("I give this a
score of 8"). What a score would mean or need, what is only supposed, quoted or asked, and the score of a part, is none.
All patterns are ours: no library reads scores. `review_parsing` says what is read and what is not. Every pattern is
bounded, so that the search is linear in the text.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from lance_assets.algorithms.reviews.claims import (
    PART_WORDS,
    WHOLE_WORDS,
    find_clause,
    find_sentence,
    is_of_item,
    is_supposed,
    mask_others,
    opens_clause,
)
from lance_assets.algorithms.reviews.score_words import (
    BETWEEN,
    CAREFUL_WORDS,
    CJK_SCORE_WORDS,
    HALVES,
    NUMBER,
    OF,
    SCALED_WORDS,
    SCORE_WORDS,
    SUM_WORDS,
    UNIT,
    read_number,
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
_OPEN, _CLOSE = r"[ ~<>\[({}\"'$|\\]{0,9}", r"(?: ?\\|[>\])}\"'$]){0,9}"
_NO_LETTER, _NO_LETTER_AFTER = r"(?<![a-z0-9à-ÿа-я])", r"(?![a-z0-9à-ÿа-я])"
_WORD = rf"(?:{_NO_LETTER}(?:{SCORE_WORDS}){_NO_LETTER_AFTER}|(?:{CJK_SCORE_WORDS}))"
_QUALIFIER = (
    rf"(?:{_S}(?:\([^()\n]{{0,40}}\)|\[[^\[\]\n]{{0,40}}\]|/{_S}[0-9]+|out{_S}of{_S}[0-9]+"
    rf"|(?:for|of){_S}(?:this|the|that)(?: [a-z'-]+){{1,6}}?|given|assigned|awarded|earned))?"
)
# verbs that equate, in any language that is read; what only may be ("would be") is left out
_COPULA = (
    r"(?:is|was|comes? to|equals|should be|will be|stands at|ist|lautet|beträgt|est(?: de)?|es(?: de)?|è|é|fica em"
    r"|wynosi|jest|составляет|рав(?:ен|на|но)|становить|dus|is dus|है|هي|هو|adalah|är|er|là|je|on|este|είναι|הוא)"
    r"(?= ?[:=]|\b)"
)
_IS = rf"(?:{_COPULA}(?:{_S}(?:therefore|thus|then|now|donc|also|somit|daher|dus|quindi|portanto))?)"
_CJK_IS = "คือ|为|為|是|は|が|은|는|이|가"
_QUOTES = r"[\"')\]}]{0,4}"
_SIGN = rf"(?:(?:{_IS}{_S}|(?:{_CJK_IS}){_S})?(?:[:=]+>?|->|→)|>|\||[–—]|-(?=\s)|{_CJK_IS})(?:{_S}is\b)?"
_LABEL = re.compile(
    rf"{_WORD}{_S}{_QUOTES}(?P<qualifier>{_QUALIFIER}){_S}{_QUOTES}{_S}{_SIGN}"
    rf"|\b(?:final|total|overall){_S}{_WORD}(?P<total_qualifier>{_QUALIFIER}){_S}(?:{_SIGN}|{_IS}\b|of\b|(?=[0-9]))"
    r"|[\[<] ?(?P<boxed>(?:(?:final|overall|total) )?(?:result|score|rating|grade|verdict|points|评分|得分|점수))"
    rf" ?[\]>]{_S}[:=-]?|(?P<doubled>\[\[)(?= ?[0-9])",
    re.I,
)
_PROSE = re.compile(
    rf"(?:{_WORD}(?P<qualifier>{_QUALIFIER}){_S}(?P<verb>{_IS}\b|of\b|[:=])?"
    rf"|(?P<cjk_verb>[给給打](?:出|它)?)(?={_S}[0-9.]+{_S}分))",
    re.I,
)
_RUNS_ON = re.compile(
    r"\n(?:<(?:question|instruction|prompt|task)>|(?:instruction|task|prompt|question) ?[0-9]{0,2}:)", re.I
)
_ANY_LABEL = re.compile(_WORD, re.I)
# "Overall:" may open a remark as well, so these labels need more proof than a colon.
_WEAK_LABEL = re.compile(
    rf"{_NO_LETTER}(?:(?P<careful>{CAREFUL_WORDS})|(?P<sum>{SUM_WORDS})|{SCALED_WORDS}){_NO_LETTER_AFTER}"
    rf"{_S}{_QUOTES}(?P<qualifier>{_QUALIFIER}){_S}{_QUOTES}{_S}(?:(?P<copula>{_IS}|{_CJK_IS})?{_S}[:=]|\||[–—]"
    r"|[は為为是은는](?= ?[\[\"(]{0,4}[0-9]))",
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
    rf"|{_S}\([a-z ]{{1,24}}\){_S}(?:[,;+&]|and\b){_S}{NUMBER}"
    r"| ?\.[0-9]| \. [0-9]"
    rf"|{_S}(?:{UNIT})?{_S}for (?:the|this|its) [a-z]{{2,20}}{_S}(?:[,;+&]|and){_S}(?:an? )?{NUMBER}"
    rf"|{_S}(?:{UNIT})?{_S}(?:each|apiece)\b"
    rf"|{_S}(?:{UNIT})?{_S}(?:{HALVES})|{_S}\+(?![0-9])|{_S}stars?\b",
    re.I,
)
_UNIT = re.compile(rf"{_S}(?:{UNIT})", re.I)
_COUNTS = re.compile("point|mark|punkt|punto|punti|ponto", re.I)
_MAY_CLOSE = re.compile(
    r"(?:(?:so|thus|hence|therefore|overall|in total|it(?:'s| is)|that makes"
    r"|i(?:'d| would)? say|perhaps|maybe|a|an|solid|strong|final|total) ?)*",
    re.I,
)
_CJK_ENDS = "(?:です|とします|とする|とさせていただきます|となります|となる|である|だ|입니다|이다|합니다|로 합니다)"
_LINE_END = re.compile(rf"{_S}(?:{UNIT})?{_S}{_CJK_ENDS}?{_S}[.!]?[\"']?{_S}(?:\n|\||</|\Z)", re.I)
_CLAUSE_END = re.compile(rf"{_S}(?:{UNIT})?{_S}(?:[.,;!)(|\n–—-]|\Z)", re.I)
# in the same clause: what is said is not the score
_DENIED = re.compile(
    r"\b(?:not|cannot|never|neither|nor|no|than|above|below|under|over|instead of|short of"
    r"|to (?:reach|get|earn|achieve|receive|obtain|deserve|warrant|need|require|merit)|going to|wanted to|tempted"
    r"|rather|almost|nearly|considered|usually|normally|typically|generally|often|always|sometimes)\b|n't\b",
    re.I,
)
# "a score of 9 requires a proof", "score: 10 = perfect", "score: 3?": what a score means, and a question
_MENTION = re.compile(
    rf"{_S}(?:{UNIT})?{_S}(?:\?|(?:=|means?|requires?|needs?|would|is|are|can|could|should|must|may"
    r"|might|has to|have to|stands? for|indicates?|denotes?|represents?|counts? as"
    r"|or (?:more|higher|above|better|less|lower)|and (?:above|below|up)|bedeutet|wäre|signifie|significa|означает)"
    r"(?![^\W\d_])"
    r"|需要|要求|意味|表示|代表|才|必须|必須|应当|以上|以下|には|が必要|とは|이상|이하)",
    re.I,
)
_OTHER_CASE = re.compile(
    r"\b(?:if|when|after|before|with|previous|prior|old|former|target|goal|potential|expected|ideal|desired|passing)\b",
    re.I,
)
_ADVERB = "(?:so|thus|hence|therefore|overall|clearly|only|still|just|easily|really|ultimately|finally)"
_ARTICLES = (
    rf"(?: (?:an?|the|my|its|out|at|as|with|{_ADVERB}|final|total|overall|solid|strong|full|perfect|about|around))*"
)
_GIVES = re.compile(
    # "I would give this response a", "it deserves a", "which results in a final"
    r"\b(?:I|we)\b[^;:]*\b(?:giv|rat|award|assign|grad|scor|choos|settl|go|put|propos|suggest|say)(?:e|es|ing)?\b"
    r"(?: [\w'-]+){0,7}\Z"
    rf"|(?:\A|[,;:]|\b(?:and|so|thus|hence|therefore|overall|but)\b)\W*(?:{_ADVERB},? )*"
    rf"(?:it|(?:this|that)(?: one)?|(?:this|the) (?:(?:assistant|model)'s )?(?:{WHOLE_WORDS}))(?: {_ADVERB})? "
    r"(?:gets?|earns?|deserves?|receives?|merits?|warrants?|scores?|is worth|comes to|achieves?"
    r"|is (?:given|awarded|rated))"
    rf"{_ARTICLES}\Z"
    r"|\b(?:giving|result(?:s|ing) in|lead(?:s|ing) to|earning|yielding|make|makes|add(?:s|ing) up to|comes to"
    r"|(?:goes|going|went|ends?|ended|ending|won|wins?|finish(?:es|ed)?|leaves (?:it|us|me)) (?:up )?with)"
    rf"(?: (?:it|this|us))?{_ARTICLES}\Z",
    re.I,
)
_STOPS = re.compile(
    rf"{_S}(?:{UNIT})?{_S}(?:[.,;!)(|\n\"'–—-]|\Z"
    r"|(?:because|since|as|for|given|due|overall|in total|and|but|です|입니다)\b)",
    re.I,
)
# "Score: 1. The question is clear.\n2. ...": a list begins, not a score
_LIST = re.compile(r"1[.)] [^\n]{1,400}\n(?:[^\n]{0,400}\n){0,2}2[.)] ")
# right before a label, on the line above it, or after "for the": the score of a part
_WHOLES = rf"(?:\b(?:{WHOLE_WORDS})(?:'s)?|回答|答案|回复|响应|답변)"
_PARTS = rf"(?:\b(?:{PART_WORDS})(?:'s)?|问题|提问|指令|清晰度|相关性|准确性|深度|質問|질문)"
_PART = re.compile(rf"(?:(?P<whole>{_WHOLES})|{_PARTS})[ 的の]?\Z", re.I)
_PART_ABOVE = re.compile(
    rf"(?:\A|\n)(?:#[# ]{{0,5}}{_PARTS} ?:?|[\-•+> 0-9.)]{{0,9}}{_PARTS} ?:)\n[-•+> ]{{0,4}}\Z", re.I
)
_PART_NAMED = re.compile(rf"(?:for|of) (?:the|this|that) (?:(?P<whole>{_WHOLES})|{_PARTS})\Z", re.I)
_FOR_A_PART = re.compile(
    rf"{_S}(?:{UNIT})?{_S}for\b(?:(?! (?:this|that|the|its|an?|being)\b)| (?:the|its|this) {_PARTS}(?![^\W_]))", re.I
)
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
    start: int
    """Where its label begins, or the number without one."""
    qualifier: str = ""
    """What is written between the word and the number, as "(out of 10)"."""
    is_one_of_several: bool = False
    """Whether it is the score of a part, or one of several."""
    is_labelled: bool = False
    """Whether a label and a sign announce it."""


@dataclass(frozen=True)
class _Found:
    """A statement, and of what it is."""

    statement: Statement
    part: str | None = None
    """What it is the score of: None for the whole, "whole" for the response, "part" for anything else."""


def _match_value(match: re.Match[str], plain: str) -> re.Match[str] | None:
    """The number after a label that gives one, and neither begins a list nor says what a score means."""
    # A heading has its score on the next line.
    value = _SAME_LINE.match(plain, match.end()) or _OWN_LINE.match(plain, match.end())
    if value is None or _LIST.match(plain, value.start("number")) or _MENTION.match(plain, value.end()):
        return None
    return value


def _is_denied(start: int, plain: str) -> bool:
    """Whether what comes before in the clause says that no such score is given."""
    return _DENIED.search(re.split(r"[,;:]", find_sentence(plain, start))[-1]) is not None


def _is_given(start: int, plain: str) -> bool:
    """Whether the words before a label give it: "I give this a", "it deserves a"."""
    return _GIVES.search(find_sentence(plain, start).rstrip()) is not None and not _is_denied(start, plain)


def _read_found(match: re.Match[str], value: re.Match[str], plain: str) -> _Found:
    groups = match.groupdict()
    qualifier = groups.get("qualifier") or groups.get("total_qualifier") or ""
    before = plain[max(0, match.start() - 60) : match.start()]
    named = _PART.search(before[-16:]) or _PART_NAMED.search(qualifier)
    part = None if named is None else "whole" if named["whole"] else "part"
    if _PART_ABOVE.search(before) or _FOR_A_PART.match(plain, value.end()):
        part = "part"
    return _Found(Statement(value, match.start(), qualifier), part)


def _choose(found: Iterable[_Found]) -> Statement | None:
    """The first that is of the whole, else the only one, marked unless it is the response's."""
    parts: list[_Found] = []
    for one in found:
        if one.part is None:
            return one.statement
        parts.append(one)
    if not parts:
        return None
    return replace(parts[0].statement, is_one_of_several=len(parts) > 1 or parts[0].part == "part")


def _is_other_case(match: re.Match[str]) -> bool:
    groups = match.groupdict()
    qualifier = groups.get("qualifier") or groups.get("total_qualifier") or ""
    return _OTHER_CASE.search(qualifier) is not None


def _find_labelled(plain: str) -> tuple[Statement | None, bool]:
    """The last labelled statement of the whole, and whether a later one says that there is no score."""
    found: list[_Found] = []
    for match in reversed(list(_LABEL.finditer(plain))):
        is_boxed = match["boxed"] is not None or match["doubled"] is not None
        if not is_boxed and not opens_clause(plain, match.start()) and not _is_given(match.start(), plain):
            continue
        value = _match_value(match, plain)
        if value is None:
            # A later "score: none" takes back the number before it.
            if (
                _NO_NUMBER.match(plain, match.end())
                and _PART.search(plain, max(0, match.start() - 16), match.start()) is None
            ):
                return None, True
            continue
        ends = not is_boxed or _LINE_END.match(plain, value.end()) is not None
        # "I would rate it as a [[9]] out of 10. It is ..." goes on, and is given.
        ends = ends or (_STOPS.match(plain, value.end()) is not None and _is_given(match.start(), plain))
        if not ends or _is_other_case(match) or is_supposed(plain, match.start(), value.end(), is_labelled=True):
            continue
        one = _read_found(match, value, plain)
        if one.part is None and not is_boxed and is_of_item(plain, match.start()):
            # One item alone may be of the whole; several are parts.
            one = replace(one, part="whole")
        found.append(replace(one, statement=replace(one.statement, is_labelled=True)))
        if one.part is None:
            break
    return _choose(found), False


def _find_in_prose(plain: str) -> Statement | None:
    """The last "score of 8" of the whole that is given, or "the score is 8", and that nothing denies."""
    found: list[_Found] = []
    for match in reversed(list(_PROSE.finditer(plain))):
        value = _match_value(match, plain)
        if value is None or _is_other_case(match) or is_supposed(plain, match.start(), value.end()):
            continue
        opens = opens_clause(plain, match.start()) and _STOPS.match(plain, value.end()) is not None
        if match["verb"] and match["verb"].lower() == "of":
            # "A score of 8." stands alone; "a score of 9 and ..." may be about any.
            opens = opens and _CLAUSE_END.match(plain, value.end()) is not None
        one = _read_found(match, value, plain)
        if one.part == "part" or opens or _is_given(match.start(), plain):
            found.append(one)
    # A part's score alone may be part of anything.
    chosen = _choose(found)
    return None if len(found) == 1 and found[0].part == "part" else chosen


def _find_weakly_labelled(plain: str) -> Statement | None:
    """The last statement whose label means other things too, where what follows leaves no doubt."""
    for match in reversed(list(_WEAK_LABEL.finditer(plain))):
        value = _match_value(match, plain)
        if value is None or not opens_clause(plain, match.start()) or is_supposed(plain, match.start(), value.end()):
            continue
        ends = _LINE_END.match(plain, value.end())
        is_sure = value["scale"] and _CLAUSE_END.match(plain, value.end())
        counted = ends and match["sum"] and (_UNIT.match(plain, value.end()) or _COUNTS.search(match["sum"]))
        if is_sure or counted or (ends and (match["careful"] or match["copula"])):
            return Statement(value, match.start(), match["qualifier"] or "", is_labelled=True)
    return None


def _find_given(plain: str) -> Statement | None:
    for match in reversed(list(_GIVEN.finditer(plain))):
        value = _SAME_LINE.match(plain, match.end())
        has_scale = value and (value["scale"] or value["full"] or match["qualifier"])
        if value is None or not has_scale or _MENTION.match(plain, value.end()):
            continue
        if not _is_denied(match.start(), plain) and not is_supposed(plain, match.start(), value.end()):
            return Statement(value, match.start(), match["qualifier"] or "")
    return None


def _find_closing(plain: str) -> Statement | None:
    """A lone number, or the "8/10" that ends the text, one of several where another "7/10" comes before it."""
    whole = _WHOLE.match(plain)
    if whole:
        return Statement(whole, whole.start("number"))
    closing = _CLOSING.search(plain)
    if closing is None or _is_denied(closing.start(), plain) or is_supposed(plain, closing.start(), closing.end()):
        return None
    # "Style 7/10, content 9/10" closes with the score of a part.
    others = [match for match in _SCALED.finditer(plain, 0, closing.start()) if match["scale"] == closing["scale"]]
    is_one = any(match["number"] != closing["number"] for match in others)
    clause = find_clause(plain, closing.start())
    if not is_one and not _MAY_CLOSE.fullmatch(clause):
        return None
    return Statement(closing, closing.start(), is_one_of_several=is_one)


def _list_statements(plain: str) -> Iterator[Statement | None]:
    yield _find_in_prose(plain)
    yield _find_weakly_labelled(plain)
    yield _find_given(plain)
    yield _find_closing(plain)


def find_statement(plain: str) -> Statement | None:
    """The last labelled statement, or else in prose, weakly labelled, given, closing ("8/10"), or a lone number.

    Quotations and what is nested in JSON do not count (`claims`).
    """
    plain = mask_others(plain, _ANY_LABEL)
    runs_on = _RUNS_ON.search(plain)
    # Another example that the model made up has a score of its own; the review ended before it.
    ended = _find_labelled(plain[: runs_on.start()])[0] if runs_on else None
    if ended:
        return ended
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
    # Equal parts ("1 + 1 + 1", "4 and 4") are parts too.
    return second is not None
