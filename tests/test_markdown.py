"""Whatever a text holds, Markdown shows it as text: it loads nothing, links nowhere and runs nothing."""

import re
from collections.abc import Iterator

import dagster as dg
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from lance_assets.assets.loading import build_broken_experiment
from lance_assets.assets.showing import show_description, show_report
from lance_assets.markdown import LINE_BREAK, show_block, show_lines, show_text
from lance_assets.pictures.leaderboard import list_left_out
from lance_assets.rounds.report import Counts, Judged, Measures, Rows

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
ADDRESS = re.compile(r"https?://|www\.|[\w.+-]+@[\w-]+\.\w+|\w+://", re.I)
"""What the UI's reader links although no Markdown marks it."""
INERT = {
    *("text", "code_inline", "softbreak", "hardbreak", "inline", "paragraph_open", "paragraph_close", "fence"),
    *("table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close"),
    *("th_open", "th_close", "td_open", "td_close", "text_special"),
}

BEACON = "![](http://evil.example/pixel.png)"
FRAGMENTS = [
    *(
        BEACON,
        "[a](javascript:alert(1))",
        "<img src=http://evil.example/x>",
        "<script>alert(1)</script>",
        "www.evil.example",
    ),
    *(
        "http://evil.example",
        "a@evil.example",
        "<http://evil.example>",
        "[a]: http://evil.example",
        "[a]",
        "![a]",
        "`",
        "``",
    ),
    *(
        "|",
        "\\|",
        "\\\\|",
        "\\",
        "`\\|",
        "\n",
        "\n\n",
        "\r\n",
        "\n```\n",
        "\n~~~\n",
        "~~a~~",
        "**",
        "__init__",
        "_a_",
        "# a",
    ),
    *(
        "- a",
        "1. a",
        "> a",
        "    a",
        "---",
        "===",
        "$x$",
        "&lt;",
        "&#33;[](http://evil.example)",
        "\u202eevil",
        "\x00",
        "a",
        " ",
    ),
    *(
        "3 + 4 = 7.",
        "(50%)",
        "near_duplicate",
        "été",
        "中文。",
        "!",
        "(http://evil.example)",
        "]",
        "xmpp:a@evil.example",
    ),
]
TEXTS = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join), st.text(max_size=40))


def walk(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from walk(token.children or [])


def assert_inert(markdown: str) -> None:
    tokens = list(walk(READER.parse(markdown)))
    assert {token.type for token in tokens} <= INERT
    assert not [token.content for token in tokens if token.type == "text" and ADDRESS.search(token.content)]


def read(markdown: str) -> str:
    """What is seen of one line."""
    tokens = walk(READER.parse(markdown))
    seen = "".join(token.content for token in tokens if token.type in ("text", "code_inline", "text_special"))
    return re.sub(r"\s+", " ", seen).strip()


@given(TEXTS)
@example("x\\|" + BEACON)
@example("`" + BEACON)
@example("a | b")
def test_a_text_is_shown_as_it_is_and_loads_and_links_nothing(text: str) -> None:
    shown = show_text(text)
    assert "\n" not in shown
    assert_inert(shown)
    cells = f"| a | b |\n| --- | --- |\n| {shown} | last |"
    assert_inert(cells)
    found = [token for token in READER.parse(cells) if token.type == "td_open"]
    assert len(found) == 2, "a text stays in its cell"
    wanted = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", text)
    wanted = re.sub("\r\n|[\n\r\u2028\u2029]", LINE_BREAK, wanted)
    assert re.sub(r"\s", "", read(shown)) == re.sub(r"\s", "", wanted)


@given(TEXTS)
def test_a_block_and_lines_show_a_text_and_nothing_else(text: str) -> None:
    assert_inert(show_lines(text))
    (block,) = READER.parse(show_block(text, "yaml"))
    assert block.type == "fence"


@pytest.mark.parametrize("text", ["| a | b |", "x | y", "a ` b ` c", "` a `", "| |", "a|`"])
def test_spaces_beside_a_mark_stay(text: str) -> None:
    """The reader takes a space from each end of a code span that has one at both."""
    (line,) = (token for token in READER.parse(show_text(text)) if token.type == "inline")
    assert "".join(token.content for token in line.children or []) == text


@pytest.mark.parametrize("text", ["What is 3 + 4?", "near_duplicate", "0.5 (50%)", 'An answer, e.g. this: it\'s "so".'])
def test_prose_is_not_marked(text: str) -> None:
    assert show_text(text) == text


def test_previews_counts_measures_and_checks_load_nothing_from_a_seed() -> None:
    table = pl.DataFrame({"prompt": [BEACON], "completion": [f"x\\|{BEACON}"]})
    shown = show_report(
        {
            "rows": Rows(table, ("prompt", "completion")),
            "counts": Counts(BEACON, {BEACON: 1}),
            "measures": Measures([{BEACON: "a", "b": BEACON}]),
        }
    )
    for value in shown.values():
        assert isinstance(value, dg.MarkdownMetadataValue)
        assert_inert(value.md_str or "")
    assert_inert(show_description(Judged(passed=False, description=f"a row says {BEACON}")) or "")


def test_a_broken_experiment_and_the_leaderboard_load_nothing_from_a_file() -> None:
    text = f"defs.yaml:3: got '\n```\n{BEACON}'"
    assert_inert(list_left_out({"mine": text}).removeprefix("* **mine**: "))
    (spec,) = build_broken_experiment("mine", text).assets or ()
    assert isinstance(spec, dg.AssetSpec)
    assert_inert(spec.description or "")
