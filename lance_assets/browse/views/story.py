"""A row's story over all rounds: what it comes from, what became of it and why, and which checkpoints saw it.

Of the tables only ids and links are read to find the rows of a story; then these rows alone are read whole.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import polars as pl
from starlette.responses import RedirectResponse, Response

from lance_assets.browse.contract import Asked, Page, View, Way
from lance_assets.browse.deciding import read_deciding
from lance_assets.browse.mistakes import BadQueryError, NotThereError
from lance_assets.browse.selecting import LINKED, list_texts
from lance_assets.browse.shelf import ROW_NUMBER, Shelf, collect
from lance_assets.rounds.finished.trace import LIKENESS, LINKS, Entry, Relation, Story, relate_rows

MAX_ENTRIES = 30
"""Rows of one relation in one table that are shown; the page says how many more there are."""
LEFT_OUT = ("kept_vectors",)
"""Tables whose rows say nothing to a person."""
DECIDED_BY = {
    "cleaned_set": {"kept or dropped": "cleaned_set"},
    # Whether a row is trained on is decided of its reviews, and one that is not has no place of its own to say so.
    "reviewed_set": {"reviewed": "reviewed_set", "taken for SFT": "sft_set", "paired": "preference_pairs"},
}
"""By table what was decided about its rows, and of which table the settings are that decided it."""
TELLING = ("kind", "source", "drop_reason", "tier", "similarity", "review_score", "score_gap")
"""What is said of other rows of a story beside their texts."""
HEADINGS: dict[Relation, str] = {
    "source": "What it comes from",
    "itself": "The row, stage by stage",
    "like": "What it is like",
    "result": "What came of it",
}


def find_row(asked: Asked) -> Response:
    """Lead to the story of the row whose id was typed in.

    Raises:
        BadQueryError: none was.
    """
    row_id = (asked.get("id") or "").strip()
    if not row_id:
        raise BadQueryError("id: type the id of a row, such as every list of rows shows")
    return RedirectResponse(f"/e/{asked.experiment}/row/{quote(row_id, safe='')}")


def show_story(asked: Asked) -> Page:
    """The story of one row.

    Raises:
        NotThereError: no table of the experiment has the row.
    """
    story, counts = read_story(asked.shelf, asked.experiment, asked.parts["row_id"])
    neighbours = _find_texts(story)
    parts = []
    for relation, heading in HEADINGS.items():
        entries = [entry for entry in story.entries if entry.relation == relation]
        if relation == "itself":
            cards = lay_out_stages(asked.shelf, asked.experiment, entries, neighbours)
        else:
            cards = lay_out_rows(asked.shelf, entries)
        left = max(0, counts[relation] - len({entry.row["row_id"] for entry in entries}))
        if cards:
            parts.append({"relation": relation, "heading": heading, "cards": cards, "left": left})
    own = next(entry for entry in story.entries if entry.relation == "itself")
    seed = own.row.get("seed_id") or story.row_id
    content = {"parts": parts, "row_id": story.row_id, "linked": LINKED, "seen": story.training_sets, "seed": seed}
    return Page("story.html", f"Row {story.row_id}", content | {"lead": summarise(story), "first": own.round_key})


def read_story(shelf: Shelf, experiment: str, row_id: str) -> tuple[Story, Counter[Relation]]:
    """A row's story, at most `MAX_ENTRIES` rows of each relation, and how many there are of each.

    Raises:
        NotThereError: no table of the experiment has the row.
    """
    narrow: dict[tuple[str, str], pl.DataFrame] = {}
    for key in shelf.list_rounds(experiment):
        for table in shelf.list_tables(experiment, key):
            columns = [name for name in ("row_id", *LINKS, *LIKENESS) if name in shelf.schemas[table]]
            if "row_id" in columns and table not in LEFT_OUT:
                narrow[key, table] = collect(shelf.scan(experiment, key, table).select(ROW_NUMBER, *columns))
    try:
        relations = relate_rows(narrow, row_id)
    except ValueError as error:
        raise NotThereError(f"{experiment}: {error}") from None
    counts = Counter(relations.values())
    shown = [one for relation in HEADINGS for one in _choose(relations, relation)]
    entries: list[Entry] = []
    for (key, table), ids in narrow.items():
        found = ids.filter(pl.col("row_id").is_in(shown))
        if len(found):
            rows = shelf.fetch(experiment, key, table, found[ROW_NUMBER]).drop(ROW_NUMBER)
            entries += [Entry(key, table, relations[row["row_id"]], row) for row in rows.to_dicts()]
    return Story(row_id, entries), counts


def _choose(relations: Mapping[str, Relation], relation: Relation) -> list[str]:
    """The ids of one relation whose rows are read: the first by id, so that the same ones are shown each time."""
    return sorted(row_id for row_id, of in relations.items() if of == relation)[:MAX_ENTRIES]


def summarise(story: Story) -> list[tuple[str, str]]:
    """What became of a row, a few words a stage, each with whether that is good, bad or neither."""
    own = {entry.table: entry.row for entry in story.entries if entry.relation == "itself"}
    said: list[tuple[str, str]] = []
    if "raw_generations" in own:
        said.append(("", f"written as {own['raw_generations']['kind']}"))
    if "seed_set" in own:
        said.append(("", f"a seed, from {own['seed_set']['source']}"))
    if "cleaned_set" in own:
        reason = own["cleaned_set"]["drop_reason"]
        said.append(("good", "kept") if reason is None else ("bad", f"dropped: {reason}"))
    if "reviewed_set" in own:
        score = own["reviewed_set"]["review_score"]
        said.append(("warn", "no review could be read") if score is None else ("", f"scored {score:.3g}"))
        if own["reviewed_set"]["drop_reason"] is not None:
            said.append(("bad", f"left out after its reviews: {own['reviewed_set']['drop_reason']}"))
    if "decision_set" in own:
        decided = own["decision_set"]
        words = f"by decision of {decided['decided_by']}: {decided['decision']}"
        why = f", {decided['note']}" if decided["note"] else ""
        said.append(("bad" if decided["decision"] == "reject" else "good", words + why))
    direct = [entry for entry in story.entries if entry.relation in ("itself", "result")]
    if any(
        entry.table == "sft_set" and story.row_id in (entry.row["source_id"], entry.row["row_id"]) for entry in direct
    ):
        said.append(("good", "in the SFT set"))
    for side in ("chosen", "rejected"):
        if any(entry.table == "preference_pairs" and entry.row[f"{side}_id"] == story.row_id for entry in direct):
            said.append(("good", f"{side} in a preference pair"))
    return said


def _find_texts(story: Story) -> dict[str, tuple[str | None, str | None]]:
    """Prompt and completion of every row of the story, by its id."""
    found: dict[str, tuple[str | None, str | None]] = {}
    for entry in story.entries:
        row: Mapping[str, Any] = entry.row
        if "prompt" in row and "completion" in row:
            found.setdefault(row["row_id"], (row["prompt"], row["completion"]))
        elif "other_text" in row:
            found.setdefault(row["other_id"], (row["other_text"], None))
    return found


def lay_out_stages(
    shelf: Shelf,
    experiment: str,
    entries: Sequence[Entry],
    neighbours: Mapping[str, tuple[str | None, str | None]],
) -> list[dict[str, Any]]:
    """The traced row in each table, in the pieces that the template shows.

    A text that stands above already is named alone, and a row that a later table repeats is named where it is first.
    """
    cards: list[dict[str, Any]] = []
    shown: set[str] = set()
    for entry in entries:
        row: Mapping[str, Any] = entry.row
        same = [card for card in cards if card["places"][0][1] == entry.table and card["row"] == row]
        if same:
            same[0]["places"].append((entry.round_key, entry.table))
            continue
        schema = shelf.schemas[entry.table]
        texts = _list_row_texts(row, schema)
        hidden = {*texts, "row_id", "reviews", "scores", "unscored_reasons"}
        facts = {name: row[name] for name in schema if name not in hidden and not schema[name].is_nested()}
        nearest = row.get("nearest_id") or row.get("other_id")
        like = neighbours.get(nearest, ()) if nearest else ()
        # Two texts that are alike are read side by side.
        above = set() if like else shown
        cards.append(
            {
                "row": row,
                "places": [(entry.round_key, entry.table)],
                "texts": {name: text for name, text in texts.items() if text not in above},
                "again": [name for name, text in texts.items() if text in above],
                "facts": {name: value for name, value in facts.items() if value is not None and name not in LINKED},
                "links": {name: value for name, value in facts.items() if value is not None and name in LINKED},
                "reviews": _pair_reviews(row),
                "nearest": nearest,
                "like": [text for text in like if text is not None],
                "settings": {
                    f"{words} with": found
                    for words, table in DECIDED_BY.get(entry.table, {}).items()
                    if (found := read_deciding(shelf, experiment, entry.round_key, table))
                },
            }
        )
        shown.update(texts.values())
    return cards


def lay_out_rows(shelf: Shelf, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Other rows of a story, one card a row over all of its tables."""
    cards: dict[str, dict[str, Any]] = {}
    empty: dict[str, Any] = {"again": [], "links": {}, "reviews": [], "nearest": None, "like": [], "settings": {}}
    for entry in entries:
        row: Mapping[str, Any] = entry.row
        new = {"row": row, "places": [], "texts": {}, "facts": {}} | empty
        card = cards.setdefault(row["row_id"], new)
        card["places"].append((entry.round_key, entry.table))
        for name, text in _list_row_texts(row, shelf.schemas[entry.table]).items():
            if text not in card["texts"].values():
                card["texts"].setdefault(name, text)
        card["facts"] |= {name: row[name] for name in TELLING if name in row and row[name] is not None}
    return list(cards.values())


def _list_row_texts(row: Mapping[str, Any], schema: pl.Schema) -> dict[str, str]:
    """The texts of a row that people or models wrote, by column."""
    return {name: row[name] for name in list_texts(schema) if isinstance(row[name], str) and name != "error"}


def _pair_reviews(row: Mapping[str, Any]) -> list[tuple[str | None, float | None, str | None]]:
    """Each review as written, with its score or the reason why it has none."""
    if "reviews" not in row or row["reviews"] is None:
        return []
    columns: Sequence[Sequence[Any]] = [row["reviews"], row["scores"] or [], row["unscored_reasons"] or []]
    size = max(map(len, columns))
    padded = [[*column, *[None] * (size - len(column))] for column in columns]
    return [(review, score, reason) for review, score, reason in zip(*padded, strict=True)]


VIEW = View(
    "story",
    "Story",
    "Where does this row come from, what became of it, and who learned from it?",
    (Way("/e/{experiment}/row", find_row), Way("/e/{experiment}/row/{row_id}", show_story)),
    has_tab=False,
)
