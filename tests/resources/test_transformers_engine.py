import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, TopPLogitsWarper

from lance_assets.records import Request, SamplingSettings
from resources.engines import sampling as sampling_module
from resources.engines.contract import ModelLoadError, ModelWithoutChatTemplateError, sample_in_order
from resources.engines.sampling import SeededTopP, draw_uniforms, pick_tokens
from resources.engines.transformers.engine import TransformersEngine
from resources.models.chat_format import encode_messages

PROMPTS = [
    "Sort the list 3 1 2.",
    "Reverse the list 4 5.",
    "Add the numbers 1 2 3 4 5 6 7 8 9.",
    "What is 1 2 3 when sorted?",
]
GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=24)
SAMPLED = SamplingSettings(temperature=0.9, top_p=0.9, max_new_tokens=24)


def ask(prompt: str, number: int) -> Request:
    return Request(row_id=f"q{number}", messages=({"role": "user", "content": prompt},), sampling_seed=1000 + number)


def make_requests(num_rows: int) -> list[Request]:
    return [ask(PROMPTS[number % len(PROMPTS)], number) for number in range(num_rows)]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(tiny_model, batch_size=8, device="cpu", num_threads=1)


def pick_many(logits: list[float], sampling: SamplingSettings, num_rows: int) -> torch.Tensor:
    sampler = SeededTopP(range(num_rows), sampling, device=torch.device("cpu"))
    return sampler.pick(torch.tensor(logits).repeat(num_rows, 1), rows=torch.arange(num_rows), step=0)


def test_sampled_frequencies_match_softmax() -> None:
    # Chi-square over 5 tokens: below 18.5 with 4 degrees of freedom in 999 of 1000 draws; the seeds are fixed.
    logits, num_rows = [0.0, 1.0, 2.0, -1.0, 0.5], 20_000
    picks = pick_many(logits, SamplingSettings(temperature=0.7, top_p=1.0, max_new_tokens=1), num_rows)
    expected = torch.softmax(torch.tensor(logits) / 0.7, dim=0) * num_rows
    observed = torch.bincount(picks, minlength=5)
    assert float(((observed - expected) ** 2 / expected).sum()) < 18.5


def test_nucleus_is_renormalised() -> None:
    # Probabilities 0.5, 0.25, 0.15, 0.1 and top_p 0.7: the nucleus is the first two, at 2/3 and 1/3.
    logits = torch.log(torch.tensor([0.15, 0.5, 0.1, 0.25])).tolist()
    picks = pick_many(logits, SamplingSettings(temperature=1.0, top_p=0.7, max_new_tokens=1), 12_000)
    observed = torch.bincount(picks, minlength=4)
    assert observed[[0, 2]].tolist() == [0, 0]
    assert float(observed[1]) / 12_000 == pytest.approx(2 / 3, abs=0.015)


@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12, unique=True),
    top_p=st.floats(0.01, 1.0),
    temperature=st.floats(0.1, 2.0),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=150, deadline=None)
def test_pick_is_in_transformers_nucleus(logits: list[float], top_p: float, temperature: float, seed: int) -> None:
    sampler = SeededTopP([seed], SamplingSettings(temperature, top_p, 1), device=torch.device("cpu"))
    scores = torch.tensor([logits])
    picked = int(sampler.pick(scores, rows=torch.tensor([0]), step=0))
    # A hair more mass than ours: at the border the two sum in another order.
    nucleus = TopPLogitsWarper(top_p=min(1.0, top_p + 1e-5))(None, scores / temperature)
    assert nucleus[0, picked] > float("-inf")


