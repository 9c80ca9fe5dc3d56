"""A model's shape from its configuration alone, exact to the parameter; no weights are read and no hub is asked.

The configuration is looked for in this order: a local folder, a packaged model, a converted GGUF file, the hub's cache,
and the folder `architectures` beside this file, which has those of the presets' models. The model is built on torch's
meta device, where parameters have shapes and no memory, so any architecture that transformers knows can be counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lance_assets.algorithms.forecast.costs import ModelShape
from lance_assets.dotted_names import is_dotted_name
from resources.models.finding import UnknownModelError, find_model_here, find_packaged_folder
from resources.models.foreign_code import WITHOUT_CODE, ForeignCodeError, is_of_the_folder, refuse_foreign_code
from resources.models.gguf_files import SOURCE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ARCHITECTURES = Path(__file__).parent / "architectures"
"""The shipped configurations, each in a folder named by its hub id with `--` for the slash."""

LOGIT_SCALES = (
    *("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling"),
)
"""What configurations call that which is done to logits behind the output embedding."""


class UnknownShapeError(ValueError):
    """No configuration of a model is at hand, or none that transformers can build."""


@dataclass(frozen=True)
class FoundModel:
    """Where a model's configuration was found, and what it says."""

    shape: ModelShape
    """Its sizes."""
    stored_bytes: int
    """Bytes of a parameter in its files."""
    folder: Path
    """The folder that holds the configuration."""
    is_local: bool
    """Whether the weights are in that folder too, so that nothing has to be downloaded."""
    source: str
    """In words: a local folder, a packaged model, the hub's cache, or the shipped configuration."""


def find_config(name: str, *, base: Path | None = None, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a model's config.json, and where that is in words.

    Args:
        name: a folder, `package.module:NAME` for the folder of a model that an installed package brings, or a hub id;
            this function looks for them in this order.
        base: what a relative folder is relative to; None for the working directory.
        revision: of a hub id, as the cache knows it.

    Raises:
        UnknownShapeError: it is nowhere.
    """
    local = (base or Path()) / Path(name).expanduser()
    if (local / "config.json").is_file():
        return local, "a local folder"
    if is_dotted_name(name):
        try:
            return find_packaged_folder(name), f"the packaged model {name}"
        except UnknownModelError as error:
            raise UnknownShapeError(f"no config.json of model {name!r}: {error}") from None
    here = find_model_here(name, base=base, revision=revision)
    if here is not None and (here / SOURCE).is_file():
        return here, "a model that was converted from a GGUF file"
    if name.count("/") == 1 and not name.startswith((".", "~", "/")):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent, "the hub's cache"
        shipped = ARCHITECTURES / name.replace("/", "--")
        if (shipped / "config.json").is_file():
            return shipped, "the shipped configuration"
    raise UnknownShapeError(
        f"no config.json of model {name!r}: not in the folder {local.absolute()}, the hub's cache, or {ARCHITECTURES}; "
        "name a folder that holds one, or download it once where the hub can be reached: "
        f"hf download {name} config.json"
    )


def find_model(name: str, *, base: Path | None = None, revision: str | None = None) -> FoundModel:
    """A model's shape, and where it was found, see `find_config`.

    Raises:
        UnknownShapeError: no configuration, or one that transformers cannot build a causal language model from.
    """
    folder, source = find_config(name, base=base, revision=revision)
    try:
        refuse_foreign_code(folder)
    except ForeignCodeError as error:
        raise UnknownShapeError(f"{name!r}: {error}") from error
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **WITHOUT_CODE)
        shape = measure_shape(config)
    except Exception as error:
        if not isinstance(error, RuntimeError) and not is_of_the_folder(error):
            raise
        raise UnknownShapeError(f"{folder / 'config.json'}: no model can be built from it: {error}") from error
    stored = getattr(config, "dtype", None)
    return FoundModel(
        shape=shape,
        stored_bytes=stored.itemsize if stored is not None else 4,
        folder=folder,
        is_local=any(folder.glob("*.safetensors")),
        source=source,
    )


def measure_shape(config: "PreTrainedConfig") -> ModelShape:
    """Count a model that is built on the meta device."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, **WITHOUT_CODE)
    # On the meta device each weight became one of its own.
    model.tie_weights()
    text = config.get_text_config()
    num_heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    return ModelShape(
        num_parameters=model.num_parameters(),
        layer_parameters=_count_largest_layer(model, text.num_hidden_layers),
        lora_parameters_per_rank=_count_linear_widths(model),
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        num_heads=num_heads,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or num_heads,
        head_dim=head_dim,
        vocab_size=text.vocab_size,
        max_positions=getattr(text, "max_position_embeddings", None),
        scales_logits=any(getattr(text, name, None) not in (None, 1, 1.0) for name in LOGIT_SCALES),
    )


def _count_largest_layer(model: "PreTrainedModel", num_layers: int) -> int:
    """Parameters of the largest item of the list of decoder layers."""
    from torch.nn import ModuleList

    stacks = [part for part in model.modules() if isinstance(part, ModuleList) and len(part) == num_layers]
    if not stacks:
        return round(model.num_parameters() / num_layers)
    return max(sum(weight.numel() for weight in layer.parameters()) for layer in stacks[0])


def _count_linear_widths(model: "PreTrainedModel") -> int:
    """Inputs and outputs of every linear layer but the head, as PEFT's `all-linear` takes them."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head: Any = model.get_output_embeddings()
    layers = [part for part in model.modules() if isinstance(part, Linear | Conv1D) and part is not head]
    return sum(sum(layer.weight.shape) for layer in layers)


def find_tokenizer(folder: Path) -> "PreTrainedTokenizerBase | None":
    """The tokenizer beside a configuration; None where its files are not there."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **WITHOUT_CODE)
    return tokenizer if tokenizer.chat_template is not None else None
