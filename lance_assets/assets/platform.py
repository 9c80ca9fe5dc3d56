"""The machines behind the assets, as one Dagster resource: where data lies, and what opens an engine or an embedder."""

from pathlib import Path

import dagster as dg

from lance_assets.settings import ExperimentSettings
from resources.checkpoints import CheckpointStore
from resources.embedder import Embedder
from resources.embedding_store import EmbeddingStore
from resources.engine import Engine, TransformersEngine
from resources.tables import TableStore
from resources.vector_store import HistoryStore


class Platform(dg.ConfigurableResource):
    """Where the rounds' data lies and how models are opened."""

    data_root: str
    """Folder of tables, checkpoints, unfinished stages and the LanceDB history."""

    @property
    def root(self) -> Path:
        """The folder, absolute."""
        return Path(self.data_root).expanduser().resolve()

    @property
    def tables(self) -> TableStore:
        """Every table of every round."""
        return TableStore(self.root)

    @property
    def checkpoints(self) -> CheckpointStore:
        """Every round's checkpoint."""
        return CheckpointStore(self.root)

    @property
    def history(self) -> HistoryStore:
        """Every kept text with its vector."""
        return HistoryStore(self.root / "history.lancedb")

    @property
    def embeddings(self) -> EmbeddingStore:
        """The vector of every text that was ever embedded."""
        return EmbeddingStore(self.root / "history.lancedb")

    def open_engine(self, settings: ExperimentSettings, model_path: Path) -> Engine:
        """The engine that generates and reviews."""
        engine = settings.engine
        return TransformersEngine(model_path=model_path, batch_size=engine.batch_size, device=engine.device)

    def open_embedder(self, settings: ExperimentSettings) -> Embedder:
        """The model that embeds kept texts."""
        return Embedder(model=settings.embedder.model, batch_size=settings.embedder.batch_size)