@given(
    top_p=st.floats(0.05, 1.0) | st.just(1.0),
    num_columns=st.integers(1, 40),
    seed=st.integers(0, 1000),
    num_values=st.sampled_from([3, 1000]),
    num_barred=st.integers(0, 39),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_nucleus_is_the_same_whether_it_is_looked_for_in_few_columns_or_in_all(
    top_p: float, num_columns: int, seed: int, num_values: int, num_barred: int, dtype: torch.dtype
) -> None:
    # Of three values many tokens are equal, so that ties lie on the border.
    random = torch.Generator().manual_seed(seed)
    logits = (torch.randint(num_values, (8, 40), generator=random) * (6 / num_values)).to(dtype)
    # A grammar bars tokens.
    logits[:, torch.randperm(40, generator=random)[:num_barred]] = float("-inf")
    uniforms = torch.rand(8, generator=random, dtype=torch.float64)
    whole = pick_tokens(logits, uniforms, temperature=0.7, top_p=top_p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_module, "NUM_COLUMNS", num_columns)
        assert torch.equal(pick_tokens(logits, uniforms, temperature=0.7, top_p=top_p), whole)
        for row in range(8):
            alone = pick_tokens(logits[row : row + 1], uniforms[row : row + 1], temperature=0.7, top_p=top_p)
            assert alone.tolist() == [whole[row]]


def test_smallest_top_p_is_greedy_and_rows_keep_their_stream() -> None:
    tight = SamplingSettings(temperature=1.0, top_p=1e-9, max_new_tokens=1)
    assert pick_many([0.0, 3.0, 1.0], tight, 50).unique().tolist() == [1]
    together, alone = draw_uniforms([7, 8, 9], 40), draw_uniforms([8], 90)
    assert together[1].tolist() == alone[0][:40].tolist()


@pytest.mark.parametrize(
    ("temperature", "top_p", "max_new_tokens", "message"),
    [(-1, 0.9, 1, "temperature"), (1, 0.0, 1, "top_p"), (1, 1.1, 1, "top_p"), (1, 1.0, 0, "max_new_tokens")],
)
def test_bad_sampling_settings(temperature: float, top_p: float, max_new_tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeededTopP([1], SamplingSettings(temperature, top_p, max_new_tokens), device=torch.device("cpu"))


def test_greedy_equals_transformers_generate(engine: TransformersEngine, tiny_model: Path) -> None:
    requests = make_requests(12)
    samples = sample_in_order(engine, requests, GREEDY)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    stops = set(model.generation_config.eos_token_id)
    for request, sample in zip(requests, samples, strict=True):
        ids = tokenizer.apply_chat_template(
            list(request.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        new = model.generate(**ids, do_sample=False, max_new_tokens=24)[0, ids["input_ids"].shape[1] :].tolist()
        stopped = new[-1] in stops
        kept = new[:-1] if stopped else new
        assert sample.text == tokenizer.decode(kept, skip_special_tokens=True)
        assert sample.finish_reason == ("stop" if stopped else "length")
        assert sample.completion_tokens == len(kept)
        assert sample.prompt_tokens == ids["input_ids"].shape[1]


def test_row_does_not_depend_on_its_neighbours(engine: TransformersEngine, tiny_model: Path) -> None:
    requests = make_requests(20)
    together = sample_in_order(engine, requests, SAMPLED)
    assert [sample.row_id for sample in together] == [request.row_id for request in requests]
    assert together == sample_in_order(engine, requests, SAMPLED)
    assert sample_in_order(engine, requests[5:6], SAMPLED) == together[5:6]
    other = TransformersEngine(tiny_model, batch_size=3, device="cpu")
    assert sample_in_order(other, requests[::-1], SAMPLED) == together[::-1]
    assert len({sample.text for sample in together}) > 10
    assert {sample.finish_reason for sample in together} == {"stop", "length"}


def test_bad_rows_do_not_take_the_batch_along(engine: TransformersEngine) -> None:
    good = make_requests(3)
    too_long = ask("Sort the list " + "1 " * 600, 50)
    untemplatable = Request("q51", ({"role": "user"},), 1)
    samples = sample_in_order(engine, [good[0], too_long, good[1], untemplatable, good[2]], SAMPLED)
    assert [sample.finish_reason == "error" for sample in samples] == [False, True, False, True, False]
    assert "context of 512 tokens" in samples[1].error
    assert "chat template failed" in samples[3].error
    assert samples[1].text == ""
    assert samples[1].completion_tokens == 0
    assert samples[::2] == sample_in_order(engine, good, SAMPLED)


def test_template_that_refuses_a_role(tiny_model: Path, tmp_path: Path) -> None:
    strict = shutil.copytree(tiny_model, tmp_path / "strict")
    template = (strict / "chat_template.jinja").read_text()
    refusal = "{% if messages[0].role == 'critic' %}{{ raise_exception('no critics here') }}{% endif %}"
    (strict / "chat_template.jinja").write_text(refusal + template)
    refused = Request("q1", ({"role": "critic", "content": "Be brief."}, *make_requests(1)[0].messages), 1)
    samples = sample_in_order(TransformersEngine(strict, device="cpu"), [refused, *make_requests(1)], GREEDY)
    assert samples[0].finish_reason == "error"
    assert "no critics here" in samples[0].error
    assert samples[1].finish_reason != "error"


def test_no_requests_no_samples(engine: TransformersEngine) -> None:
    assert sample_in_order(engine, [], SAMPLED) == []


@pytest.mark.slow
def test_out_of_memory_halves_the_batch(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, batch_size=8, device="cpu")
    requests = make_requests(8)
    expected = sample_in_order(engine, requests, SAMPLED)
    model, _ = engine.load()
    sizes = []

    def run_out(_module: object, _args: object, kwargs: dict) -> None:
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 1 or kwargs["input_ids"].shape[1] > 40:
            raise torch.OutOfMemoryError("out of memory")

    model.register_forward_pre_hook(run_out, with_kwargs=True)
    assert sample_in_order(engine, requests, SAMPLED) == expected
    assert sizes[0] > 1
    long = ask("Sort the list " + "1 " * 60, 60)
    failed, fine = sample_in_order(engine, [long, requests[0]], SAMPLED)
    assert failed.finish_reason == "error"
    assert "out of memory" in failed.error
    assert fine == expected[0]


def test_models_that_cannot_be_served(tiny_model: Path, tmp_path: Path) -> None:
    def load(folder: Path) -> None:
        sample_in_order(TransformersEngine(folder, device="cpu"), make_requests(1), GREEDY)

    with pytest.raises(ModelLoadError, match=r"no config\.json"):
        load(tmp_path / "nowhere")
    bare = shutil.copytree(tiny_model, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ModelWithoutChatTemplateError, match=r"bare has no chat template.*instruction-tuned"):
        load(bare)
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        load(broken)
    deeper = shutil.copytree(tiny_model, tmp_path / "deeper")
    config = json.loads((deeper / "config.json").read_text())
    config["num_hidden_layers"] = 3
    config.pop("layer_types", None)
    (deeper / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=r"lack \d+ tensors, first model\.layers\.2"):
        load(deeper)


def test_closed_engine_loads_again(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, device="cpu")
    before = sample_in_order(engine, make_requests(2), GREEDY)
    engine.close()
    assert sample_in_order(engine, make_requests(2), GREEDY) == before


def test_what_is_left_falls_into_the_same_groups(engine: TransformersEngine) -> None:
    requests = make_requests(30)
    groups = list(engine.generate(requests, SAMPLED))
    assert [len(group) for group in groups] == [8, 8, 8, 6]
    done = {sample.row_id for group in groups[:2] for sample in group}
    left = [request for request in requests if request.row_id not in done]
    assert list(engine.generate(left, SAMPLED)) == groups[2:]


def test_equal_prompts_count_as_cached(engine: TransformersEngine) -> None:
    samples = sample_in_order(engine, make_requests(8), GREEDY)
    assert [sample.cached_tokens for sample in samples[:4]] == [0] * 4
    assert [sample.cached_tokens for sample in samples[4:]] == [sample.prompt_tokens for sample in samples[4:]]


def test_tail_has_the_alternatives_of_the_last_tokens(engine: TransformersEngine, tiny_model: Path) -> None:
    """Against a forward pass over the whole text: the same log-probabilities at the same places."""
    requests = make_requests(6)
    plain = sample_in_order(engine, requests, SAMPLED)
    samples = sample_in_order(engine, requests, replace(SAMPLED, tail_tokens=3))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for request, without, sample in zip(requests, plain, samples, strict=True):
        assert without == replace(sample, tail=())
        stopped = sample.finish_reason == "stop"
        assert len(sample.tail) == min(3, sample.completion_tokens) + stopped
        assert (sample.tail[-1].text == "") == stopped
        tail = sample.tail[:-1] if stopped else sample.tail
        assert sample.text.endswith("".join(choice.text for choice in tail))
        prompt = encode_messages(tokenizer, request.messages)
        tokens = [*prompt, *tokenizer.encode(sample.text, add_special_tokens=False)]
        if len(tokens) != len(prompt) + sample.completion_tokens:
            continue  # the text has another, shorter spelling in tokens
        with torch.no_grad():
            logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        for back, choice in enumerate(reversed(tail), start=1):
            expected = float(logprobs[len(tokens) - back - 1, tokens[-back]])
            assert choice.alternatives[choice.text] == pytest.approx(expected, abs=1e-3)
            assert 1 < len(choice.alternatives) <= 21
