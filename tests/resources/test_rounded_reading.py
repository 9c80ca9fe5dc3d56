"""Reading with bfloat16 products: only where it is faster, close to float32, and never where float32 was asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lance_assets.small_world import SMALL_MODEL
from resources.engines.transformers import rounded_reading
from resources.engines.transformers.model_states import ModelReader
from resources.engines.transformers.rounded_reading import is_rounded, reading

ROWS = [([{"role": "user", "content": f"Sort the list {number} 3 1."}], f"1 3 {number}") for number in range(5, 9)]


def build_model(vocab_size: int) -> LlamaForCausalLM:
    """A Llama of 2 * 256 * vocab_size parameters, and some more."""
    config = LlamaConfig(
        hidden_size=256, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=vocab_size
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever size, on whatever processor."""
    monkeypatch.setattr(rounded_reading, "is_rounded", lambda model: True)


@pytest.mark.parametrize(
    ("vocab_size", "has_bfloat16", "dtype", "expected"),
    [
        (50_000, True, torch.float32, True),
        (50_000, False, torch.float32, False),
        (50_000, True, torch.bfloat16, False),
        (1_000, True, torch.float32, False),
    ],
)
def test_which_model_is_read_so(
    vocab_size: int, has_bfloat16: bool, dtype: torch.dtype, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounded_reading, "has_bfloat16_instructions", lambda: has_bfloat16)
    assert is_rounded(build_model(vocab_size).to(dtype)) == expected


@pytest.mark.usefixtures("every_model")
def test_products_are_rounded_within_the_block_alone_and_not_where_they_shall_be_exact() -> None:
    model, tokens = build_model(100), torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        plain = model(tokens).logits
    with reading(model):
        rounded = model(tokens).logits
    with reading(model, is_exact=True):
        exact = model(tokens).logits
    with torch.inference_mode():
        after = model(tokens).logits
    assert torch.equal(plain, exact)
    assert torch.equal(plain, after)
    assert not torch.equal(plain, rounded.float())
    torch.testing.assert_close(rounded.float(), plain, atol=2e-2, rtol=2e-2)


@pytest.mark.usefixtures("every_model")
@pytest.mark.parametrize("name", ["embed", "measure_confidence", "measure_likelihood", "measure_perplexity"])
def test_a_pool_is_read_so_and_likelihoods_are_not(name: str) -> None:
    rows = [completion for _, completion in ROWS] if name == "measure_perplexity" else ROWS
    found = []
    for dtype in ("float32", "auto"):
        reader = ModelReader(Path(SMALL_MODEL), batch_size=4, max_length=64, device="cpu", dtype=dtype, num_threads=1)
        values = getattr(reader, name)(rows)
        found.append(values if isinstance(values, np.ndarray) else values.to_numpy())
    exact, read = found
    assert np.array_equal(exact, read) == (name in ("measure_likelihood", "measure_perplexity"))
    np.testing.assert_allclose(read, exact, rtol=5e-2, atol=5e-2)
