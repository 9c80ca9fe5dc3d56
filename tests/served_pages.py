"""The pages of `lance browse`, served for a test."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from lance_assets.browse.app import build_app
from lance_assets.browse.shelf import Shelf
from lance_assets.browse.views import VIEWS


@contextmanager
def serve_pages(shelf: Shelf) -> Iterator[str]:
    """Their address, on a port of its own while the block runs."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(shelf, VIEWS), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
