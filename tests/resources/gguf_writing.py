"""Writes tiny models and their vocabularies as GGUF files, with the names, orders and keys that llama.cpp has."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGUFWriter, TokenType, get_tensor_name_map
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEADS, KV_HEADS, HIDDEN, LAYERS, ROWS = 4, 2, 32, 2, 64
TEXTS = (
    "In 2024, 13 cats sat on 24 mats.",
    "the theme of the mathematics",
    "Ünïcode: 東京 🙂",
    "a\n\n\tb   c",
    "it's 3.14",
)
_LEARNED = [
    *TEXTS,
    "the cat sat on the mat and the hat",
    "in the theme that the cats have  there are",
    "2024 2023 1999",
]


class Vocabulary(NamedTuple):
    """A tokenizer as its makers have it, and what a GGUF file says of it."""

    source: Tokenizer
    kind: str
    """`gpt2` for byte-level, `llama` for SentencePiece."""
    pre: str
    tokens: list[str]
    types: list[int]
    special: Mapping[str, int]
    """By the names of the file's keys: bos, eos, unk, pad."""
    scores: list[float] | None = None
    merges: list[str] | None = None
    adds_space: bool | None = None


def build_bytes(pre: str, rule: Callable[[], Any]) -> Vocabulary:
    """A byte-level vocabulary whose words are cut by a rule."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = rule()
    trained.train_from_iterator(
        _LEARNED,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=specials,
            initial_alphabet=list(bytes_to_unicode().values()),
            show_progress=False,
        ),
    )
    trained.decoder = decoders.ByteLevel()
    tokens = sorted(trained.get_vocab(), key=trained.token_to_id)
    merges = [" ".join(merge) for merge in _read_merges(trained)]
    types = [int(TokenType.CONTROL if token in specials else TokenType.NORMAL) for token in tokens]
    return Vocabulary(trained, "gpt2", pre, tokens, types, {"bos": 1, "eos": 2, "unk": 0, "pad": 0}, merges=merges)


def _read_merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in found]


def build_pieces(style: str) -> Vocabulary:
    """A SentencePiece vocabulary with bytes to fall back on, as of Llama 2, Mistral v0.3 or Gemma."""
    bytes_there = [f"<0x{value:02X}>" for value in range(256)]
    if style == "gemma":
        begin = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
        controls, special = begin[:3], {"bos": 2, "eos": 1, "unk": 3, "pad": 0}
    else:
        begin = ["<unk>", "<s>", "</s>"]
        controls, special = begin[1:], {"bos": 1, "eos": 2, "unk": 0}
    turns = ["<|im_start|>", "<|im_end|>"]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # As SentencePiece has it: a word begins with its space, and no piece spans two words.
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[^▁]*"), behavior="isolated")
    learner.train_from_iterator(_LEARNED[5:], trainers.BpeTrainer(vocab_size=90, show_progress=False))
    learned = sorted(learner.get_vocab(), key=learner.token_to_id)
    merges = _read_merges(learner)
    made = ["".join(merge) for merge in merges]
    letters = [token for token in learned if token not in made]
    tokens = [*begin, *bytes_there, *made, *letters, *turns]
    ranks = {token: -float(place) for place, token in enumerate(made)}
    scores = [ranks.get(token, -1000.0 if token in letters else 0.0) for token in tokens]
    kinds = {
        **dict.fromkeys(bytes_there, TokenType.BYTE),
        **dict.fromkeys(controls, TokenType.CONTROL),
        **dict.fromkeys(turns, TokenType.CONTROL),
        "<unk>": TokenType.UNKNOWN,
    }
    core = models.BPE(
        {token: place for place, token in enumerate(tokens)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    source = Tokenizer(core)
    back: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if style == "llama2":
        source.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        back.append(decoders.Strip(" ", 1, 0))
    elif style == "mistral3":
        source.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        back.append(decoders.Strip(" ", 1, 0))
    else:
        source.normalizer = normalizers.Replace(" ", "▁")
        source.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    source.decoder = decoders.Sequence(back)
    source.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in [*begin, *turns]])
    types = [int(kinds.get(token, TokenType.NORMAL)) for token in tokens]
    return Vocabulary(source, "llama", "default", tokens, types, special, scores, adds_space=style != "gemma")


def build_model(model_type: str, vocabulary: Vocabulary, **more: Any) -> PreTrainedModel:
    """A model with random weights, each norm and bias too, so that none of them can be lost unseen."""
    torch.manual_seed(0)
    given = {
        **{"vocab_size": len(vocabulary.tokens), "hidden_size": HIDDEN, "intermediate_size": ROWS},
        **{"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS},
        **{"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "initializer_range": 0.3},
        **{f"{name}_token_id": vocabulary.special.get(name) for name in ("bos", "eos", "pad")},
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(given | more)))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn(weight.shape) * 0.2)
    return model.eval()


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp has them, which turns pairs of neighbours where transformers turns halves."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def list_tensors(model: PreTrainedModel, architecture: str) -> Iterator[tuple[str, np.ndarray]]:
    """A model's weights by llama.cpp's names, in its orders."""
    (number,) = (number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(number, model.config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        stem, _, ending = name.rpartition(".")
        values = weight.float().numpy()
        if architecture == "llama" and stem.endswith(("q_proj", "k_proj")):
            values = permute(values, HEADS if stem.endswith("q_proj") else KV_HEADS)
        if architecture == "gemma3" and stem.endswith("norm"):
            values = values + 1
        yield f"{names.get_name(stem)}.{ending}", np.ascontiguousarray(values)


def write_file(
    file: Path,
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    architecture: str,
    *,
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    without: str | None = None,
    name: str | None = None,
) -> None:
    """Write a model.

    Args:
        file: what is written.
        model: the model.
        vocabulary: its vocabulary.
        architecture: llama.cpp's name for it.
        keys: further keys of the architecture, without its name.
        tensors: further tensors.
        without: the name of a tensor that is left out.
        name: the model's name.
    """
    config, writer = model.config, GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(vocabulary.tokens))
    if name is not None:
        writer.add_name(name)
    for key, value in (keys or {}).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{architecture}.{key}", value)
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.adds_space is not None:
        writer.add_add_space_prefix(vocabulary.adds_space)
    adders = {"bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "unk": writer.add_unk_token_id}
    for kind, number in vocabulary.special.items():
        (adders | {"pad": writer.add_pad_token_id})[kind](number)
    writer.add_chat_template(TEMPLATE)
    for tensor, values in [*list_tensors(model, architecture), *(tensors or {}).items()]:
        if tensor != without:
            writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
