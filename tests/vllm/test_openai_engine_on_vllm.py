"""The engine for servers with the OpenAI API against vLLM's own, on the packaged small model and a CPU."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lance_assets.prompts import build_messages
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.small_world.seeds import draw_seeds
from resources.engines.contract import NUM_ALTERNATIVES, Adapter, EngineError, sample_in_order
from resources.engines.openai.engine import OpenAIEngine
from resources.engines.transformers.engine import TransformersEngine

pytestmark = pytest.mark.vllm

GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=128)
ARGUMENTS = (
    "--dtype float32 --enforce-eager --max-model-len 512 --block-size 32 --max-num-seqs 128 --enable-prefix-caching "
    "--enable-prompt-tokens-details --enable-lora --max-lora-rank 8 --served-model-name small --host 127.0.0.1"
)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
}
START_SECONDS = 240


@pytest.fixture(scope="module")
def url(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a vLLM server that holds the small model."""
    python = os.environ.get("LANCE_VLLM_PYTHON")
    if python is None:
        pytest.skip("LANCE_VLLM_PYTHON names no interpreter with vLLM")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(small_model), *ARGUMENTS.split()]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"vLLM ended with {process.returncode}: {log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vLLM was not up in {START_SECONDS} s: {log.read_text()[-3000:]}")


def ask(num_rows: int) -> list[Request]:
    prompts = [seed["prompt"] for seed in draw_seeds(num_seeds=160)][:num_rows]
    return [Request(f"row{number}", tuple(build_messages("", prompt)), number) for number, prompt in enumerate(prompts)]


def test_greedy_completions_equal_those_of_transformers(url: str, small_model: Path) -> None:
    requests = ask(160)
    served = sample_in_order(OpenAIEngine(base_url=url), requests, GREEDY)
    local = sample_in_order(TransformersEngine(small_model, device="cpu", num_threads=1), requests, GREEDY)
    equal = [
        (one.text, one.finish_reason, one.prompt_tokens) == (other.text, other.finish_reason, other.prompt_tokens)
        for one, other in zip(served, local, strict=True)
    ]
    print(f"{sum(equal)} of {len(equal)} greedy completions equal")
    assert sum(equal) >= 0.99 * len(equal)
    # vLLM counts the end-of-turn token, the other engines do not.
    assert all(
        one.completion_tokens == other.completion_tokens + (other.finish_reason == "stop")
        for one, other, same in zip(served, local, equal, strict=True)
        if same
    )


def test_a_seed_gives_the_same_sample_again(url: str) -> None:
    # At temperature 1 the small model says the same of 39 of 40 seeds, whatever is drawn.
    sampling = SamplingSettings(temperature=2.0, top_p=1.0, max_new_tokens=64)
    requests = ask(40)
    first, again = (sample_in_order(OpenAIEngine(base_url=url), requests, sampling) for _ in range(2))
    same = sum(one.text == other.text for one, other in zip(first, again, strict=True))
    print(f"{same} of {len(requests)} seeded samples equal")
    assert same >= 0.95 * len(requests)
    other_seeds = [Request(request.row_id, request.messages, request.sampling_seed + 1000) for request in requests]
    different = sample_in_order(OpenAIEngine(base_url=url), other_seeds, sampling)
    assert sum(one.text == other.text for one, other in zip(first, different, strict=True)) <= 0.25 * len(requests)


def test_the_grammar_constrains(url: str) -> None:
    engine = OpenAIEngine(base_url=url)
    assert engine.can_constrain()
    grammar = r"[a-z ]{3,30}\. score: (10|[0-9])"
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=64, grammar=grammar)
    samples = sample_in_order(engine, ask(20), sampling)
    assert [sample.text for sample in samples if not re.fullmatch(grammar, sample.text)] == []


def test_the_tail_ends_with_the_text_and_agrees_with_transformers(url: str, small_model: Path) -> None:
    sampling = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=128, tail_tokens=4)
    requests = ask(8)
    served = sample_in_order(OpenAIEngine(base_url=url), requests, sampling)
    local = sample_in_order(TransformersEngine(small_model, device="cpu", num_threads=1), requests, sampling)
    compared = 0
    for one, other in zip(served, local, strict=True):
        assert len(one.tail) == 4
        assert one.text.endswith("".join(choice.text for choice in one.tail))
        if one.text == other.text:
            compared += 1
            for here, there in zip(one.tail, other.tail[:4], strict=True):  # a server tells no end of turn
                assert len(here.alternatives) >= NUM_ALTERNATIVES - 5  # two tokens can have one text
                assert here.alternatives[here.text] == pytest.approx(there.alternatives[there.text], abs=0.02)
    assert compared >= 7


def test_cached_tokens_are_told(url: str) -> None:
    messages = tuple(build_messages("", " ".join(seed["prompt"] for seed in draw_seeds(num_seeds=40)[:4])))
    requests = [Request(f"row{number}", messages, number) for number in range(4)]
    samples = sample_in_order(OpenAIEngine(base_url=url, max_concurrency=1), requests, GREEDY)
    assert samples[0].prompt_tokens > 32
    assert all(0 < sample.cached_tokens <= sample.prompt_tokens for sample in samples[1:])


def test_a_row_too_long_for_the_model_fails_alone(url: str) -> None:
    long = Request("long", ({"role": "user", "content": "reverse 1 2 3 4 5 6 7 8 9 " * 60},), 0)
    samples = sample_in_order(OpenAIEngine(base_url=url), [*ask(3), long], GREEDY)
    assert [sample.finish_reason == "error" for sample in samples] == [False, False, False, True]
    assert samples[3].error is not None
    assert samples[3].error.startswith("HTTP 400: ")


def test_a_model_that_is_not_served_is_named(url: str) -> None:
    with pytest.raises(EngineError, match="has no model 'other', but has small"):
        list(OpenAIEngine(base_url=url, model="other").generate(ask(1), GREEDY))
    with pytest.raises(EngineError, match="base_url must end with /v1"):
        list(OpenAIEngine(base_url=url.removesuffix("/v1"), model="small").generate(ask(1), GREEDY))


@pytest.fixture(scope="module")
def adapter(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """A LoRA adapter that changes what the small model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    get_peft_model(model, config).save_pretrained(folder)
    return Adapter(path=folder, base=small_model, name="test-r0001-0123", number=1)


def test_an_adapter_is_loaded_and_taken_out(url: str, adapter: Adapter, tmp_path: Path) -> None:
    requests = ask(20)
    plain = sample_in_order(OpenAIEngine(base_url=url), requests, GREEDY)
    engine = OpenAIEngine(base_url=url, adapter=adapter)
    adapted: list[Sample] = sample_in_order(engine, requests, GREEDY)
    assert all(sample.finish_reason != "error" for sample in adapted)
    assert sum(one.text != other.text for one, other in zip(plain, adapted, strict=True)) > 5
    second = OpenAIEngine(base_url=url, adapter=adapter)
    assert sample_in_order(second, requests[:1], GREEDY)[0].finish_reason != "error"
    engine.close()
    second.close()
    with pytest.raises(EngineError, match="has no model"):
        list(OpenAIEngine(base_url=url, model=adapter.name).generate(requests[:1], GREEDY))
    shutil.copytree(adapter.path, tmp_path / "broken")
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"no weights")
    broken = Adapter(path=tmp_path / "broken", base=adapter.base, name="test-broken", number=2)
    with pytest.raises(EngineError, match="did not load adapter test-broken"):
        list(OpenAIEngine(base_url=url, adapter=broken).generate(requests[:1], GREEDY))
