"""GGUF files as model folders: converted once, with the tokenizer mended where transformers reads it wrongly.

Transformers reads weights, config, vocabulary and chat template of a GGUF file by the package `gguf`. What is missing
is done here:
1. How a byte-level vocabulary cuts a text into words is only named in the file (`tokenizer.ggml.pre`), and transformers
   gives every name that it does not know the rule of GPT-2. With it SmolLM2 reads "2024" as one piece that it was never
   trained on. The rules below are those that llama.cpp has under each name. A name that is not among them is refused,
   since a wrong rule makes a model worse and says nothing.
2. A SentencePiece vocabulary is read as llama.cpp reads it: unless the file says otherwise, a space is added before the
   text and behind each special token. Transformers adds none behind special tokens, which some later models were
   trained with (Mistral v0.3); no key tells them apart.
3. What the file says of the model's arithmetic and is left unread (`resources.models.gguf_config`).
4. A checkpoint must not say that it is quantized, or it could not be trained and saved.

A `tokenizer.json` beside the file is the model's own, and is taken in place of the file's vocabulary.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.models.foreign_code import WITHOUT_CODE, refuse_foreign_code
from resources.models.gguf_config import GgufError, GgufFacts, check_whole, complete_config, read_facts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

ENDING = ".gguf"
SOURCE = "source.json"
"""What a converted folder was made from: the file's name and hash, the converter and the versions of the libraries."""
CONVERTER = 1
"""By which rules a file is converted. One more with each change to this file or `gguf_config` after which some GGUF
file becomes another model: folders of other rules are converted again."""

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

_KEEPS_SPACE = ("<unk>", "<s>", "<|endoftext|>")
"""The special tokens of Phi 3 behind which white space stays. llama.cpp knows them by the model's name."""

PROBES = ("In 2024, 13 cats sat.", "  Two lines:\n\n\tindented\n", "naïve café – 東京 🙂", "it's 3.14 don't")
"""Texts that a tokenizer must give back as they were."""


def hash_file(file: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def is_current(folder: Path) -> bool:
    """Whether a folder is a whole converted model, by the rules of today."""
    source = folder / SOURCE
    return source.is_file() and json.loads(source.read_text(encoding="utf-8")).get("converter") == CONVERTER


def find_converted(file: Path, root: Path) -> Path | None:
    """The folder that a file was converted into; None where it was not yet, or by other rules.

    Args:
        file: the GGUF file.
        root: where converted models are kept.
    """
    stat = file.stat()
    for folder in sorted(root.glob(f"{file.stem}-*")):
        if is_current(folder):
            kept = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
            # The hash of a large file takes a minute, and its size and time say as much on one machine.
            if [kept["bytes"], kept["modified_ns"]] == [stat.st_size, stat.st_mtime_ns] or (
                kept["bytes"] == stat.st_size and kept["sha256"] == hash_file(file)
            ):
                return folder
    return None


def convert(file: Path, root: Path, *, name: str | None = None) -> Path:
    """The model folder of a GGUF file, float32; converted at the first call, and again where other rules made it.

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
    if is_current(folder):
        return folder
    if (folder / SOURCE).is_file():
        logger.warning("%s was converted from %s by earlier rules, and is converted again", folder, file.name)
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
    earlier = partial.with_name(f"{partial.name}-earlier")
    try:
        _write(file, partial)
        _write_source(file, partial, digest)
        if (folder / SOURCE).is_file() and not is_current(folder):
            # What reads the earlier folder keeps the files that it has open.
            with suppress(FileNotFoundError):
                folder.rename(earlier)
        try:
            partial.rename(folder)
        except OSError:
            # Another process was faster, and wrote the same.
            if not is_current(folder):
                raise
    finally:
        shutil.rmtree(earlier, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_source(file: Path, folder: Path, digest: str) -> None:
    from importlib.metadata import version

    stat = file.stat()
    source = {
        "file": file.name,
        "converter": CONVERTER,
        "sha256": digest,
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "libraries": {library: version(library) for library in ("gguf", "torch", "transformers")},
    }
    # Written last: a folder with this file is whole.
    (folder / SOURCE).write_text(json.dumps(source, indent=1), encoding="utf-8")


def _write(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    facts = read_facts(file)
    pre = _find_word_rule(facts)
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
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, **WITHOUT_CODE)
        complete_config(config, facts)
        quantized, loading = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            **WITHOUT_CODE,
        )
        check_whole(quantized, set(loading["missing_keys"]), facts)
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
            _mend_tokenizer(folder, facts, pre, max_length=getattr(config, "max_position_embeddings", None))
        check_tokenizer(AutoTokenizer.from_pretrained(folder, **WITHOUT_CODE), file.name)
    except GgufError:
        raise
    except (ValueError, OSError, LookupError, RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise GgufError(
            f"{file} (architecture {facts.architecture!r}) cannot be read as a language model: "
            f"{type(error).__name__}: {error}; use a file of an architecture that transformers reads from GGUF, or the "
            "model's safetensors"
        ) from error


def _find_word_rule(facts: GgufFacts) -> str | None:
    """The name of the rule by which a byte-level vocabulary cuts words; None for a vocabulary of another kind."""
    if facts.keys["tokenizer.ggml.model"] != "gpt2":
        return None
    return str(facts.keys.get("tokenizer.ggml.pre", "default"))


def _mend_tokenizer(folder: Path, facts: GgufFacts, pre: str | None, *, max_length: int | None) -> None:
    settings, file = folder / "tokenizer_config.json", folder / "tokenizer.json"
    config = json.loads(settings.read_text(encoding="utf-8"))
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only"):
        config.pop(key, None)
    if max_length is not None:
        config["model_max_length"] = max_length
    if pre is not None:
        tokenizer |= {"pre_tokenizer": WORD_RULES[pre], "decoder": _BYTES_BY_WORD}
    elif (tokenizer["pre_tokenizer"] or {}).get("type") == "Metaspace":
        adds_space = bool(facts.keys.get("tokenizer.ggml.add_space_prefix", True))
        tokenizer |= {"pre_tokenizer": None, "normalizer": _in_place_of_spaces(adds_space=adds_space)}
        tokenizer["decoder"]["decoders"] = [
            part for part in tokenizer["decoder"]["decoders"] if adds_space or part["type"] != "Strip"
        ]
    if pre is None and any(name in str(facts.keys.get("general.name", "")).lower() for name in ("phi-3", "phi3")):
        for token in tokenizer["added_tokens"]:
            token["rstrip"] = token["special"] and token["content"] not in _KEEPS_SPACE
    # What begins a text is the template's affair, and a class of transformers would build its own rules again.
    tokenizer["post_processor"] = None
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    config.pop("backend", None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")


def _in_place_of_spaces(*, adds_space: bool) -> dict[str, Any]:
    """SentencePiece's sign for spaces; where one is added, before the text and behind each special token."""
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    parts = [{"type": "Prepend", "prepend": "▁"}, replaced] if adds_space else [replaced]
    return {"type": "Sequence", "normalizers": parts}


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
