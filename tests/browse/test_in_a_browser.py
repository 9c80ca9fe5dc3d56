"""Every view in a real browser: hostile texts, the network, the keyboard, a narrow window, and the dark."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from lance_assets.browse.app import build_app
from lance_assets.browse.views import VIEWS
from tests.browse.chromium import ENTER, TAB, Browser, open_browser
from tests.browse.scripted_home import EXPERIMENT, HOSTILE, write_home

pytestmark = pytest.mark.slow

PAGES = (
    *("/", f"/e/{EXPERIMENT}", f"/e/{EXPERIMENT}/r0001", f"/e/{EXPERIMENT}/all/rows/sft_set", "/compare", "/nothing"),
    *(f"/e/{EXPERIMENT}/r0001/rows/{table}" for table in ("raw_generations", "cleaned_set", "reviewed_set")),
    *(f"/e/{EXPERIMENT}/r0001/{view.name}" for view in VIEWS if view.has_tab),
    *(f"/e/{EXPERIMENT}/row/{row}" for row in ("good", "again", "s1", "h5")),
)
CONTRAST = """(() => {
  const read = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 && m[3] === 0 ? null : m };
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const ground = e => {
    for (; e; e = e.parentElement) { const c = read(getComputedStyle(e).backgroundColor); if (c) return c }
    return [255, 255, 255] };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('svg') || e.closest('.skip') || e.closest('.unseen') || !e.getClientRects().length) continue;
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(read(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(e.className + ' ' + e.textContent.trim().slice(0, 30));
  }
  return bad })()"""
"""The elements whose text does not stand out from what is behind it: WCAG asks for a contrast of 4.5."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    shelf = write_home(tmp_path_factory.mktemp("home"))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(shelf, VIEWS), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://localhost:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_every_view_runs_nothing_and_asks_nobody(browser: Browser, address: str) -> None:
    for page in PAGES:
        browser.open(address + page)
        assert {asked.split("/", 3)[2] for asked in browser.list_requests()} == {address.split("/")[2]}, page
        assert not [said for said in browser.list_complaints() if "404" not in said], page
        assert browser.evaluate("document.title") != "run", page
        assert browser.evaluate("document.scripts.length + document.images.length") == 0, page
        assert browser.evaluate("getComputedStyle(document.body).maxWidth") != "none", page


def test_hostile_texts_stand_there_as_they_are_stored(browser: Browser, address: str) -> None:
    browser.open(f"{address}/e/{EXPERIMENT}/r0001/rows/raw_generations")
    shown = browser.evaluate("[...document.querySelectorAll('.text')].map(e => e.textContent)")
    for name, text in HOSTILE.items():
        assert text in shown, name
    # Neither direction nor width of a hostile text leaves its own box.
    assert browser.evaluate(
        "[...document.querySelectorAll('.box')].every(e => e.getBoundingClientRect().right <= innerWidth)"
    )
    labelled = "getComputedStyle(document.querySelector('.sign[data-sign=\"U+202E\"]'), '::after').content"
    assert browser.evaluate(labelled) == '"U+202E"'


def test_a_narrow_window_holds_every_view(browser: Browser, address: str) -> None:
    browser.send("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    try:
        for page in PAGES:
            browser.open(address + page)
            assert browser.evaluate("document.documentElement.scrollWidth") <= 400, page
    finally:
        browser.send("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(browser: Browser, address: str, scheme: str) -> None:
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    grounds = set()
    for page in PAGES:
        browser.open(address + page)
        assert browser.evaluate(CONTRAST) == [], page
        grounds.add(browser.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    (ground,) = grounds
    is_dark = max(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")) < 64
    assert is_dark == (scheme == "dark")


def test_the_keyboard_reaches_everything_in_order(browser: Browser, address: str) -> None:
    for page in ("/", f"/e/{EXPERIMENT}/r0001/rows/cleaned_set", f"/e/{EXPERIMENT}/row/good"):
        browser.open(address + page)
        expected = browser.evaluate(
            "document.querySelectorAll('a[href], button, input, select, summary, [tabindex=\"0\"]').length"
        )
        browser.evaluate(
            "window.seen = []; [...document.querySelectorAll('*')].forEach((e, n) => { e.place = n }); undefined"
        )
        for number in range(min(expected, 60)):
            browser.press(TAB)
            place, is_shown, outline = browser.evaluate(
                "(() => { const e = document.activeElement, r = e.getBoundingClientRect(), s = getComputedStyle(e);"
                " const line = parseFloat(s.outlineWidth);"
                " return [e.place, r.width > 0 && r.right > 0, s.outlineStyle !== 'none' && line > 0]"
                " })()"
            )
            assert is_shown, (page, number)
            assert outline, (page, number)
            browser.evaluate(f"window.seen.push({place}); undefined")
        seen = browser.evaluate("window.seen")
        assert seen == sorted(set(seen)), page


def test_the_skip_link_and_a_form_work_by_keyboard(browser: Browser, address: str) -> None:
    browser.open(f"{address}/e/{EXPERIMENT}")
    browser.press(TAB)
    assert browser.evaluate("document.activeElement.className") == "skip"
    browser.evaluate("document.querySelector('input[name=id]').focus(); undefined")
    browser.send("Input.insertText", text="good")
    browser.events.clear()
    browser.press(ENTER)
    browser.wait()
    assert browser.evaluate("location.pathname") == f"/e/{EXPERIMENT}/row/good", browser.evaluate(
        "document.body.innerText"
    )


def test_a_filter_is_sent_without_any_script(browser: Browser, address: str, tmp_path: Path) -> None:
    browser.open(f"{address}/e/{EXPERIMENT}/r0001/rows/cleaned_set")
    browser.evaluate("document.querySelector('select[name=kind]').value = 'new_prompt'; undefined")
    browser.events.clear()
    browser.evaluate("document.querySelector('form.filters button').click(); undefined")
    browser.wait()
    assert browser.evaluate("document.querySelectorAll('li.row').length") == 1
    assert "kind=new_prompt" in browser.evaluate("location.search")
