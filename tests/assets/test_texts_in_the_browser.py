"""Whatever a text holds, a person reads it in Dagster's UI exactly as it is: asked of the real UI in a real browser."""

import asyncio
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import dagster as dg
import pytest

from lance_assets.markdown import LINE_BREAK, show_text
from lance_assets.pictures.rows import show_whole
from tests.chromium import SECONDS, connect, find_chromium, start_chromium

pytestmark = pytest.mark.slow

HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What is shown as U+FFFD: what cannot be seen, or turns the direction of a line."""
PIECES = [
    *("2*3*4 = 24", "a<b and b>c", "<think>", "</think>", "**", "~~", "~~a~~", "__init__", "_a_", "`", "``", "```"),
    *("\n```python\nx = 1\n```\n", "\n~~~\n", "\n", "\n\n", "\n\n\n", "\r\n", "|", "\\|", "\\\\|", "\\", "| a | b |"),
    *("<script>window.evil = 1</script>", "<img src=x onerror='window.evil = 1'>", "<b>", "<!-- a", "&lt;", "&amp;"),
    *("![](http://evil.example/pixel.png)", "[a](javascript:window.evil=1)", "www.evil.example", "http://evil.example"),
    *(
        "[a]: http://evil.example",
        "a@evil.example",
        "# a",
        "- a",
        "1. a",
        "> a",
        "    a",
        "\ta",
        "  a  b",
        "---",
        "===",
    ),
    *(
        "$x^2$",
        "\\(x\\)",
        "中文。",
        "日本語のテキスト",
        "עברית",
        "العربية",
        "हिन्दी",
        "été",
        "🦆",
        "👩‍👩‍👧",
        "\u200b",
        "\u00a0",
        "\u202eevil",
    ),
    *("\x00", "\x1b[31m", "[ ]", "[x] a", "[^1]", "[^1]: a", ":smile:", "\n    code\n", "a" * 300, "word " * 80, "!"),
]
NUM_TEXTS = 240


def draw_texts(rng_seed: int) -> list[str]:
    """Random texts: every piece alone, pieces in a row or with spaces between, and characters of all of Unicode."""
    drawn = random.Random(rng_seed)

    def draw_pieces() -> str:
        return drawn.choice(["", " ", "\n"]).join(drawn.choices(PIECES, k=drawn.randint(2, 8)))

    def draw_characters() -> str:
        planes = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x10FFFF)]
        return "".join(chr(drawn.randint(*drawn.choice(planes))) for _ in range(drawn.randint(1, 60)))

    return [*PIECES, *(drawn.choice([draw_pieces, draw_characters])() for _ in range(NUM_TEXTS - len(PIECES)))]


READ = """(() => {
  const shown = [...document.querySelectorAll('.dagster-markdown')].pop();
  const cells = [...shown.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.textContent));
  const whole = [];
  for (const part of shown.children) {
    if (part.tagName === 'P' && /^row \\d+$/.test(part.textContent)) { whole.push([]); continue; }
    if (part.tagName === 'TABLE' || !whole.length) continue;
    const lines = part.cloneNode(true);
    lines.querySelectorAll('br').forEach(line => {
      // A line break in the source follows each of them, and is no text.
      if (line.nextSibling && line.nextSibling.nodeType === 3)
        line.nextSibling.textContent = line.nextSibling.textContent.replace(/^\\n/, '');
      line.replaceWith('\\n');
    });
    whole[whole.length - 1].push([part.tagName, lines.textContent]);
  }
  return {
    cells, whole,
    tags: [...new Set([...shown.querySelectorAll('*')].map(one => one.tagName))],
    evil: window.evil === undefined ? null : window.evil,
    loaded: performance.getEntriesByType('resource').map(one => one.name),
  };
})()"""


@pytest.fixture(scope="module")
def webserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of Dagster's webserver, and the home of its instance."""
    find_chromium()
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "--empty-workspace", "-h", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(
        command, env={"PATH": "/usr/bin:/bin", "DAGSTER_HOME": str(home)}, cwd=home, stdout=-3, stderr=-3
    ) as server:
        try:
            end = time.monotonic() + SECONDS
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, "the webserver ended"
                    assert time.monotonic() < end, f"the webserver did not start in {SECONDS} s"
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}", home
        finally:
            server.kill()


async def read_page(address: str, url: str) -> Any:
    """What the dialog of an asset's newest materialization shows."""
    async with aiohttp.ClientSession() as session:
        page = await connect(session, address)
        # Of those around each other the innermost one takes the click.
        chosen = "filter(one => one.innerText.trim() === '[Show Markdown]').pop()"
        link = f"[...document.querySelectorAll('a,button,span')].{chosen}"
        await page.open(url, until=f"Boolean({link})")
        await page.run(f"{link}.click()")
        await page.wait("document.querySelectorAll('.dagster-markdown tbody tr').length > 0")
        return await page.run(READ)


def write(texts: list[str]) -> str:
    """Every text in a cell of a table, and whole below it."""
    rows = "\n".join(f"| {show_text(text)} | last |" for text in texts)
    whole = "\n\n".join(f"**row {place}**\n\n{show_whole(text)}" for place, text in enumerate(texts))
    return f"| text | end |\n| --- | --- |\n{rows}\n\n{whole}"


def unify(text: str) -> str:
    """A text with one kind of line break, which all look the same."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def join(parts: list[list[str]]) -> str:
    """The text of the blocks or paragraphs that one text became; a block ends with a line break of its own."""
    return "\n\n".join(text.removesuffix("\n") if tag == "PRE" else text for tag, text in parts)


@pytest.mark.parametrize("rng_seed", [1, 2])
def test_random_texts_are_read_in_the_ui_as_they_are(
    webserver: tuple[str, Path], tmp_path: Path, rng_seed: int
) -> None:
    address, home = webserver
    texts = draw_texts(rng_seed)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        shown = {"texts": dg.MetadataValue.md(write(texts))}
        instance.report_runless_asset_event(dg.AssetMaterialization(f"texts_{rng_seed}", metadata=shown))
    with start_chromium(tmp_path / "browser") as browser:
        found = asyncio.run(read_page(browser, f"{address}/assets/texts_{rng_seed}?view=events"))
    seen = [unify(HIDDEN.sub("\ufffd", text)) for text in texts]
    lines = [re.sub("[\n\u2028\u2029]", LINE_BREAK, text) for text in seen]
    assert [cells[1] for cells in found["cells"]] == ["last"] * len(texts), "a text stays in its cell"
    # A cell has one line, in which spaces side by side are one.
    for cells, text in zip(found["cells"], lines, strict=True):
        assert "".join(cells[0].split()) == "".join(text.split())
    for parts, text in zip(found["whole"], seen, strict=True):
        assert unify(join(parts)) == text
    assert set(found["tags"]) <= {"TABLE", "THEAD", "TBODY", "TR", "TH", "TD", "P", "PRE", "CODE", "BR", "STRONG"}
    assert found["evil"] is None
    assert [name for name in found["loaded"] if not name.startswith(address)] == []
