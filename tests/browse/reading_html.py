"""What a browser would make of a page: its elements, its links, and the texts of the data in it."""

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class ReadPage(HTMLParser):
    """A page as it was parsed."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    """Every element with its attributes."""
    texts: list[str] = field(default_factory=list)
    """The content of every `span.text`, without the labels of signs, which only the stylesheet shows."""
    prose: str = ""
    """All text."""
    depth: int = 0

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append((tag, dict(attrs)))
        if not self.depth:
            self.prose += " "
        if self.depth:
            self.depth += tag not in ("br", "img", "input")
        elif tag == "span" and dict(attrs).get("class") == "text":
            self.depth = 1
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        """Leave an element."""
        self.depth = max(0, self.depth - 1)

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.prose += data
        if self.depth:
            self.texts[-1] += data

    @property
    def row_ids(self) -> list[str]:
        """The ids of the rows that a list shows, in order; those that a row names beside its own are left out."""
        found, is_next = [], False
        for tag, attrs in self.tags:
            if tag == "li" and attrs.get("class") == "row":
                is_next = True
            elif is_next and tag == "a" and attrs.get("class") == "id":
                found.append((attrs["href"] or "").rpartition("/")[2])
                is_next = False
        return found

    @property
    def links(self) -> list[str]:
        """Where its links lead."""
        return [attrs["href"] or "" for tag, attrs in self.tags if tag == "a" and attrs.get("href")]


def read_page(html: str) -> ReadPage:
    """A page, parsed."""
    page = ReadPage()
    page.feed(html)
    return page
