"""Rounds are replaced whole, compared with earlier rounds only, and nothing is lost when two processes write."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lancedb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.stores.history import NEAREST, HistoryStore
from resources.stores.lance_tables import HistoryError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> HistoryStore:
    return HistoryStore(uri=tmp_path / "history")


def put(store: HistoryStore, place: str, ids: str, vectors: object, *, model_hash: str = "m1") -> None:
    """Replace a round, `place` being like `mini/r0001` and `ids` like `ab`: one letter a row."""
    rows = pl.DataFrame({"row_id": list(ids), "text": [f"text {row_id}" for row_id in ids]})
    rows = rows.cast({"row_id": pl.String, "text": pl.String})
    store.replace_round(*place.split("/"), rows, np.array(vectors, dtype=np.float32), model_hash=model_hash)


def count(store: HistoryStore, experiment: str) -> int:
    """Rows of an experiment, all rounds."""
    if not store.uri.exists():
        return 0
    return lancedb.connect(store.uri).open_table("history").count_rows(f"experiment = '{experiment}'")


def find(store: HistoryStore, vectors: object, before_round: str, *, model_hash: str = "m1") -> list[tuple]:
    vectors = np.array(vectors, dtype=np.float32)
    found = store.find_nearest(vectors, experiment="mini", before_round=before_round, model_hash=model_hash)
    assert found.schema == NEAREST
    return found.rows()


X, Y, Z = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
NONE = (None, None, None)


def test_an_empty_history(store: HistoryStore) -> None:
    assert find(store, [X, Y], "r0001") == [NONE, NONE]
    assert count(store, "mini") == 0
    rows, vectors = store.read_round("mini", "r0001")
    assert (rows.height, vectors.shape) == (0, (0, 0))
    assert find(store, vectors, "r0001") == []
    store.maintain()
    put(store, "mini/r0001", "", np.zeros((0, 3)))
    assert not store.uri.exists()


def test_replace_round(store: HistoryStore) -> None:
    put(store, "mini/r0000", "ab", [X, Y])
    put(store, "mini/r0001", "ab", [Y, Z])
    put(store, "other/r0000", "a", [Z])
    put(store, "mini/r0000", "cb", [X, Z])
    rows, vectors = store.read_round("mini", "r0000")
    assert rows.columns == ["experiment", "round", "row_id", "text", "text_hash", "model_hash"]
    assert rows["row_id"].to_list() == ["b", "c"]
    assert vectors.tolist() == [Z, X]
    assert vectors.dtype == np.float32
    assert (count(store, "mini"), count(store, "other")) == (4, 1)
    put(store, "mini/r0000", "", np.zeros((0, 3)))
    rows, vectors = store.read_round("mini", "r0000")
    assert (rows.height, vectors.shape) == (0, (0, 3))
    assert (count(store, "mini"), count(store, "other")) == (2, 1)


def test_one_transaction(store: HistoryStore) -> None:
    put(store, "mini/r0000", "ab", [X, Y])
    before = len(list((store.uri / "history.lance" / "_versions").glob("*.manifest")))
    put(store, "mini/r0000", "bcd", [X, Y, Z])
    assert len(list((store.uri / "history.lance" / "_versions").glob("*.manifest"))) == before + 1


def test_find_nearest_in_earlier_rounds_of_the_experiment(store: HistoryStore) -> None:
    put(store, "mini/r0000", "a", [X])
    put(store, "mini/r0001", "b", [Y])
    put(store, "mini/r0002", "c", [Z])
    put(store, "other/r0000", "z", [Z])
    assert find(store, [Z, Y, X], "r0000") == [NONE] * 3
    assert [row[:2] for row in find(store, [[0.1, 0.0, 1.0], [0.5, 2.0, 0.0]], "r0001")] == [("a", "r0000")] * 2
    found = find(store, [[3.0, 4.0, 0.0], Y, [4.0, 3.0, 0.0], [-1.0, -2.0, 0.0]], "r0002")
    assert [row[:2] for row in found] == [("b", "r0001"), ("b", "r0001"), ("a", "r0000"), ("a", "r0000")]
    np.testing.assert_allclose([row[2] for row in found], [0.8, 1.0, 0.8, -1 / 5**0.5], atol=1e-6)
    assert find(store, np.zeros((0, 3)), "r0002") == []


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 40))
def test_find_nearest_is_exact(rng_seed: int, num_queries: int, num_rows: int) -> None:
    rng = np.random.default_rng(rng_seed)
    vectors, queries = rng.normal(size=(num_rows, 8)), rng.normal(size=(num_queries, 8))
    with tempfile.TemporaryDirectory() as folder:
        store = HistoryStore(uri=Path(folder))
        rows = pl.DataFrame({"row_id": [f"{n:03d}" for n in range(num_rows)], "text": [""] * num_rows})
        store.replace_round("mini", "r0000", rows, vectors, model_hash="m1")
        found = find(store, queries, "r0001")
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (queries, vectors)]
    similarity = unit[0] @ unit[1].T
    np.testing.assert_allclose([row[2] for row in found], similarity.max(axis=1), atol=1e-5)
    taken = similarity[np.arange(num_queries), [int(row[0]) for row in found]]
    np.testing.assert_allclose(taken, similarity.max(axis=1), atol=1e-5)


def test_ties_go_to_the_earliest_round_and_smallest_id_in_whatever_order_they_were_written(store: HistoryStore) -> None:
    put(store, "mini/r0002", "abcdefghijkl", [X] * 12)
    put(store, "mini/r0001", "zyxwvutsrqpon", [Y] * 12 + [X])
    put(store, "mini/r0000", "m", [Z])
    for _ in range(2):
        found = find(store, [X, Z, Y, X, X], "r0003")
        assert [row[0] for row in found] == ["n", "m", "o", "n", "n"]
        put(store, "mini/r0001", "nopqrstuvwxyz", [X] + [Y] * 12)
        store.maintain(keep_seconds=0.001)


def test_the_same_search_gives_the_same_bytes_after_rewriting(store: HistoryStore) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(2, 13, 32)), rng.normal(size=(50, 32))
    for number in (0, 1):
        put(store, f"mini/r000{number}", "abcdefghijklm", vectors[number])
    before = find(store, queries, "r0002")
    put(store, "mini/r0000", "ml", vectors[0][:2])
    put(store, "mini/r0000", "abcdefghijklm", vectors[0])
    assert find(store, queries, "r0002") == before
    assert [row for query in queries for row in find(store, [query], "r0002")] == before
    store.maintain()
    assert find(store, queries, "r0002") == before


def test_models_cannot_be_mixed(store: HistoryStore) -> None:
    put(store, "mini/r0000", "a", [X], model_hash="m2")
    put(store, "mini/r0001", "b", [Y], model_hash="m1")
    put(store, "other/r0000", "c", [Y], model_hash="it's")
    with pytest.raises(HistoryError, match=r"round r0000 was embedded with model m2, this one with m1.*materialize"):
        find(store, [X], "r0002", model_hash="m1")
    with pytest.raises(HistoryError, match="holds vectors of 3 numbers, got 2"):
        put(store, "mini/r0001", "b", [[1.0, 2.0]])
    put(store, "mini/r0000", "a", [X], model_hash="m1")
    assert find(store, [X], "r0002")[0][0] == "a"
    with pytest.raises(HistoryError, match="with it's"):
        find(store, [X], "r0002", model_hash="it's")


def test_wrong_arguments(store: HistoryStore) -> None:
    with pytest.raises(ValueError, match=r"vectors must be \[num_rows=2, dim\], got shape \(1, 3\)"):
        put(store, "mini/r0000", "ab", [X])
    with pytest.raises(ValueError, match=r"finite and not zero, got .* in row 1"):
        put(store, "mini/r0000", "ab", [X, [0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="finite and not zero"):
        find(store, [[np.nan, 1.0, 1.0]], "r0001")
    with pytest.raises(ValueError, match="must be unique, got 'a' more than once"):
        put(store, "mini/r0000", "aa", [X, Y])
    with pytest.raises(ValueError, match="experiment must be"):
        put(store, "mini' OR 'a'='a/r0000", "a", [X])
    with pytest.raises(ValueError, match="round must be"):
        find(store, [X], "r1")
    assert not store.uri.exists()


def test_compact(store: HistoryStore) -> None:
    for number in range(12):
        put(store, f"mini/r00{number:02d}", "ab", [X, Y])
    data = store.uri / "history.lance" / "data"
    assert len(list(data.iterdir())) == 12
    # The newest version is kept while it is younger than keep_seconds, and with it all its files.
    store.maintain(keep_seconds=60)
    assert len(list(data.iterdir())) == 13
    time.sleep(0.05)
    # What was the newest so long ago is kept too, and what was written just before it.
    store.maintain(keep_seconds=0.0001)
    assert len(list(data.iterdir())) == 1
    with pytest.raises(ValueError, match="keep_seconds must be above 0, got 0"):
        store.maintain(keep_seconds=0)
    assert count(store, "mini") == 24


def test_a_version_that_was_the_newest_a_moment_ago_is_kept_however_old_it_is(store: HistoryStore) -> None:
    """Whoever reads it began then: another experiment writes and maintains meanwhile."""
    put(store, "mini/r0000", "ab", [X, Y])
    time.sleep(2.5)
    began = lancedb.connect(store.uri).open_table("history")
    version = began.version
    for number in range(3):
        put(store, f"other/r000{number}", "ab", [X, Y])
        store.maintain(keep_seconds=1.0)
    began.checkout(version)
    assert began.search(X).limit(9).to_arrow().num_rows == 2
    # Nobody who began within the time to keep reads it any more.
    time.sleep(2.5)
    put(store, "other/r0003", "ab", [X, Y])
    store.maintain(keep_seconds=1.0)
    assert version not in [each["version"] for each in began.list_versions()]
    assert count(store, "mini") == 2
    assert count(store, "other") == 8


WRITER = """
import sys
from pathlib import Path
import numpy as np, polars as pl
from resources.stores.history import HistoryStore
store = HistoryStore(uri=Path(sys.argv[1]))
for number in range(12):
    for num_rows in (5, 3):
        rows = pl.DataFrame({"row_id": [str(n) for n in range(num_rows)], "text": ["t"] * num_rows})
        store.replace_round(sys.argv[2], f"r{number:04d}", rows, np.ones((num_rows, 4)), model_hash="m1")
    if number % 4 == 3:
        store.maintain()
