"""The packaged embedding model gives the same bytes for the same texts."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from resources.models.finding import UnknownModelError
from resources.stores.checkpoints import NotACheckpointError
from resources.stores.embeddings import Embedder

TEXTS = ["Reverse the list 1 2 3.", "Turn around: 1 2 3.", "Who wrote Hamlet?", "", "é 漢字 " * 200]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(batch_size=2)


def test_vectors_are_normalised_and_mean_something(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (5, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_duplicates_and_order_change_nothing(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    order = [3, 1, 1, 4, 0, 2, 0, 0, 2]
    assert embedder.embed([TEXTS[place] for place in order]).tobytes() == vectors[order].tobytes()
    assert embedder.embed(TEXTS).tobytes() == vectors.tobytes()


def test_no_texts(embedder: Embedder) -> None:
    vectors = embedder.embed([])
    assert vectors.shape == (0, 384)
    assert vectors.dtype == np.float32


def test_the_model_hash_is_of_weights_pooling_and_length(embedder: Embedder, tmp_path: Path) -> None:
    assert Embedder(model=str(embedder.folder)).model_hash == embedder.model_hash
    assert len(embedder.model_hash) == 64
    copy = tmp_path / "copy"
    shutil.copytree(embedder.folder, copy)
    assert Embedder(model=str(copy)).model_hash == embedder.model_hash
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("true", "false", 1))
    changed = Embedder(model=str(copy))
    assert changed.model_hash != embedder.model_hash
    assert changed.identity["model"] == "copy"
    assert "false" in changed.identity["1_Pooling/config.json"]


def test_wrong_models(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"unknown model '/none/such'"):
        Embedder(model="/none/such").embed(["a"])
    with pytest.raises(NotACheckpointError, match="has no weights"):
        _ = Embedder(model=str(tmp_path)).model_hash
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Embedder(batch_size=0).embed(["a"])
