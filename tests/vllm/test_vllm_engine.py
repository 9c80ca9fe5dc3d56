"""VllmEngine on the packaged small model and a CPU, with the engine of transformers as what it must agree with.

Logits move in their last bits with the batch, so two engines, and one engine asked twice, agree but where two tokens
are that close: such places are looked at one by one.
"""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from scipy.stats import chi2
from transformers import AutoModelForCausalLM, AutoTokenizer

from lance_assets.prompts import Templates, build_messages
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.recipes.steps.reviewing import build_score_grammar
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.small_world.seeds import draw_seeds
from resources.engines.contract import Adapter, sample_in_order
from resources.engines.durable_stage import run_durably
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.vllm.engine import VllmEngine
from resources.models.chat_format import encode_messages

pytestmark = pytest.mark.vllm

GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=160, tail_tokens=160)
SAMPLED = SamplingSettings(temperature=2.0, top_p=0.95, max_new_tokens=160)
"""Hot, since at temperature 1 the small model says much the same whatever is drawn."""
BLOCK = 32
"""Tokens of a cache block, as the engine has it on CPUs."""


def draw_requests() -> list[Request]:
    """160 problems to answer, 100 reviews, and 60 new prompts, as the compact templates ask for them."""
    seeds = draw_seeds(num_seeds=160)
    prompts = [
        *(seed["prompt"] for seed in seeds),
        *(
            Templates("compact").render("lance/review", prompt=s["prompt"], completion=s["completion"], **RUBRIC.scale)
            for s in seeds[:100]
        ),
        *(Templates("compact").render("lance/new_prompt", prompt=s["prompt"], completion="") for s in seeds[:60]),
    ]
    return [Request(f"q{n}", tuple(build_messages("", prompt)), 1000 + n) for n, prompt in enumerate(prompts)]


REQUESTS = draw_requests()
REVIEWS = REQUESTS[160:260]


