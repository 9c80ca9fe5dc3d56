"""A GGUF file becomes a folder whose model says what the file's does, and whose tokenizer is the makers'."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from resources.models.finding import find_model_here, resolve_model
from resources.models.gguf_files import WORD_RULES, GgufError, check_tokenizer, convert, find_converted

HEADS, KV_HEADS, HIDDEN, LAYERS, ROWS = 4, 2, 32, 2, 64
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def build_vocabulary() -> tuple[list[str], list[str]]:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = list(bytes_to_unicode().values())
    # A pair of digits is one token: only the rule for words keeps digits apart.
    return [*specials, *letters, "20", "24", "2024", "Ġc", "at"], ["2 0", "2 4", "20 24", "Ġ c", "a t"]


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp has them, which turns pairs of neighbours where transformers turns halves."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file: Path, *, pre: str = "smollm") -> LlamaForCausalLM:
    tokens, merges = build_vocabulary()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=HIDDEN,
        intermediate_size=ROWS,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(ROWS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    state = {name: weight.numpy() for name, weight in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    for layer in range(LAYERS):
        for ours, theirs in NAMES.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                weight = permute(weight, HEADS if theirs == "attn_q" else KV_HEADS)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def read_logits(model: LlamaForCausalLM) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(3, 40)[None]).logits


def test_the_folder_says_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_HOME", str(tmp_path / "home"))
    file = tmp_path / "tiny.Q4.gguf"
    written = write_gguf(file)
    assert find_model_here("tiny.Q4.gguf", base=tmp_path, revision=None) is None
    folder = resolve_model("tiny.Q4.gguf", base=tmp_path, revision=None)
    assert find_model_here("tiny.Q4.gguf", base=tmp_path, revision=None) == folder == resolve_model(str(file))
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.allclose(read_logits(model), read_logits(written), atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.tokenize("2024 cat") == ["2", "0", "2", "4", "Ġc", "at"]
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_changed_file_is_another_model(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    first = convert(file, tmp_path / "models")
    assert find_converted(file, tmp_path / "models") == first == convert(file, tmp_path / "models")
    write_gguf(file, pre="gpt-2")
    assert find_converted(file, tmp_path / "models") is None
    second = convert(file, tmp_path / "models")
    assert second != first
    assert AutoTokenizer.from_pretrained(second).tokenize("2024 cat") == ["2024", "Ġc", "at"]


@pytest.mark.parametrize("rule", sorted(WORD_RULES))
def test_each_rule_gives_texts_back(rule: str) -> None:
    tokens, merges = build_vocabulary()
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, pairs))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    raw = json.loads(tokenizer.to_str()) | {"pre_tokenizer": WORD_RULES[rule]}
    read = Tokenizer.from_str(json.dumps(raw))
    for text in ("In 2024, 13 cats.", " a\n\n\tb", "东京 cat's"):
        assert read.decode(read.encode(text).ids) == text
    # Rules of GPT-2's and Llama 3's kind leave numbers together; all others cut them into digits.
    is_whole = rule in {"gpt-2", "phi-2", "llama-bpe", "llama3", "smaug-bpe"}
    assert (len(read.encode("24").tokens) == 1) == is_whole


def test_what_cannot_be_used_is_refused_with_a_remedy(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, pre="a-rule-of-next-year")
    with pytest.raises(GgufError, match=r"by the rule 'a-rule-of-next-year'.*put the model's own tokenizer\.json"):
        convert(file, tmp_path / "models")
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(GgufError, match=r"not a whole GGUF file|cannot be read"):
        convert(file, tmp_path / "models")
    file.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(GgufError, match="not a whole GGUF file"):
        convert(file, tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_known_encodings_are_checked(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "3 + 4"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    with pytest.raises(GgufError, match="the model was trained on"):
        check_tokenizer(_OnlyKnown(tokenizer), "tiny", {text: [*tokens, 1]})
    check_tokenizer(_OnlyKnown(tokenizer), "tiny", {text: tokens})


class _OnlyKnown:
    """A tokenizer that gives every text back; the small world's has too few letters for that."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.texts = tokenizer, {}

    def encode(self, text: str, **_: object) -> list[int]:
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        self.texts[tuple(tokens)] = text
        return tokens

    def decode(self, tokens: list[int], **_: object) -> str:
        return self.texts[tuple(tokens)]
