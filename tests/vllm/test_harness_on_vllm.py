"""The harness's model that asks vLLM, against the one with the platform's loops, on the packaged model and a CPU.

Both compute in float32. Log-likelihoods are sums over tokens, each of which moves in its last bits with the batch.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lance_assets.prompts import build_messages
from lance_assets.small_world.seeds import draw_seeds
from resources.engines.vllm.engine import VllmEngine
from resources.evaluation.engine_link import EngineLink
from resources.evaluation.evaluator import HarnessRun, run_lm_eval
from tests.resources.test_evaluator import write_harness_tasks

pytestmark = pytest.mark.vllm

SEEDS = draw_seeds(num_seeds=40)
TOLERANCE = 1e-3
"""Nats of a log-likelihood, relative to its size where that is above 1."""


@pytest.fixture(scope="module")
def engine(small_model: Path, vllm_python: str) -> Iterator[VllmEngine]:
    engine = VllmEngine(small_model, python=vllm_python, device="cpu", num_threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def pair(engine: VllmEngine, small_model: Path) -> Iterator[tuple[Any, Any]]:
    """The model that asks vLLM, and the one with the platform's loops."""
    from resources.evaluation.engine_model import EngineModel
    from resources.evaluation.harness_model import BatchedModel

    with closing(EngineLink(engine)) as link:
        ours = EngineModel(pretrained=str(small_model), link=os.dup(link.descriptor))
        yield ours, BatchedModel(pretrained=str(small_model), device="cpu", dtype="float32", batch_size=16)
        ours.link.close()


def write_completions(model: Any, contexts: list[str], *, until: list[str]) -> list[str]:
    wishes = {"until": until, "max_gen_toks": 64, "do_sample": False}
    requests = [SimpleNamespace(args=(context, dict(wishes))) for context in contexts]
    return list(model.generate_until(requests, disable_tqdm=True))


def write_chat(model: Any, prompt: str) -> str:
    return str(model.apply_chat_template(build_messages("", prompt)))


def test_choices_have_the_same_scores_and_share_their_context(pair: tuple[Any, Any], engine: VllmEngine) -> None:
    ours, _ = pair
    chats = [write_chat(ours, one["prompt"]) for one in SEEDS]
    likeliest = write_completions(ours, chats, until=[])
    # As tokens: of texts the harness would score the line break at the end of a chat too, which nothing writes.
    requests = [
        (None, ours.tok_encode(chat), ours.tok_encode(completion))
        for place, chat in enumerate(chats)
        for completion in (likeliest[place], SEEDS[place - 1]["completion"], SEEDS[place - 2]["completion"])
    ]
    found, wanted = (model._loglikelihood_tokens(requests, disable_tqdm=True) for model in pair)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], rel=TOLERANCE, abs=TOLERANCE)
    assert [same for _, same in found] == [same for _, same in wanted]
    num_likeliest = sum(same for _, same in found[::3])
    print(f"{num_likeliest} of {len(likeliest)} greedy completions are the likeliest")
    # A text may be cut into other tokens than those that it was written in.
    assert num_likeliest > len(likeliest) / 2 > sum(same for _, same in found[1::3])
    differences = [abs(one - other) for (one, _), (other, _) in zip(found, wanted, strict=True)]
    print(f"{len(found)} scores, at most {max(differences):.1e} nats apart")


def test_texts_that_are_read_as_a_whole_have_the_same_scores(pair: tuple[Any, Any]) -> None:
    """Short ones, whose tokens are written by force, and long ones, which vLLM scores its own way."""
    texts = ["reverse 1 2 3", " ".join(seed["prompt"] for seed in SEEDS[:20]), SEEDS[0]["completion"]]
    requests = [SimpleNamespace(args=(text,)) for text in texts]
    found, wanted = (model.loglikelihood_rolling(requests, disable_tqdm=True) for model in pair)
    assert len(pair[1].tok_encode(texts[1])) > 200
    assert found == pytest.approx(wanted, rel=TOLERANCE)


@pytest.mark.parametrize("until", [[], [" "], ["\n", "="]])
def test_completions_are_the_same(pair: tuple[Any, Any], until: list[str]) -> None:
    contexts = [write_chat(pair[0], seed["prompt"]) for seed in SEEDS]
    found, wanted = (write_completions(model, contexts, until=until) for model in pair)
    num_equal = sum(one == other for one, other in zip(found, wanted, strict=True))
    print(f"until {until}: {num_equal} of {len(found)} completions equal")
    # Two tokens may be likely to the last bits.
    assert num_equal >= len(found) - 1


def test_the_harness_s_process_gives_the_same_report(engine: VllmEngine, small_model: Path, tmp_path: Path) -> None:
    write_harness_tasks(tmp_path)
    asked = {"model_name": "checkpoint", "include_path": tmp_path, "log": lambda line: None}
    runs = [HarnessRun(["a_task", "words"], num_fewshot=1)]
    (wanted,) = run_lm_eval(small_model, runs, **asked)
    with closing(EngineLink(engine)) as link:
        (found,) = run_lm_eval(small_model, runs, link=link, **asked)
    numbers = ("score", "ci_low", "ci_high")
    assert found.report.drop(numbers).equals(wanted.report.drop(numbers))
    # The harness loads weights in their own type, which is bfloat16 here.
    assert found.report["score"].to_list() == pytest.approx(wanted.report["score"].to_list(), rel=0.02)
    assert found.items.drop("score").equals(wanted.items.drop("score"))
