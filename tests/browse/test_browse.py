"""The page over a small scripted home: what it shows, what it refuses, and that it changes nothing."""

import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from lance_assets.browse.app import build_app
from lance_assets.browse.contract import Asked, View, Way
from lance_assets.browse.shelf import Shelf
from lance_assets.browse.signs import show_as_stored
from lance_assets.browse.views import VIEWS
from tests.browse.reading_html import ReadPage, read_page
from tests.browse.scripted_home import EXPERIMENT, HOSTILE, build_tables, write_home

BASE = "http://localhost:3001"
ROWS = f"/e/{EXPERIMENT}/r0001/rows"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return write_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def client(shelf: Shelf) -> Iterator[TestClient]:
    with TestClient(build_app(shelf, VIEWS), base_url=BASE) as client:
        yield client


def get(client: TestClient, address: str, status: int = 200) -> ReadPage:
    answer = client.get(address)
    assert answer.status_code == status, (address, answer.text[-800:])
    return read_page(answer.text)


def take(client: TestClient, table: str, query: str) -> list[dict[str, object]]:
    """The rows of a download; a line ends at a line feed alone."""
    return [json.loads(line) for line in client.get(f"{table}/download.jsonl?{query}").text.split("\n") if line]


def list_ids(page: ReadPage) -> list[str]:
    """The ids of all rows that a page names, in order."""
    return [attrs["href"].rpartition("/")[2] for tag, attrs in page.tags if tag == "a" and attrs.get("class") == "id"]