@pytest.fixture(scope="module")
def engine(small_model: Path, vllm_python: str) -> Iterator[VllmEngine]:
    engine = VllmEngine(small_model, python=vllm_python, device="cpu", num_threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def local(small_model: Path) -> TransformersEngine:
    return TransformersEngine(small_model, device="cpu", num_threads=1)


@pytest.fixture(scope="module")
def sampled(engine: VllmEngine) -> list[Sample]:
    return sample_in_order(engine, REQUESTS, SAMPLED)


def measure_agreement(ones: list[Sample], others: list[Sample], what: str) -> float:
    """The share of equal rows."""
    num_equal = sum(
        (one.text, one.finish_reason) == (other.text, other.finish_reason)
        for one, other in zip(ones, others, strict=True)
    )
    print(f"{what}: {num_equal} of {len(ones)} equal")
    return num_equal / len(ones)


def measure_tie(one: Sample, other: Sample, end: str) -> float:
    """By how much the log-probabilities of the two tokens differ where two completions part."""
    mine, theirs = ([choice.text or end for choice in sample.tail] for sample in (one, other))
    place = next(place for place, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b)
    alternatives = one.tail[place].alternatives
    return abs(alternatives[mine[place]] - alternatives[theirs[place]])


def test_greedy_completions_are_those_of_transformers(
    engine: VllmEngine, local: TransformersEngine, small_model: Path
) -> None:
    served, expected = (sample_in_order(each, REQUESTS, GREEDY) for each in (engine, local))
    end = AutoTokenizer.from_pretrained(small_model).eos_token
    assert measure_agreement(served, expected, "greedy, vLLM and transformers") >= 0.99
    for one, other in zip(expected, served, strict=True):
        assert (one.row_id, one.prompt_tokens) == (other.row_id, other.prompt_tokens)
        if one.text == other.text:
            assert (one.finish_reason, one.completion_tokens) == (other.finish_reason, other.completion_tokens)
        else:
            tie = measure_tie(one, other, end)
            print(f"{one.row_id}: two tokens {tie:.1e} apart")
            assert tie < 1e-3
    _compare_tails(served, expected, end)


def _compare_tails(served: list[Sample], expected: list[Sample], end: str) -> None:
    """Where completions are equal, every token's alternatives have the same log-probabilities to 1e-3."""
    differences = []
    for one, other in zip(served, expected, strict=True):
        if one.text != other.text:
            continue
        assert [choice.text for choice in one.tail] == [choice.text for choice in other.tail]
        for mine, theirs in zip(one.tail, other.tail, strict=True):
            common = [token for token in mine.alternatives if token in theirs.alternatives]
            assert (mine.text or end) in common
            # the last of the twenty may be another where two are equally likely
            assert len(common) >= 15
            differences += [abs(mine.alternatives[t] - theirs.alternatives[t]) for t in common if t != "\ufffd"]
    print(f"{len(differences)} log-probabilities, at most {max(differences):.1e} apart")
    assert max(differences) < 1e-3


def test_sampled_completions_follow_their_seeds(
    engine: VllmEngine, local: TransformersEngine, sampled: list[Sample]
) -> None:
    expected = sample_in_order(local, REQUESTS, SAMPLED)
    assert measure_agreement(sampled, expected, "sampled, vLLM and transformers") >= 0.95
    again = sample_in_order(engine, REQUESTS, SAMPLED)
    assert measure_agreement(sampled, again, "sampled, vLLM twice") >= 0.99
    few = slice(None, None, -3)
    others = sample_in_order(engine, REQUESTS[few], SAMPLED)
    assert measure_agreement(sampled[few], others, "sampled, vLLM in another order beside fewer rows") >= 0.99
    others = [Request(request.row_id, request.messages, request.sampling_seed + 5000) for request in REQUESTS[few]]
    assert measure_agreement(sampled[few], sample_in_order(engine, others, SAMPLED), "sampled, other seeds") < 0.5


def test_first_tokens_follow_the_nucleus(engine: VllmEngine, small_model: Path) -> None:
    """Chi-square of 4,000 first tokens against transformers' probabilities in float64, seeds fixed."""
    sampling, num_rows = SamplingSettings(temperature=3.0, top_p=0.8, max_new_tokens=1), 4000
    messages = REQUESTS[-1].messages
    samples = sample_in_order(engine, [Request(f"c{n}", messages, n) for n in range(num_rows)], sampling)
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([encode_messages(tokenizer, messages)])).logits[0, -1].double()
    likely, order = (logits / sampling.temperature).softmax(0).sort(descending=True)
    size = int((likely.cumsum(0) < sampling.top_p).sum()) + 1
    expected = {tokenizer.decode([int(t)], skip_special_tokens=True): 0.0 for t in order[:size]}
    for token, probability in zip(order[:size].tolist(), (likely[:size] / likely[:size].sum()).tolist(), strict=True):
        expected[tokenizer.decode([token], skip_special_tokens=True)] += probability * num_rows
    observed = {text: sum(sample.text == text for sample in samples) for text in expected}
    assert sum(observed.values()) == num_rows, "a token outside of the nucleus was drawn"
    counts = np.array([(observed[text], expected[text]) for text in expected])
    rare = counts[:, 1] < 10
    bins = np.vstack([counts[~rare], counts[rare].sum(axis=0)]) if rare.any() else counts
    bins = bins[bins[:, 1] > 0]
    statistic = float(((bins[:, 0] - bins[:, 1]) ** 2 / bins[:, 1]).sum())
    print(f"nucleus of {size} tokens: chi-square {statistic:.1f} with {len(bins) - 1} degrees of freedom")
    assert len(bins) > 5
    assert statistic < chi2.ppf(0.999, len(bins) - 1)


