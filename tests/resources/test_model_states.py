import math
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from lance_assets.algorithms.selection.pool_selection import draw_first_pool, select_from_pool
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import ModelWithoutChatTemplateError
from resources.engines.transformers import continuations, model_states, prefixes, row_batch
from resources.engines.transformers.model_states import (
    CONFIDENCE,
    LIKELIHOOD,
    ModelReader,
    TrainingRow,
    measure_logits,
)
from resources.models.chat_format import encode_row


def ask(prompt: str, completion: str, system: str | None = None) -> TrainingRow:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": prompt}], completion


ROWS = [
    ask(f"Sort the list {' '.join(str(digit) for digit in range(number % 9 + 1))}.", "word " * (number * 7 % 23))
    for number in range(16)
]
ROWS += [ask("", ""), ask("Reverse 1 2.", "2 1", "Be brief."), ROWS[3], ask("Count.", "1 2 3 4 5 " * 60)]


def open_reader(model: Path, batch_size: int = 8, *, max_length: int = 512, **given: object) -> ModelReader:
    cpu = {"device": "cpu", "dtype": "float32", "num_threads": 1}
    return ModelReader(model, batch_size=batch_size, max_length=max_length, **cpu, **given)


def read_plainly(folder: Path, rows: list[TrainingRow], max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """The authors' way: one row at a time, no padding, `hidden_states[-1]` and logits of the whole model, and means."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    states, confidences = [], []
    for messages, completion in rows:
        chat = [*messages, {"role": "assistant", "content": completion}]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        input_ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"][:, :max_length]
        with torch.no_grad():
            output = model(input_ids=input_ids, output_hidden_states=True)
        states.append(output.hidden_states[-1][0].mean(dim=0).numpy())
        first, second = output.logits[0].sort(dim=-1, descending=True).values[:, :2].unbind(dim=-1)
        spread = torch.distributions.Categorical(logits=output.logits[0])
        values = (first, first - second, spread.entropy(), spread.probs.max(dim=-1).values)
        confidences.append([float(value.mean()) for value in values])
    return np.array(states), np.array(confidences)


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(SMALL_MODEL).save_pretrained(folder)
    return folder


SIZES = {"vocab_size": 640, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": 2}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untied output embedding, no biases."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, intermediate_size=64, max_position_embeddings=512, initializer_range=0.3)
    return save(LlamaForCausalLM(config), tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned positions, and a decoder by another name."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=640, n_embd=32, n_layer=2, n_head=4, n_positions=512, eos_token_id=2, bos_token_id=2)
    return save(GPT2LMHeadModel(config), tmp_path_factory.mktemp("gpt2") / "model")


@pytest.mark.parametrize(
    ("name", "batch_size"), [("small_model", 1), ("small_model", 7), ("tiny_model", 7), ("llama", 7), ("gpt2", 64)]
)
@pytest.mark.parametrize("in_parts", [False, True])
def test_batches_of_mixed_lengths_equal_the_authors_way(
    name: str, batch_size: int, in_parts: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of a large model, whose pass is worth four tokens of padding.
    monkeypatch.setattr(row_batch, "is_slow_to_pad", lambda model: in_parts)
    monkeypatch.setattr(prefixes, "PASS_TOKENS", 4)
    folder = request.getfixturevalue(name)
    monkeypatch.setattr(continuations, "LOGITS_AT_ONCE", 640 * 50)
    reader = open_reader(folder, batch_size, max_length=200)
    states, confidences = read_plainly(folder, ROWS, 200)
    vectors = reader.embed(ROWS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, states, rtol=1e-4, atol=1e-5)
    measured = reader.measure_confidence(ROWS)
    assert measured.schema == CONFIDENCE
    np.testing.assert_allclose(measured.to_numpy(), confidences, rtol=1e-4, atol=1e-5)
    assert reader.num_truncated == 1, "the last row alone is longer than 200 tokens"
    assert len(np.unique(vectors.round(4), axis=0)) == len(ROWS) - 1, "only the row that is there twice is like another"


def test_the_same_bytes_again_and_rows_keep_their_places(small_model: Path) -> None:
    reader = open_reader(small_model, max_length=200)
    vectors, measured = reader.embed(ROWS), reader.measure_confidence(ROWS)
    assert open_reader(small_model, max_length=200).embed(ROWS).tobytes() == vectors.tobytes()
    assert open_reader(small_model, max_length=200).measure_confidence(ROWS).equals(measured)
    order = np.random.default_rng(0).permutation(len(ROWS))
    shuffled = [ROWS[place] for place in order]
    assert reader.embed(shuffled).tobytes() == vectors[order].tobytes()
    assert reader.measure_confidence(shuffled).equals(measured[order])


def test_rows_are_what_the_trainer_trains_on(small_model: Path, tmp_path: Path) -> None:
    """TRL's own preparation of the same rows, whose tokens it cuts at max_length too."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(small_model)
    dataset = Dataset.from_list(
        [
            {"prompt": messages, "completion": [{"role": "assistant", "content": completion}]}
            for messages, completion in ROWS
        ]
    )
    config = SFTConfig(output_dir=str(tmp_path), max_length=200, use_cpu=True, bf16=False, report_to="none")
    model = AutoModelForCausalLM.from_pretrained(small_model)
    trainer = SFTTrainer(model, args=config, train_dataset=dataset, processing_class=tokenizer)
    assert trainer.train_dataset["input_ids"] == [
        [*prompt, *said][:200] for prompt, said in (encode_row(tokenizer, *row) for row in ROWS)
    ]


def test_confidence_by_hand() -> None:
    """Two tokens: logits 0, 0 are a coin, entropy log 2. Logits 3, 1, 1: margin 2, p = e^2 / (e^2 + 2) = 0.787."""
    coin = measure_logits(torch.tensor([[0.0, 0.0]]))
    np.testing.assert_allclose(coin.numpy(), [[0, 0, math.log(2), 0.5]], rtol=1e-6)
    high, low = math.e**2 / (math.e**2 + 2), 1 / (math.e**2 + 2)
    entropy = -high * math.log(high) - 2 * low * math.log(low)
    three = measure_logits(torch.tensor([[1.0, 3.0, 1.0]]))
    np.testing.assert_allclose(three.numpy(), [[3, 2, entropy, high]], rtol=1e-6)


def test_probabilities_that_underflow_add_no_entropy() -> None:
    """The authors' p * log p is 0 * -inf there, which is NaN."""
    sure = measure_logits(torch.tensor([[500.0, -500.0], [0.0, -math.inf]]))
    assert sure.tolist() == [[500, 1000, 0, 1], [0, math.inf, 0, 1]]


def test_what_is_said_and_counted(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_states, "LOG_SECONDS", 0)
    lines: list[str] = []
    reader = open_reader(small_model, 10, max_length=40, log=lines.append)
    reader.embed(ROWS)
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    num_long = sum(sum(map(len, encode_row(tokenizer, *row))) > 40 for row in ROWS)
    assert reader.num_truncated == num_long
    assert 1 < num_long < len(ROWS)
    assert [line.split(" rows")[0] for line in lines[:-1]] == [f"embed: {done} of 20" for done in (10, 20)]
    assert lines[-1].startswith("embed: 20 rows in ")
    assert lines[-1].endswith(f"{num_long} cut at max_length=40")
    reader.measure_confidence(ROWS[:1])
    assert reader.num_truncated == 0, "of the last reading"


def test_no_rows(small_model: Path) -> None:
    reader = open_reader(small_model)
    assert reader.embed([]).shape == (0, 192)
    assert reader.measure_confidence([]).schema == CONFIDENCE
    reader.close()
    assert reader.embed(ROWS[:1]).shape == (1, 192)


def test_real_rows_are_read_and_picked(small_model: Path, real_data: Path) -> None:
    """24 real rows, most of them cut: finite, surest where the model was trained, and fit to pick from."""
    path = real_data / "t0_train_50k.parquet"
    if not path.is_file():
        pytest.skip(f"no real data at {path}")
    sampled = pl.read_parquet(path).sample(24, seed=0)
    rows = [ask(prompt, completion) for prompt, completion in sampled.select("prompt", "completion").iter_rows()]
    reader = open_reader(small_model, 8)
    vectors, measured = reader.embed(rows), reader.measure_confidence(rows)
    states, confidences = read_plainly(small_model, rows[:4], 512)
    np.testing.assert_allclose(vectors[:4], states, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(measured[:4].to_numpy(), confidences, rtol=1e-4, atol=1e-5)
    assert 0 < reader.num_truncated < len(rows)
    assert measured["mean_margin"].min() >= 0
    assert measured["mean_entropy"].is_between(0, math.log(640)).all()
    assert measured["mean_max_probability"].is_between(1 / 640, 1).all()
    own = reader.measure_confidence([ask("Reverse the list 3 1 2.", "The answer is 2 1 3.")])
    assert own["mean_entropy"][0] < measured["mean_entropy"].mean()
    is_chosen = np.zeros(24, dtype=bool)
    is_chosen[draw_first_pool(24, 4, 0)] = True
    given = {"is_chosen": is_chosen, "num_picks": 8, "rng_seed": 0}
    spread = select_from_pool("k_center", vectors=vectors, scores=None, **given)
    unsure = select_from_pool("entropy", vectors=None, scores=measured["mean_entropy"].to_numpy(), **given)
    assert len(set(spread.places.tolist())) == len(set(unsure.places.tolist())) == 8


def test_a_model_that_scales_its_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GraniteConfig(**SIZES, intermediate_size=64, max_position_embeddings=512, logits_scaling=8.0)
    reader = open_reader(save(GraniteForCausalLM(config), tmp_path / "granite"))
    assert reader.embed(ROWS[:2]).shape == (2, 32)
    with pytest.raises(ValueError, match=r"GraniteForCausalLM changes its logits .* use k_center or random"):
        reader.measure_confidence(ROWS[:2])


def test_wrong_arguments(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        open_reader(tiny_model, 0)
    with pytest.raises(ValueError, match="max_length must be 1 or more tokens, got 0"):
        open_reader(tiny_model, max_length=0)
    long = ask("Count.", "1 2 3 4 5 " * 120)
    with pytest.raises(
        ValueError, match=r"row 1 has \d+ tokens, is cut at max_length=513, .* is 512: lower max_length"
    ):
        open_reader(tiny_model, max_length=513).embed([ROWS[0], long])
    assert open_reader(tiny_model, max_length=513).embed([ROWS[0]]).shape == (1, 32), "what is shorter can be read"
    assert open_reader(tiny_model, max_length=512).embed([long]).shape == (1, 32)
    with pytest.raises(ValueError, match=r"row 1 cannot be rendered .* needs a role and a content"):
        open_reader(tiny_model).embed([ROWS[0], ([{"role": "user"}], "a")])
    with pytest.raises(ValueError, match=r"row 0 cannot be rendered .* got .*None"):
        open_reader(tiny_model).embed([(ROWS[0][0], None)])
    without = save(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "without")
    (without / "chat_template.jinja").unlink()
    with pytest.raises(ModelWithoutChatTemplateError, match="no chat template"):
        open_reader(without).embed(ROWS[:1])


def test_perplexity_is_that_of_the_plain_text_read_alone() -> None:
    """One text at a time, by the logits of the whole model: e to the mean of -log p of every token but the first."""
    texts = ["Sort the list 3 1 2.", "The answer is 7. " * 30, "3", "", "Reverse 1 2 and then 3.", "zq %% vv"]
    tokenizer = AutoTokenizer.from_pretrained(SMALL_MODEL)
    model = AutoModelForCausalLM.from_pretrained(SMALL_MODEL, dtype=torch.float32).eval()
    expected = []
    for text in texts:
        input_ids = torch.tensor([tokenizer(text)["input_ids"][:64]], dtype=torch.int64)
        if input_ids.shape[1] < 2:
            expected.append(math.inf)
            continue
        with torch.no_grad():
            expected.append(float(model(input_ids=input_ids, labels=input_ids).loss.exp()))
    reader = open_reader(SMALL_MODEL, batch_size=3, max_length=64)
    found = reader.measure_perplexity(texts)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    assert reader.num_truncated == 1
    assert len(reader.measure_perplexity([])) == 0
    # What the model was trained on surprises it less than what no one writes.
    assert found[0] < found[5]


def read_likelihood_plainly(folder: Path, row: TrainingRow) -> tuple[float, int]:
    """One row by itself, by the whole model's logits: the tokens behind the generation prompt, up to the turn's end."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    messages, completion = row
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": completion}], tokenize=False)
    assert whole.startswith(asked)
    ids = [
        tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"] for text in (asked, whole.rstrip())
    ]
    num_asked = ids[0].shape[1]
    with torch.no_grad():
        logprobs = model(input_ids=ids[1]).logits.log_softmax(dim=-1)
    chosen = logprobs[0, num_asked - 1 : -1].gather(-1, ids[1][0, num_asked:, None])
    return float(chosen.sum()), len(chosen)


def test_a_likelihood_is_that_of_the_completion_alone_and_batched_as_one_by_one() -> None:
    rows = [ask("Sort the list 3 1 2.", "1 2 3"), ask("Count.", "1 2 3 4 5 " * 6), ask("", "1 2 3"), ROWS[17]]
    batched = open_reader(SMALL_MODEL).measure_likelihood(rows)
    alone = [open_reader(SMALL_MODEL, 1).measure_likelihood([row]).row(0) for row in rows]
    assert batched.schema == LIKELIHOOD
    np.testing.assert_allclose(batched["log_likelihood"], [value for value, _ in alone], rtol=1e-5)
    expected = [read_likelihood_plainly(SMALL_MODEL, row) for row in rows]
    np.testing.assert_allclose(batched["log_likelihood"], [value for value, _ in expected], rtol=1e-4)
    assert batched["num_tokens"].to_list() == [number for _, number in expected]
    # The prompt says what the completion is to be.
    assert batched["log_likelihood"][0] > batched["log_likelihood"][2]
    assert open_reader(SMALL_MODEL).measure_likelihood([]).is_empty()


def test_of_a_cut_row_the_tokens_that_are_read_count() -> None:
    row = ask("Sort the list 3 1 2.", "1 2 3 4 5 6")
    num_asked = len(encode_row(AutoTokenizer.from_pretrained(SMALL_MODEL), *row)[0])
    cut = open_reader(SMALL_MODEL, max_length=num_asked).measure_likelihood([row]).row(0)
    assert cut[1] <= 1
    assert open_reader(SMALL_MODEL, max_length=5).measure_likelihood([row]).row(0) == (0.0, 0)


def test_a_template_that_begins_a_completion_otherwise_is_asked_as_at_serving(tmp_path: Path) -> None:
    shutil.copytree(SMALL_MODEL, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}?{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    row = ask("Sort 3 1.", "1 3")
    (num_tokens,) = open_reader(tmp_path / "model").measure_likelihood([row])["num_tokens"]
    assert num_tokens == len(encode_row(tokenizer, *row)[1]) > 0
