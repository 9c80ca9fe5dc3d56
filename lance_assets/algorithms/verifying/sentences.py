"""How many words and sentences a text has, as IFEval counts them.

Words are runs of letters, digits and `_`, as its `count_words` has them. Its sentences are those of NLTK's Punkt, whose
model is a download; here a sentence ends as in its `split_into_sentences`, a rule of the same file: at a full stop, a
question mark or an exclamation mark that is none of an abbreviation, a decimal point, a web address or an initial.
"""

import re

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