def test_a_grammar_constrains(engine: VllmEngine) -> None:
    """Asked for problems, the model ends in a score all the same, and reviews are what the grammar says."""
    assert engine.can_constrain()
    line = r"[A-Za-z ]{1,40}\nscore: (10|[0-9])"
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=64, grammar=line)
    forced = sample_in_order(engine, REQUESTS[:40], sampling)
    assert [sample.text for sample in forced if not re.fullmatch(line, sample.text)] == []
    grammar = build_score_grammar(lowest=0, highest=10)
    sampling = SamplingSettings(temperature=0.7, top_p=0.95, max_new_tokens=160, grammar=grammar, tail_tokens=4)
    reviews = sample_in_order(engine, REVIEWS, sampling)
    ended = [sample for sample in reviews if sample.finish_reason == "stop"]
    print(f"{len(ended)} of {len(reviews)} reviews ended")
    assert len(ended) > 0.9 * len(reviews)
    assert [sample.text for sample in ended if not re.fullmatch(grammar, sample.text)] == []
    values = [value for sample in ended for choice in sample.tail for value in choice.alternatives.values()]
    assert min(values) > float("-inf")


def test_too_long_prompts_fail_alone(engine: VllmEngine, sampled: list[Sample]) -> None:
    long = Request("long", ({"role": "user", "content": "Sort the list " + "1 2 " * 600},), 1)
    first, failed, last = sample_in_order(engine, [REQUESTS[0], long, REQUESTS[5]], SAMPLED)
    assert failed.finish_reason == "error"
    assert "exceed the model's context of 1024 tokens" in failed.error
    assert [first.text, last.text] == [sampled[0].text, sampled[5].text]


def test_shared_prefixes_are_cached(engine: VllmEngine, sampled: list[Sample]) -> None:
    """Asked again, every whole block but the one with the prompt's last token comes from the cache."""
    samples = sample_in_order(engine, REVIEWS, SAMPLED)
    for sample in samples:
        assert sample.cached_tokens == (sample.prompt_tokens - 1) // BLOCK * BLOCK
    assert sum(sample.cached_tokens for sample in samples) > 0


def test_memory_and_processes(
    small_model: Path, vllm_python: str, engine: VllmEngine, local: TransformersEngine
) -> None:
    sample_in_order(engine, REQUESTS[:4], SAMPLED)
    assert engine.measure_peak().host_gib > local.measure_peak().host_gib + 0.1


def list_groups(pids: list[int]) -> list[int]:
    """What still runs of the process groups that these led."""
    left = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) in pids and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return left


def test_two_copies_killed_at_random_moments(
    small_model: Path, vllm_python: str, sampled: list[Sample], tmp_path: Path
) -> None:
    """One of two copies is killed three times in a stage; the samples are those of one copy left in peace."""
    pids: list[int] = []
    log: list[str] = []
    options = {"device": "cpu", "num_threads": 1, "max_num_seqs": 16, "data_parallel_size": 2}
    engine = VllmEngine(small_model, python=vllm_python, on_start=pids.append, log=log.append, **options)
    rng = random.Random(0)
    moments = sorted(rng.sample(range(20, 300), 3))
    given: list[str] = []

    def generate(asked: list[Request]) -> Iterator[list[Sample]]:
        for group in engine.generate(asked, SAMPLED):
            given.extend(sample.row_id for sample in group)
            while moments and len(given) > moments[0]:
                moments.pop(0)
                os.kill(rng.choice([pid for pid in list_groups(pids) if pid in pids]), signal.SIGKILL)
            yield group

    place = {"folder": tmp_path, "fingerprint": "f1", "stage": "review", "flush_seconds": 0.1}
    finished = run_durably(REQUESTS, generate=generate, log=log.append, **place)
    assert sum("it is started again" in line for line in log) >= 2
    assert moments == []
    assert measure_agreement(finished.samples, sampled, "two copies with three deaths, and one copy") >= 0.99
    with closing(sqlite3.connect(tmp_path / "f1" / "review.sqlite")) as connection:
        stored = [row[0] for row in connection.execute("SELECT json_extract(sample, '$.row_id') FROM samples")]
    assert sorted(given) == sorted(stored) == sorted(request.row_id for request in REQUESTS)
    assert list_groups(pids)
    engine.close()
    assert list_groups(pids) == []


