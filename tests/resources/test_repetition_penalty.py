"""A repetition penalty: transformers' own is what ours must agree with, and 1 leaves everything as it was."""

import importlib
import sys
import types
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, RepetitionPenaltyLogitsProcessor

from lance_assets.records import Request, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import EngineError, sample_in_order
from resources.engines.durable_stage import hash_request
from resources.engines.openai.engine import OpenAIEngine
from resources.engines.sampling import SeededTopP, penalise_repetition
from resources.engines.transformers.engine import TransformersEngine
from resources.models.chat_format import encode_messages
from tests.resources.faulty_server import FaultyServer, respond

PROMPTS = [
    "Sort the list 3 1 2.",
    "Add the numbers 1 2 3 4 5 6 7 8 9.",
    "Reverse the list 4 5.",
    "Write 3 1 backwards.",
]
GREEDY = SamplingSettings(0.0, 1.0, 40, repetition_penalty=1.4)


def ask(prompt: str, number: int) -> Request:
    return Request(f"q{number}", ({"role": "user", "content": prompt},), 1000 + number)


REQUESTS = [ask(prompt, number) for number, prompt in enumerate([*PROMPTS, PROMPTS[0]])]


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 3.0])
def test_logits_are_penalised_as_transformers_does(penalty: float) -> None:
    logits = torch.randn((3, 11), generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 2, 2], [0, 0, 0], [9, 10, 3]])
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, tokens, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits.clone())
    assert torch.equal(penalise_repetition(logits, seen, penalty), expected)


def test_greedy_texts_are_those_of_transformers() -> None:
    """Rows leave the batch at different steps, and two have the same prompt."""
    model = AutoModelForCausalLM.from_pretrained(SMALL_MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(SMALL_MODEL)
    engine = TransformersEngine(SMALL_MODEL, batch_size=8, device="cpu", dtype="float32", num_threads=1)
    samples = sample_in_order(engine, REQUESTS, GREEDY)
    for request, sample in zip(REQUESTS, samples, strict=True):
        prompt = torch.tensor([encode_messages(tokenizer, request.messages)])
        output = model.generate(
            prompt, do_sample=False, max_new_tokens=40, repetition_penalty=1.4, pad_token_id=tokenizer.pad_token_id
        )
        assert sample.text == tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    plain = sample_in_order(engine, REQUESTS, replace(GREEDY, repetition_penalty=1.0))
    assert [sample.text for sample in plain] != [sample.text for sample in samples]


def test_a_penalised_row_does_not_depend_on_its_neighbours() -> None:
    engine = TransformersEngine(SMALL_MODEL, batch_size=8, device="cpu", dtype="float32", num_threads=1)
    sampling = SamplingSettings(0.9, 0.9, 30, repetition_penalty=1.2)
    together = sample_in_order(engine, REQUESTS, sampling)
    alone = [sample_in_order(engine, [request], sampling)[0] for request in REQUESTS]
    assert [sample.text for sample in together] == [sample.text for sample in alone]


def test_a_penalty_of_one_is_hashed_as_before_there_were_penalties() -> None:
    """The hashes are of the version before: what it stored of an unfinished stage is still found."""
    request = Request("q0", ({"role": "user", "content": "question 0"},), 0)
    assert hash_request(request, SamplingSettings(0.7, 0.9, 512)) == "ba44a4606d82278d6f9965e2d52156f6"
    grammar = SamplingSettings(0.7, 0.9, 512, grammar="[0-9]", tail_tokens=2)
    assert hash_request(request, grammar) == "360652dc67208f426c5c861d560473e4"
    assert hash_request(request, replace(grammar, repetition_penalty=1.1)) != hash_request(request, grammar)


def test_a_penalty_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"repetition_penalty must be above 0 \(1 for none\), got 0"):
        SeededTopP([0], SamplingSettings(1.0, 1.0, 4, repetition_penalty=0), device=torch.device("cpu"))


@pytest.fixture
def server():
    started = FaultyServer().start()
    yield started
    started.stop()


def list_penalties(server: FaultyServer) -> list[object]:
    return [body.get("repetition_penalty") for body in server.bodies]


