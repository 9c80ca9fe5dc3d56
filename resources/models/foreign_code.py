"""Nothing that a model's folder brings is run: no Python, no pickle.

1. **`auto_map`** in a configuration names classes of the folder's own Python files. transformers asks on the terminal
   whether to run them, where nobody answers, and then advises an argument that no setting gives. Such a folder is
   refused here first, with words.
2. **`adapter_config.json`** makes transformers load another model, from wherever it says, whose content no hash holds.
3. **`modules.json`** of sentence-transformers names classes, of any module.
4. **Pickles** (`pytorch_model*.bin`) are never read: weights are safetensors, which hold numbers alone.

`WITHOUT_CODE` and `WEIGHTS` are given to every call that loads something, so that a folder that changes after the check
runs nothing either.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

WITHOUT_CODE: Final = {"trust_remote_code": False}
"""What every configuration and tokenizer is loaded with."""
WEIGHTS: Final = {"trust_remote_code": False, "use_safetensors": True}
"""What every model is loaded with."""
_MODULES = "sentence_transformers."


class ForeignCodeError(ValueError):
    """A model's folder names code, or another model, that would be loaded with it."""


_BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, ImportError)
_LIBRARIES = ("transformers", "tokenizers", "safetensors", "huggingface_hub", "sentence_transformers")


def is_of_the_folder(error: Exception) -> bool:
    """Whether an error of a loading call says that the folder's files are not what they should be.

    transformers raises whatever its code runs into, huggingface_hub errors of its own for a field of a wrong kind, and
    the tokenizers that are written in Rust `Exception` itself.
    """
    kind = type(error)
    return isinstance(error, _BROKEN) or kind is Exception or kind.__module__.partition(".")[0] in _LIBRARIES


def refuse_foreign_code(folder: Path) -> None:
    """Check that a model's folder names no code of its own and no other model.

    A configuration that cannot be read is left to what reads it next.

    Raises:
        ForeignCodeError: the file and what it names.
    """
    for file in sorted(folder.glob("*config*.json")):
        config = _read(file)
        if named := sorted({str(name) for name in _find_code(config)}):
            raise ForeignCodeError(
                f"{file}: auto_map names code of the model's own ({', '.join(named)}), which is never run; name a "
                "model whose architecture transformers has itself or, if it has this one, remove auto_map from the file"
            )
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        config = _read(adapter)
        base = config["base_model_name_or_path"] if isinstance(config, dict) and _BASE in config else None
        raise ForeignCodeError(
            f"{adapter}: the folder is a LoRA adapter of {base!r}, which would be loaded from there; merge both "
            "(PEFT's merge_and_unload and save_pretrained), and name the merged model's folder"
        )


_BASE = "base_model_name_or_path"


def refuse_foreign_modules(folder: Path) -> None:
    """Check that an embedding model is made of sentence-transformers' own modules, and see `refuse_foreign_code`.

    Raises:
        ForeignCodeError: the file and what it names.
    """
    for inner in sorted({file.parent for file in folder.rglob("*config*.json")} | {folder}):
        refuse_foreign_code(inner)
    file = folder / "modules.json"
    modules = _read(file) if file.is_file() else []
    for module in modules if isinstance(modules, list) else []:
        kind = module["type"] if isinstance(module, dict) and "type" in module else None
        if not str(kind).startswith(_MODULES):
            raise ForeignCodeError(
                f"{file}: type {kind!r} is code that the model brings, which is never run; name a model of the modules "
                "of sentence-transformers alone"
            )


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return None


def _find_code(config: Any) -> Iterator[object]:
    """What `auto_map` names, at any depth: a configuration holds those of its parts."""
    if isinstance(config, dict):
        for name, value in config.items():
            if name == "auto_map" and value:
                yield from value.values() if isinstance(value, dict) else [value]
            else:
                yield from _find_code(value)
    elif isinstance(config, list):
        for value in config:
            yield from _find_code(value)