"""


@pytest.mark.slow
def test_two_processes_lose_nothing(store: HistoryStore) -> None:
    commands = [[sys.executable, "-c", WRITER, str(store.uri), name] for name in ("first", "second")]
    writers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    assert (count(store, "first"), count(store, "second")) == (36, 36)
    assert store.read_round("second", "r0011")[0]["row_id"].to_list() == ["0", "1", "2"]
    assert [path.name for path in store.uri.iterdir()] == ["history.lance"]


@pytest.mark.parametrize("what", ["data", "_versions"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_corrupt_table(store: HistoryStore, what: str, gone: bool) -> None:
    put(store, "mini/r0000", "a", [X])
    for file in (store.uri / "history.lance" / what).iterdir():
        file.unlink() if gone else file.write_bytes(b"junk")
    message = r"history\.lance: the table is locked or corrupt: lance doctor --fix moves it aside"
    with pytest.raises(HistoryError, match=message):
        find(store, [X], "r0001")
    with pytest.raises(HistoryError, match=message):
        store.read_round("mini", "r0000")
    with pytest.raises(HistoryError, match=message):
        put(store, "mini/r0000", "ab", [X, Y])
    shutil.rmtree(store.uri)
    put(store, "mini/r0000", "a", [X])
    assert count(store, "mini") == 1


def test_a_database_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("")
    with pytest.raises(HistoryError, match=r"cannot replace round r0000 of 'mini' in .*history"):
        put(HistoryStore(uri=tmp_path / "history"), "mini/r0000", "a", [X])


READ_ONLY = """
import os, sys
from pathlib import Path
import lancedb, numpy as np, polars as pl
from resources.stores.history import HistoryStore, HistoryError
if os.geteuid() == 0:
    os.setuid(65534)
