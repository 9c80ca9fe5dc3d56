"""Serves the page on this machine, until it is told to end or whoever started it has ended."""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

import uvicorn

from lance_assets.browse.app import build_app
from lance_assets.browse.contract import View
from lance_assets.browse.shelf import Shelf

LOOPBACK = "127.0.0.1"
"""The address that only this machine reaches."""
POLL_SECONDS = 1.0


def serve(
    shelf: Shelf, views: Sequence[View], *, port: int, ends_with_parent: bool, say: Callable[[str], None]
) -> None:
    """Serve the page; returns when it was told to end.

    Args:
        shelf: reads the tables.
        views: in the order of their tabs.
        port: on loopback.
        ends_with_parent: whether to end when the process that started this one has ended.
        say: takes the address.

    Raises:
        OSError: the port is taken.
    """
    config = uvicorn.Config(build_app(shelf, views), host=LOOPBACK, port=port, log_level="warning", server_header=False)
    try:
        # Bound here and not by uvicorn, which ends the process with code 1 and without a remedy where it is taken.
        listening = _bind(port)
    except OSError as error:
        raise OSError(
            f"port {port} of {LOOPBACK} is taken ({error}); choose another: lance browse --port 3002"
        ) from None
    server = uvicorn.Server(config)
    if ends_with_parent:
        threading.Thread(target=_watch_parent, args=(server, os.getppid()), daemon=True).start()
    say(f"rows, stories and comparisons: http://localhost:{port}")
    server.run(sockets=[listening])


def _bind(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
    except OSError:
        listening.close()
        raise
    return listening


def _watch_parent(server: uvicorn.Server, parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    server.should_exit = True
