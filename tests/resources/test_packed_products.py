"""Products by oneDNN: the same logits for every kind of layer, and only where they are faster."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lance_assets.records import Request, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import sample_in_order
from resources.engines.transformers import packed_products
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.transformers.packed_products import PackedLinear, can_pack, pack_products

SHAPE = {
    **{"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0},
}
# What a family calls otherwise, or needs beside it.
OWN: dict[str, dict[str, object]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 64},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "mamba": {"state_size": 8},
    "mixtral": {"num_local_experts": 2},
    "qwen3_moe": {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32},
    "deepseek_v3": {
        **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16},
        **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    },
}
# They find it themselves.
DERIVED = {("falcon", "head_dim"), ("deepseek_v3", "head_dim"), ("deepseek_v3", "num_key_value_heads")}
KINDS = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi3", "cohere", "granite", "olmo2"),
    *("starcoder2", "gpt_neox", "falcon", "smollm3", *OWN),
]


@pytest.fixture
def every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a small one."""
    monkeypatch.setattr(packed_products, "FEWEST_PARAMETERS", 0)


def build_model(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    given = {name: value for name, value in (SHAPE | OWN.get(kind, {})).items() if (kind, name) not in DERIVED}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given)).float().eval()


def count_packed(model: PreTrainedModel) -> int:
    return sum(isinstance(layer, PackedLinear) for layer in model.modules())


@pytest.mark.usefixtures("every_model")
@pytest.mark.parametrize("kind", KINDS)
def test_a_family_has_the_same_logits(kind: str) -> None:
    model, tokens = build_model(kind), torch.arange(1, 41).view(2, 20)
    number = model.num_parameters()
    with torch.inference_mode():
        plain = model(tokens).logits
        pack_products(model)
        packed = model(tokens).logits
    assert count_packed(model) > 0
    assert model.num_parameters() == number
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("every_model")
@pytest.mark.parametrize("ties", [True, False])
def test_weights_stay_readable_and_take_no_room_twice(ties: bool) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=ties)).eval()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    pack_products(model)
    for name, weight in before.items():
        assert torch.equal(model.get_submodule(name.removesuffix(".weight")).weight, weight)
    held = [weight for weight in model.parameters() if weight.device.type != "meta"]
    # What is left are the embeddings, one where they are tied, and the norms.
    assert len(held) == 1 + (not ties) + 2 * SHAPE["num_hidden_layers"] + 1


@pytest.mark.usefixtures("every_model")
def test_products_under_autocast_are_rounded_once_and_exact_again_behind_it() -> None:
    model, tokens = build_model("qwen2"), torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            theirs = model(tokens).logits
        pack_products(model)
        plain = model(tokens).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(tokens).logits
        again = model(tokens).logits
    assert rounded.dtype == theirs.dtype
    torch.testing.assert_close(rounded, theirs, rtol=2e-2, atol=2e-2)
    assert not torch.equal(rounded.float(), plain)
    assert torch.equal(plain, again)


def test_a_small_model_a_half_precision_and_another_processor_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_pack(build_model("llama"))
    large = LlamaForCausalLM(LlamaConfig(**SHAPE | {"vocab_size": 200_000})).eval()
    assert can_pack(large)
    monkeypatch.setattr(packed_products.platform, "machine", lambda: "aarch64")
    assert not can_pack(large)
    monkeypatch.undo()
    assert not can_pack(large.bfloat16())


@pytest.mark.usefixtures("every_model")
def test_the_engine_asks_such_a_model_and_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        Request(f"q{number}", ({"role": "user", "content": f"Sort the list {number} 3 1."},), number)
        for number in range(6)
    ]
    sampling = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=40)
    engine = TransformersEngine(Path(SMALL_MODEL), device="cpu", num_threads=1)
    packed = sample_in_order(engine, asked, sampling)
    assert count_packed(engine.load()[0]) > 0
    monkeypatch.undo()
    plain = TransformersEngine(Path(SMALL_MODEL), device="cpu", num_threads=1)
    assert sample_in_order(plain, asked, sampling) == packed
    assert count_packed(plain.load()[0]) == 0
