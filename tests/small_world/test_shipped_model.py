import json
import random
from pathlib import Path

import pytest
from safetensors import safe_open

from lance_assets.small_world.jobs import draw_example
from lance_assets.small_world.tasks import TASKS, draw_problem, is_correct, phrase_prompt

MAX_BYTES = 8_000_000


def test_the_weights_are_bf16_and_the_folder_small(small_model: Path) -> None:
    with safe_open(small_model / "model.safetensors", framework="pt") as weights:
        dtypes = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - not a dict
    assert dtypes == {"BF16"}
    assert sum(path.stat().st_size for path in small_model.iterdir()) <= MAX_BYTES


def test_the_log_tells_how_it_was_trained(small_model: Path) -> None:
    log = [json.loads(line) for line in (small_model / "training_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == sorted(row["step"] for row in log)
    assert log[-1]["tokens"] > log[0]["tokens"]
    assert log[-1]["loss"] < log[0]["loss"] / 5


def test_it_is_a_qwen2_with_its_chat_markers(small_model: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(small_model)
    assert config.architectures == ["Qwen2ForCausalLM"]
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert config.eos_token_id == tokenizer.eos_token_id
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("text", ["Reverse the list 3 1 4.", "Ünïcode, 漢字 and\ttabs\n\n", "The answer is 10 9."])
def test_any_text_encodes_and_comes_back(small_model: Path, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_model)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_whatever_class_transformers_loads_reads_text_as_in_training(small_model: Path) -> None:
    """AutoTokenizer takes Qwen2Tokenizer for this architecture, which brings its own rule of splitting digits."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from lance_assets.small_world.train import encode_example

    loaded, trained = AutoTokenizer.from_pretrained(small_model), PreTrainedTokenizerFast.from_pretrained(small_model)
    assert type(loaded) is not type(trained)
    rng = random.Random(5)
    for _ in range(200):
        example = draw_example(rng)
        encoded = encode_example(loaded, example.prompt, example.completion)
        assert encoded == encode_example(trained, example.prompt, example.completion)
        assert loaded.decode(encoded[0]) == trained.decode(encoded[0])
    assert len(loaded(" 3 1 4", add_special_tokens=False)["input_ids"]) == 3


@pytest.mark.slow
def test_a_tokenizer_made_anew_reads_digits_alike() -> None:
    from lance_assets.small_world.train import build_tokenizer

    tokenizer = build_tokenizer(0)
    assert len(tokenizer(" 3 1 4", add_special_tokens=False)["input_ids"]) == 3
    example = draw_example(random.Random(5))
    assert tokenizer.decode(tokenizer(example.completion)["input_ids"]) == example.completion


def test_it_answers_easy_held_out_problems(small_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_model)
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    rng = random.Random(0)
    problems = [draw_problem(rng, task=task, rung=1, held_out=True) for task in TASKS for _ in range(5)]
    chats = [[{"role": "user", "content": phrase_prompt(problem, rng)}] for problem in problems]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert sum(is_correct(problem, text) for problem, text in zip(problems, texts, strict=True)) >= 17
