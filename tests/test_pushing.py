"""What is exported reaches a hub whole: a server on loopback that speaks the part of the hub's API which is used."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from lance_assets.cli.exporting import push


@dataclass
class Hub:
    """What the server was asked for."""

    address: str
    repositories: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    refuses: bool = False


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that keeps what is pushed."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if found.refuses:
                return self.answer(401, {"error": "Invalid username or password."})
            if self.path == "/api/repos/create":
                found.repositories.append(json.loads(body))
                return self.answer(200, {"url": f"{found.address}/datasets/me/rows"})
            if "/preupload/" in self.path:
                asked = json.loads(body)["files"]
                modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
                return self.answer(200, {"files": modes})
            if "/commit/" in self.path:
                found.commits.append(self.path)
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        found.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                url = f"{found.address}/datasets/me/rows/commit/1"
                return self.answer(200, {"commitUrl": url, "commitOid": "1", "success": True})
            return self.answer(200, {})

        def do_GET(self) -> None:
            self.answer(404, {"error": "not here"})

        def answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "other_formats").mkdir()
    (tmp_path / "README.md").write_text("---\ntags: [synthetic]\n---\n# Rows\n")
    (tmp_path / "other_formats" / "sft.json").write_text("[]\n")
    return tmp_path


def test_a_folder_is_pushed_whole_in_one_commit(hub: Hub, folder: Path) -> None:
    said: list[str] = []
    push(folder, "me/rows", repo_type="dataset", is_private=True, say=said.append)
    assert hub.files == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    (created,) = hub.repositories
    assert (created["name"], created["organization"], created["type"]) == ("rows", "me", "dataset")
    assert created.get("private") is True or created.get("visibility") == "private"
    assert len(hub.commits) == 1
    assert hub.commits[0].startswith("/api/datasets/me/rows/commit/main")
    assert said == [f"pushed to {hub.address}/datasets/me/rows/commit/1"]


def test_a_hub_that_refuses_is_told_without_the_token(hub: Hub, folder: Path) -> None:
    hub.refuses = True
    with pytest.raises(ValueError, match="hf auth login") as caught:
        push(folder, "me/rows", repo_type="model", is_private=False, say=print)
    assert "hf_secret" not in str(caught.value)


def test_a_name_that_is_none_is_refused(hub: Hub, folder: Path) -> None:
    with pytest.raises(ValueError, match="owner/name, got 'a/b/c'"):
        push(folder, "a/b/c", repo_type="dataset", is_private=False, say=print)
    assert hub.files == {}


def test_without_the_hub_the_message_names_the_variable(folder: Path) -> None:
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        push(folder, "me/rows", repo_type="dataset", is_private=False, say=print)


def test_a_hub_that_cannot_be_reached_is_told(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(OSError, match="push it later"):
        push(folder, "me/rows", repo_type="dataset", is_private=False, say=print)
