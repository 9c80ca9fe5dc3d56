"""The hash of a file that rounds read: it is read once, and again where it is another."""

import hashlib
import os
from pathlib import Path

import pytest

from lance_assets.rounds.identity import parts
from lance_assets.rounds.identity.parts import hash_file


def write(file: Path, text: str, *, seconds_ago: float = 60.0) -> str:
    """Write a file as if it had been written so long ago, and give its hash."""
    file.write_text(text)
    changed = file.stat().st_mtime - seconds_ago
    os.utime(file, (changed, changed))
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_file_is_read_once_however_many_nouns_ask_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading 50 experiments read the same few files thousands of times."""
    file, reads = tmp_path / "seeds.jsonl", []
    wanted, digest = write(file, "one"), hashlib.file_digest
    monkeypatch.setattr(parts.hashlib, "file_digest", lambda *given: (reads.append(1), digest(*given))[1])
    assert [hash_file(file) for _ in range(5)] == [wanted] * 5
    assert len(reads) == 1
    changed = write(file, "two", seconds_ago=30.0)
    assert [hash_file(file) for _ in range(5)] == [changed] * 5
    assert len(reads) == 2


def test_a_large_file_is_read_once_by_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parts, "LARGE_BYTES", 2)
    file = tmp_path / "texts.jsonl"
    wanted = write(file, "a text")
    assert hash_file(file) == wanted
    # As in another process, which has hashed nothing yet.
    monkeypatch.setattr(parts, "_HASHES", {})
    monkeypatch.setattr(parts.hashlib, "file_digest", None)
    assert hash_file(file) == wanted


def test_a_file_that_was_just_written_is_read_each_time(tmp_path: Path) -> None:
    """A second change in the same moment may leave its time and size alike."""
    file = tmp_path / "seeds.jsonl"
    for text in ("one", "two"):
        wanted = write(file, text, seconds_ago=0.0)
        assert hash_file(file) == wanted