PARENT = """
import time
from pathlib import Path
from lance_assets.records import Request, SamplingSettings
from resources.engines.vllm.engine import VllmEngine
requests = [Request(f"q{n}", ({"role": "user", "content": f"Sort the list {n} 2 1."},), n) for n in range(60)]
options = {"device": "cpu", "num_threads": 1, "on_start": lambda pid: print(pid, flush=True)}
groups = VllmEngine(Path(MODEL), python=PYTHON, **options).generate(requests, SamplingSettings(1.0, 1.0, 32))
next(groups)
print("working", flush=True)
time.sleep(600)
"""


def test_a_killed_parent_leaves_no_worker(small_model: Path, vllm_python: str, project_root: Path) -> None:
    """Killed when all is done and not all of it read."""
    source = PARENT.replace("MODEL", repr(str(small_model))).replace("PYTHON", repr(vllm_python))
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=project_root, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert parent.stdout.readline() == "working\n"
        processes = [psutil.Process(pid) for pid in list_groups([worker])]
        time.sleep(3)
        parent.kill()
    assert processes
    gone, alive = psutil.wait_procs(processes, timeout=20)
    assert (len(gone), alive) == (len(processes), [])


def make_adapter(base: Path, folder: Path, number: int) -> tuple[Adapter, Path]:
    """A LoRA adapter that changes what the model says, in PEFT's format, and the folder of the merged model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(number)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    adapted.save_pretrained(folder / "adapter")
    merged = folder / "merged"
    adapted.merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    return Adapter(folder / "adapter", base, f"test-r{number:04d}-{number:08d}", number), merged


def test_adapters_give_what_the_merged_models_give(
    small_model: Path, vllm_python: str, local: TransformersEngine, tmp_path: Path
) -> None:
    requests = REQUESTS[::5]
    sampling = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=48)
    plain = sample_in_order(local, requests, sampling)
    texts = []
    for number in (1, 2):
        adapter, merged = make_adapter(small_model, tmp_path / str(number), number)
        options = {"device": "cpu", "num_threads": 1, "adapter": adapter, "merge_adapters_above": len(requests)}
        engine = VllmEngine(merged, python=vllm_python, **options)
        try:
            served, again = (sample_in_order(engine, requests, sampling) for _ in range(2))
        finally:
            engine.close()
        expected = sample_in_order(TransformersEngine(merged, device="cpu", num_threads=1), requests, sampling)
        assert measure_agreement(served, expected, f"adapter {number} and the merged model") >= 0.95
        assert measure_agreement(served, again, f"adapter {number} and again, cached") >= 0.95
        assert measure_agreement(served, plain, f"adapter {number} and the base model") < 0.5
        texts.append([sample.text for sample in served])
    assert sum(one == other for one, other in zip(*texts, strict=True)) < 0.5 * len(requests)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_repetition_is_penalised_as_with_transformers(
    engine: VllmEngine, local: TransformersEngine, temperature: float
) -> None:
    # The small model is so sure of its lists that a penalty of 1.3 changes 1 text of 60.
    sampling = SamplingSettings(temperature, 0.95, 60, repetition_penalty=3.0)
    served, expected = (sample_in_order(each, REQUESTS[:60], sampling) for each in (engine, local))
    assert measure_agreement(served, expected, f"penalised at temperature {temperature}") >= 0.95
    plain = sample_in_order(engine, REQUESTS[:60], SamplingSettings(temperature, 0.95, 60))
    assert measure_agreement(served, plain, "with and without a penalty") < 0.5
