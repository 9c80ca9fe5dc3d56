"""What a view is: the addresses it answers, what it is asked, and the page it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from lance_assets.browse.mistakes import BadQueryError
from lance_assets.browse.shelf import Shelf

ALL_ROUNDS = "all"
"""What stands for every round in an address."""


@dataclass(frozen=True)
class Page:
    """A page before it is rendered."""

    template: str
    """A file of `templates/`."""
    title: str
    """What the window and the heading say."""
    content: Mapping[str, Any]
    """What the template is given."""
    script: str | None = None
    """A file of `static/` that this page alone may run; None: it runs nothing."""


@dataclass(frozen=True)
class Asked:
    """What a view is asked."""

    shelf: Shelf
    """Reads the tables."""
    parts: Mapping[str, str]
    """The named parts of the address. `experiment` and `round_key` were checked: both have tables."""
    query: Mapping[str, Sequence[str]]
    """The query of the address: each field with its values, empty ones left out."""
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The fields of a POST."""

    @property
    def experiment(self) -> str:
        """The experiment that the address names."""
        return self.parts["experiment"]

    @property
    def round_key(self) -> str:
        """The round that the address names, or `ALL_ROUNDS` where the view takes it."""
        return self.parts["round_key"]

    def get(self, name: str) -> str | None:
        """The last value of a field of the query; None where it has none."""
        return self.query[name][-1] if name in self.query else None

    def choose_other_round(self, name: str = "against") -> str | None:
        """The round that the query compares with: the one it names, or the round before; None where there is none.

        Raises:
            BadQueryError: the experiment has no such round.
        """
        rounds = [key for key in self.shelf.list_rounds(self.experiment) if key != self.round_key]
        named = self.get(name)
        if named is not None and named not in rounds:
            raise BadQueryError(f"{name}: {self.experiment} has no other round {named!r}; it has {', '.join(rounds)}")
        earlier = [key for key in rounds if key < self.round_key]
        return named or (earlier[-1] if earlier else rounds[0] if rounds else None)


Answer = Callable[[Asked], Page | Response]
"""Gives the page of an address, or a response of its own, such as a file."""


@dataclass(frozen=True)
class Way:
    """One address of a view."""

    path: str
    """With its named parts in braces, such as `/e/{experiment}/{round_key}/funnel`."""
    answer: Answer
    """Runs in a thread of its own."""
    methods: Sequence[str] = ("GET",)
    """`GET`, or `POST` for what changes something."""
    takes_all_rounds: bool = False
    """Whether `all` may stand for the round."""


@dataclass(frozen=True)
class View:
    """One view."""

    name: str
    """What the tab's address ends in."""
    title: str
    """What the tab says."""
    question: str
    """What it answers, in a person's words."""
    ways: Sequence[Way]
    """Its addresses."""
    has_tab: bool = True
    """Whether `/e/{experiment}/{round_key}/{name}` is one of its addresses, and a tab of every round leads there."""