def find_way(address: str) -> str:
    """The path of the way that an address belongs to; empty for none."""
    path = urlsplit(address).path
    ways = [way.path for view in VIEWS for way in view.ways]
    return next((way for way in ways if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", way), path)), "")


@pytest.fixture(scope="module")
def pages(client: TestClient) -> dict[str, tuple[int, str]]:
    """Every page that links of pages lead to within three clicks: how many clicks, and its HTML."""
    found: dict[str, tuple[int, str]] = {}
    frontier = ["/"]
    for clicks in range(4):
        following: list[str] = []
        for address in frontier:
            answer = client.get(address)
            assert answer.status_code == 200, (address, answer.text[-800:])
            found[address] = (clicks, answer.text)
            if answer.headers["content-type"].startswith("text/html"):
                following += [urljoin(address, link) for link in read_page(answer.text).links]
        # Of one kind of page a few are enough: every row has a story.
        kinds: Counter[str] = Counter()
        frontier = []
        for one in dict.fromkeys(following):
            kind = find_way(one)
            kinds[kind] += 1
            if one.startswith("/") and one not in found and kinds[kind] <= 2:
                frontier.append(one)
    return found


def test_every_view_is_three_clicks_from_the_start(pages: dict[str, tuple[int, str]]) -> None:
    visited = {find_way(address) for address in pages}
    # A form leads to the one without a link.
    assert visited == {way.path for view in VIEWS for way in view.ways} - {"/e/{experiment}/row"}


def test_no_page_runs_anything_or_asks_the_network(pages: dict[str, tuple[int, str]]) -> None:
    for address, (_, html) in pages.items():
        if "download." in address:
            continue
        for tag, attrs in read_page(html).tags:
            assert tag not in ("script", "img", "iframe", "object", "style", "base", "b"), (address, tag)
            assert not [name for name in attrs if name.startswith("on") or name == "style"], (address, tag, attrs)
            for name in ("href", "src", "action"):
                assert (attrs.get(name) or "/").startswith(("/", "?", "#")), (address, tag, attrs)


def test_the_headers_forbid_what_the_page_does_not_do(client: TestClient) -> None:
    for address in ("/", "/nothing", "/static/style.css", f"{ROWS}/cleaned_set?min=x"):
        headers = client.get(address).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert "script-src" not in policy
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:3001", "evil@", ""])
def test_another_host_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:3001", "127.0.0.1:8080", "LOCALHOST"])
def test_this_machine_is_not_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


def test_nothing_is_written(shelf: Shelf, pages: dict[str, tuple[int, str]], client: TestClient) -> None:
    def describe() -> dict[Path, tuple[int, int]]:
        files = [path for path in shelf.platform.root.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = describe()
    for address in {find_way(address): address for address in pages}.values():
        client.get(address)
    assert describe() == before
    assert client.post("/", headers={"origin": BASE}).status_code == 405


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_shown_as_it_is_stored(client: TestClient, name: str) -> None:
    row = f"h{list(HOSTILE).index(name)}"
    for address in (f"{ROWS}/raw_generations?seed={row}", f"/e/{EXPERIMENT}/row/{row}"):
        assert HOSTILE[name] in get(client, address).texts, address


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_any_text_reads_back(text: str) -> None:
    """Python's parser, as a browser does, would make a line feed of a bare carriage return."""
    html = str(show_as_stored(text))
    assert "\r" not in html
    (read,) = read_page(html).texts
    assert read == text


def test_what_cannot_be_seen_is_marked() -> None:
    for sign in "\u200b\u202e\u2060\ufeff\u00ad\u2028\x07\U000e0041":
        assert f'data-sign="U+{ord(sign):04X}"' in show_as_stored(f"a{sign}b")
    for text in ("می‌خواهم", "👩‍👩‍👧", "a\tb\n"):
        assert "data-sign" not in show_as_stored(text)
    assert 'data-sign="U+200D"' in show_as_stored("a\u200db")


CLEANED = build_tables()["r0001", "cleaned_set"]


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("", pl.lit(True)),
        ("kind=new_prompt", pl.col("kind") == "new_prompt"),
        ("drop_reason=like_sibling", pl.col("drop_reason") == "like_sibling"),
        ("drop_reason=(none)", pl.col("drop_reason").is_null()),
        ("drop_reason=(any)&kind=completion", pl.col("drop_reason").is_not_null()),
        ("number=similarity&min=0.8&max=0.9", pl.col("similarity").is_between(0.8, 0.9)),
        ("number=similarity&min=0.9", pl.col("similarity") >= 0.9),
        ("seed=s1", pl.col("seed_id") == "s1"),
        ("seed=h1", pl.col("row_id").str.starts_with("h1")),
        ("text=IT+IS+5", pl.lit(False)),
        ("text=it+is+5", pl.col("completion").str.contains("It is 5", literal=True)),
        ("text=It+is+5.", pl.col("completion").str.contains("It is 5.", literal=True)),
        ("text=%3Cscript%3E", pl.col("prompt").str.contains("<script>", literal=True)),
        ("text=(", pl.any_horizontal(pl.col("prompt", "completion").str.contains("(", literal=True))),
    ],
    ids=str,
)
def test_a_filter_leaves_what_it_says(client: TestClient, query: str, kept: pl.Expr) -> None:
    page = get(client, f"{ROWS}/cleaned_set?{query}")
    wanted = CLEANED.filter(kept.fill_null(False))["row_id"].to_list()
    assert page.row_ids == wanted
    assert re.search(rf"\b{len(wanted)} rows?\b", " ".join(page.prose.split()))
    assert [row["row_id"] for row in take(client, f"{ROWS}/cleaned_set", query)] == wanted
    taken = pl.read_parquet(io.BytesIO(client.get(f"{ROWS}/cleaned_set/download.parquet?{query}").content))
    assert taken.equals(CLEANED.filter(kept.fill_null(False)))


def test_rows_are_ordered_and_paged(client: TestClient) -> None:
    ordered = get(client, f"{ROWS}/reviewed_set?sort=review_score&falling=1&kind=completion").row_ids
    assert ordered[:2] == ["good", "bad"]
    wanted = CLEANED.sort("row_id")["row_id"].to_list()
    for page in (1, 2):
        shown = get(client, f"{ROWS}/cleaned_set?per=5&page={page}&sort=row_id").row_ids
        assert shown == wanted[5 * page - 5 : 5 * page]


def test_a_sample_is_drawn_again_by_its_address(client: TestClient) -> None:
    draws = [
        [row["row_id"] for row in take(client, f"{ROWS}/cleaned_set", f"random=6&draw={draw}")] for draw in (1, 1, 2, 3)
    ]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == 6
    assert draws[0] != draws[2] or draws[2] != draws[3]
    page = get(client, f"{ROWS}/cleaned_set?random=6&draw=1")
    assert page.row_ids == draws[0]
    assert any("draw=2" in link for link in page.links)


def test_all_rounds_are_listed_together_with_their_round(client: TestClient) -> None:
    taken = take(client, f"/e/{EXPERIMENT}/all/rows/sft_set", "")
    assert [(row["of_round"], row["row_id"]) for row in taken] == [
        ("r0000", "s1"),
        ("r0000", "s2"),
        ("r0001", "s1"),
        ("r0001", "s2"),
        ("r0001", "t1"),
    ]


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/e/nobody", 404, "no experiment 'nobody' has tables; those that have: tiny"),
        ("/e/..%2f..%2fetc/r0001", 404, ""),
        ("/e/Tiny", 404, "experiment must be small letters"),
        (f"/e/{EXPERIMENT}/r0007", 404, "tiny has no round 'r0007'; it has r0000, r0001"),
        (f"/e/{EXPERIMENT}/all/funnel", 404, "'all'"),
        (f"/e/{EXPERIMENT}/r1/rows", 404, "round must be r and four digits, like r0001, got 'r1'"),
        (f"{ROWS}/passwd", 404, "there is no table 'passwd'; choose one of start_checkpoint"),
        (f"{ROWS}/pair_judgements", 404, "Materialize tiny/pair_judgements for the round"),
        (f"{ROWS}/cleaned_set?min=many", 400, "min must be a number such as 7.5, got 'many'"),
        (f"{ROWS}/cleaned_set?sort=colour", 400, "sort: there is no such column 'colour'; choose one of row_id"),
        (f"{ROWS}/cleaned_set?colour=red", 400, "there is no field 'colour' to choose rows by"),
        (f"{ROWS}/cleaned_set?page=-1", 400, "page must be a whole number from 1"),
        (f"{ROWS}/cleaned_set?random=9999", 400, "random must be a whole number from 1 to 500, got '9999'"),
        (f"/e/{EXPERIMENT}/r0001/funnel?against=r0009", 400, "against: tiny has no other round 'r0009'; it has r0000"),
        (f"/e/{EXPERIMENT}/r0001/seeds?sort=x", 400, "sort: seeds are not ordered by 'x'; choose one of review_score"),
        (f"/e/{EXPERIMENT}/row/nothing", 404, "no table has a row 'nothing'"),
        ("/compare?a=tiny%2Fr0009&b=tiny%2Fr0001", 400, "a: there is no round 'tiny/r0009'"),
        ("/compare?experiment=%3Cscript%3E", 400, "experiment: '<script>' has no tables"),
        ("/e", 404, "there is no page '/e'"),
    ],
    ids=str,
)
def test_a_mistake_in_an_address_is_a_page(client: TestClient, address: str, status: int, said: str) -> None:
    assert said in get(client, address, status).prose