def test_a_server_that_reads_a_penalty_is_sent_it(server: FaultyServer) -> None:
    """It is tried once: a good penalty is taken, and a bad one refused."""
    server.refuses_penalties = lambda penalty: penalty <= 0
    engine = OpenAIEngine(base_url=server.url)
    sampling = SamplingSettings(0.7, 0.9, 8, repetition_penalty=1.2)
    for _ in range(2):
        assert len(sample_in_order(engine, REQUESTS[:2], sampling)) == 2
    assert list_penalties(server) == [1.1, -1.0, 1.2, 1.2, 1.2, 1.2]
    sample_in_order(engine, REQUESTS[:1], SamplingSettings(0.7, 0.9, 8))
    assert "repetition_penalty" not in server.bodies[-1]


@pytest.mark.parametrize("refuses_all", [False, True], ids=["ignores it", "refuses it"])
def test_a_server_without_penalties_is_told_before_any_row(server: FaultyServer, refuses_all: bool) -> None:
    if refuses_all:
        server.refuses_penalties = lambda penalty: True
    engine = OpenAIEngine(base_url=server.url)
    sampling = SamplingSettings(0.7, 0.9, 8, repetition_penalty=1.2)
    with pytest.raises(EngineError, match=r"repetition_penalty is 1.2, and the server at .* does not read one; use "):
        sample_in_order(engine, REQUESTS[:2], sampling)
    assert not set(server.count_asked()) & set(PROMPTS)


def test_a_server_that_is_broken_is_not_taken_for_one_without_penalties(server: FaultyServer) -> None:
    server.always = respond(401, "no key")
    with pytest.raises(EngineError, match="name the environment variable that holds the key"):
        sample_in_order(
            OpenAIEngine(base_url=server.url), REQUESTS[:1], SamplingSettings(0.7, 0.9, 8, repetition_penalty=1.2)
        )


@dataclass
class Params:
    """What vLLM hands over of a row's parameters."""

    extra_args: dict[str, object]
    max_tokens: int


@dataclass
class Update:
    """What changed in vLLM's batch."""

    added: list[tuple]
    removed: tuple[int, ...] = ()
    moved: tuple = ()


@pytest.fixture
def seeded_sampling(monkeypatch: pytest.MonkeyPatch):
    """vLLM's plug-in, where vLLM is not installed: of that it needs the names of some types alone."""
    for name, members in (
        ("vllm", ()),
        ("vllm.config", ("VllmConfig",)),
        ("vllm.sampling_params", ("SamplingParams",)),
        ("vllm.v1", ()),
        ("vllm.v1.sample", ()),
        ("vllm.v1.sample.logits_processor", ("BatchUpdate", "LogitsProcessor", "MoveDirectionality")),
    ):
        module = types.ModuleType(name)
        for member in members:
            setattr(module, member, type(member, (), {}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "resources.engines.vllm.sampling", raising=False)
    yield importlib.import_module("resources.engines.vllm.sampling").SeededSampling
    del sys.modules["resources.engines.vllm.sampling"]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_vllms_sampler_picks_what_ours_does(seeded_sampling: type, penalty: float) -> None:
    """Three steps of two rows with prompts of their own; a row's tokens so far are in the list that vLLM appends to."""
    prompts, outputs = [[1, 2, 3], [4, 4]], [[], []]
    settings = SamplingSettings(0.8, 0.9, 8, repetition_penalty=penalty)
    sampler = SeededTopP([5, 6], settings, device=torch.device("cpu"))
    arguments = {"temperature": 0.8, "top_p": 0.9} | ({"repetition_penalty": penalty} if penalty != 1 else {})
    theirs = seeded_sampling(None, torch.device("cpu"), False)
    rows = [Params(arguments | {"sampling_seed": seed}, 8) for seed in (5, 6)]
    theirs.update_state(Update([(place, rows[place], prompts[place], outputs[place]) for place in (0, 1)]))
    generator = torch.Generator().manual_seed(1)
    for step in range(3):
        logits = torch.randn((2, 9), generator=generator) * 2
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for place in (0, 1):
            seen[place, prompts[place] + outputs[place]] = True
        expected = sampler.pick(penalise_repetition(logits, seen, penalty), rows=torch.arange(2), step=step)
        assert theirs.apply(logits.clone()).argmax(dim=-1).tolist() == expected.tolist()
        for place, token in enumerate(expected.tolist()):
            outputs[place].append(token)
