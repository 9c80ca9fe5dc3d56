"""The harness's model with the platform's loops scores and writes as the harness's own does."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.engines.transformers import continuations
from resources.engines.transformers.continuations import has_plain_head, reads_together, score_continuations
from tests.resources.chat_templates import FAMILIES, save_model

FAMILY_OF = {"llama": "llama", "qwen2": "qwen2", "gemma3_text": "gemma"}


@pytest.fixture(scope="module", params=FAMILY_OF)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The platform's model and the harness's own, on the same random weights in float32."""
    from lm_eval.models.huggingface import HFLM

    from resources.evaluation.harness_model import BatchedModel

    folder = save_model(tmp_path_factory.mktemp(request.param), request.param, FAMILIES[FAMILY_OF[request.param]])
    asked = {"pretrained": str(folder), "device": "cpu", "batch_size": 3, "dtype": "float32", "max_length": 96}
    return BatchedModel(**asked), HFLM(**asked)


def build_requests(rows: list[tuple[list[int], list[int]]], vocabulary: int) -> list[tuple[None, list[int], list[int]]]:
    return [(None, [t % vocabulary for t in context], [t % vocabulary for t in end]) for context, end in rows]


TOKENS = st.lists(st.integers(0, 10_000), min_size=1, max_size=12)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=5),
    num_more=st.integers(0, 100),
)
def test_continuations_have_the_harness_s_scores(pair: tuple[Any, Any], rows: list, num_more: int) -> None:
    """Contexts that several continuations share, equal requests, one-token ones, and texts beyond the context."""
    ours, theirs = pair
    flat = [(context + [7] * num_more, end) for context, ends in rows for end in ends]
    requests = build_requests([*flat, flat[0]], len(ours.tokenizer))
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    wanted = theirs._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], abs=1e-3)
    assert found[-1] == pytest.approx(found[0], abs=1e-4)


def test_a_greedy_continuation_is_told(pair: tuple[Any, Any]) -> None:
    ours, _ = pair
    context = list(range(5, 25))
    with torch.inference_mode():
        written = ours.model.generate(torch.tensor([context]), max_new_tokens=4, do_sample=False, eos_token_id=None)
    likeliest = written[0, len(context) :].tolist()
    other = [(token + 1) % len(ours.tokenizer) for token in likeliest]
    requests = [(None, context, ends) for ends in (likeliest, other, likeliest[:1], [*likeliest[:3], other[3]])]
    assert [same for _, same in ours._loglikelihood_tokens(requests, disable_tqdm=True)] == [True, False, True, False]


@pytest.mark.parametrize("until", [["\n\n"], ["a", "Q:"], []])
def test_generated_texts_are_the_harness_s(pair: tuple[Any, Any], until: list[str]) -> None:
    """Prompts of unlike length, one of them beyond the context, and equal ones."""
    ours, theirs = pair
    texts = ["What is 2 + 2?", "Name a bird.", "Name a bird.", "One two three four. " * 40, "x"]
    asked = {"until": until, "max_gen_toks": 12, "do_sample": False}
    requests = [SimpleNamespace(args=(text, dict(asked))) for text in texts]
    assert ours._is_plain_greedy
    found = ours.generate_until(requests, disable_tqdm=True)
    # One by one, so that padding, which moves logits in their last bits, is on neither side.
    wanted = [theirs.generate_until([request], disable_tqdm=True)[0] for request in requests]
    assert found == wanted


def test_what_is_not_greedy_is_left_to_the_harness(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair
    left: list[int] = []
    monkeypatch.setattr(
        "lm_eval.models.huggingface.HFLM.generate_until",
        lambda self, requests, disable_tqdm=False: left.append(len(requests)) or ["theirs"] * len(requests),
    )
    greedy, sampled = (
        {"until": [], "max_gen_toks": 2} | more for more in ({}, {"do_sample": True, "temperature": 1.0})
    )
    requests = [SimpleNamespace(args=("Hello.", kind)) for kind in (greedy, sampled, greedy)]
    found = ours.generate_until(requests, disable_tqdm=True)
    assert left == [1]
    assert [text == "theirs" for text in found] == [False, True, False]


def test_what_is_finished_is_kept_at_once(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill takes along only the batch that was under way."""
    ours, _ = pair
    kept: list[tuple[str, Any]] = []
    monkeypatch.setattr(ours.cache_hook, "add_partial", lambda kind, asked, found: kept.append((kind, asked)))
    requests = [(("context", f"end {number}"), [number + 1, 2], [3]) for number in range(7)]
    calls = iter(range(2))

    def score(*given: Any, **named: Any) -> Any:
        next(calls)
        return score_continuations(*given, **named)

    monkeypatch.setattr("resources.evaluation.harness_model.score_continuations", score)
    with pytest.raises(StopIteration):
        ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert len(kept) == 2 * ours.batch_size
    assert {kind for kind, _ in kept} == {"loglikelihood"}


def test_a_sliding_window_reads_a_row_a_continuation(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair
    read: list[int] = []
    real = continuations._read_rows
    monkeypatch.setattr(
        continuations, "_read_rows", lambda model, rows: read.append(len(rows.input_ids)) or real(model, rows)
    )
    score_continuations(ours.model, [([1, 2, 3], [[4, 5], [6, 7]])], pad_id=0)
    assert read == [1 if reads_together(ours.model) else 2]
    assert reads_together(ours.model) == (ours.model.config.model_type != "gemma3_text")


def test_a_head_that_changes_its_logits_is_seen(pair: tuple[Any, Any]) -> None:
    ours, _ = pair
    assert has_plain_head(ours.model)

    def halve(module: Any, given: Any, found: Any) -> None:
        found.logits.mul_(0.5)

    handle = ours.model.register_forward_hook(halve)
    assert not has_plain_head(ours.model)
    handle.remove()