def test_a_damaged_table_is_named_with_what_to_do(shelf: Shelf, tmp_path: Path) -> None:
    shutil.copytree(shelf.platform.root.parent, tmp_path / "home")
    own = Shelf(type(shelf.platform)(str(tmp_path / "home" / "data")), shelf.schemas, shelf.find_plans)
    path = own.platform.tables.path(EXPERIMENT, "r0001", "reviewed_set")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with TestClient(build_app(own, VIEWS), base_url=BASE) as client:
        for view in ("rows/reviewed_set", "funnel", "seeds", "disagreements"):
            page = get(client, f"/e/{EXPERIMENT}/r0001/{view}", 500)
            assert str(path) in page.prose
            assert "materialize tiny/reviewed_set for r0001 again" in page.prose
        get(client, f"/e/{EXPERIMENT}/r0001")
        get(client, f"/e/{EXPERIMENT}/r0001/flips")
        path.write_bytes(b"PAR1")
        assert "damaged" in get(client, f"/e/{EXPERIMENT}/r0001").prose
        path.unlink()
        assert "Materialize tiny/reviewed_set" in get(client, f"{ROWS}/reviewed_set", 404).prose


def test_the_story_of_an_accepted_row(client: TestClient) -> None:
    page = get(client, f"/e/{EXPERIMENT}/row/good")
    said = " ".join(page.prose.split())
    for words in ("kept", "scored 9.5", "in the SFT set", "chosen in a preference pair", "sft threshold 8"):
        assert words in said
    assert "Checkpoints that trained on it, or on what came of it: r0001" in said
    assert {"What is 2 + 3?", "It is 5.", "Raw good", "score: 9", "score: 10", "?"} <= set(page.texts)
    assert "no score, no score" in said
    assert {"s1", "p1", "t1", "pair"} <= set(list_ids(page))


