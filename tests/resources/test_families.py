"""Families of models with random weights and real chat templates: loaded, asked, trained one step, and read again."""

from pathlib import Path

import polars as pl
import pytest
import torch

from lance_assets.prompts import build_messages
from lance_assets.records import SFT_SET, Request, SamplingSettings
from resources.engines.contract import sample_in_order
from resources.engines.transformers.engine import TransformersEngine
from resources.models.chat_format import ChatFormatError, encode_messages
from resources.training import saving
from resources.training.saving import load_for_training
from resources.training.stage_settings import LoraSettings, SftSettings
from resources.training.trainer import TrainJob
from tests.resources.chat_templates import FAMILIES, Family, make_tokenizer, save_model
from tests.resources.test_trainer import train_here
from tests.resources.trl_templates import NAMES, read_family

FIRST = {
    "llama3_2": "llama",
    "qwen2_5": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3_text",
    "phi3_5": "phi3",
    "deepseek_r1_distill": "qwen2",
}
"""The families that people use most, with a template of theirs."""
ARCHITECTURES = {
    **{"cohere": "cohere", "cohere2": "cohere2", "gemma": "gemma", "gemma3": "gemma3_text", "llama3": "llama"},
    **{"llava_next": "mistral", "phi3": "phi3", "qwen2_5": "qwen2", "qwen3": "qwen3", "deepseek": "qwen2"},
}
"""By what the names of a family's templates begin with; the others have the weights of Llama."""
NO_END = {"glm4moe"}


def find_architecture(name: str) -> str:
    begins = [begin for begin in ARCHITECTURES if name.startswith(begin) and not name.startswith("gemma4")]
    return FIRST.get(name) or (ARCHITECTURES[max(begins, key=len)] if begins else "llama")


CASES = [
    *(pytest.param(name, find_architecture(name), marks=[] if name in FIRST else [pytest.mark.slow]) for name in NAMES),
    # TRL has no template of Mistral's text models.
    pytest.param("in own words: mistral", "mistral", marks=[pytest.mark.slow]),
]


def find_family(name: str) -> Family:
    return FAMILIES["mistral"] if name.startswith("in own words") else read_family(name)


@pytest.mark.parametrize(("name", "model_type"), CASES)
def test_a_family_is_asked_and_trained(
    name: str, model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = find_family(name)
    # A system text of Cohere's or Qwen's has some thousand letters, each a token here.
    folder = save_model(tmp_path / "model", model_type, family, max_length=8192)
    messages = build_messages("Be brief.", "What is 2 + 2?")
    asked = [Request("a", tuple(messages), 1), Request("b", tuple(messages[1:]), 2)]
    sampling = SamplingSettings(max_new_tokens=4, temperature=0.0, top_p=1.0)
    samples = sample_in_order(TransformersEngine(folder, num_threads=1, device="cpu"), asked, sampling)
    assert [sample.finish_reason in ("stop", "length") for sample in samples] == [True, True]
    assert samples[0].prompt_tokens == len(encode_messages(make_tokenizer(family), messages))

    row = dict.fromkeys(SFT_SET) | {"row_id": "1", "prompt": "What is 2 + 2?", "completion": "Four."}
    pl.DataFrame([row], schema=SFT_SET).write_parquet(tmp_path / "sft.parquet")
    kept: list[dict[str, torch.Tensor]] = []
    write_model = saving.write_model

    def note(state: dict, *given: object, **named: object) -> saving.WeightChange:
        kept.append({name: weight.clone() for name, weight in state.items()})
        return write_model(state, *given, **named)

    monkeypatch.setattr(saving, "write_model", note)
    # Phi has one weight for all three projections, and Llama is trained with adapters.
    lora = LoraSettings(r=2, alpha=4) if model_type == "llama" else None
    job = TrainJob(
        start_checkpoint=folder,
        sft_path=tmp_path / "sft.parquet",
        staging=tmp_path / "staging",
        system_message="Be brief.",
        sft=SftSettings(batch_size=1, max_length=4096),
        lora=lora,
    )
    if name in NO_END:
        with pytest.raises(ChatFormatError, match="never learns to stop"):
            train_here(job)
        return
    result = train_here(job)
    assert result.sft_change is not None
    assert result.sft_change > 0
    assert result.kept_rate >= 0.99
    tokens = torch.arange(20).unsqueeze(0)
    saved = load_for_training(result.path)
    if lora is None:
        trained = load_for_training(folder)
        trained.load_state_dict(kept[0])
        with torch.no_grad():
            torch.testing.assert_close(saved(tokens).logits, trained(tokens).logits, rtol=0, atol=1e-5)
    (again,) = sample_in_order(TransformersEngine(result.path, num_threads=1, device="cpu"), asked[:1], sampling)
    assert again.prompt_tokens == samples[0].prompt_tokens
