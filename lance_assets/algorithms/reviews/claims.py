r"""What in a review or verdict is the writer's own claim, and what only speaks of one.

A label ("score:", "verdict:") is a claim where it opens its clause, after words from a closed list at most ("so my
final score: 8"). After any other word it speaks of another thing ("target score", "Tom's score", "it would be score").
So words that were never thought of are safe: what cannot be told to be the writer's claim is none.

All words are ours. The texts come from `review_parsing.normalise_review`: single blanks, plain signs.
"""

import re

WORD_BEFORE = (
    # English
    "so|thus|hence|therefore|then|and|but|now|here|overall|finally|lastly|consequently|in conclusion|to conclude"
    "|in (?:total|sum|all|short)|all in all|final|total|overall|revised|corrected|updated|adjusted|new|combined"
    "|my|our|the|this|its|own|a|an|i(?:'d| would)? (?:say|think|believe|judge)(?: that)?|(?:that|this|which) makes"
    # German, Dutch
    "|also|somit|daher|deshalb|damit|folglich|insgesamt|meine?|die|der|das|finale|endgültige|gesamte|abschließende|neue"
    "|dus|daarom|mijn|de|het|totale|uiteindelijke|definitieve"
    # French, Spanish, Portuguese, Italian
    "|donc|ainsi|ma|mon|la|le|l'|finale?|globale?|totale?|définitive|por (?:lo )?tanto|entonces|así que|mi|el|en total"
    "|portanto|assim|minha|meu|o|no total|quindi|dunque|pertanto|perciò|il|mio|mia|complessiv[ao]|geral|general"
    # Russian, Polish, Turkish, Hindi, Indonesian
    "|итак|следовательно|таким образом|поэтому|мо[яйе]|общ(?:ая|ий)|итогов(?:ая|ый)|финальн(?:ая|ый)"
    "|окончательн(?:ая|ый)|zatem|więc|moj[ae]|mój|ostateczn[ay]|łączn[ay]|końcow[ay]|genel|toplam|nihai|sonuç|benim"
    "|मेरा|कुल|अंतिम|समग्र|jadi"
    # Korean
    "|최종|최종적인|총|전체|종합|따라서|그래서|나의|제|이"
)
"""What may stand before a label in its clause, followed by a blank."""
_SIGNS_BEFORE = (
    "我会?|我们|[给給打]|所以|因此|故|综上|总之|最终的?|最後の?|最后的?|综合|綜合|总体|總體|整体|给出的|本次|这个|这条|该|此|的"
    "|したがって|よって|以上より|最終的な?|総合的な?|最終|総合|全体|合計|私の|この|その|の|总|總"
)
"""The same in Chinese and Japanese, which have no blanks."""
PART_WORDS = (
    "question|prompt|instruction|task|clarity|relevance|depth|breadth|safety|accuracy|correctness|style|format"
    "|helpfulness|quality|completeness|coherence|fluency|grammar|tone|conciseness"
)
"""Parts of what is reviewed, whose score is never that of the whole."""
WHOLE_WORDS = "response|answer|completion|reply|pair|review|output"
_CJK_PARTS, _CJK_WHOLE = "问题|提问|指令|清晰度|相关性|准确性|深度|質問", "回答|答案|回复|回覆|响应|答复|评价"
_MAY_PRECEDE = re.compile(
    rf"(?:(?:(?:{WORD_BEFORE}|(?:{PART_WORDS}|{WHOLE_WORDS})(?:'s)?) |l'|(?:답변|질문)(?:의)? "
    rf"|{_SIGNS_BEFORE}|{_CJK_PARTS}|{_CJK_WHOLE}))*+",
    re.I,
)
# where a clause begins: after a stop, a line end, an arrow, a bracket; " and " joins two statements
_CLAUSE_START = re.compile(r".*(?:[.!?;:,\n|{}()\[\]<>→$\\\ue001]| [-–—]|\A[-–—]| and )", re.I | re.S)
_MARKS = re.compile(r"[\s#>•+~\"'\\\-–—)]*+(?:[0-9]{1,2}[.)] ?)?+[\s#\"']*+")
_SENTENCE_START = re.compile(r".*[.!?\n](?![0-9])", re.S)
_SUPPOSED = re.compile(
    r"\b(?:if|unless|until|were it|had it|whether|assuming|suppos(?:e|ing)|wenn|falls|sofern|если|бы|gdyby|jeśli)\b"
    r"|(?:\A|\n)\W*(?:with|without|were|had|imagine|si|se|sin|sem|senza|sans|als|caso|mit|ohne|avec|con|com|met)\b"
    r"|如果|假如|假设|若|要是|倘若|的话|もし|なら|れば|たら|만약|라면|으면|إذا|لو|यदि|अगर",
    re.I,
)
_HEDGED = re.compile(
    r"(?<!\bi )(?<!\bwe )\b(?:would|could|might|may|wäre|würde|serait|sería|seria|sarebbe|zou)\b|\b(?:i|we) could\b",
    re.I,
)
_REPORTED = re.compile(
    r"(?:\b(?:say|claim|state|write|assert|declare|contend|read|boast)(?:s|d|ed|ing|n)?\b|\bwrote\b|\bsaid\b"
    r"|sagt|schreibt|behauptet|dit|écrit|dice|escribe|diz|声称|自称|写道|说道|述べ|書い)(?: ?[^\W\d]+){0,3} ?[:,]\W*\Z",
    re.I,
)
_SUPPOSED_AFTER = re.compile(
    r"\b(?:if|unless|assuming|provided|only when|wenn|falls|если|si)\b|如果|假如|もし|만약", re.I
)
_AFTER = re.compile(r"[^.!?;,\n–—\"|(){}]{0,120}")
_QUOTED = re.compile(r"\"[^\"\n]{2,400}\"|(?<![^\W_])'[^'\n]{2,400}'(?![^\W_])")
_ANNOUNCED = re.compile(
    rf"(?:\b(?:I|we)(?:'d| would| will|'ll| can| must)?(?: [a-z]+ly| therefore| thus| hence| still| also)?"
    rf" (?:give|rate|award|assign|grade|score|judge)"
    rf"|\b(?:{WHOLE_WORDS}) (?:(?:should|can|must|will|has to) be|is) (?:rated|graded|scored|judged)"
    r"|\b(?:my|our|the) (?:(?:final|overall|own) )?(?:rating|score|grade|verdict|judge?ment|decision) (?:is|for))"
    rf"(?: (?:it|this|that|the|an?|my|as|at|with|is|follows|following|(?:assistant|model)(?: [ab])?(?:'s)?"
    rf"|rating|score|grade|verdict|{WHOLE_WORDS}))*:? ?\Z",
    re.I,
)
"""What announces a quotation as the writer's own score or verdict: 'I would rate it as follows: "Rating: [[9]]"'."""
_ITEM = re.compile(
    r"\W{0,4}(?:[0-9]{1,2}[.)]|[-•+#]) ?(?:#+ )?"
    r"(?!(?:in )?(?:\w+ )?(?:overall|final|total|sum|summary|conclusion|result|verdict|decision|reason(?:ing)?)\b)"
    r"[^\W\d_][^\n:.]{1,40}: ?[^\n]+",
    re.I,
)
"""A line that names a criterion in a list and says something of it."""
_JSON_START = re.compile(r"\{(?=\s*[\"'])|\[(?=\s*\{\s*[\"'])")
_BLOCK_QUOTATION = re.compile(r"^>[^\n]*", re.M)
_WRAPPERS = "review|evaluation|assessment|judge?ment|results?|output|scores|answer|feedback|json"
_ELEMENT = re.compile(
    rf"<(?!(?:{_WRAPPERS})>)(?P<name>[a-z][a-z ]{{1,30}})>(?P<inner>[\s\S]{{0,1000}}?)</(?P=name)>", re.I
)
"""An element that does not hold the whole review."""
_FIELD = re.compile(r"[\"'][^\"'\n]{1,40}[\"'] ?: ?[\"']?[0-9][0-9./]{0,9}")
_FIELD_VALUE = re.compile(r"[\s\"':]{1,9}([0-9]{1,4}(?:\.[0-9]{1,3})?)")
_JSON_TOKEN = re.compile(r"\"(?:[^\"\\]|\\.)*+\"|[{}\[\]]")
MASKED_DIGIT, _MASKED = "\ue000", "\ue001"
"""What replaces a digit, and any other sign, in what is not the writer's claim; the length of the text stays."""


