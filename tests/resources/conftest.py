"""Model folders, one small enough to be made, asked and trained, and one that only looks like a model; an S3 server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks._s3_server import NEEDED, Server, is_installed, open_server


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Qwen2 (hidden 32, 2 layers, grouped-query attention), bf16; a twelfth of its tokens end a turn."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from lance_assets.small_world.train import build_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(0)
    config = Qwen2Config(
        vocab_size=640,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = [2, *range(550, 600)]
    folder = tmp_path_factory.mktemp("tiny") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """Makes a folder with every file of a model, and one weight matrix of a value."""

    def make(folder: Path, value: float = 1.0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text('{"model_type": "qwen2"}')
        (folder / "tokenizer.json").write_text("{}")
        (folder / "tokenizer_config.json").write_text("{}")
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        save_file({"weight": np.full((64, 64), value, dtype=np.float32)}, folder / "model.safetensors")
        return folder

    return make


@pytest.fixture
def model(make_model: Callable[..., Path], tmp_path: Path) -> Path:
    """Such a folder."""
    return make_model(tmp_path / "model")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a bucket; a test that needs one is skipped where none is installed."""
    if not is_installed():
        pytest.skip(NEEDED)
    with open_server(tmp_path_factory.mktemp("seaweedfs")) as found:
        yield found
