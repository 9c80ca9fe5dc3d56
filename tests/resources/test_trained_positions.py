"""What is computed of a training batch: the loss and the gradients are TRL's, and fewer positions are scored."""

import copy
import functools

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from lance_assets.small_world import SMALL_MODEL
from resources.training import trained_positions
from resources.training.trained_positions import IGNORED, score_trained_positions

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    """The packaged model with TRL's output embedding, and a copy to be patched."""
    plain = AutoModelForCausalLM.from_pretrained(SMALL_MODEL, dtype=torch.float32)
    ours = copy.deepcopy(plain)
    for model in (plain, ours):
        add_fused_lm_head(model, outputs=OUTPUTS)
    return plain, ours


def make_batch(prompts: list[int], completions: list[int], *, seed: int) -> dict[str, torch.Tensor]:
    """Random rows, padded on the right; a prompt of the same number is the same prompt."""
    generator = torch.Generator().manual_seed(seed)
    length = max(map(sum, zip(prompts, completions, strict=True)))
    shape = (len(prompts), length)
    input_ids, labels = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.int64)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        own = torch.Generator().manual_seed(1000 * seed + prompt)
        draw = functools.partial(torch.randint, 5, 500)
        whole = torch.cat([draw((prompt,), generator=own), draw((completion,), generator=generator)])
        input_ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        labels[row, prompt : len(whole)] = whole[prompt:]
    return {"input_ids": input_ids, "labels": labels, "attention_mask": mask}


