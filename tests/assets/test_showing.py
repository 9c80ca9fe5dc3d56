import base64
import re
from pathlib import Path

import dagster as dg
import polars as pl

from lance_assets.assets.showing import show_fact, show_report
from lance_assets.rounds.report import (
    Counts,
    Fact,
    Histogram,
    Losses,
    Markdown,
    Measures,
    Rows,
    ScoresByStratum,
    ScoresOverRounds,
    Trends,
    count_values,
    round_measure,
)


def text_of(fact: Fact) -> str:
    value = show_fact(fact)
    assert isinstance(value, dg.MarkdownMetadataValue)
    return str(value.value)


def assert_is_picture(fact: Fact) -> None:
    found = re.fullmatch(r"!\[plot\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", text_of(fact))
    assert found
    assert base64.b64decode(found[1]).startswith(b"\x89PNG\r\n")


def test_a_preview_is_one_line_a_row() -> None:
    table = pl.DataFrame({"text": ["a | b\nc", "x" * 300, "last"], "score": [7.126, None, 1.0], "other": [1, 2, 3]})
    lines = text_of(Rows(table, ("text", "score"), num_rows=2)).splitlines()
    assert lines[:3] == ["| text | score |", "| --- | --- |", "| a \\| b ⏎ c | 7.126 |"]
    assert lines[3] == f"| {'x' * 159}… | - |"
    assert len(lines) == 4


def test_measures_are_rounded_and_their_absence_is_shown() -> None:
    rows = [{"review": "1", "shift": 0.123456}, {"review": "2", "shift": None}]
    assert text_of(Measures(rows)).splitlines() == [
        "| review | shift |",
        "| --- | --- |",
        "| 1 | 0.1235 |",
        "| 2 | - |",
    ]
    assert text_of(Measures([])) == "*nothing to measure*"
    assert (round_measure(0.123456), round_measure(None)) == (0.1235, "not measurable")


def test_counts_are_ordered_and_add_up() -> None:
    """3 of 4 are 75%; equal counts come in the order of their names."""
    assert text_of(Counts("reason", {"b": 1, "kept": 6, "a": 1})).splitlines()[2:] == [
        "| kept | 6 | 75.0% |",
        "| a | 1 | 12.5% |",
        "| b | 1 | 12.5% |",
    ]
    assert count_values(pl.Series(["a", None, "a", "b"]), of="kind") == Counts("kind", {"a": 2, "b": 1})


def test_nothing_is_said_in_words() -> None:
    assert text_of(Rows(pl.DataFrame({"text": []}), ("text",))) == "*no rows*"
    assert text_of(Counts("reason", {})) == "*no rows*"
    for empty in (
        Histogram({"seed": []}, title="t", x_label="x"),
        Losses({"SFT": [], "DPO": []}),
        ScoresByStratum({}, "rung", "t"),
    ):
        assert text_of(empty) == "*nothing to plot*"


def test_pictures_are_png_and_the_same_each_time() -> None:
    scores = {"seed": [1.0, 9.5, 10.0], "completion": [], "degraded_completion": [0.0]}
    histogram = Histogram(scores, title="t", x_label="x")
    assert_is_picture(histogram)
    assert text_of(histogram) == text_of(Histogram(scores, title="t", x_label="x"))
    assert_is_picture(Losses({"SFT": [2.0, 1.0], "DPO": [0.69]}))
    rounds = {"greedy": [(0.5, 0.4, 0.6), (0.6, 0.5, 0.7)]}
    for backbone in (0.4, None):
        assert_is_picture(ScoresOverRounds(["r0000", "r0001"], rounds, title="t", backbone=backbone))
    assert_is_picture(ScoresByStratum({"r0000": {1: 1.0, 2: 0.5}}, axis="rung", title="t"))
    assert_is_picture(Trends(pl.DataFrame({"round": ["r0000", "r0001"], "novelty": [None, 0.5]}), title="t"))


def test_everything_else_is_shown_as_it_is() -> None:
    shown = show_report(
        {
            "n": 1,
            "rate": 0.5,
            "is_new": True,
            "word": "x",
            "many": ["a"],
            "scores": {"r0": 0.5},
            "text": Markdown("**b**"),
        }
        | {"path": Path("/somewhere")}
    )
    assert (shown["n"], shown["rate"], shown["is_new"], shown["word"]) == (1, 0.5, True, "x")
    assert shown["many"] == dg.MetadataValue.json(["a"])
    assert shown["scores"] == dg.MetadataValue.json({"r0": 0.5})
    assert shown["text"] == dg.MetadataValue.md("**b**")
    assert shown["path"] == dg.MetadataValue.path("/somewhere")
