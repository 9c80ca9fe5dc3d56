"""What each kind of rule asks of a text: IFEval's kinds of instructions that can be verified (arXiv 2311.07911).

Source: google-research `instruction_following_eval/instructions.py`, as lm-evaluation-harness carries it. A kind has
IFEval's id and the names of its arguments, so that a row of IFEval's data is a row here. Differences:

1. Arguments that are missing are an error; there they are drawn at random.
2. Keywords are texts: there they are regular expressions, in which "C++" is an error.
3. Sentences are counted by a rule, as in `split_into_sentences` of the same code: one ends at a full stop, a question
   mark or an exclamation mark that is none of an abbreviation, a decimal point, a web address or an initial. There they
   are counted by NLTK's Punkt, whose model is a download.
4. The language is lingua's (extra `filters`); there it is langdetect's, whose answer on short texts is drawn at random.
   For capitals and lower case the language is not asked.
5. "at most" is a relation too; there the only ones are "less than" and "at least".
6. `nth_paragraph_first_word` counts empty paragraphs nowhere; there they move the number of the paragraph.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Arguments = Mapping[str, Any]
Found = tuple[bool, str]
"""Whether a rule holds, and what was found in words."""

RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "less than": lambda found, bar: found < bar,
    "at least": lambda found, bar: found >= bar,
    "at most": lambda found, bar: found <= bar,
}
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""What a constrained response has one of."""
_WORD = re.compile(r"\w+")
_ABBREVIATIONS = r"(?:Mr|St|Mrs|Ms|Dr|Prof|Inc|Ltd|Jr|Sr|Co|vs|etc|e\.g|i\.e|No|Fig|approx|Ph\.D)"
_NO_END = re.compile(
    rf"\b{_ABBREVIATIONS}\.(?=\s+[^\sA-Z]|\s+[A-Z][a-z]+\b)|(?<=\d)\.(?=\d)|\.(?=(?:com|net|org|io|gov|edu|me)\b)"
    r"|(?<=\b[A-Za-z])\.(?=\s*[A-Za-z]\.)|(?<=\s[A-Z])\.(?=\s)"
)
_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)|[。！？]+")


def count_words(text: str) -> int:
    """The number of words.

    >>> count_words("It's a well-known fact.")
    6
    """
    return len(_WORD.findall(text))


def count_sentences(text: str) -> int:
    """The number of sentences; words after the last end are one more.

    >>> count_sentences("Dr. Lee paid 3.50 dollars. Why? It was late")
    3
    """
    plain = _NO_END.sub("\x00", " ".join(text.split()))
    parts = [part for part in _END.split(plain) if _WORD.search(part)]
    return len(parts)


def _compare(found: int, bar: int, relation: str, what: str) -> Found:
    return RELATIONS[relation](found, bar), f"{found} {what}, {relation} {bar} asked"


def check_keywords(text: str, own: Arguments) -> Found:
    """All keywords are there, in any case."""
    missing = [word for word in own["keywords"] if word.lower() not in text.lower()]
    return not missing, f"without {', '.join(map(repr, missing))}" if missing else "all keywords are there"


def check_frequency(text: str, own: Arguments) -> Found:
    """A keyword is there so often."""
    keyword = own["keyword"].strip()
    return _compare(text.lower().count(keyword.lower()), own["frequency"], own["relation"], f"times {keyword!r}")


def check_forbidden(text: str, own: Arguments) -> Found:
    """None of some words is there."""
    found = [word for word in own["forbidden_words"] if _has_word(text, word)]
    return not found, f"with {', '.join(map(repr, found))}" if found else "no forbidden word is there"


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.I) is not None


def check_letters(text: str, own: Arguments) -> Found:
    """A letter is there so often, in any case."""
    letter = own["letter"].lower()
    return _compare(text.lower().count(letter), own["let_frequency"], own["let_relation"], f"times {letter!r}")


def check_sentences(text: str, own: Arguments) -> Found:
    """So many sentences."""
    return _compare(count_sentences(text), own["num_sentences"], own["relation"], "sentences")


def check_words(text: str, own: Arguments) -> Found:
    """So many words."""
    return _compare(count_words(text), own["num_words"], own["relation"], "words")


