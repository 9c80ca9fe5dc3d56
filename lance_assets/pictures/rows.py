"""Rows, counts and measures of a report as Markdown; every text can be read in it exactly as it is.

The UI's reader shows no raw HTML, so nothing can be folded by `<details>`. It has a dialog for each preview, and in it
a table comes first: a line a row, with each text in one line. A text that a cell cannot show as it is, since it is
long, has several lines or spaces side by side, stands whole below the table under its row's number.
"""

import re

import polars as pl

from lance_assets.conversations import show_prompt
from lance_assets.markdown import LINE_BREAK, show_block, show_lines, show_text
from lance_assets.rounds.report import Counts, Measures, Rows

NO_ROWS = "*no rows*"
"""In place of a table without rows."""
NO_MEASURES = "*nothing to measure*"
"""In place of measures that there are none of."""
NO_PICTURE = "*nothing to plot*"
"""In place of a picture with nothing in it."""
MAX_CELL = 160
"""Characters that a cell shows of a text."""
MAX_WHOLE = 60_000
"""Characters that the whole texts below a table have together: Dagster keeps each preview three times."""

_AS_IT_IS = re.compile(r"\S+( \S+)*")


def show_number(value: float) -> str:
    """A number with the digits that mean something: four, and all of a whole number.

    >>> show_number(0.123456), show_number(12345.6), show_number(7.0)
    ('0.1235', '12346', '7')
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def tabulate_rows(rows: Rows) -> str:
    """Some rows as a Markdown table, and below it whole what the table shows in part."""
    if rows.table.is_empty():
        return NO_ROWS
    shown = rows.table.head(rows.num_rows)
    if "prompt" in rows.columns:
        shown = shown.with_columns(pl.col("prompt").map_elements(show_prompt, return_dtype=pl.String))
    # A column without any value says nothing.
    columns = [name for name in rows.columns if shown[name].null_count() < len(shown)] or list(rows.columns)
    whole = list_whole(shown, columns)
    numbered = bool(whole)
    titles = [*(["row"] if numbered else []), *map(show_text, columns)]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for place, row in enumerate(shown.select(columns).to_dicts(), start=1):
        cells = [*([str(place)] if numbered else []), *(show_cell(row[name]) for name in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    head = f"{show_text(rows.note)}\n\n" if rows.note else ""
    return head + "\n".join(lines) + "".join(f"\n\n{part}" for part in tabulate_whole(whole))


def show_cell(value: object) -> str:
    """A value in one cell of a table: a dash for none, numbers to four digits, a long text's beginning."""
    if value is None:
        return "-"
    if isinstance(value, list):
        value = ", ".join(
            "-" if one is None else show_number(one) if isinstance(one, float) else str(one) for one in value
        )
    text = show_number(value) if isinstance(value, float) else str(value)
    text = text.strip("\n").replace("\n", LINE_BREAK)
    # Cut first: a mark that hides a text from Markdown must keep its end.
    return show_text(text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…")


def list_whole(shown: pl.DataFrame, columns: list[str]) -> list[tuple[int, str, str]]:
    """The texts that a cell does not show as they are: the number of the row, the column, and the text."""
    return [
        (place, name, row[name])
        for place, row in enumerate(shown.select(columns).to_dicts(), start=1)
        for name in columns
        if isinstance(row[name], str)
        and row[name]
        and not (len(row[name]) <= MAX_CELL and _AS_IT_IS.fullmatch(row[name]))
    ]


def show_whole(text: str) -> str:
    r"""A text exactly as it is: as paragraphs, whose lines are wrapped, or as a block of code where spaces count.

    >>> show_whole("One.\nTwo.\n\nThree.").split("\n")
    ['One.  ', 'Two.', '', 'Three.']
    >>> show_whole("if x:\n    y").split("\n")
    ['```', 'if x:', '    y', '```']
    """
    # Line breaks of every kind look alike, and one that is added below must not make one of two.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    paragraphs = text.split("\n\n")
    if all(_AS_IT_IS.fullmatch(line) for paragraph in paragraphs for line in paragraph.split("\n")):
        return "\n\n".join(map(show_lines, paragraphs))
    # A block ends with a line break of its own, in whose place one of the text would be lost.
    return show_block(f"{text}\n")


def tabulate_whole(whole: list[tuple[int, str, str]]) -> list[str]:
    """Texts whole, each as a block of code below its row's number and column, as far as `MAX_WHOLE` reaches.

    Args:
        whole: as `list_whole` gives them; a text that several rows have is shown once.
    """
    places: dict[tuple[str, str], list[int]] = {}
    for place, name, text in whole:
        places.setdefault((name, text), []).append(place)
    parts, left = [], MAX_WHOLE
    for number, ((name, text), rows) in enumerate(places.items()):
        if len(text) > left:
            parts.append(
                f"{len(places) - number} more texts are longer than fits here; `lance trace` shows a row whole, by its "
                "id."
            )
            break
        left -= len(text)
        named = f"row {rows[0]}" if len(rows) == 1 else f"rows {', '.join(map(str, rows))}"
        parts.append(f"**{named}**, {show_text(name)}:\n\n{show_whole(text)}")
    return parts


def tabulate_counts(counted: Counts) -> str:
    """Counts as a Markdown table with shares, most frequent first."""
    total = sum(counted.counts.values())
    if total == 0:
        return NO_ROWS
    lines = [f"| {show_text(counted.of)} | rows | share |", "| --- | ---: | ---: |"]
    ordered = sorted(counted.counts.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"| {show_text(name)} | {count} | {count / total:.1%} |" for name, count in ordered]
    return "\n".join(lines)


def tabulate_measures(measures: Measures) -> str:
    """Measures as a Markdown table, numbers to 4 digits, a dash for what could not be measured."""
    if not measures.rows:
        return NO_MEASURES

    def cell(value: float | str | None) -> str:
        return "-" if value is None else show_number(value) if isinstance(value, float) else show_text(str(value))

    lines = ["| " + " | ".join(map(show_text, measures.rows[0])) + " |", "|" + " --- |" * len(measures.rows[0])]
    lines += ["| " + " | ".join(cell(value) for value in row.values()) + " |" for row in measures.rows]
    return "\n".join(lines)
