import base64
import re

import dagster as dg
import polars as pl

from lance_assets.pictures.metadata import (
    count_table,
    measure_table,
    plot_histogram,
    plot_losses,
    plot_rounds,
    plot_rungs,
    preview_rows,
    round_measure,
)


def text_of(value: dg.MetadataValue) -> str:
    assert isinstance(value, dg.MarkdownMetadataValue)
    return str(value.value)


def assert_is_picture(value: dg.MetadataValue) -> None:
    found = re.fullmatch(r"!\[plot\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", text_of(value))
    assert found
    assert base64.b64decode(found[1]).startswith(b"\x89PNG\r\n")


def test_a_preview_is_one_line_a_row() -> None:
    table = pl.DataFrame({"text": ["a | b\nc", "x" * 300, "last"], "score": [7.126, None, 1.0], "other": [1, 2, 3]})
    lines = text_of(preview_rows(table, ("text", "score"), num_rows=2)).splitlines()
    assert lines[:3] == ["| text | score |", "| --- | --- |", "| a \\| b ⏎ c | 7.13 |"]
    assert lines[3] == f"| {'x' * 159}… | None |"
    assert len(lines) == 4


def test_measures_are_rounded_and_their_absence_is_told() -> None:
    rows = [{"review": "1", "shift": 0.123456}, {"review": "2", "shift": None}]
    assert text_of(measure_table(rows)).splitlines() == [
        "| review | shift |",
        "| --- | --- |",
        "| 1 | 0.1235 |",
        "| 2 | - |",
    ]
    assert text_of(measure_table([])) == "*nothing to measure*"
    assert (round_measure(0.123456), round_measure(None)) == (0.1235, "not measurable")


def test_counts_are_ordered_and_add_up() -> None:
    """3 of 4 are 75%; equal counts stand in the order of their names."""
    assert text_of(count_table({"b": 1, "kept": 6, "a": 1}, of="reason")).splitlines()[2:] == [
        "| kept | 6 | 75.0% |",
        "| a | 1 | 12.5% |",
        "| b | 1 | 12.5% |",
    ]


def test_nothing_is_said_in_words() -> None:
    assert text_of(preview_rows(pl.DataFrame({"text": []}), ("text",))) == "*no rows*"
    assert text_of(count_table({}, of="reason")) == "*no rows*"
    assert text_of(plot_histogram({"seed": []}, title="t", x_label="x")) == "*nothing to plot*"
    assert text_of(plot_losses({"SFT": [], "DPO": []})) == "*nothing was trained*"
    assert text_of(plot_rungs({}, title="t")) == "*no rungs*"


def test_pictures_are_png_and_the_same_each_time() -> None:
    scores = {"seed": [1.0, 9.5, 10.0], "completion": [], "degraded_completion": [0.0]}
    histogram = plot_histogram(scores, title="t", x_label="x")
    assert_is_picture(histogram)
    assert text_of(histogram) == text_of(plot_histogram(scores, title="t", x_label="x"))
    assert_is_picture(plot_losses({"SFT": [2.0, 1.0], "DPO": [0.69]}))
    rounds = {"greedy": [(0.5, 0.4, 0.6), (0.6, 0.5, 0.7)]}
    assert_is_picture(plot_rounds(["r0000", "r0001"], rounds, title="t", backbone=0.4))
    assert_is_picture(plot_rounds(["r0000", "r0001"], rounds, title="t", backbone=None))
    assert_is_picture(plot_rungs({"r0000": {1: 1.0, 2: 0.5}}, title="t"))