store = HistoryStore(uri=Path(sys.argv[1]))
rows = pl.DataFrame({"row_id": ["b"], "text": ["t"]})
try:
    store.replace_round("mini", "r0001", rows, np.ones((1, 3)), model_hash="m1")
except HistoryError as error:
    print(error)
print(len(store.read_round("mini", "r0000")[0]))
"""


def test_a_table_that_may_not_be_written() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = HistoryStore(uri=Path(folder) / "history")
        put(store, "mini/r0000", "a", [X])
        folders = [store.uri, *(path for path in store.uri.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(store.uri)], cwd=ROOT, capture_output=True, text=True
        )
        for path in folders:
            path.chmod(0o755)
    assert "history.lance: make the folder and all in it writable for this user" in done.stdout, done
    assert done.stdout.splitlines()[-1] == "1"


REPLACER = """
import sys
from pathlib import Path
import numpy as np, polars as pl
from resources.stores.history import HistoryStore
store = HistoryStore(uri=Path(sys.argv[1]))
for turn in range(1000):
    rows = pl.DataFrame({"row_id": [f"{turn}-{n}" for n in range(200)], "text": [str(turn)] * 200})
    store.replace_round("mini", "r0001", rows, np.full((200, 32), turn + 1.0), model_hash="m1")
    print("done", flush=True)
"""


@pytest.mark.slow
def test_a_killed_replacement_leaves_the_old_round_or_the_new(store: HistoryStore) -> None:
    put(store, "mini/r0000", "a", np.ones((1, 32)))
    for number in range(4):
        command = [sys.executable, "-c", REPLACER, str(store.uri)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "done\n"
            time.sleep(0.1 + 0.037 * number)
            writer.kill()
        rows, vectors = store.read_round("mini", "r0001")
        assert len(rows) == 200
        assert rows["text"].n_unique() == 1
        assert len(np.unique(vectors)) == 1
        assert count(store, "mini") == 201


def test_a_history_of_a_newer_version_is_refused(store: HistoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.stores.lance_tables.FORMAT", 2)
    put(store, "mini/r0000", "a", [X])
    monkeypatch.undo()
    with pytest.raises(HistoryError, match="written in format 2"):
        find(store, [X], "r0001")
