"""A real browser for tests: Debian's chromium without a window, driven over its debugging port."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

SECONDS = 60
"""How long anything in the browser may take on a busy machine."""


def find_chromium() -> str:
    """The browser's program; the test is skipped where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no chromium on this machine")
    return found


class Page:
    """One page of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.number = socket, 0

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """What the browser answers to a command of its protocol."""
        self.number += 1
        mine = self.number
        await self.socket.send_json({"id": mine, "method": method, "params": params})
        while True:
            answer = json.loads((await self.socket.receive(timeout=SECONDS)).data)
            if answer.get("id") == mine:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    async def run(self, script: str) -> Any:
        """The value of a script in the page."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def open(self, url: str, *, until: str) -> None:
        """Go to a page and wait for it.

        Args:
            url: the page.
            until: a script that is true once the page is there.
        """
        await self.call("Page.navigate", url=url)
        await self.wait(until)

    async def wait(self, until: str) -> None:
        """Wait until a script is true in the page."""
        end = time.monotonic() + SECONDS
        while not await self.run(until):
            assert time.monotonic() < end, f"{until} is not true after {SECONDS} s: {await self.run('document.title')}"


@contextmanager
def start_chromium(folder: Path) -> Iterator[str]:
    """The address at which the debugging port of a fresh browser names its pages."""
    program = find_chromium()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=1440,1000"]
    command = [program, *flags, f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            port, end = folder / "DevToolsActivePort", time.monotonic() + SECONDS
            while not port.exists() or not port.read_text():
                assert browser.poll() is None, "chromium ended before it was ready"
                assert time.monotonic() < end, f"chromium is not ready after {SECONDS} s"
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        finally:
            browser.kill()


async def connect(session: aiohttp.ClientSession, address: str) -> Page:
    """The page that a fresh browser has."""
    pages = await (await session.get(address)).json()
    socket = await session.ws_connect(
        next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"), max_msg_size=0
    )
    page = Page(socket)
    await page.call("Page.enable")
    return page