def compute(
    model: torch.nn.Module, batch: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Every field, and the gradients of a loss that weighs each position otherwise."""
    model.zero_grad()
    found = model(**batch, fused_lm_head=True)
    weights = torch.linspace(0.5, 1.5, found.log_probs.numel()).view_as(found.log_probs)
    (-found.log_probs * weights).sum().backward()
    fields = {name: getattr(found, name).detach() for name in (*OUTPUTS, "label_mask", "loss")}
    return fields, [part.grad.clone() for part in model.parameters() if part.grad is not None]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("has_pairs", [False, True])
@pytest.mark.parametrize(
    ("prompts", "completions"),
    [([7, 3, 7, 3], [4, 9, 1, 6]), ([12, 12], [1, 30]), ([1, 1], [5, 5]), ([5, 6, 7, 8], [3, 3, 3, 3])],
)
def test_the_loss_and_the_gradients_are_those_of_trl(
    models: tuple[PreTrainedModel, PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
    prompts: list[int],
    completions: list[int],
    has_pairs: bool,
    packs: bool,
) -> None:
    if not packs:
        monkeypatch.setattr(trained_positions, "can_pack", lambda _: False)
    plain, ours = models[0], copy.deepcopy(models[1])
    # A copied model still has the forward of the one it was copied from.
    del ours.forward
    add_fused_lm_head(ours, outputs=OUTPUTS)
    score_trained_positions(ours, has_pairs=has_pairs)
    batch = make_batch(prompts, completions, seed=3)
    (expected, gradients), (found, own) = compute(plain, batch), compute(ours, batch)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5, msg=name)
    assert len(own) == len(gradients)
    for left, right in zip(own, gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


def test_with_adapters_the_same(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    found = []
    for is_ours in (False, True):
        base = AutoModelForCausalLM.from_pretrained(SMALL_MODEL, dtype=torch.float32)
        add_fused_lm_head(base, outputs=OUTPUTS)
        torch.manual_seed(0)
        model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        if is_ours:
            score_trained_positions(model.get_base_model(), has_pairs=True)
        found.append(compute(model, make_batch([9, 4, 9, 4], [5, 6, 7, 8], seed=1)))
    torch.testing.assert_close(found[1][0]["log_probs"], found[0][0]["log_probs"], rtol=1e-4, atol=1e-5)
    for left, right in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("has_pairs", "packs", "read"),
    [(False, False, 4 * 16), (False, True, 15 + 15 + 12 + 15), (True, False, 2 * 20), (True, True, 20 + 17)],
)
def test_fewer_positions_are_read_and_scored(
    monkeypatch: pytest.MonkeyPatch, has_pairs: bool, packs: bool, read: int
) -> None:
    if not packs:
        monkeypatch.setattr(trained_positions, "can_pack", lambda _: False)
    model = AutoModelForCausalLM.from_pretrained(SMALL_MODEL, dtype=torch.float32)
    add_fused_lm_head(model)
    score_trained_positions(model, has_pairs=has_pairs)
    seen = {}
    model.base_model.embed_tokens.register_forward_hook(lambda _m, given, _o: seen.update(read=given[0].numel()))
    model.get_output_embeddings().register_forward_pre_hook(lambda _m, given: seen.update(scored=len(given[0])))
    batch = make_batch([10, 10, 10, 10], [6, 6, 3, 6], seed=0)
    model(**batch, fused_lm_head=True)
    assert seen == {"read": read, "scored": 21}


def test_what_has_no_label_or_no_common_prompt_is_computed_too(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    plain = models[0]
    ours = AutoModelForCausalLM.from_pretrained(SMALL_MODEL, dtype=torch.float32)
    add_fused_lm_head(ours, outputs=OUTPUTS)
    score_trained_positions(ours, has_pairs=True)
    for labelled in (False, True):
        batch = make_batch([5, 6], [3, 4], seed=2)
        if not labelled:
            batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        expected, found = (model(**batch, fused_lm_head=True) for model in (plain, ours))
        torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.label_mask, expected.label_mask)


def test_padding_on_the_left_keeps_its_mask(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    plain = models[0]
    ours = AutoModelForCausalLM.from_pretrained(SMALL_MODEL, dtype=torch.float32)
    add_fused_lm_head(ours, outputs=OUTPUTS)
    score_trained_positions(ours, has_pairs=False)
    batch = {name: values.flip(1) for name, values in make_batch([5, 6], [3, 9], seed=2).items()}
    expected, found = (model(**batch, fused_lm_head=True) for model in (plain, ours))
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_plain", [True, False])
def test_blocks_and_the_head_of_trl_give_the_same(
    models: tuple[PreTrainedModel, PreTrainedModel], monkeypatch: pytest.MonkeyPatch, is_plain: bool
) -> None:
    monkeypatch.setattr(trained_positions, "has_plain_head", lambda _: is_plain)
    monkeypatch.setattr(trained_positions, "count_block", lambda *_, **__: 5)
    ours = AutoModelForCausalLM.from_pretrained(SMALL_MODEL, dtype=torch.float32)
    add_fused_lm_head(ours, outputs=OUTPUTS)
    score_trained_positions(ours, has_pairs=True)
    batch = make_batch([7, 3, 7, 3], [4, 9, 1, 6], seed=3)
    (expected, gradients), (found, own) = compute(models[0], batch), compute(ours, batch)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5, msg=name)
    for left, right in zip(own, gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


TINY = {
    **{"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 96, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
OF_ITS_OWN: dict[str, dict[str, object]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2},
    "mistral": {"sliding_window": 8},
    "granite": {"logits_scaling": 4.0},
    "mixtral": {"num_local_experts": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    **{name: {"head_dim": 16} for name in ("gemma2", "gemma3_text", "qwen3", "glm")},
    **{name: {} for name in ("llama", "phi3", "cohere", "falcon", "olmo2")},
}
"""Model types: windows, scaled logits, positions by bias, experts, layers with a state, and plain ones."""


@pytest.mark.parametrize("has_pairs", [False, True])
@pytest.mark.parametrize("model_type", OF_ITS_OWN)
def test_every_architecture_gets_the_log_probabilities_of_trl(model_type: str, has_pairs: bool) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(TINY | OF_ITS_OWN[model_type]))
    plain, ours = AutoModelForCausalLM.from_config(config), AutoModelForCausalLM.from_config(config)
    ours.load_state_dict(plain.state_dict())
    for model in (plain, ours):
        add_fused_lm_head(model.eval(), outputs=OUTPUTS)
    score_trained_positions(ours, has_pairs=has_pairs)
    batch = make_batch([9, 4, 9, 4], [12, 6, 3, 8], seed=1)
    expected, found = (model(**batch, fused_lm_head=True) for model in (plain, ours))
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=1e-3, atol=1e-4)