def check_paragraphs(text: str, own: Arguments) -> Found:
    """Exactly so many paragraphs, with `***` between them."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner, ends = parts[1:-1], [parts[0], parts[-1]] if len(parts) > 1 else parts
    number = len(inner) + sum(bool(part.strip()) for part in ends)
    if not all(part.strip() for part in inner):
        return False, "an empty paragraph"
    return number == own["num_paragraphs"], f"{number} paragraphs, {own['num_paragraphs']} asked"


def check_first_word(text: str, own: Arguments) -> Found:
    """Exactly so many paragraphs, with an empty line between them, of which one begins with a word."""
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    nth, wanted = own["nth_paragraph"], own["first_word"].lower()
    if len(parts) != own["num_paragraphs"]:
        return False, f"{len(parts)} paragraphs, {own['num_paragraphs']} asked"
    if nth > len(parts):
        return False, f"no paragraph {nth}"
    first = re.split(r"[.,?!'\"]", parts[nth - 1].split()[0].lstrip("'\""))[0].lower()
    return first == wanted, f"paragraph {nth} begins with {first!r}, {wanted!r} asked"


def check_placeholders(text: str, own: Arguments) -> Found:
    """At least so many placeholders in square brackets."""
    return _compare(len(re.findall(r"\[[^\n]*?\]", text)), own["num_placeholders"], "at least", "placeholders")


def check_postscript(text: str, own: Arguments) -> Found:
    """A postscript with its marker."""
    marker = own["postscript_marker"].strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern = patterns[marker] if marker in patterns else re.escape(marker.lower())
    found = re.search(pattern, text.lower()) is not None
    return found, f"a postscript {marker}" if found else f"no postscript {marker}"


def check_bullets(text: str, own: Arguments) -> Found:
    """Exactly so many bullet points."""
    number = len(re.findall(r"^[ \t]*\*[^*].*$", text, re.M)) + len(re.findall(r"^[ \t]*-.*$", text, re.M))
    return number == own["num_bullets"], f"{number} bullet points, {own['num_bullets']} asked"


def check_options(text: str, own: Arguments) -> Found:
    """One of IFEval's three answers."""
    found = any(option in text for option in OPTIONS)
    return found, "one of the options is there" if found else f"none of {', '.join(OPTIONS)}"


def check_highlights(text: str, own: Arguments) -> Found:
    """At least so many parts in *emphasis*."""
    single = [part for part in re.findall(r"\*[^\n*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n*]*\*\*", text) if part[2:-2].strip()]
    return _compare(len(single) + len(double), own["num_highlights"], "at least", "highlighted parts")


def check_sections(text: str, own: Arguments) -> Found:
    """At least so many sections, each with its word and number."""
    splitter = own["section_spliter"].strip()
    number = len(re.findall(rf"\s?{re.escape(splitter)}\s?\d+\s?", text))
    return _compare(number, own["num_sections"], "at least", "sections")


def check_json(text: str, own: Arguments) -> Found:
    """The whole text is JSON, perhaps in a fence."""
    plain = re.sub(r"\A```(?:json)?", "", text.strip(), flags=re.I).removesuffix("```").strip()
    try:
        json.loads(plain)
    except (ValueError, RecursionError) as error:
        return False, f"no JSON: {error}"
    return True, "it is JSON"


def check_title(text: str, own: Arguments) -> Found:
    """A title in double angular brackets."""
    found = any(title.strip("<>").strip() for title in re.findall(r"<<[^\n]+>>", text))
    return found, "a title is there" if found else "no <<title>>"


def check_two(text: str, own: Arguments) -> Found:
    """Two different responses with six asterisks between them."""
    parts = text.split("******")
    said = [part.strip() for part in parts if part.strip()]
    is_whole = all(part.strip() for part in parts[1:-1])
    return is_whole and len(said) == 2 and said[0] != said[1], f"{len(set(said))} different responses, 2 asked"


def check_repeated(text: str, own: Arguments) -> Found:
    """The text begins with the prompt."""
    found = text.strip().lower().startswith(own["prompt_to_repeat"].strip().lower())
    return found, "the prompt is repeated first" if found else "the prompt is not repeated first"


def check_end(text: str, own: Arguments) -> Found:
    """The text ends with a phrase."""
    found = text.strip().strip('"').lower().endswith(own["end_phrase"].strip().lower())
    return found, f"it {'ends' if found else 'does not end'} with {own['end_phrase']!r}"


def check_start(text: str, own: Arguments) -> Found:
    """The text begins with a phrase."""
    found = text.strip().strip('"').lower().startswith(own["start_phrase"].strip().lower())
    return found, f"it {'begins' if found else 'does not begin'} with {own['start_phrase']!r}"


def check_capital_words(text: str, own: Arguments) -> Found:
    """So many words in capitals."""
    words = re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", text)
    number = sum(word.isupper() for word in words)
    return _compare(number, own["capital_frequency"], own["capital_relation"], "words in capitals")


def check_capitals(text: str, own: Arguments) -> Found:
    """No letter is small."""
    return text.isupper(), "all letters are capitals" if text.isupper() else "small letters"


def check_lower(text: str, own: Arguments) -> Found:
    """No letter is a capital."""
    return text.islower(), "no letter is a capital" if text.islower() else "capital letters"


def check_commas(text: str, own: Arguments) -> Found:
    """No comma."""
    number = text.count(",")
    return not number, f"{number} commas" if number else "no comma"


def check_quoted(text: str, own: Arguments) -> Found:
    """The whole text is in double quotation marks."""
    plain = text.strip()
    found = len(plain) > 1 and plain[0] == plain[-1] == '"'
    return found, "it is quoted" if found else "it is not in double quotation marks"
