"""GGUF files of each architecture, converted: the same logits as the model, and the same tokens as its tokenizer."""

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from resources.models.gguf_files import WORD_RULES, GgufError, convert
from tests.resources.gguf_writing import TEXTS, Vocabulary, build_bytes, build_model, build_pieces, write_file

CHAT = "<|im_start|>user\nHi  there<|im_end|>\n<|im_start|>assistant\n"


@cache
def open_vocabulary(name: str) -> Vocabulary:
    if name in ("llama2", "mistral3", "gemma"):
        return build_pieces(name)
    raw = json.loads(Tokenizer(models.BPE()).to_str()) | {"pre_tokenizer": WORD_RULES[name]}
    return build_bytes(name, lambda: Tokenizer.from_str(json.dumps(raw)).pre_tokenizer)


class Case(NamedTuple):
    """A model, and the file of it."""

    model_type: str
    architecture: str
    vocabulary: str
    config: dict[str, Any]
    keys: dict[str, Any]
    tensors: Mapping[str, np.ndarray] = MappingProxyType({})


def turn(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta} | more}


def list_llama_3_factors(theta: float, width: int, factor: float) -> np.ndarray:
    """As llama.cpp's script writes them, one frequency after the other."""
    found = []
    for place in range(0, width, 2):
        wave = 2 * math.pi * theta ** (place / width)
        smooth = (8192 / wave - 1) / 3
        found.append(1 if wave < 8192 / 4 else factor if wave > 8192 else 1 / ((1 - smooth) / factor + smooth))
    return np.array(found, dtype=np.float32)


