"""The page on which people decide: what it shows, what it takes, and whom it refuses."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import polars as pl
import pytest
from starlette.testclient import TestClient

from lance_assets.browse.app import build_app
from lance_assets.browse.shelf import Shelf
from lance_assets.browse.views import VIEWS
from lance_assets.records import REVIEWED_SET
from lance_assets.rounds.deciding.decisions import Ledger, hash_text, read_ledger
from lance_assets.rounds.nouns import list_schemas
from lance_assets.rounds.platform import Platform
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment
from tests.chromium import Page, connect, start_chromium
from tests.rounds.decided_rows import review, table
from tests.served_pages import serve_pages

HOSTILE = '</textarea><script>document.title="taken"</script><img src=x onerror=alert(1)> "quoted" & \u202eturned'
ROWS = table(
    review("good", 9.0, completion="\n  It is 5.\nThe answer is 5."),
    review("fair", 6.0, completion=HOSTILE, prompt=HOSTILE, reviews=[HOSTILE]),
    review("poor", None, reviews=[], scores=[], unscored_reasons=[]),
    review("s", 9.0, "seed"),
)
KEYS = {row_id: hash_text(*texts) for row_id, *texts in ROWS.select("row_id", "prompt", "completion").iter_rows()}
PATH = "/e/tiny/r0001/decide"


def build_shelf(root: Path, rows: pl.DataFrame = ROWS, **changed: object) -> Shelf:
    """The tables of a round that waits."""
    platform = Platform(data_root=str(root / "data"))
    plan = plan_tiny(write_tiny_experiment(root / "tiny"), **({"human_review": "all"} | changed))
    platform.tables.write("tiny", "r0001", "reviewed_set", rows, schema=REVIEWED_SET)
    return Shelf(platform, list_schemas(), lambda: {"tiny": plan})


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return build_shelf(tmp_path)


@pytest.fixture
def client(shelf: Shelf) -> Iterator[TestClient]:
    with TestClient(build_app(shelf, VIEWS), base_url="http://localhost", follow_redirects=False) as client:
        yield client


def read(shelf: Shelf) -> Ledger:
    return read_ledger(shelf.platform.root, "tiny")


def find_token(page: str) -> str:
    found = re.search(r'name="token" value="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


def post(client: TestClient, origin: str | None = "http://localhost", **fields: str):  # type: ignore[no-untyped-def]
    token = find_token(client.get(PATH).text)
    headers = {} if origin is None else {"origin": origin}
    return client.post(PATH, data={"token": token, "who": "Ann", "key": KEYS["good"]} | fields, headers=headers)


def test_rows_come_one_after_another(client: TestClient, shelf: Shelf) -> None:
    page = client.get(PATH)
    assert page.status_code == 200
    assert "3</strong> of 3 rows wait" in page.text
    assert KEYS["good"] in page.text
    answer = post(client, action="reject", note="wrong sum")
    assert answer.status_code == 303
    following = client.get(answer.headers["location"])
    assert "2</strong> of 3 rows wait" in following.text
    assert f'name="key" value="{KEYS["fair"]}"' in following.text
    assert 'value="Ann"' in following.text
    (kept,) = read(shelf).decisions
    assert (kept.action, kept.who, kept.note, kept.completion) == ("reject", "Ann", "wrong sum", ROWS["completion"][0])
    # A row is left for later, and one that was decided is opened again.
    assert f'name="key" value="{KEYS["poor"]}"' in client.get(f"{PATH}?after={KEYS['fair']}").text
    assert "rejected by Ann" in client.get(f"{PATH}?row={KEYS['good']}").text


def test_edits_keep_every_sign_and_scores_are_numbers_of_the_scale(client: TestClient, shelf: Shelf) -> None:
    assert post(client, action="edit", edited="  One\r\n\r\ntwo\t\r\n", score="8.5").status_code == 303
    assert post(client, action="score", key=KEYS["fair"], score="3").status_code == 303
    edited, scored = read(shelf).decisions
    assert (edited.edited, edited.score) == ("  One\n\ntwo\t\n", 8.5)
    assert scored.score == 3


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"action": "score", "score": "eleven"}, "score must be a number, got"),
        ({"action": "score", "score": "11"}, "a score must be in [0, 10]"),
        ({"action": "edit", "edited": ROWS["completion"][0]}, "got the completion as it is"),
        ({"action": "accept", "who": ""}, "say who decides"),
        ({"action": "publish"}, "decision must be one of accept, reject, edit, score"),
    ],
)
def test_a_mistake_comes_back_with_what_was_typed(
    client: TestClient, shelf: Shelf, fields: dict[str, str], told: str
) -> None:
    answer = post(client, note="my own words", **fields)
    assert answer.status_code == 200
    assert told in answer.text
    assert 'value="my own words"' in answer.text
    assert not read(shelf).decisions


def test_strangers_are_refused(client: TestClient, shelf: Shelf) -> None:
    """A page of somebody else has another origin or none, no token, and cannot make its name lead here."""
    assert post(client, action="accept", origin="http://evil.example").status_code == 403
    assert post(client, action="accept", origin=None).status_code == 403
    assert post(client, action="accept", origin="null").status_code == 403
    for token in ("", "0" * 64, "ü" * 64):
        assert post(client, action="accept", token=token).status_code == 400
    assert client.get(PATH, headers={"host": "evil.example"}).status_code == 400
    assert client.get(f"{PATH}?action=accept&who=Ann&key={KEYS['good']}").status_code == 200
    assert not read(shelf).decisions
    other = client.get("/e/tiny/r0001/rows/reviewed_set")
    assert other.status_code == 200
    assert "script-src" not in other.headers["content-security-policy"]
    headers = client.get(PATH).headers
    assert headers["content-security-policy"].count("default-src 'none'") == 1
    assert headers["content-security-policy"].endswith("script-src 'self'")
    assert headers["x-frame-options"] == "DENY"


def test_rows_that_are_not_there_and_experiments_that_ask_nobody(client: TestClient, tmp_path: Path) -> None:
    assert post(client, action="accept", key="f" * 32).status_code == 400
    assert f'value="{KEYS["good"]}"' in client.get(f"{PATH}?row={'f' * 32}").text
    silent = build_shelf(tmp_path / "silent", human_review="none")
    with TestClient(build_app(silent, VIEWS), base_url="http://localhost") as other:
        assert "Nobody is asked about rows of this experiment" in other.get(PATH).text


def test_hostile_texts_are_shown_and_run_nothing(client: TestClient) -> None:
    page = client.get(f"{PATH}?row={KEYS['fair']}").text
    assert "<script>document" not in page
    assert "<img src=x" not in page
    assert page.count("<script") == 1
    # The first line of a text box is no part of its text, so that a text that begins with one keeps it.
    begun = client.get(PATH).text
    assert "<textarea" in begun
    assert re.search(r"<textarea[^>]*>\n\n  It is 5\.\nThe answer is 5\.</textarea>", begun)


@pytest.fixture
def address(shelf: Shelf) -> Iterator[str]:
    """The page on a port of its own."""
    with serve_pages(shelf) as served:
        yield served


async def press(page: Page, key: str, *, modifiers: int = 0) -> None:
    """A key goes down and up again; a letter writes itself into a field."""
    text = {"Enter": "\r"}.get(key, key if len(key) == 1 and not modifiers else "")
    code = {"Enter": 13, "Escape": 27}.get(key, ord(key[0].upper()))
    given = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
    await page.call("Input.dispatchKeyEvent", type="keyDown", **given, **({"text": text} if text else {}))
    await page.call("Input.dispatchKeyEvent", type="keyUp", **given)


async def decide_in_browser(address: str, debugging: str) -> None:
    """A person decides about three rows."""
    waiting = "document.querySelector('#waiting')?.textContent"
    async with aiohttp.ClientSession() as session:
        page = await connect(session, debugging)
        await page.open(f"{address}{PATH}", until=f"document.readyState === 'complete' && {waiting} === '3'")
        await page.run("document.querySelector('[name=who]').focus()")
        for letter in "Ann":
            await press(page, letter)
        # Enter in a field decides nothing by accident, and neither does a letter that is typed into one.
        await press(page, "Enter")
        await page.run("document.querySelector('[name=note]').focus()")
        for letter in "area":
            await press(page, letter)
        assert await page.run(waiting) == "3"
        await press(page, "Escape")
        await press(page, "r")
        await page.wait(f"document.readyState === 'complete' && {waiting} === '2'")
        # The hostile row ran nothing.
        assert (await page.run("document.title")).startswith("Decide about r0001")
        assert await page.run("document.querySelectorAll('img, main script').length") == 0
        assert await page.run("document.querySelector('[name=who]').value") == "Ann"
        await press(page, "s")
        assert await page.run("document.activeElement.id") == "score"
        await page.call("Input.insertText", text="7.5")
        await press(page, "Enter")
        await page.wait(f"document.readyState === 'complete' && {waiting} === '1'")
        await press(page, "e")
        assert await page.run("document.activeElement.id") == "edited"
        await page.call("Input.insertText", text="A better completion")
        await page.run("document.querySelector('button[value=edit]').click()")
        await page.wait(f"document.readyState === 'complete' && {waiting} === '0'")


@pytest.mark.slow
def test_a_person_decides_by_keys_and_clicks(address: str, shelf: Shelf, tmp_path: Path) -> None:
    """In a real browser: keys and a click, a score and an edit."""
    with start_chromium(tmp_path / "browser") as debugging:
        asyncio.run(decide_in_browser(address, debugging))
    first, second, third = read(shelf).decisions
    assert (first.action, first.who, first.note) == ("reject", "Ann", "area")
    assert (second.action, second.score) == ("score", 7.5)
    assert (third.action, third.edited) == ("edit", "A better completion")
