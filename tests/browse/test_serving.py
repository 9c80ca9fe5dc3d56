"""Where the pages are served, what is said of a port that is taken, and that they end with whoever started them."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from lance_assets.browse.serving import serve
from lance_assets.browse.shelf import Shelf
from lance_assets.home import find_browse_address, name_browse_page
from lance_assets.rounds.platform import Platform


def test_a_port_that_is_taken_is_said_with_a_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port} of 127\.0\.0\.1 is taken .* choose another: lance browse"):
            serve(Shelf(Platform(str(tmp_path)), {}, dict), (), port=port, ends_with_parent=False, say=print)


def test_the_address_of_a_page_is_that_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANCE_BROWSE", raising=False)
    assert name_browse_page("mini_lance", "r0001") == "http://localhost:3001/e/mini_lance/r0001"
    monkeypatch.setenv("LANCE_BROWSE", "https://tunnel.example:8443/")
    assert find_browse_address() == "https://tunnel.example:8443"
    assert name_browse_page("a", "r0000", "sft_set") == "https://tunnel.example:8443/e/a/r0000/rows/sft_set"


def is_served(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/static/style.css") as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_the_command_serves_on_this_machine_and_ends_with_its_parent(tmp_path: Path, project_root: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from lance_assets.cli.app import main; main()"
    started = f'"$0" -c "$1" browse --port {port} --with-parent & exec sleep 600'
    environment = os.environ | {"LANCE_HOME": str(tmp_path), "PYTHONPATH": str(project_root)}
    with subprocess.Popen(["sh", "-c", started, sys.executable, code], env=environment) as parent:
        try:
            deadline = time.monotonic() + 120
            while not is_served(port) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert is_served(port)
            listening = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            assert {one.laddr.ip for one in listening if one.laddr.port == port} == {"127.0.0.1"}
        finally:
            parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_served(port) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not is_served(port)
