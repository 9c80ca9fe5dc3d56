r"""Texts that others wrote, shown as text where Dagster's UI reads Markdown.

The UI reads descriptions and Markdown metadata with remark and its extension for GitHub's Markdown, and lets images
through. So a row of `![](http://...)` would call that address from the browser of whoever looks at it.

1. What is no plain word is put into a code span, where nothing is read as Markdown.
2. A backslash does not suffice: the extension looks for addresses after the backslashes are gone, and links them.
3. A vertical bar ends a cell of a table even inside a code span, so a span ends before it and another begins behind it.
4. A span with a space at both ends loses both, so it is given two more.
5. Control characters, and those that turn the direction of a line, become U+FFFD.

Hand-written: `markdown-it-py` reads Markdown and writes none, and `html.escape` leaves Markdown as it is.
"""

import re

_WORD = re.compile(
    r"""
    [("']*
    (?:
        (?!\S*www\.)/?[^\W_]+(?:[-_'/+=.,:][^\W_]+)*   # a word, a name or a path; no address has one sign alone
        | (?!\S*\]:)\[?[-+]?\d+(?:\.\d+)?%?\]?   # an end of an interval, which no address follows
        | --?[^\W_]+(?:[-_][^\W_]+)*       # an option of a command
        | [-+=/%⏎…±×·–—]+                 # a sign by itself
    )?
    %?[)"'.,;:!?…]*
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BEGINS_A_BLOCK = re.compile(r"[-+=…–—]+|\d+[.)]")
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LINE_BREAK = " ⏎ "
"""What a line break becomes where a text has to stay in one line."""


def show_text(text: str) -> str:
    r"""A text in one line of Markdown that says the same and loads, links and formats nothing.

    It is safe in a paragraph, a list and a cell of a table.

    >>> show_text("What is 3 + 4?")
    'What is 3 + 4?'
    >>> show_text("worse by 0.4 (95% interval [-0.2047, 0.5572])")
    'worse by 0.4 (95% interval [-0.2047, 0.5572])'
    >>> show_text("see ![](http://example.org) there")
    'see `![](http://example.org)` there'
    """
    text = _HIDDEN.sub("\ufffd", text).replace("\r\n", "\n")
    words = re.sub(r"[\n\r\u2028\u2029]", LINE_BREAK, text).split()
    marked = [
        place
        for place, word in enumerate(words)
        if not _WORD.fullmatch(word) or (place == 0 and _BEGINS_A_BLOCK.fullmatch(word))
    ]
    if not marked:
        return " ".join(words)
    first, last = marked[0], marked[-1] + 1
    return " ".join([*words[:first], _put_into_code(" ".join(words[first:last])), *words[last:]])


def show_lines(text: str) -> str:
    """A text of several lines as a paragraph with its line breaks; see `show_text`."""
    return "  \n".join(show_text(line) for line in text.splitlines())


def show_block(text: str, language: str = "") -> str:
    r"""A text as a block of code; no line of it can end the block.

    >>> show_block("a\n```\nb").splitlines()
    ['````', 'a', '```', 'b', '````']
    """
    fence = "`" * max(3, _count_backticks(text) + 1)
    shown = _HIDDEN.sub("\ufffd", text).removesuffix("\n")
    return f"{fence}{language}\n{shown}\n{fence}"


def _put_into_code(text: str) -> str:
    # In a table a bar is escaped by a backslash, before which another backslash would escape the backslash.
    return r"\|".join(_quote(piece) for piece in text.split("|"))


def _quote(piece: str) -> str:
    if not piece:
        return ""
    fence = "`" * (_count_backticks(piece) + 1)
    # Of a span with a space at both ends the reader takes one from each, unless it is all spaces.
    is_trimmed = piece.startswith(" ") and piece.endswith(" ") and not piece.isspace()
    pad = " " if piece.startswith("`") or piece.endswith("`") or is_trimmed else ""
    return f"{fence}{pad}{piece}{pad}{fence}"


def _count_backticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
