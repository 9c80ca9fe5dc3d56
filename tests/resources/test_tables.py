"""Tables appear whole or not at all, with the schema asked for."""

import errno
import hashlib
import os
import subprocess
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lance_assets.records import REVIEWED_SET
from resources.stores.files import DiskFullError
from resources.stores.tables import CorruptTableError, MissingTableError, TableStore, encode_table

SCHEMA = pl.Schema({"row_id": pl.String, "score": pl.Float64})
TABLE = pl.DataFrame({"row_id": ["a", "b"], "score": [1.0, None]}, schema=SCHEMA)


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(root=tmp_path)


def test_write_then_read(store: TableStore) -> None:
    version = store.write("mini", "r0001", "sft_set", TABLE, schema=SCHEMA)
    assert version.path == store.root / "tables" / "mini" / "r0001" / "sft_set.parquet"
    assert version.num_rows == 2
    assert version.content_hash == hashlib.sha256(version.path.read_bytes()).hexdigest()
    assert version.content_hash == store.hash("mini", "r0001", "sft_set")
    assert_frame_equal(store.read("mini", "r0001", "sft_set", schema=SCHEMA), TABLE)
    assert os.listdir(version.path.parent) == ["sft_set.parquet"]


def test_columns_are_put_in_order(store: TableStore) -> None:
    first = store.write("mini", "r0001", "a", TABLE, schema=SCHEMA)
    second = store.write("mini", "r0001", "b", TABLE.select("score", "row_id"), schema=SCHEMA)
    assert first.content_hash == second.content_hash


@given(
    rows=st.lists(
        st.tuples(st.text(alphabet="ab é\n", max_size=5), st.none() | st.floats(0, 10), st.lists(st.text("xy"))),
        max_size=9,
    ),
    cut=st.integers(0, 9),
)
def test_same_rows_give_the_same_bytes(rows: list, cut: int) -> None:
    schema = {"text": pl.String, "score": pl.Float64, "reviews": pl.List(pl.String)}
    whole = pl.DataFrame(rows, schema=schema, orient="row")
    pieces = pl.concat([whole[:cut], whole[cut:]], rechunk=False)
    longer = pl.concat([whole, whole], rechunk=False)[: whole.height]
    assert encode_table(whole) == encode_table(pieces) == encode_table(longer)


def test_reviewed_set_comes_back(store: TableStore) -> None:
    row = dict.fromkeys(REVIEWED_SET.names()) | {"reviews": ["fine", "bad"], "scores": [8.0, None]}
    table = pl.DataFrame([row], schema=REVIEWED_SET)
    store.write("mini", "r0000", "reviewed_set", table, schema=REVIEWED_SET)
    assert_frame_equal(store.read("mini", "r0000", "reviewed_set", schema=REVIEWED_SET), table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.drop("score"), r"column 'score' is missing, wanted Float64.*sft_set\.parquet"),
        (TABLE.with_columns(score=pl.lit("8")), r"column 'score' is String, wanted Float64.*sft_set\.parquet"),
        (TABLE.with_columns(more=1), r"column 'more' \(Int32\) is not of this table.*sft_set\.parquet"),
    ],
)
def test_wrong_schema(store: TableStore, table: pl.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.write("mini", "r0001", "sft_set", table, schema=SCHEMA)
    assert not store.exists("mini", "r0001", "sft_set")
    store.write("mini", "r0001", "sft_set", table, schema=table.schema)
    with pytest.raises(ValueError, match=message):
        store.read("mini", "r0001", "sft_set", schema=SCHEMA)


def test_missing_table(store: TableStore) -> None:
    for ask in (store.hash, lambda *place: store.read(*place, schema=SCHEMA)):
        with pytest.raises(MissingTableError, match=r"'mini'.*'sft_set'.*r0002.*materialize mini/sft_set for r0002"):
            ask("mini", "r0002", "sft_set")


@pytest.mark.parametrize("keep", [0, 3, 50, -5])
def test_corrupt_table(store: TableStore, keep: int) -> None:
    path = store.write("mini", "r0001", "sft_set", TABLE, schema=SCHEMA).path
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptTableError, match=r"sft_set\.parquet is not what was written.*materialize mini/sft_set"):
        store.read("mini", "r0001", "sft_set", schema=SCHEMA)
    store.record_path("mini", "r0001", "sft_set").unlink()
    with pytest.raises(CorruptTableError, match=r"sft_set\.parquet.*not a readable Parquet.*materialize mini/sft_set"):
        store.read("mini", "r0001", "sft_set", schema=SCHEMA)


@pytest.mark.parametrize(
    "place",
    [
        ("..", "r0001", "a"),
        ("Mini", "r0001", "a"),
        ("", "r0001", "a"),
        ("mini\n", "r0001", "a"),
        ("mini", "r1", "a"),
        ("mini", "r00001", "a"),
        ("mini", "r0001/..", "a"),
        ("mini", "r٠٠٠١", "a"),
        ("mini", "r0001", "../a"),
    ],
)
def test_unsafe_names(store: TableStore, place: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match="must be"):
        store.write(*place, TABLE, schema=SCHEMA)
    assert not list(store.root.iterdir())


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_table_before(store: TableStore, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    before = store.write("mini", "r0001", "sft_set", TABLE, schema=SCHEMA)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[failing], fail)
        with pytest.raises(DiskFullError, match=r"\d+ bytes free.*/sft_set\."):
            store.write("mini", "r0001", "sft_set", TABLE[:1], schema=SCHEMA)
    assert store.hash("mini", "r0001", "sft_set") == before.content_hash
    assert os.listdir(before.path.parent) == ["sft_set.parquet"]


def test_really_full_disk(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk of its own can be mounted by root only")
    try:
        store = TableStore(root=tmp_path)
        store.write("mini", "r0001", "small", TABLE, schema=SCHEMA)
        table = pl.DataFrame({"row_id": [os.urandom(64).hex() for _ in range(4000)]}).with_columns(score=0.5)
        with pytest.raises(DiskFullError, match="the disk is full") as caught:
            store.write("mini", "r0001", "large", table, schema=SCHEMA)
        assert caught.value.errno == errno.ENOSPC
        assert sorted(file.name for file in (tmp_path / "tables").rglob("*") if file.is_file()) == ["small.parquet"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_leftover_of_a_killed_writer_is_removed(store: TableStore) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    folder = store.path("mini", "r0001", "sft_set").parent
    folder.mkdir(parents=True)
    (folder / f".sft_set.parquet.{ended.pid}.tmp").write_bytes(b"half")
    store.write("mini", "r0001", "sft_set", TABLE, schema=SCHEMA)
    assert os.listdir(folder) == ["sft_set.parquet"]


def test_a_table_of_another_version_says_so_and_what_to_do(tmp_path: Path) -> None:
    """Rounds made before a column was renamed: here `rung`, which is `stratum` now."""
    store = TableStore(tmp_path)
    before = pl.DataFrame({"model": ["checkpoint"], "rung": [3]})
    store.write("mini", "r0001", "eval_items", before, schema=before.schema)
    wanted = pl.Schema({"model": pl.String, "stratum": pl.Int64})
    with pytest.raises(ValueError, match="mini r0001: the table of eval_items was written by another version") as told:
        store.read("mini", "r0001", "eval_items", schema=wanted)
    assert "column 'stratum' is missing" in str(told.value)
    assert str(told.value).endswith("materialize mini/eval_items for r0001 again")