def find_clause(plain: str, place: int) -> str:
    """What stands before a place in its clause, without bullets and opening marks."""
    before = plain[max(0, place - 80) : place]
    start = _CLAUSE_START.match(before)
    clause = before[start.end() :] if start else before
    marks = _MARKS.match(clause)
    return clause[marks.end() :] if marks else clause


def find_sentence(plain: str, place: int) -> str:
    """What stands before a place in its sentence."""
    before = plain[max(0, place - 160) : place]
    start = _SENTENCE_START.match(before)
    return before[start.end() :] if start else before


def opens_clause(plain: str, place: int) -> bool:
    """Whether nothing but words of the closed list comes before a place in its clause.

    >>> [opens_clause(text, text.index("score")) for text in ("So my final score: 8", "- score: 8", "Target score: 8")]
    [True, True, False]
    """
    clause = find_clause(plain, place)
    # A word that runs into the label is another word.
    spaced = clause if not clause or not clause[-1].isascii() else clause.rstrip() + " "
    return _MAY_PRECEDE.fullmatch(spaced) is not None


def is_of_item(plain: str, place: int) -> bool:
    """Whether a claim ends an item of a list of criteria, and is of that criterion alone.

    >>> texts = ("2. Style: B is livelier. Verdict: B", "2. Verdict: B", "Style: B is livelier. Verdict: B")
    >>> [is_of_item(text, text.index("Verdict")) for text in texts]
    [True, False, False]
    """
    return _ITEM.fullmatch(plain[max(plain.rfind("\n", 0, place) + 1, place - 600) : place]) is not None


