"""A round of LANCE with the packaged model, on whose rows a person decides in a real browser."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from lance_assets.browse.shelf import Shelf
from lance_assets.rounds.deciding.decisions import read_ledger
from lance_assets.rounds.finished.trace import trace_row
from lance_assets.rounds.nouns import list_schemas
from tests.assets.conftest import OpenWorld
from tests.assets.test_human_review import AFTER, go_on, tick_decided
from tests.assets.tiny_experiment import World, find_failures
from tests.chromium import connect, start_chromium
from tests.served_pages import serve_pages
from tests.test_deciding_page import press

NUM_REJECTED = 3


async def decide_on_all(address: str, debugging: str) -> int:
    """By keys: the first rows are rejected and all others accepted. The number of rows that waited."""
    waiting = "Number(document.querySelector('#waiting')?.textContent)"
    async with aiohttp.ClientSession() as session:
        page = await connect(session, debugging)
        await page.open(f"{address}/e/tiny/r0001/decide", until=f"document.readyState === 'complete' && {waiting} > 0")
        number = int(await page.run(waiting))
        await page.run("document.querySelector('[name=who]').value = 'Ann'")
        for decided in range(number):
            await press(page, "r" if decided < NUM_REJECTED else "a")
            await page.wait(f"document.readyState === 'complete' && {waiting} === {number - decided - 1}")
    return number


@pytest.mark.slow
def test_what_a_person_rejects_in_the_browser_is_trained_on_nowhere(make_world: OpenWorld, tmp_path: Path) -> None:
    """The round waits, goes on after the last key, and its report says how far person and model agree."""
    world: World = make_world(human_review="all")
    for key in ("r0000", "r0001"):
        result = world.run(key)
        assert result.success, find_failures(result)
    assert not world.platform.tables.exists("tiny", "r0001", "sft_set")
    shelf = Shelf(world.platform, list_schemas(), lambda: {"tiny": world.plan})
    with serve_pages(shelf) as address, start_chromium(tmp_path / "browser") as debugging:
        number = asyncio.run(decide_on_all(address, debugging))
    decisions = read_ledger(world.platform.root, "tiny").decisions
    assert [one.action for one in decisions] == ["reject"] * NUM_REJECTED + ["accept"] * (number - NUM_REJECTED)
    (request,) = tick_decided(world).run_requests
    result = go_on(world, request)
    assert result.success, find_failures(result)
    assert all(world.platform.tables.exists("tiny", "r0001", noun) for noun in AFTER)

    one = world.round("r0001")
    rejected = {decision.completion for decision in decisions[:NUM_REJECTED]}
    reviewed, pairs = one.read("reviewed_set"), one.read("preference_pairs")
    assert not rejected & {*one.read("sft_set")["completion"], *pairs["chosen"], *pairs["rejected"]}
    row_id = reviewed.filter(completion=decisions[0].completion)["row_id"][0]
    tables = {("r0001", noun): one.read(noun) for noun in ("reviewed_set", "decision_set")}
    (entry,) = [each for each in trace_row(tables, row_id).entries if each.table == "decision_set"]
    assert (entry.row["decision"], entry.row["decided_by"]) == ("reject", "Ann")
    shown = world.metadata("decision_set", "r0001")
    assert shown["agreement/num_rows"] > 0
    assert 0 <= shown["agreement/rate"] <= 1
