"""The machines behind a round: where its data is kept, and what opens an engine or an embedder."""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lance_assets.algorithms.similarity.dividing import RunParts, run_here
from lance_assets.extras import require_extra
from lance_assets.home import HISTORY, find_history_address
from lance_assets.settings.engines import EngineSettings, RoleSettings
from lance_assets.settings.experiment import ExperimentSettings
from resources.engines.contract import Adapter, Engine, EngineError
from resources.engines.openai.engine import OpenAIEngine
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.vllm.engine import VllmEngine
from resources.machine.claims import Claims
from resources.machine.handover import EngineLeases
from resources.models.adapters import find_adapter
from resources.models.finding import resolve_model
from resources.remote.store import check_address
from resources.remote.weights import find_weights
from resources.stores.checkpoints import CheckpointStore
from resources.stores.embeddings import Embedder, EmbeddingStore
from resources.stores.history import HistoryStore
from resources.stores.spread_embedding import SETTING, SpreadEmbedder
from resources.stores.spread_parts import SpreadParts
from resources.stores.tables import TableStore


@dataclass
class Platform:
    """Where the rounds' data is kept and how models are opened."""

    data_root: str
    """The folder of tables, checkpoints, unfinished stages and the LanceDB history."""

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
        return CheckpointStore(self.root, find_weights(self.root))

    @property
    def history(self) -> HistoryStore:
        """Every kept text with its vector."""
        return HistoryStore(self._find_database())

    @property
    def leases(self) -> EngineLeases:
        """Which processes hold a model."""
        return EngineLeases(self.root / "engines")

    @property
    def claims(self) -> Claims:
        """Which processes work on which rounds."""
        return Claims(self.root / "running")

    @property
    def embeddings(self) -> EmbeddingStore:
        """The vector of every text that was ever embedded."""
        return EmbeddingStore(self._find_database())

    def _find_database(self) -> Path | str:
        """The folder or the address of the LanceDB database.

        Raises:
            ValueError: LANCE_HISTORY is no address, or holds a key.
        """
        address = find_history_address()
        if address is None:
            return self.root / "history.lancedb"
        try:
            return check_address(address)
        except ValueError as error:
            raise ValueError(f"{HISTORY}: {error}") from error

    def open_engine(
        self,
        engine: EngineSettings,
        model_path: Path | None,
        *,
        adapter: Adapter | None,
        note_process: Callable[[int], None],
        log: Callable[[str], None],
    ) -> Engine:
        """The engine that an experiment's file chose.

        Args:
            engine: what the file says.
            model_path: folder of the model; None for a server's own.
            adapter: the model as an adapter of the base, where it is one.
            note_process: is given the process id of each process that holds the model.
            log: takes what engines in processes of their own say.
        """
        if engine.kind == "openai":
            assert engine.openai is not None, "settings demand a section openai for kind openai"
            return OpenAIEngine(**engine.openai.model_dump(exclude={"load_adapters"}), adapter=adapter)
        assert model_path is not None, "settings demand a model for every kind but openai"
        if engine.kind == "vllm":
            if engine.vllm.copies_on == "ray":
                require_extra("ray", extra="ray", needed_by="engine.vllm.copies_on: ray")
            settings = engine.vllm.model_dump(exclude={"python"})
            return VllmEngine(
                model_path,
                python=sys.executable if engine.vllm.python == "python" else engine.vllm.python,
                device=engine.device,
                dtype=engine.dtype,
                adapter=adapter,
                on_start=note_process,
                log=log,
                **settings,
            )
        # This engine runs in the process of the step itself, which then holds the memory.
        note_process(os.getpid())
        return TransformersEngine(
            model_path,
            batch_size=engine.batch_size,
            device=engine.device,
            dtype=engine.dtype,
            num_threads=engine.num_threads,
        )

    def find_adapter(
        self, settings: ExperimentSettings, folder: Path, model_path: Path, *, name: str
    ) -> Adapter | None:
        """A round's model as an adapter of the experiment's base model, where it is one and an engine may want it.

        Args:
            settings: the experiment's.
            folder: where the experiment's relative paths start.
            model_path: folder of the round's model.
            name: what a server is to call the adapter.

        Raises:
            EngineError: a server holds the base model, and the round's model is neither it nor an adapter of it.
        """
        engine = settings.engine
        # Other engines load the merged weights, so nothing has to be read of an adapter.
        wanted = engine.kind == "openai" or (engine.kind == "vllm" and engine.vllm.merge_adapters_above > 0)
        if not wanted:
            return None
        base = resolve_model(settings.model, base=folder, revision=settings.model_revision)
        adapter = find_adapter(model_path, base, name=name)
        is_base = self.checkpoints.hash_checkpoint(model_path) == self.checkpoints.hash_checkpoint(base)
        if engine.kind == "openai" and adapter is None and not is_base:
            raise EngineError(
                f"{name}: its checkpoint has no adapter of {settings.model}, so the server cannot be given it; "
                "train every round with training.lora, or use engine.kind vllm"
            )
        return adapter

    def find_role_model(self, role: RoleSettings, *, base: Path) -> tuple[Path | None, str]:
        """The folder of a second model, None for a server's, and its fingerprint."""
        if role.model is None:
            assert role.engine.openai is not None, "settings demand a section openai for kind openai"
            # Nothing is known of a server's weights, so its model is known by its name.
            name = role.engine.openai.model or "the only one served"
            return None, hashlib.sha256(name.encode()).hexdigest()[:16]
        path = resolve_model(role.model, base=base, revision=role.model_revision)
        return path, self.checkpoints.hash_checkpoint(path)[:16]

    def open_embedder(self, settings: ExperimentSettings) -> Embedder:
        """The model that embeds kept texts."""
        asked = settings.embedder
        own = asked.model_dump(include={"model", "batch_size", "device"})
        if asked.copies_on == "machine":
            return Embedder(**own)
        require_extra("ray", extra="ray", needed_by=SETTING)
        return SpreadEmbedder(**own, num_copies=asked.num_copies)

    def find_runner(self, settings: ExperimentSettings) -> RunParts:
        """What does the parts of a search for near-duplicates: this process, or the nodes that embed."""
        asked = settings.embedder
        if asked.copies_on == "machine":
            return run_here
        require_extra("ray", extra="ray", needed_by=SETTING)
        return SpreadParts(num_at_once=asked.num_copies, needed_by=SETTING)