LLAMA_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LONG = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0]}
FACTORS = {f"rope_factors_{name}.weight": np.array(LONG[f"{name}_factor"], np.float32) for name in ("short", "long")}
CASES = {
    "llama 2": Case("llama", "llama", "llama2", {"tie_word_embeddings": False}, {"rope.dimension_count": 8}),
    "llama 3": Case("llama", "llama", "llama-bpe", turn(500000.0), {"rope.freq_base": 5e5, "rope.dimension_count": 8}),
    "llama 3.2": Case(
        *("llama", "llama", "llama-bpe", turn(500000.0, **LLAMA_3 | {"rope_type": "llama3"})),
        {"rope.freq_base": 5e5, "rope.dimension_count": 8},
        {"rope_freqs.weight": list_llama_3_factors(5e5, 8, 8.0)},
    ),
    "mistral": Case(
        *("mistral", "llama", "llama2", turn(1e6) | {"head_dim": 16, "sliding_window": None}),
        {"rope.freq_base": 1e6, "rope.dimension_count": 16},
    ),
    "qwen 2.5": Case("qwen2", "qwen2", "qwen2", turn(1e6) | {"tie_word_embeddings": True}, {"rope.freq_base": 1e6}),
    "qwen 3": Case(
        *("qwen3", "qwen3", "qwen2", turn(1e6) | {"head_dim": 16}),
        {"rope.freq_base": 1e6, "attention.key_length": 16, "attention.value_length": 16},
    ),
    "gemma 3": Case(
        *("gemma3_text", "gemma3", "gemma"),
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "num_hidden_layers": 7},
        {"rope.freq_base": 1e6, "attention.key_length": 16, "attention.sliding_window": 8},
    ),
    "gemma 3, scaled": Case(
        *("gemma3_text", "gemma3", "gemma"),
        {
            **{"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "num_hidden_layers": 7},
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        {
            **{"rope.freq_base": 1e6, "attention.key_length": 16, "attention.sliding_window": 8},
            **{"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        },
    ),
    "phi 3": Case(
        *("phi3", "phi3", "llama2", {"sliding_window": 8}),
        {"rope.freq_base": 1e4, "rope.dimension_count": 8, "attention.sliding_window": 8},
    ),
    "phi 3, long": Case(
        *("phi3", "phi3", "llama2"),
        turn(1e4, **LONG | {"rope_type": "longrope"}) | {"original_max_position_embeddings": 16},
        {"rope.freq_base": 1e4, "rope.dimension_count": 8, "rope.scaling.original_context_length": 16},
        FACTORS,
    ),
    "phi 4 mini": Case(
        *("phi3", "phi3", "qwen2", turn(1e4, partial_rotary_factor=0.5)),
        {"rope.freq_base": 1e4, "rope.dimension_count": 4},
    ),
}


def read_logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(3, 60)[None]).logits


@pytest.mark.parametrize("name", CASES)
def test_the_folder_says_what_the_model_says(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    vocabulary = open_vocabulary(case.vocabulary)
    model = build_model(case.model_type, vocabulary, **case.config)
    write_file(tmp_path / "tiny.gguf", model, vocabulary, case.architecture, keys=case.keys, tensors=case.tensors)
    folder = convert(tmp_path / "tiny.gguf", tmp_path / "models")
    read = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(read_logits(read), read_logits(model), rtol=0, atol=1e-4)
    check_texts(AutoTokenizer.from_pretrained(folder), vocabulary, [*TEXTS, CHAT, "  two"])


def check_texts(tokenizer: Any, vocabulary: Vocabulary, texts: list[str]) -> None:
    for text in texts:
        wanted = vocabulary.source.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text, add_special_tokens=False) == wanted.ids, text
        assert tokenizer.decode(wanted.ids) == vocabulary.source.decode(wanted.ids, skip_special_tokens=False)
    assert len(tokenizer) == len(vocabulary.tokens)
    assert tokenizer.eos_token_id == vocabulary.special["eos"]


def write_llama(file: Path, vocabulary: Vocabulary, **given: Any) -> None:
    model = build_model("llama", vocabulary, tie_word_embeddings=False)
    given["keys"] = {"rope.dimension_count": 8} | given.get("keys", {})
    write_file(file, model, vocabulary, "llama", **given)


def test_pieces_without_a_space_before_them(tmp_path: Path) -> None:
    """The file may say that nothing is added before a text."""
    vocabulary = open_vocabulary("llama2")._replace(adds_space=False)
    write_llama(tmp_path / "tiny.gguf", vocabulary)
    tokenizer = AutoTokenizer.from_pretrained(convert(tmp_path / "tiny.gguf", tmp_path / "models"))
    assert tokenizer.tokenize("the cat")[0] == tokenizer.tokenize("xthe cat")[1]
    assert tokenizer.decode(tokenizer.encode("the cat", add_special_tokens=False)) == "the cat"


def test_phi_3_swallows_the_space_behind_its_markup(tmp_path: Path) -> None:
    """Only the name tells: another model of the same vocabulary keeps it."""
    for name, is_swallowed in (("Phi-3-mini-4k-instruct", True), ("TinyLlama-1.1B-Chat", False)):
        file = tmp_path / f"{name}.gguf"
        write_llama(file, open_vocabulary("llama2"), name=name)
        tokens = AutoTokenizer.from_pretrained(convert(file, tmp_path / "models")).tokenize("<|im_start|>\n the")
        assert (tokens[-1] == "▁the" and "<0x0A>" not in tokens) == is_swallowed


def test_a_later_mistral_is_read_by_its_own_tokenizer(tmp_path: Path) -> None:
    """No key of a file says that no space is added behind special tokens; the makers' tokenizer.json does."""
    vocabulary = open_vocabulary("mistral3")
    write_llama(tmp_path / "tiny.gguf", vocabulary)
    alone = AutoTokenizer.from_pretrained(convert(tmp_path / "tiny.gguf", tmp_path / "models"))
    assert alone.encode(TEXTS[0], add_special_tokens=False) == vocabulary.source.encode(TEXTS[0]).ids
    assert alone.encode(CHAT, add_special_tokens=False) != vocabulary.source.encode(CHAT).ids
    vocabulary.source.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": "{{ messages }}"}
        )
    )
    check_texts(
        AutoTokenizer.from_pretrained(convert(tmp_path / "tiny.gguf", tmp_path / "beside")), vocabulary, [*TEXTS, CHAT]
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"tensors": {"blk.0.attn_q.bias": np.ones(32, np.float32)}},
            r"holds 1 tensors .* such as 'blk.0.attn_q.bias'",
        ),
        ({"without": "blk.1.ffn_up.weight"}, r"lacks 1 of the model's weights, such as 'model.layers.1.mlp.up_proj"),
        (
            {"keys": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}},
            r"scales positions by 'yarn' \(factor 4\)",
        ),
        ({"keys": {"attention.sliding_window": 64}}, "attends to 64 tokens alone"),
        ({"keys": {"rope.dimension_count": 4, "attention.key_length": 8}}, "turns 4 of a head's 8 numbers"),
        (
            {"tensors": {"rope_freqs.weight": np.array([1, 3, 5, 8], np.float32)}},
            r"has factors of positions \(up to 8\) that are not of the kind of Llama 3.1",
        ),
    ],
)
def test_what_would_be_lost_is_refused(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf", open_vocabulary("llama-bpe"), **given)
    with pytest.raises(GgufError, match=rf"architecture 'llama'\) {said}.*use the model's safetensors"):
        convert(tmp_path / "tiny.gguf", tmp_path / "models")


def test_an_architecture_that_is_not_read_is_refused(tmp_path: Path) -> None:
    vocabulary = open_vocabulary("qwen2")
    write_file(tmp_path / "tiny.gguf", build_model("llama", vocabulary), vocabulary, "granite")
    said = (
        r"architecture 'granite'\) cannot be read .*not supported yet.*use a file of an architecture that transformers"
    )
    with pytest.raises(GgufError, match=said):
        convert(tmp_path / "tiny.gguf", tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())
