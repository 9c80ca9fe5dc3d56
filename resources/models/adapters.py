"""LoRA adapters of rounds: what a round's checkpoint differs by from the experiment's base model, in PEFT's format.

A checkpoint's weights are the base's plus the LoRA updates of every stage so far (SFT, then DPO, round after round).
A sum of low-rank updates is one low-rank update: with the A factors stacked and the B factors side by side,
`[B1 B2] @ [A1; A2] = B1 @ A1 + B2 @ A2`, exactly. So an engine that holds the base can serve any round by its adapter
(arXiv 2106.09685 gives the update as `alpha / r * B @ A`; the scale is folded into B here, and lora_alpha is r).

The rank grows by `2 r` a round that trains SFT and DPO: `adapter_config.json` says what it has come to. Engines cap it
(vLLM at 512), and large ones cost time; the merged weights of the checkpoint serve as well at any round.
Weights differ from base plus adapter by the rounding to the dtype in which checkpoints are saved, once a round.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resources.engines.contract import Adapter
from resources.stores.checkpoints import ADAPTER_FOLDER, hash_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = "base.json"
_LAYER = (".lora_A.weight", ".lora_B.weight")
_EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
_DOWN_ENDS, _UP_ENDS = (_LAYER[0], _EMBEDDING[0]), (_LAYER[1], _EMBEDDING[1])


@dataclass(frozen=True)
class LoraUpdate:
    """What is added to a model's weights: for each module `up @ down`."""

    factors: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """By PEFT's name of the module: down float32 [rank, inputs] and up float32 [outputs, rank], scale included."""
    target_modules: frozenset[str]
    """Ends of the modules' names, as PEFT's configuration gives them."""
    embeddings: frozenset[str] = frozenset()
    """Which modules are embeddings, whose weights are changed by the product's transpose; PEFT names them otherwise."""

    @property
    def rank(self) -> int:
        """The same for every module; 0 without modules."""
        return next((down.shape[0] for down, _ in self.factors.values()), 0)


NO_UPDATE = LoraUpdate({}, frozenset())
"""What the base model differs by from itself."""


def build_update(weights: Mapping[str, np.ndarray], *, scale: float, target_modules: frozenset[str]) -> LoraUpdate:
    """The update of an adapter.

    Args:
        weights: float32, by the names that PEFT stores them under.
        scale: alpha / r.
        target_modules: ends of the modules' names.

    Raises:
        ValueError: a weight that is no LoRA factor, such as a whole layer or a bias.
    """
    if strange := sorted(name for name in weights if not name.endswith(_DOWN_ENDS + _UP_ENDS)):
        raise ValueError(f"an adapter of {_LAYER[0][1:]} and {_LAYER[1][1:]} alone is wanted, got {strange[:3]}")
    factors, embeddings = {}, set()
    for name in sorted(name for name in weights if name.endswith(_DOWN_ENDS)):
        down, up = _EMBEDDING if name.endswith(_EMBEDDING[0]) else _LAYER
        module = name.removesuffix(down)
        factors[module] = (weights[name], weights[module + up] * np.float32(scale))
        embeddings |= {module} if down == _EMBEDDING[0] else set()
    return LoraUpdate(factors, target_modules, frozenset(embeddings))


def concatenate_adapters(*updates: LoraUpdate) -> LoraUpdate:
    """The sum of updates as one, whose rank is the sum of their ranks; a module that one lacks has zeros there.

    Raises:
        ValueError: a module has another shape in one than in another.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for update in updates:
        for module, (down, up) in update.factors.items():
            shape = shapes.setdefault(module, (down.shape[1], up.shape[0]))
            if shape != (down.shape[1], up.shape[0]):
                raise ValueError(f"{module} has {shape} inputs and outputs, and {(down.shape[1], up.shape[0])}")
    factors = {}
    for module, (inputs, outputs) in sorted(shapes.items()):
        parts = [
            update.factors[module] if module in update.factors else _zeros(update.rank, inputs, outputs)
            for update in updates
        ]
        factors[module] = (
            np.concatenate([down for down, _ in parts], axis=0),
            np.concatenate([up for _, up in parts], axis=1),
        )
    return LoraUpdate(
        factors,
        frozenset().union(*(update.target_modules for update in updates)),
        frozenset().union(*(update.embeddings for update in updates)),
    )


def _zeros(rank: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((rank, inputs), np.float32), np.zeros((outputs, rank), np.float32)


def read_update(checkpoint: Path, *, base_hash: str) -> LoraUpdate | None:
    """What a checkpoint differs by from the base model; None where no adapter says so.

    Args:
        checkpoint: folder of the model.
        base_hash: the base model's, by `hash_checkpoint`.
    """
    folder = checkpoint / ADAPTER_FOLDER
    if _read_base_hash(folder) == base_hash:
        from safetensors.numpy import load_file

        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        scale = config["lora_alpha"] / config["r"]
        targets = frozenset(config["target_modules"])
        return build_update(load_file(folder / WEIGHTS), scale=scale, target_modules=targets)
    return NO_UPDATE if hash_checkpoint(checkpoint) == base_hash else None


def _read_base_hash(folder: Path) -> str | None:
    file = folder / BASE
    return json.loads(file.read_text(encoding="utf-8"))["base_hash"] if file.is_file() else None


def write_adapter(checkpoint: Path, update: LoraUpdate, *, base_hash: str) -> Path:
    """Write an update as the checkpoint's adapter, the same bytes for the same update; returns its folder.

    Nothing in it says where the base lies: `base.json` has its hash, and PEFT's configuration no name.
    """
    from peft import LoraConfig
    from safetensors.numpy import save_file

    folder = checkpoint / ADAPTER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for module, (down, up) in update.factors.items():
        ends = _EMBEDDING if module in update.embeddings else _LAYER
        weights[module + ends[0]], weights[module + ends[1]] = down, up
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = LoraConfig(
        r=update.rank,
        lora_alpha=update.rank,
        target_modules=sorted(update.target_modules),
        task_type="CAUSAL_LM",
        inference_mode=True,
        # PEFT turns the modules into a set, whose order differs from process to process.
    ).to_dict() | {"target_modules": sorted(update.target_modules)}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")
    (folder / BASE).write_text(json.dumps({"base_hash": base_hash}), encoding="utf-8")
    return folder


def to_numpy(state: Mapping[str, "Tensor"]) -> dict[str, np.ndarray]:
    """Torch's weights as float32 arrays."""
    return {name: weight.detach().to("cpu").float().numpy() for name, weight in state.items()}


def find_adapter(checkpoint: Path, base: Path, *, name: str) -> Adapter | None:
    """A checkpoint's adapter, for an engine that holds the base model; None where it has none for this base.

    Args:
        checkpoint: folder of the round's checkpoint.
        base: folder of the model the engine holds.
        name: of experiment and round, as "mini-r0001"; the adapter's name adds eight digits of its content's hash.
    """
    folder = checkpoint / ADAPTER_FOLDER
    if (base_hash := _read_base_hash(folder)) is None or base_hash != hash_checkpoint(base):
        return None
    digest = hashlib.sha256()
    for file in (CONFIG, WEIGHTS):
        with (folder / file).open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    # vLLM knows an adapter by a number above 0, and caches it by that number.
    number = int.from_bytes(digest.digest()[:4]) % (2**31 - 1) + 1
    return Adapter(path=folder, base=base, name=f"{name}-{digest.hexdigest()[:8]}", number=number)