def is_supposed(plain: str, place: int, end: int, *, is_labelled: bool = False) -> bool:
    """Whether the sentence around a claim from `place` to `end` only supposes or reports it.

    A label may also follow a closing bracket, where another sentence begins.

    >>> text = "With an example it would get score: 9"
    >>> is_supposed(text, text.index("score"), len(text))
    True
    """
    sentence = find_sentence(plain, place)
    sentence = sentence.rpartition(") ")[2] if is_labelled else sentence
    clause = re.split(r"[,;:]", sentence)[-1]
    if (
        _SUPPOSED.search(sentence)
        or _HEDGED.search(clause)
        or _REPORTED.search(sentence[: len(sentence) - len(clause)])
    ):
        return True
    after = _AFTER.match(plain, end)
    return after is not None and _SUPPOSED_AFTER.search(after[0]) is not None


def _mask(text: str) -> str:
    return re.sub(r"[^\n]", lambda sign: MASKED_DIGIT if sign[0] in "0123456789" else _MASKED, text)


def _read_object(plain: str, begin: int) -> tuple[str, int, bool]:
    """A JSON object or list from behind its opening sign, nested parts masked, where it ends, and whether it does."""
    pieces, depth, place = [], 1, begin
    while depth and (token := _JSON_TOKEN.search(plain, place)):
        outside, written = plain[place : token.start()], token[0]
        pieces.append(outside if depth == 1 else _mask(outside))
        place = token.end()
        if len(written) == 1:
            depth += 1 if written in "{[" else -1
        pieces.append(written if depth <= 1 else _mask(written))
    # Behind an object that never ends, what is written as a field may be another's; a label of its own is none.
    rest = "" if not depth else plain[place:]
    inner = rest if depth <= 1 else _FIELD.sub(lambda field: _mask(field[0]), rest)
    return "".join([*pieces, inner]), place + len(rest), not depth


