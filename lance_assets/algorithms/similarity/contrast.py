"""What two like completions of one prompt must agree in to be the same: a right and a wrong one are often alike.

Source: none. A preference pair is a right and a wrong completion of one prompt, and the two share most of their words:
"it is possible" and "it is not possible" have four words of five in common. So likeness alone would drop what pairs are
made from. Texts that are alike are compared by what decides about them:

1. numbers: the numbers that occur, and the last one, which is the answer of most calculations. "2.0" is 2, "1,000" is
   1000, and "two" is 2.
2. negations: how many words deny something.
3. names: words that begin with a capital letter inside a sentence, where each text has one that the other lacks.
4. words: in short texts each word but the function words, where each text has one that the other lacks. A label such
   as "The sentiment is positive." differs from another in one word.
5. signs: the operators of formulas and code, where the words are the same.

Each rule only ever keeps more rows. Negations are a list of words in the larger languages; in a language that the list
lacks, the other four rules hold. Lists of stop words (spaCy, NLTK) count negations among the words that say nothing,
which is the opposite of what is needed here.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import LCSseq

from lance_assets.algorithms.similarity.words import tokenize_words

SHORT_WORDS = 20
"""Texts with fewer words are short: they are compared by F, and each of their words counts."""

Contrast = Literal["numbers", "negations", "names", "words", "signs"]
"""What two texts differ in."""

_NUMBER = re.compile(r"(?:(?<![\w.)])[-\u2212])?\d[\d,]*(?:\.\d+)?")
# "one" is a pronoun more often than a number.
_NUMBER_WORDS = {
    "zero": "0",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
}
_NUMBER_WORDS |= {"nine": "9", "ten": "10", "eleven": "11", "twelve": "12"}
_NEGATION = re.compile(
    r"n['’]t\b|\b(?:"
    # English
    "no|not|never|none|nor|neither|nobody|nothing|nowhere|cannot|without|false|incorrect|wrong|impossible|"
    # German, Dutch, Swedish, Polish, Turkish, Vietnamese
    "nicht|kein|keine|keinen|keiner|keinem|nein|nie|niemals|ohne|falsch|niet|geen|nooit|inte|inga|nie|değil|yok|không|"
    # French, Spanish, Italian, Portuguese
    "pas|non|jamais|aucun|aucune|sans|faux|nunca|ningún|ninguno|ninguna|sin|falso|falsa|mai|nessun|nessuno|senza|não|sem|"
    # Russian, Greek, Arabic, Hebrew, Hindi
    r"не|нет|никогда|без|δεν|μην|όχι|لا|ليس|لم|لن|לא|אין|नहीं|मत)\b|"
    # Chinese, Japanese, Korean, Thai: scripts without spaces, or with endings
    "[不没沒未无無非否]|ない|ません|なかった|않|아니|없|못|ไม่"
)
_WORD = re.compile(r"[^\W\d_][\w'’]*")
_SENTENCE_ENDS = set(".!?:;\n\"“”'‘(*#>-•=")
_SIGNS = re.compile(r"[<>=+/%^&]|!=")
_FUNCTION_WORDS = frozenset(
    tokenize_words(
        "a an the this that these those it its he she they we i you his her their our my your is are was were be been "
        "being s re m ve d ll do does did has have had will would so thus therefore hence then there here and as which "
        "who of to in on at for by with from into also just answer"
    )
)


@dataclass(frozen=True, slots=True)
class Content:
    """What of a text decides whether it says the same as one that is like it."""

    words: tuple[str, ...]
    """As `tokenize_words` gives them."""
    numbers: frozenset[str]
    """The numbers that occur, as decimal digits."""
    last_number: str
    """The last of them; empty where there is none."""
    num_negations: int
    """How many words deny something."""
    names: frozenset[str]
    """Words that begin with a capital letter inside a sentence."""
    signs: str
    """The operators, in order."""


def _read_number(text: str) -> str:
    """A number without signs of grouping and without zeros that mean nothing."""
    whole, _, part = text.replace(",", "").replace("\u2212", "-").partition(".")
    minus, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    part = part.rstrip("0")
    return minus + (digits.lstrip("0") or "0") + (f".{part}" if part else "")


def _list_names(text: str) -> frozenset[str]:
    names = set()
    for found in _WORD.finditer(text):
        word = found.group()
        if not word[0].isupper() or word == "I" or word[:2] in ("I'", "I’"):
            continue
        before = text[: found.start()].rstrip(" ")
        if before and before[-1] not in _SENTENCE_ENDS:
            names.add(word)
    return frozenset(names)


def read_content(text: str) -> Content:
    """Read what decides about a text. Cost: linear in its length.

    >>> content = read_content("It is not 1,000.0 but two, as Ann says.")
    >>> sorted(content.numbers), content.last_number, content.num_negations, sorted(content.names)
    (['1000', '2'], '2', 1, ['Ann'])
    """
    folded = unicodedata.normalize("NFKC", text)
    lowered = folded.lower()
    words = tokenize_words(text)
    found = [(match.start(), _read_number(match.group())) for match in _NUMBER.finditer(lowered)]
    found += [
        (match.start(), _NUMBER_WORDS[match.group()])
        for match in _WORD.finditer(lowered)
        if match.group() in _NUMBER_WORDS
    ]
    return Content(
        words=tuple(words),
        numbers=frozenset(number for _, number in found),
        last_number=max(found)[1] if found else "",
        num_negations=len(_NEGATION.findall(lowered)),
        names=_list_names(folded),
        signs="".join(_SIGNS.findall(lowered)),
    )


def _list_deciding(words: Sequence[str]) -> set[str]:
    """The words of a short text that say something; numbers are compared by their values."""
    return {word for word in words if word not in _FUNCTION_WORDS and word not in _NUMBER_WORDS and not word.isdigit()}


def find_contrast(first: Content, second: Content) -> Contrast | None:
    """What two like completions of one prompt differ in; None where they say the same.

    >>> find_contrast(read_content("It is possible."), read_content("It is not possible."))
    'negations'
    >>> find_contrast(read_content("So the answer is 18."), read_content("The answer is 18"))
    """
    if first.numbers != second.numbers or first.last_number != second.last_number:
        return "numbers"
    if first.num_negations != second.num_negations:
        return "negations"
    if first.names - second.names and second.names - first.names:
        return "names"
    if min(len(first.words), len(second.words)) < SHORT_WORDS:
        own, others = _list_deciding(first.words), _list_deciding(second.words)
        if own - others and others - own:
            return "words"
    if first.words == second.words and first.signs != second.signs:
        return "signs"
    return None


def compute_likeness(words: Sequence[str], reference_words: Sequence[str]) -> float:
    """ROUGE-L of two texts: F where one of them is short, otherwise the largest of precision, recall and F.

    A short text is often contained in a long one without being like it. Texts without words are like none.

    >>> compute_likeness(["the", "answer", "is"], ["the", "answer", "is", "the", "sum", "of", "both"])
    0.6
    """
    if not words or not reference_words:
        return 0.0
    common = LCSseq.similarity(words, reference_words)
    return measure_likeness(common, len(words), len(reference_words))


def measure_likeness(num_common: int, num_words: int, num_reference_words: int) -> float:
    """`compute_likeness` from the length of the common subsequence and of both texts, each at least 1."""
    shorter = min(num_words, num_reference_words)
    if shorter < SHORT_WORDS:
        return 2 * num_common / (num_words + num_reference_words)
    return num_common / shorter
