"""A person's decision on a row: accept, reject, edit or score; who took it, when and why.

A decision is about a text, a prompt with its completion, and not about a row of one round: a row that is made again, or
that comes back as a seed, is known again. All decisions are kept. Of several on one text the one that was taken last
counts, by its time, in whatever order they were read in.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from lance_assets.recipes.axes import AxisSettings
from resources.stores.decisions import DecisionStore
from resources.stores.files import DamagedFileError

Action = Literal["accept", "reject", "edit", "score"]
"""What a person decides of a row: it is trained on; it is not; another text is; another score decides."""
ACTIONS: tuple[str, ...] = get_args(Action)

MAX_WHO = 100
"""Characters of a person's name."""
MAX_NOTE = 10_000
"""Characters of a note."""
AHEAD = timedelta(hours=1)
"""So far a clock may be ahead of this machine's."""

Scale = tuple[float, float]
"""The lowest and the highest score of a reviewer."""


def hash_text(prompt: str, completion: str) -> str:
    """What a text is known by, 32 hex digits.

    >>> hash_text("a", "b") == hash_text("a", "b") != hash_text("ab", "")
    True
    """
    return hashlib.sha256(json.dumps([prompt, completion]).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Decision:
    """What a person decided."""

    prompt: str
    """The prompt of the row."""
    completion: str
    """The completion as it was reviewed."""
    action: Action
    """What was decided."""
    who: str
    """The person."""
    at: str
    """When, in UTC and always of one form, so that texts sort as times do."""
    edited: str | None = None
    """The text in place of the completion, for `edit`."""
    score: float | None = None
    """The person's score, for `score`, and for `edit` where one was given."""
    note: str = ""
    """Why, in the person's words."""

    @cached_property
    def key(self) -> str:
        """What the text is known by."""
        return hash_text(self.prompt, self.completion)

    @cached_property
    def text(self) -> str:
        """The decision as it is kept."""
        return json.dumps(asdict(self), sort_keys=True)

    @cached_property
    def identity(self) -> str:
        """A hash of all of it, 32 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]

    @property
    def said(self) -> tuple[object, ...]:
        """The decision without its time."""
        return (self.key, self.action, self.edited, self.score, self.who, self.note)

    def describe(self) -> str:
        """The decision in words."""
        what = {"accept": "accepted", "reject": "rejected", "edit": "edited", "score": "scored"}[self.action]
        score = "" if self.score is None else f" {self.score:g}"
        return f"{what}{score} by {self.who} at {self.at}" + (f": {self.note}" if self.note else "")


def find_scale(parameters: AxisSettings) -> Scale | None:
    """The scale that a recipe's reviewer scores on; None where it goes by no scores. A verdict is 0 or 1."""
    if not parameters.has_reviews:
        return None
    if not parameters.has_scale:
        return 0.0, 1.0
    return float(getattr(parameters, "lowest_score", 0)), float(getattr(parameters, "highest_score", 10))


def format_time(when: datetime) -> str:
    """A time as decisions have it.

    >>> format_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    '2026-01-02T03:04:05.000000Z'
    """
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> str:
    """A time as decisions have it, from ISO 8601; without a zone it is in UTC.

    Raises:
        ValueError: it is none, or lies in the future, from where it would count before every later decision.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text[:100]!r} is no time; write it as 2026-01-31T12:00:00Z") from error
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    if when > datetime.now(UTC) + AHEAD:
        raise ValueError(f"{text[:100]!r} lies in the future, and would count before every later decision; correct it")
    return format_time(when)


def decide(
    prompt: str,
    completion: str,
    action: str,
    *,
    who: str,
    scale: Scale | None,
    at: str | None = None,
    edited: str | None = None,
    score: float | None = None,
    note: str = "",
) -> Decision:
    """A decision, checked.

    Args:
        prompt: of the row.
        completion: of the row, as it was reviewed.
        action: what is decided.
        who: the person.
        scale: the reviewer's; None where the recipe goes by no scores.
        at: when, as ISO 8601; None: now.
        edited: for `edit`, the text in place of the completion.
        score: for `score`, and where it is known for `edit`.
        note: why.

    Raises:
        ValueError: what is decided is none of `ACTIONS`, or does not go with the other values.
    """
    who, note = " ".join(who.split()), note.strip()
    if action not in ACTIONS:
        raise ValueError(f"decision must be one of {', '.join(ACTIONS)}, got {action!r}")
    if not 0 < len(who) <= MAX_WHO:
        raise ValueError(f"who must have 1 to {MAX_WHO} characters, got {who[:MAX_WHO]!r}; say who decides")
    if len(note) > MAX_NOTE:
        raise ValueError(f"a note has at most {MAX_NOTE} characters, got {len(note)}; shorten it")
    if action == "edit" and (edited is None or not edited.strip() or edited == completion):
        told = "no text" if edited is None or not edited.strip() else "the completion as it is"
        raise ValueError(f"edit needs another completion in 'edited', got {told}; write one, or accept the row")
    if action != "edit" and edited is not None:
        raise ValueError(f"{action} takes no edited text, got {edited[:60]!r}; decide edit, or leave it out")
    if action in ("accept", "reject") and score is not None:
        raise ValueError(f"{action} takes no score, got {score:g}; decide score, or leave it out")
    if action == "score" and score is None:
        raise ValueError("score needs a score, got none; give one, or accept or reject the row")
    if score is not None:
        if scale is None:
            raise ValueError(f"this recipe goes by no scores, got {score:g}; accept, reject or edit the row")
        if not scale[0] <= score <= scale[1]:
            raise ValueError(f"a score must be in [{scale[0]:g}, {scale[1]:g}], the reviewer's scale, got {score:g}")
    when = format_time(datetime.now(UTC)) if at is None else parse_time(at)
    number = None if score is None else float(score)
    return Decision(prompt, completion, action, who, when, edited, number, note)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ledger:
    """Every decision of an experiment."""

    decisions: Sequence[Decision] = field(default_factory=tuple)
    """All of them, in whatever order."""

    @cached_property
    def by_key(self) -> dict[str, list[Decision]]:
        """The decisions on each text, the last one at the end."""
        found: dict[str, list[Decision]] = defaultdict(list)
        # Two of one moment have an order too, the same one wherever they were read.
        for decision in sorted(self.decisions, key=lambda one: (one.at, one.identity)):
            found[decision.key].append(decision)
        return dict(found)

    @cached_property
    def _by_edited(self) -> dict[str, Decision]:
        """The decision that wrote a text, as far as it still counts."""
        last = (own[-1] for own in self.by_key.values())
        written = sorted((one for one in last if one.edited is not None), key=lambda one: (one.at, one.identity))
        return {hash_text(one.prompt, one.edited or ""): one for one in written}

    def find(self, prompt: str, completion: str) -> Decision | None:
        """The decision that counts for a text: its own, or the one that wrote it; None where there is none."""
        key = hash_text(prompt, completion)
        return self.by_key[key][-1] if key in self.by_key else self._by_edited.get(key)

    def list_earlier(self, decision: Decision) -> list[Decision]:
        """The decisions on the same text that no longer count, oldest first."""
        return self.by_key[decision.key][:-1]


def read_ledger(root: Path, experiment: str) -> Ledger:
    """Every decision that is kept of an experiment.

    Raises:
        DamagedFileError: the file was damaged, or another version of this project wrote it.
    """
    store = DecisionStore(root, experiment)
    return Ledger([_read(text, store.file) for text in store.read()])


def keep_decisions(root: Path, experiment: str, decisions: Sequence[Decision]) -> int:
    """Keep decisions, all of them or none; how many were not kept yet."""
    return DecisionStore(root, experiment).add({one.identity: one.text for one in decisions})


def _read(text: str, file: Path) -> Decision:
    values: dict[str, Any] = json.loads(text)
    if values.keys() != {one.name for one in fields(Decision)}:
        raise DamagedFileError(
            f"{file}: another version of this project wrote a decision with the fields {', '.join(sorted(values))}; "
            "read it with that version"
        )
    return Decision(**values)
