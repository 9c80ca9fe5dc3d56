"""A text is embedded once in its life, whoever asks, and no table of another model or version is mixed in."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lancedb
import numpy as np
import pytest

from resources.stores import embeddings
from resources.stores.embeddings import EmbeddingStore, hash_text
from resources.stores.lance_tables import HistoryError, LanceTable

ROOT = Path(__file__).parents[2]


@dataclass
class CountingEmbedder:
    """A vector for each text by its hash; remembers what it was asked."""

    model_hash: str = "m" * 64
    width: int = 8
    asked: list[str] = field(default_factory=list)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
        rows = np.array([np.random.default_rng(seed).normal(size=self.width) for seed in seeds], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "history")


def test_each_text_is_asked_once_and_comes_back_the_same(store: EmbeddingStore) -> None:
    embedder = CountingEmbedder()
    first = store.embed_once(["b", "a", "b", "c"], embedder)
    assert first.num_new == 3
    again = EmbeddingStore(store.uri).embed_once(["c", "d", "a", "b"], embedder)
    assert again.num_new == 1
    assert embedder.asked == ["a", "b", "c", "d"]
    assert again.vectors[2:].tolist() == first.vectors[[1, 0]].tolist()
    assert again.vectors.tobytes() == CountingEmbedder().embed(["c", "d", "a", "b"]).tobytes()
    assert store.count(embedder) == 4


def test_no_texts(store: EmbeddingStore) -> None:
    done = store.embed_once([], CountingEmbedder())
    assert (done.vectors.shape, done.num_new) == ((0, 0), 0)
    assert not store.uri.exists()


def test_models_have_tables_of_their_own_widths(store: EmbeddingStore) -> None:
    one, other = CountingEmbedder("1" * 64, 4), CountingEmbedder("2" * 64, 6)
    assert store.embed_once(["a"], one).vectors.shape == (1, 4)
    assert store.embed_once(["a"], other).vectors.shape == (1, 6)
    assert (store.count(one), store.count(other)) == (1, 1)
    with pytest.raises(HistoryError, match=r"holds vectors of 4 numbers, got 5 from the same model"):
        store.embed_once(["b"], CountingEmbedder("1" * 64, 5))


def test_unpaired_surrogates_and_long_texts(store: EmbeddingStore) -> None:
    texts = ["\ud800 a", "\ufffd a", "word " * 200_000]
    done = store.embed_once(texts, CountingEmbedder())
    assert done.num_new == 2
    assert hash_text(texts[0]) == hash_text(texts[1])
    assert store.embed_once(texts, CountingEmbedder()).num_new == 0


def test_a_killed_call_keeps_its_finished_slices(store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "SLICE_TEXTS", 2)

    class Dying(CountingEmbedder):
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            if len(self.asked) >= 4:
                raise KeyboardInterrupt
            return super().embed(texts)

    with pytest.raises(KeyboardInterrupt):
        store.embed_once(list("abcdefg"), Dying())
    after = CountingEmbedder()
    assert store.embed_once(list("abcdefg"), after).num_new == 3
    assert after.asked == ["e", "f", "g"]
    assert store.embed_once(list("abcdefg"), after).num_new == 0


def test_many_appends_leave_few_files_and_every_vector(store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up opens every file's group: after 400 appends it took 30 times as long as after one."""
    monkeypatch.setattr(embeddings, "MAX_FRAGMENTS", 4)
    compacted = []
    optimize = LanceTable.optimize
    monkeypatch.setattr(
        LanceTable, "optimize", lambda self, seconds: (compacted.append(seconds), optimize(self, seconds))[1]
    )
    embedder = CountingEmbedder()
    texts = [f"text {number}" for number in range(14)]
    vectors = [store.embed_once([text], embedder).vectors[0] for text in texts]
    table = lancedb.connect(store.uri).open_table(f"embeddings_{embedder.model_hash[:16]}")
    assert table.stats()["fragment_stats"]["num_fragments"] <= 4
    assert 2 <= len(compacted) <= 4, "it is compacted now and then, and not at each append"
    again = store.embed_once(texts, embedder)
    assert again.num_new == 0
    np.testing.assert_array_equal(again.vectors, np.array(vectors))


def test_bad_vectors_are_refused(store: EmbeddingStore) -> None:
    class Broken(CountingEmbedder):
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            return np.full((len(texts), 3), np.nan, dtype=np.float32)

    with pytest.raises(ValueError, match="finite and not zero"):
        store.embed_once(["a"], Broken())
    assert store.count(Broken()) == 0


def test_a_table_of_a_newer_version_is_refused(store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.stores.lance_tables.FORMAT", 2)
    store.embed_once(["a"], CountingEmbedder())
    monkeypatch.undo()
    with pytest.raises(HistoryError, match="written in format 2, this version of the project knows format 1: upgrade"):
        store.embed_once(["a"], CountingEmbedder())


def test_the_table_says_which_model_made_it(store: EmbeddingStore) -> None:
    embedder = CountingEmbedder()
    embedder.identity = {"model": "tiny", "1_Pooling/config.json": "{}"}  # type: ignore[attr-defined]
    store.embed_once(["a"], embedder)
    told = lancedb.connect(store.uri).open_table("embeddings_" + "m" * 16).schema.metadata
    assert told[b"model"] == b"tiny"
    assert told[b"model_hash"] == b"m" * 64


WRITER = """
import sys
from pathlib import Path
from resources.stores.embeddings import EmbeddingStore
from tests.resources.test_embeddings import CountingEmbedder
for start in range(0, 40, 4):
    EmbeddingStore(Path(sys.argv[1])).embed_once([f"text {n}" for n in range(start, start + 12)], CountingEmbedder())
"""


@pytest.mark.slow
def test_two_processes_lose_nothing(store: EmbeddingStore) -> None:
    command = [sys.executable, "-c", WRITER, str(store.uri)]
    writers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    texts = [f"text {number}" for number in range(48)]
    done = store.embed_once(texts, CountingEmbedder())
    assert done.num_new == 0
    assert done.vectors.tobytes() == CountingEmbedder().embed(texts).tobytes()
