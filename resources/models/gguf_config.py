"""What a GGUF file says of its model's arithmetic and transformers (5.19) leaves unread, and whether all was read.

1. **Width of a head** (`attention.key_length`), where it is not the model's width by its heads, as in Qwen 3.
2. **Scale of attention** in Gemma 3. The file has none; llama.cpp takes the width of a head, and for the 27B model,
   which it knows by its 62 layers, the model's width by its heads.
3. **Turning of positions**: linear scaling (Gemma 3 from 4B), the factors of Llama 3.1 and 3.2, which the file has as a
   tensor, and the two lists of factors of Phi 3's long contexts. Any other kind is refused.
4. **Sliding window** (`attention.sliding_window`) of Phi 3.
5. **Tokens** that the file does not name, which would be those of another model of the architecture.

And two things that no rule knows are seen: a tensor of the file that nothing takes, such as a bias, and a weight of the
model that the file does not have. Both were silent, and the model another one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What Llama 3.1 and 3.2 have beside the factor itself."""
_FREQUENCIES, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
_OF_POSITIONS = frozenset({_FREQUENCIES, _LONG, _SHORT})
_LAYERS_OF_GEMMA_27B = 62


class GgufError(ValueError):
    """The file is no GGUF file that can be used as a model."""


@dataclass(frozen=True)
class GgufFacts:
    """What a file says."""

    file: Path
    architecture: str
    """llama.cpp's name."""
    keys: Mapping[str, Any]
    """The architecture's keys, without its name, and those of the tokenizer by their whole names."""
    tensors: frozenset[str]
    """Names of the tensors."""
    factors: Mapping[str, np.ndarray]
    """Those of the tensors that are factors of positions, float32 [num_frequencies]."""


def read_facts(file: Path) -> GgufFacts:
    """Read a file's keys and names, and no weights.

    Raises:
        GgufError: it is no whole GGUF file, or holds no model with a vocabulary.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except (ValueError, OSError, IndexError) as error:
        raise GgufError(f"{file} is not a whole GGUF file: {error}; download it again") from error
    if "tokenizer.ggml.model" not in reader.fields:
        raise GgufError(f"{file} has no vocabulary; name the first file of a model, not a later part or an adapter")
    architecture = str(reader.fields["general.architecture"].contents())
    # Lists, such as the vocabulary, are large, and none of them is asked for.
    small = {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}
    return GgufFacts(
        file=file,
        architecture=architecture,
        keys={name.removeprefix(f"{architecture}."): value for name, value in small.items()},
        tensors=frozenset(tensor.name for tensor in reader.tensors),
        factors={t.name: np.array(t.data, dtype=np.float32) for t in reader.tensors if t.name in _OF_POSITIONS},
    )


def complete_config(config: "PreTrainedConfig", facts: GgufFacts) -> None:
    """Put into a configuration what its file says and transformers left unread.

    Raises:
        GgufError: the file asks for arithmetic that is not known here.
    """
    keys = facts.keys
    if "attention.key_length" in keys and hasattr(config, "head_dim"):
        config.head_dim = int(keys["attention.key_length"])
    if facts.architecture == "gemma3":
        is_27b = config.num_hidden_layers == _LAYERS_OF_GEMMA_27B
        width = config.hidden_size // config.num_attention_heads if is_27b else config.head_dim
        config.query_pre_attn_scalar = width
    if window := int(keys.get("attention.sliding_window", 0)):
        if facts.architecture in ("llama", "mistral", "qwen2", "qwen3") and window < config.max_position_embeddings:
            raise _refuse(facts, f"attends to {window} tokens alone, which its architecture has no room for here")
        if facts.architecture == "phi3":
            config.sliding_window = window
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if f"tokenizer.ggml.{key}_token_id" not in keys:
            setattr(config, f"{name}_token_id", None)
    if getattr(config, "rope_parameters", None) is not None:
        _complete_positions(config, facts)


def _complete_positions(config: "PreTrainedConfig", facts: GgufFacts) -> None:
    # Gemma 3 has parameters for each kind of layer, and scales those that see everything.
    turning = config.rope_parameters.get("full_attention", config.rope_parameters)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turned = int(facts.keys.get("rope.dimension_count", width))
    if turned != width:
        if "partial_rotary_factor" not in turning:
            raise _refuse(facts, f"turns {turned} of a head's {width} numbers, which its architecture does not do here")
        turning["partial_rotary_factor"] = turned / width
    kind = str(facts.keys.get("rope.scaling.type", "none"))
    factor = float(facts.keys.get("rope.scaling.factor", 1.0))
    if _FREQUENCIES in facts.factors:
        turning |= _recognise_llama_3(facts, base=turning["rope_theta"], width=turned)
    elif _LONG in facts.factors:
        original = int(facts.keys["rope.scaling.original_context_length"])
        lists = {f"{name}_factor": facts.factors[key].tolist() for name, key in (("long", _LONG), ("short", _SHORT))}
        turning |= {"rope_type": "longrope", "original_max_position_embeddings": original, **lists}
        config.original_max_position_embeddings = original
    elif kind == "linear":
        turning |= {"rope_type": "linear", "factor": factor}
    elif kind != "none":
        raise _refuse(facts, f"scales positions by {kind!r} (factor {factor:g}), which is not known here")


def _recognise_llama_3(facts: GgufFacts, *, base: float, width: int) -> dict[str, Any]:
    """The parameters whose factors the file's tensor has."""
    found = facts.factors[_FREQUENCIES]
    factor = float(found.max())
    if factor == 1.0:
        return {}
    low, high, original = LLAMA_3.values()
    waves = 2 * math.pi * base ** (np.arange(0, width, 2) / width)
    smooth = np.clip((original / waves - low) / (high - low), 0.0, 1.0)
    if found.shape != waves.shape or not np.allclose(found, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise _refuse(facts, f"has factors of positions (up to {factor:g}) that are not of the kind of Llama 3.1")
    return {"rope_type": "llama3", "factor": factor, **LLAMA_3}


def check_whole(model: "PreTrainedModel", missing: set[str], facts: GgufFacts) -> None:
    """Check that every tensor of a file is in the model that was read from it, and nothing of it was left to chance.

    Args:
        model: the one that was read.
        missing: names of its weights that were not in the file, as transformers tells them.
        facts: the file's.

    Raises:
        GgufError: a tensor is left over, or a weight is missing.
    """
    if missing:
        raise _refuse(facts, f"lacks {len(missing)} of the model's weights, such as {min(missing)!r}")
    from transformers.integrations.gguf.utils import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    if is_gguf_arch_supported(facts.architecture):
        # Its reader is another one, and refuses what it does not know.
        return
    processor = TENSOR_PROCESSORS.get(facts.architecture, TensorProcessor)(config=model.config.to_dict())
    taken = get_gguf_hf_weights_map(model, processor).keys() | _OF_POSITIONS | {"output.weight"}
    if left := sorted(facts.tensors - taken):
        raise _refuse(facts, f"holds {len(left)} tensors that transformers leaves out, such as {left[0]!r}")


def _refuse(facts: GgufFacts, why: str) -> GgufError:
    return GgufError(
        f"{facts.file} (architecture {facts.architecture!r}) {why}: the model would be another one; use the model's "
        "safetensors"
    )
