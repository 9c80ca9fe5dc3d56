import json
from pathlib import Path

import psutil
import pytest
from transformers import AutoModelForCausalLM

from lance_assets.algorithms.forecast.costs import count_trained_parameters
from resources.models.model_shapes import UnknownShapeError, find_config, find_model, find_tokenizer


@pytest.mark.parametrize(("name", "context"), [("Qwen/Qwen2-7B", 131072), ("Qwen/Qwen2-7B-Instruct", 32768)])
def test_qwen2_7b_by_hand(name: str, context: int) -> None:
    """A layer: q and o 3,584 x 3,584, k and v 3,584 x 512, three of 3,584 x 18,944, biases 4,608, norms 7,168.

    233,057,792 parameters, 28 times; embedding and head of 152,064 x 3,584 each; a norm of 3,584: 7,615,616,512.
    """
    layer = 2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944 + 4608 + 7168
    found = find_model(name)
    assert found.shape.layer_parameters == layer == 233_057_792
    assert found.shape.num_parameters == 28 * layer + 2 * 152064 * 3584 + 3584 == 7_615_616_512
    assert found.shape.lora_parameters_per_rank == 28 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    assert (found.shape.num_kv_heads, found.shape.head_dim, found.shape.max_positions) == (4, 128, context)
    assert (found.stored_bytes, found.is_local, found.source) == (2, False, "the shipped configuration")
    assert find_tokenizer(found.folder) is None


def test_the_small_model_as_it_is_loaded(small_model: Path) -> None:
    """Tied weights count once, and a LoRA of PEFT's `all-linear` trains what is reckoned."""
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(small_model, local_files_only=True)
    found = find_model("lance_assets.small_world:SMALL_MODEL")
    assert found.shape.num_parameters == model.num_parameters()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert count_trained_parameters(found.shape, 4) == trained
    assert found.is_local
    assert find_tokenizer(found.folder) is not None


def test_other_architectures(tmp_path: Path) -> None:
    """GPT-2 says nothing of its MLP's width, its key-value heads and its dtype."""
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 100, "n_positions": 128}
    config |= {"bos_token_id": 0, "eos_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = find_model(tmp_path.name, base=tmp_path.parent).shape
    layer = 64 * 192 + 192 + 64 * 64 + 64 + 2 * 64 * 256 + 256 + 64 + 4 * 64
    assert shape.layer_parameters == layer
    assert shape.num_parameters == 3 * layer + 100 * 64 + 128 * 64 + 2 * 64
    assert shape.lora_parameters_per_rank == 3 * (64 + 192 + 64 + 64 + 64 + 256 + 256 + 64)
    assert (shape.num_layers, shape.num_kv_heads, shape.intermediate_size, shape.head_dim) == (3, 4, 256, 16)


def test_no_weights_are_loaded() -> None:
    before = psutil.Process().memory_info().rss
    assert find_model("Qwen/Qwen2-7B").shape.num_parameters > 7e9
    assert psutil.Process().memory_info().rss - before < 2**30


def test_a_local_folder_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen" / "Qwen2-7B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert find_config("Qwen/Qwen2-7B", base=tmp_path) == (folder, "a local folder")


@pytest.mark.parametrize("name", ["nobody/nothing", "nowhere", "/nowhere", ""])
def test_an_unknown_model_says_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownShapeError, match=r"name a folder that holds one, or download it once"):
        find_model(name, base=tmp_path)


@pytest.mark.parametrize("config", [{"model_type": "no_such_model"}, {}])
def test_a_configuration_that_is_no_language_models(tmp_path: Path, config: dict) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownShapeError, match=r"config.json: no model can be built from it"):
        find_model(str(tmp_path))
