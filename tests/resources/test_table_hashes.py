"""A table that is not what was written is refused, and the message names the asset and the round to make again."""

import hashlib
import json
import logging
import random
import time
from pathlib import Path

import polars as pl
import pytest

from resources.stores import hashes
from resources.stores.tables import CorruptTableError, MissingTableError, TableStore

SCHEMA = pl.Schema({"row_id": pl.String, "score": pl.Float64})
TABLE = pl.DataFrame({"row_id": [f"row {n}" for n in range(200)], "score": [n / 7 for n in range(200)]}, schema=SCHEMA)
PLACE = ("mini", "r0001", "reviewed_set")


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(root=tmp_path)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_one_flipped_bit_anywhere_in_a_table_is_refused(store: TableStore) -> None:
    path = store.write(*PLACE, TABLE, schema=SCHEMA).path
    whole = path.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 60):
        flip(path, place)
        for read in (store.hash, lambda *where: store.read(*where, schema=SCHEMA)):
            with pytest.raises(CorruptTableError, match="materialize mini/reviewed_set for r0001 again") as told:
                read(*PLACE)
            assert str(path) in str(told.value)
        path.write_bytes(whole)
    assert store.read(*PLACE, schema=SCHEMA).equals(TABLE)


def test_a_damaged_table_beside_another_names_the_asset_that_makes_it(store: TableStore) -> None:
    place = ("mini", "r0001", "near_duplicates")
    path = store.write(*place, TABLE, schema=SCHEMA, made_by="cleaned_set").path
    flip(path, 100)
    with pytest.raises(CorruptTableError, match="materialize mini/cleaned_set for r0001 again"):
        store.read(*place, schema=SCHEMA)
    path.unlink()
    with pytest.raises(MissingTableError, match="materialize mini/cleaned_set for r0001 first"):
        store.read(*place, schema=SCHEMA)


def test_a_table_that_is_made_again_heals_what_was_damaged(store: TableStore) -> None:
    path = store.write(*PLACE, TABLE, schema=SCHEMA).path
    flip(path, 100)
    store.write(*PLACE, TABLE, schema=SCHEMA)
    assert store.read(*PLACE, schema=SCHEMA).equals(TABLE)


def test_a_file_is_hashed_once_a_process_and_again_when_it_changed(
    store: TableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hashed = store.write(*PLACE, TABLE, schema=SCHEMA).path, []
    real = hashlib.sha256

    def count(content: bytes) -> object:
        hashed.append(len(content))
        return real(content)

    monkeypatch.setattr(hashes, "_SETTLED_NS", 0)
    # A file system counts time in steps of some milliseconds.
    time.sleep(0.02)
    monkeypatch.setattr("resources.stores.hashes.hashlib.sha256", count)
    for _ in range(3):
        store.read(*PLACE, schema=SCHEMA)
        store.hash(*PLACE)
    assert hashed == [path.stat().st_size]
    flip(path, 100)
    with pytest.raises(CorruptTableError):
        store.hash(*PLACE)


def test_a_file_that_may_still_change_within_the_same_time_is_hashed_each_time(store: TableStore) -> None:
    path = store.write(*PLACE, TABLE, schema=SCHEMA).path
    store.hash(*PLACE)
    assert path not in hashes._HASHES


def test_tables_of_an_older_version_load_with_one_warning(store: TableStore, caplog: pytest.LogCaptureFixture) -> None:
    for asset in ("cleaned_set", "reviewed_set"):
        store.write("mini", "r0001", asset, TABLE, schema=SCHEMA)
        store.record_path("mini", "r0001", asset).unlink()
    with caplog.at_level(logging.WARNING):
        for asset in ("cleaned_set", "reviewed_set", "cleaned_set"):
            assert store.read("mini", "r0001", asset, schema=SCHEMA).equals(TABLE)
    (told,) = caplog.messages
    assert "cleaned_set.parquet has no recorded hash" in told
    assert "lance doctor mini --fix" in told
    store.record_as_it_is(*PLACE, made_by="reviewed_set")
    flip(store.path(*PLACE), 100)
    with pytest.raises(CorruptTableError):
        store.read(*PLACE, schema=SCHEMA)
    with pytest.raises(ValueError, match="keeps the hash of reviewed_set already"):
        store.record_as_it_is(*PLACE, made_by="reviewed_set")


@pytest.mark.parametrize("content", ["", '{"content_ha', "[1, 2]", '{"other": 1}'])
def test_a_half_written_record_stops_nothing_and_is_named(
    store: TableStore, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    store.write(*PLACE, TABLE, schema=SCHEMA)
    record = store.record_path(*PLACE)
    record.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert store.read(*PLACE, schema=SCHEMA).equals(TABLE)
    assert str(record) in caplog.text
    store.write(*PLACE, TABLE, schema=SCHEMA)
    assert json.loads(record.read_text())["content_hash"] == store.hash(*PLACE)
