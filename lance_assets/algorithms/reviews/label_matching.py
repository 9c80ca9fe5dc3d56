"""Read which of some labels an answer names: classification by a model that writes text.

Source: LLM2LLM (arXiv 2403.15042) compares the labels of SNIPS, TREC, SST-2 and CaseHOLD; the rule is not published.

Labels and answers are compared word by word, without case, accents of writing (full-width signs) and punctuation, and
"AddToPlaylist", "add_to_playlist" and "Add to playlist" are the same words. A label may have further names.

An answer is read where it names exactly one label, as often as it likes, and does not deny it: "not positive" names
nothing that is known. Of labels that lie within each other the longer one is named: "very good" is not "good".
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a word begins within another one, as in AddToPlaylist and HTTPError."""
_DENIALS = frozenset(("not", "no", "non", "never", "neither", "nor", "without", "isn't", "aren't", "wasn't", "n't"))
"""Words that turn the label after them into another."""

Words = tuple[str, ...]


def split_label(text: str) -> Words:
    """The words of a label or an answer, as they are compared.

    >>> split_label("AddToPlaylist"), split_label("**Add-to  playlist!**")
    (('add', 'to', 'playlist'), ('add', 'to', 'playlist'))
    """
    plain = _CAMEL.sub(" ", unicodedata.normalize("NFKC", text)).replace("’", "'").casefold()
    # Marks belong to the letter before them, as vowels do in Thai or Hindi.
    kept = (c if c == "'" or unicodedata.category(c)[0] in "LNM" else " " for c in plain)
    return tuple(word for found in "".join(kept).split() if (word := found.strip("'")))


@dataclass(frozen=True)
class Labels:
    """Some labels with all their names."""

    names: Mapping[Words, str]
    """The label that each name means, by the words of the name."""

    def read(self, answer: str) -> str | None:
        """The one label that an answer names; None where it names none or several, or denies one.

        >>> labels = build_labels({"positive": ("good",), "negative": ("bad",)})
        >>> labels.read("It is GOOD."), labels.read("good and bad"), labels.read("not positive"), labels.read("?")
        ('positive', None, None, None)
        """
        words, found, place = split_label(answer), set(), 0
        longest = max(map(len, self.names))
        while place < len(words):
            sizes = range(min(longest, len(words) - place), 0, -1)
            size = next((size for size in sizes if words[place : place + size] in self.names), 0)
            if not size:
                place += 1
                continue
            # A denial that is part of a label's own name was taken with it.
            if place and words[place - 1] in _DENIALS and words[place - 1 : place] not in self.names:
                return None
            found.add(self.names[words[place : place + size]])
            place += size
        return found.pop() if len(found) == 1 else None


def build_labels(labels: Mapping[str, Sequence[str]]) -> Labels:
    """Labels from their further names.

    Args:
        labels: each label with its further names, of which it may have none.

    Raises:
        ValueError: fewer than two labels, a name without any letter or digit, or one that two labels have.
    """
    if len(labels) < 2:
        raise ValueError(f"labels must be two or more to choose from, got {', '.join(labels) or 'none'}")
    names: dict[Words, str] = {}
    for label, others in labels.items():
        for name in (label, *others):
            words = split_label(name)
            if not words:
                raise ValueError(f"a label's name needs a letter or a digit, got {name!r} for the label {label!r}")
            if names.setdefault(words, label) != label:
                raise ValueError(f"the labels {names[words]!r} and {label!r} have the same name {name!r}")
    return Labels(names)
