"""Embeds a round's texts on several nodes of a Ray cluster, by Ray Data: the model is held by a pool of actors.

A slice of texts goes to one actor, which embeds it as a step's own process would: the same call with the same texts. So
the vectors are those of one machine, and so are the rows that survive. Each slice is stored when it comes back, in
whatever order they come; a step that was killed asks for what is missing. The slices of a lost node are embedded again
by Ray Data, wherever there is room.

Ray Data was taken, and no tasks of our own: it starts the actors, has no more slices underway than they can take,
spills to disk what does not fit into memory, and repeats what was lost. Rows of Ray Data are slices here and not texts,
since it would cut batches anew at its blocks, and a text's last bits depend on the texts beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resources.machine.ray_cluster import join_for, list_paths
from resources.stores.embeddings import Embedder

SETTING = "embedder.copies_on: ray"
"""What asks for a cluster."""


@dataclass(frozen=True)
class SpreadEmbedder(Embedder):
    """The same model, held by as many nodes as there is room on."""

    num_copies: int = 1
    """Most copies of the model at once, at least 1; each has one core, and a GPU where `device` is one."""

    def embed_slices(self, slices: Sequence[Sequence[str]]) -> Iterator[tuple[int, np.ndarray]]:
        """Embed slices of texts, each as `embed` does.

        Args:
            slices: of texts; one is as much as a copy is given at once.

        Yields:
            The place of a slice and its vectors, as they are finished.

        Raises:
            OSError: there is no Ray cluster.
        """
        # One slice is done sooner here than a model is loaded elsewhere.
        if len(slices) < 2:
            yield from ((place, self.embed(texts)) for place, texts in enumerate(slices))
            return
        join_for(SETTING)
        yield from _embed_on_cluster(self, slices)


def _embed_on_cluster(embedder: SpreadEmbedder, slices: Sequence[Sequence[str]]) -> Iterator[tuple[int, np.ndarray]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"place": place, "texts": list(texts)} for place, texts in enumerate(slices)]
    # Ray shows each copy the one GPU that is its own.
    device = embedder.device.partition(":")[0]
    own = {"model": embedder.model, "batch_size": embedder.batch_size, "device": device}
    num_copies = min(embedder.num_copies, len(slices))
    embedded = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Copy,
        fn_constructor_kwargs=own,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=num_copies, max_size=num_copies),
        num_cpus=1,
        num_gpus=0 if device == "cpu" else 1,
        runtime_env={"env_vars": {"PYTHONPATH": list_paths()}},
    )
    for row in embedded.iter_rows():
        yield int(row["place"]), np.ascontiguousarray(row["vectors"], dtype=np.float32)


class _Copy:
    """A copy of the model, in a process of a node."""

    def __init__(self, **embedder: Any) -> None:
        """Load the model at the first slice."""
        self._embedder = Embedder(**embedder)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """The vectors of the one slice of a batch."""
        vectors = self._embedder.embed([str(text) for text in batch["texts"][0]])
        return {"place": batch["place"], "vectors": vectors[None]}