def test_the_story_of_a_dropped_row_stands_beside_what_it_is_like(client: TestClient) -> None:
    page = get(client, f"/e/{EXPERIMENT}/row/again")
    said = " ".join(page.prose.split())
    assert "dropped: like_sibling" in said
    assert "tier lexical" in said
    assert "similarity 0.875" in said
    assert {"It is 5!", "It is 5."} <= set(page.texts)
    assert "No checkpoint trained on it" in said


def test_the_story_of_a_seed_goes_forward(client: TestClient) -> None:
    ids = list_ids(get(client, f"/e/{EXPERIMENT}/row/s1"))
    assert {"p1", "good", "bad", "again", "t1", "pair"} <= set(ids)


def test_a_row_is_found_by_the_id_that_is_typed_in(client: TestClient) -> None:
    assert client.get(f"/e/{EXPERIMENT}/row?id=+good+").url.path == f"/e/{EXPERIMENT}/row/good"
    assert "id: type the id of a row" in get(client, f"/e/{EXPERIMENT}/row?id=", 400).prose


def test_the_funnel_counts_every_row_once(client: TestClient) -> None:
    said = " ".join(get(client, f"/e/{EXPERIMENT}/r0001/funnel").prose.split())
    num = len(CLEANED)
    for words in (f"candidates {num}", f"kept {num - 1}", "lost: like sibling 1", "new pairs 1", "accepted for SFT 1"):
        assert words in said
    assert f"lost: without a score {len(HOSTILE)}" in said


def test_seeds_say_what_came_of_them(client: TestClient, shelf: Shelf) -> None:
    from lance_assets.browse.views.seeds import count_seeds

    counted = {row["row_id"]: row for row in count_seeds(shelf, EXPERIMENT, "r0001").to_dicts()}
    columns = ("proposed", "kept", "reviewed", "mean_score", "accepted", "paired")
    assert [counted["s1"][name] for name in columns] == [4, 3, 2, 7.0, 1, 1]
    assert [counted["s2"][name] for name in columns] == [len(HOSTILE), len(HOSTILE), len(HOSTILE), None, 0, 0]
    assert "What is 2 + 3?" in get(client, f"/e/{EXPERIMENT}/r0001/seeds").texts


def test_flips_show_both_answers(client: TestClient) -> None:
    page = get(client, f"/e/{EXPERIMENT}/r0001/flips")
    said = " ".join(page.prose.split())
    assert "Of 3 items that r0000 and r0001 both answered (greedy), 1 turned right and 1 turned wrong" in said
    assert {"5", "7", "2 + 3", "1 + 4"} <= set(page.texts)
    lost = get(client, f"/e/{EXPERIMENT}/r0001/flips?turn=lost&task=add")
    assert "2 + 3" in lost.texts
    assert "1 + 4" not in lost.texts


def test_disagreements_of_reviews(client: TestClient) -> None:
    said = " ".join(get(client, f"/e/{EXPERIMENT}/r0001/disagreements").prose.split())
    assert "2 with scores that differ" in said
    assert "apart by 7" in said
    assert said.index("apart by 7") < said.index("apart by 1")
    assert "The bar is 8 (sft threshold)" in said


def test_two_rounds_side_by_side(client: TestClient) -> None:
    said = " ".join(get(client, f"/e/{EXPERIMENT}/r0001/compared").prose.split())
    assert "sft_threshold 7.0 8.0" in said
    assert "raw generations – 12.5 1,234" in said
    assert "0.667 [0.2, 0.9]" in said


def test_a_form_is_taken_from_our_own_pages_alone(shelf: Shelf) -> None:
    def keep(asked: Asked) -> PlainTextResponse:
        return PlainTextResponse(json.dumps(asked.form))

    view = View("keep", "Keep", "", (Way("/keep", keep, methods=("POST",)),), has_tab=False)
    with TestClient(build_app(shelf, [*VIEWS, view]), base_url=BASE) as client:
        assert client.post("/keep", content="a=%3Cb%3E&a=2", headers={"origin": BASE}).json() == {"a": ["<b>", "2"]}
        for headers in ({}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://localhost:3000"}):
            assert client.post("/keep", content="a=1", headers=headers).status_code == 403
        assert client.get("/keep").status_code == 405
