"""GGUF files as model folders: converted once, with the tokenizer mended where transformers reads it wrongly.

Transformers reads weights, config, vocabulary and chat template of a GGUF file by the package `gguf`. Two things are
missing, and are done here:
1. How a byte-level vocabulary cuts a text into words is only named in the file (`tokenizer.ggml.pre`), and transformers
   gives every name the rule of GPT-2. With it SmolLM2 reads "2024" as one piece that it was never trained on. The rules
   below are those that llama.cpp has under each name. A name that is not among them is refused, since a wrong rule
   makes a model worse and says nothing.
2. A checkpoint must not say that it is quantized, or it could not be trained and saved.

A `tokenizer.json` beside the file is the model's own, and is taken in place of the file's vocabulary.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.models.foreign_code import WITHOUT_CODE, refuse_foreign_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENDING = ".gguf"
SOURCE = "source.json"
"""What a converted folder was made from: the file's name and hash, and the versions of the libraries."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA_3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES_BY_WORD = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES = _BYTES_BY_WORD | {"use_regex": False}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _in_order(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [dict(part) for part in parts]}


_SINGLE_DIGITS = _in_order({"type": "Digits", "individual_digits": True}, _BYTES_BY_WORD)
WORD_RULES: Mapping[str, Mapping[str, Any]] = {
    "gpt-2": _BYTES_BY_WORD,
    "phi-2": _BYTES_BY_WORD,
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "refact": _SINGLE_DIGITS,
    "command-r": _SINGLE_DIGITS,
    "codeshell": _SINGLE_DIGITS,
    "llama-bpe": _in_order(_split(_LLAMA_3), _BYTES),
    "llama3": _in_order(_split(_LLAMA_3), _BYTES),
    "smaug-bpe": _in_order(_split(_LLAMA_3), _BYTES),
    "qwen2": _in_order(_split(_LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")), _BYTES),
    "stablelm2": _in_order(_split(_LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")), _BYTES),
    "deepseek-r1-qwen": _in_order(_split(_LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")), _BYTES),
}
"""How a byte-level vocabulary cuts texts into words, in the format of `tokenizer.json`, by llama.cpp's name."""

PROBES = ("In 2024, 13 cats sat.", "  Two lines:\n\n\tindented\n", "naïve café – 東京 🙂", "it's 3.14 don't")
"""Texts that a tokenizer must give back as they were."""


class GgufError(ValueError):
    """The file is no GGUF file that can be used as a model."""


def hash_file(file: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def find_converted(file: Path, root: Path) -> Path | None:
    """The folder that a file was converted into; None where it was not yet.

    Args:
        file: the GGUF file.
        root: where converted models are kept.
    """
    stat = file.stat()
    for folder in sorted(root.glob(f"{file.stem}-*")):
        source = folder / SOURCE
        if source.is_file():
            kept = json.loads(source.read_text(encoding="utf-8"))
            # The hash of a large file takes a minute, and its size and time say as much on one machine.
            if [kept["bytes"], kept["modified_ns"]] == [stat.st_size, stat.st_mtime_ns] or (
                kept["bytes"] == stat.st_size and kept["sha256"] == hash_file(file)
            ):
                return folder
    return None


def convert(file: Path, root: Path, *, name: str | None = None) -> Path:
    """The model folder of a GGUF file, float32; converted at the first call.

    Args:
        file: the GGUF file; of a model in several files it is the first one.
        root: where converted models are kept; the folder is named after the file and its hash.
        name: another name for the folder.

    Raises:
        ForeignCodeError: a configuration beside the file names code.
        GgufError: the file is broken or no language model, or it cuts texts into words by an unknown rule.
    """
    digest = hash_file(file)
    folder = root / (name or f"{file.stem}-{digest[:8]}")
    if (folder / SOURCE).is_file():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
    try:
        _write(file, partial)
        _write_source(file, partial, digest)
        try:
            partial.rename(folder)
        except OSError:
            # Another process was faster, and wrote the same.
            if not (folder / SOURCE).is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_source(file: Path, folder: Path, digest: str) -> None:
    from importlib.metadata import version

    stat = file.stat()
    source = {
        "file": file.name,
        "sha256": digest,
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "libraries": {library: version(library) for library in ("gguf", "torch", "transformers")},
    }
    # Written last: a folder with this file is whole.
    (folder / SOURCE).write_text(json.dumps(source, indent=1), encoding="utf-8")


def _write(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    pre = _read_word_rule(file)
    own = [path for path in file.parent.glob("*") if path.name.startswith(("tokenizer", "chat_template"))]
    has_own = any(path.name in ("tokenizer.json", "tokenizer.model") for path in own)
    if pre is not None and pre not in WORD_RULES and not has_own:
        raise GgufError(
            f"{file}: its vocabulary cuts texts into words by the rule {pre!r}, which is not known here; put the "
            f"model's own tokenizer.json beside the file, or use its safetensors (known: {', '.join(WORD_RULES)})"
        )
    # What lies beside the file is read too.
    refuse_foreign_code(file.parent)
    try:
        quantized = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, **WITHOUT_CODE
        )
        config = quantized.config
        if hasattr(config, "quantization_config"):
            delattr(config, "quantization_config")
        config.name_or_path = ""
        # Through a fresh model, since the one that was read keeps that it was quantized.
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **WITHOUT_CODE)
        model.load_state_dict(quantized.state_dict())
        model.save_pretrained(folder)
        if has_own:
            for path in own:
                shutil.copyfile(path, folder / path.name)
        else:
            AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, **WITHOUT_CODE).save_pretrained(folder)
            _mend_tokenizer(folder, pre, max_length=getattr(config, "max_position_embeddings", None))
        check_tokenizer(AutoTokenizer.from_pretrained(folder, **WITHOUT_CODE), file.name)
    except GgufError:
        raise
    except (ValueError, OSError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise GgufError(
            f"{file} cannot be read as a language model: {type(error).__name__}: {error}; use a file of an "
            "architecture that transformers reads from GGUF, or the model's safetensors"
        ) from error


def _read_word_rule(file: Path) -> str | None:
    """The name of the rule by which a byte-level vocabulary cuts words; None for a vocabulary of another kind."""
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
    except (ValueError, OSError, IndexError) as error:
        raise GgufError(f"{file} is not a whole GGUF file: {error}; download it again") from error
    if "tokenizer.ggml.model" not in fields:
        raise GgufError(f"{file} has no vocabulary; name the first file of a model, not a later part or an adapter")
    if fields["tokenizer.ggml.model"].contents() != "gpt2":
        return None
    if "tokenizer.ggml.pre" not in fields:
        return "default"
    return str(fields["tokenizer.ggml.pre"].contents())


def _mend_tokenizer(folder: Path, pre: str | None, *, max_length: int | None) -> None:
    settings = folder / "tokenizer_config.json"
    config = json.loads(settings.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only"):
        config.pop(key, None)
    if max_length is not None:
        config["model_max_length"] = max_length
    if pre is not None:
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text(encoding="utf-8"))
        tokenizer |= {
            "pre_tokenizer": WORD_RULES[pre],
            "post_processor": None,
            "decoder": _BYTES_BY_WORD,
        }
        file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
        config.pop("backend", None)
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")


def check_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", name: str, known: Mapping[str, list[int]] | None = None
) -> None:
    """Check that a tokenizer gives texts back as they were, and encodes known texts as the model's makers have it.

    Args:
        tokenizer: the one that was converted.
        name: of the model, for the message.
        known: token ids by text.

    Raises:
        GgufError: it does not.
    """
    for text in PROBES:
        back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), clean_up_tokenization_spaces=False)
        if back.lstrip(" ") != text.lstrip(" "):
            raise GgufError(
                f"{name}: its tokenizer reads {text!r} and gives back {back!r}; use the model's safetensors"
            )
    for text, tokens in (known or {}).items():
        if (got := tokenizer.encode(text, add_special_tokens=False)) != tokens:
            raise GgufError(f"{name}: its tokenizer encodes {text!r} as {got}, and the model was trained on {tokens}")


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file by its name."""
    return path.suffix.lower() == ENDING and path.is_file()
