r"""A text of the data as HTML that shows it exactly as stored, in any language, and runs as nothing.

Everything is escaped, and white space is kept by the stylesheet. Signs that a person cannot see, or that would turn the
order of others around, stand in an element of their own, which the stylesheet labels with their code. The label is no
part of the text: what is selected and copied is what is stored.

HTML has no NUL; it is shown as its symbol ␀. A carriage return is written by its number, because a browser would make a
line feed of it.
"""

import re
import unicodedata

from markupsafe import Markup, escape

MAX_SHOWN = 20_000
"""Characters of a text that a list of rows shows; the row's own page shows all of them."""

_SIGNS = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control signs but tab and line feed
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"  # tags, which can hide a whole text
    "]"
    # Joiners belong to the writing of Persian or Hindi and to emoji, and are marked where they join nothing of those.
    "|(?:(?<=[\x00-\x7f])|(?<![^\x00]))[\u200c\u200d]|[\u200c\u200d](?=[\x00-\x7f]|$)"
)


def show_as_stored(text: str | None, *, limit: int | None = None) -> Markup:
    """A text as HTML.

    Args:
        text: of the data; None is shown as a dash that no text can be taken for.
        limit: characters that are shown at most; None: all of them.

    >>> str(show_as_stored("a<b & **c**"))
    '<span class="text">a&lt;b &amp; **c**</span>'
    >>> "U+200B" in show_as_stored("a\u200bb")
    True
    """
    if text is None:
        return Markup('<span class="none">none</span>')
    shown = text if limit is None else text[:limit]
    parts, done = [], 0
    for found in _SIGNS.finditer(shown):
        parts += [escape(shown[done : found.start()]), _mark(found.group())]
        done = found.end()
    parts.append(escape(shown[done:]))
    rest = len(text) - len(shown)
    more = Markup('<span class="more">and {:,} more characters</span>').format(rest) if rest else Markup("")
    empty = ' data-empty="true"' if not text else ""
    return Markup(f'<span class="text"{empty}>') + Markup("").join(parts) + Markup("</span>") + more


def _mark(sign: str) -> Markup:
    code = f"U+{ord(sign):04X}"
    name = unicodedata.name(sign, "control")
    # A reference to NUL is an error of HTML; those to U+0080 to U+009F mean other signs, so only CR is written by one.
    inside = "␀" if sign == "\x00" else Markup("&#13;") if sign == "\r" else sign
    return Markup('<bdi class="sign" data-sign="{}" title="{} {}">{}</bdi>').format(code, code, name, inside)