def _find_own_line(plain: str, labels: re.Pattern[str]) -> int:
    """Where, behind every closing brace, a line begins with a label and a colon; the text's end where none does.

    A field of an object has its name in quotation marks, so such a line ends an object that was never closed.
    """
    line = re.compile(rf"\n[ #>•+~-]{{0,6}}(?:{labels.pattern})[\"')\]]{{0,3}} ?:", labels.flags)
    found = line.search(plain, plain.rfind("}") + 1)
    return found.start() if found else len(plain)


def _mask_inner_json(plain: str, labels: re.Pattern[str]) -> str:
    """Mask what is nested in JSON, and objects that score different things: a part's field is none of the whole."""
    pieces, objects, place, own_line = [], [], 0, _find_own_line(plain, labels)
    while start := _JSON_START.search(plain, place):
        inner, end, is_closed = _read_object(plain, start.end())
        if not is_closed and start.end() <= own_line < len(plain):
            inner, end, _ = _read_object(plain[:own_line], start.end())
        pieces += [plain[place : start.end()], inner]
        objects.append(inner)
        place = end
    pieces.append(plain[place:])
    claimed = [
        value[1]
        for inner in objects
        for label in labels.finditer(inner)
        if (value := _FIELD_VALUE.match(inner, label.end())) is not None
    ]
    # Objects that differ are parts of a review: which of them is the whole cannot be told.
    are_parts = len(objects) > 1 and len(set(claimed)) > 1
    return "".join(_mask(piece) if are_parts and piece in objects else piece for piece in pieces)


def _mask_elements(plain: str, labels: re.Pattern[str]) -> str:
    """Mask the labels in XML elements of another name: `<clarity><score>1</score></clarity>` scores a part."""

    def mask_element(found: re.Match[str]) -> str:
        is_label = labels.fullmatch(found["name"].strip()) is not None
        return found[0] if is_label or not labels.search(found["inner"]) else _mask(found[0])

    return _ELEMENT.sub(mask_element, plain)


def mask_others(plain: str, labels: re.Pattern[str]) -> str:
    """Replace what is quoted and holds a label, and what is nested in JSON, by signs that no pattern reads.

    Args:
        plain: a normalised text.
        labels: what a quotation is masked for; a text that is quoted as a whole is none, nor is one that the writer
            announces as its own score or verdict.

    Returns:
        A text of the same length.

    >>> masked = mask_others('It says "score: 9". score: 2', re.compile("score"))
    >>> masked.endswith(" score: 2"), "9" in masked, len(masked)
    (True, False, 28)
    """
    text = _mask_elements(_mask_inner_json(plain, labels), labels)
    first = re.search(r"\w", text)
    num_last = len(re.split(r"\w", text[-20:])[-1])

    def mask_quotation(quoted: re.Match[str]) -> str:
        is_whole = first is None or (quoted.start() < first.start() and quoted.end() > len(text) - num_last - 1)
        has_number = re.search(r"[0-9]|:|\[", quoted[0]) is not None
        is_own = is_whole or _ANNOUNCED.search(find_sentence(text, quoted.start())) is not None
        return _mask(quoted[0]) if has_number and not is_own and labels.search(quoted[0]) else quoted[0]

    unquoted = _QUOTED.sub(mask_quotation, text)
    # A block quotation; one at the end stands for itself, unless there is a claim before it.
    own = re.search(r"^(?!>)[^\n]*\w", unquoted, re.M)
    last_line = unquoted.rfind("\n") + 1
    quoted_up_to = last_line if own and not _has_own_label(unquoted[:last_line], labels) else len(unquoted)
    return _BLOCK_QUOTATION.sub(
        lambda line: _mask(line[0]) if own and line.start() < quoted_up_to else line[0], unquoted
    )


def _has_own_label(text: str, labels: re.Pattern[str]) -> bool:
    return any(labels.search(line) for line in text.split("\n") if not line.startswith(">"))
