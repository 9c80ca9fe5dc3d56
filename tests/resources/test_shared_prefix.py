"""What all prompts of a batch begin with is read once, and the texts are those of reading every prompt whole."""

from collections.abc import Iterator

import pytest
import torch
from transformers import MistralConfig, Qwen2Config, Qwen2ForCausalLM

from lance_assets.records import Request, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.seeds import draw_seeds
from resources.engines.contract import sample_in_order
from resources.engines.sampling import SeededTopP
from resources.engines.transformers import decoding
from resources.engines.transformers.decoding import build_growing_cache, count_shared, decode_batch
from resources.engines.transformers.engine import TransformersEngine

GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=24, tail_tokens=3)
ASKED = "Score the completion of the task from 0 to 10.\nTask: {prompt}\nCompletion: {completion}\nReview it."


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    engine = TransformersEngine(SMALL_MODEL, batch_size=8, device="cpu", dtype="float32", num_threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Reviews of six seeds, two of them asked twice."""
    asked = [ASKED.format(**seed) for seed in draw_seeds(num_seeds=40)[:6]]
    return [
        Request(f"row{place}", ({"role": "user", "content": text},), sampling_seed=place)
        for place, text in enumerate([*asked, *asked[:2]])
    ]


def count_read(engine: TransformersEngine, requests: list[Request], sampling: SamplingSettings) -> tuple[list, int]:
    """The samples, and the tokens that the model read, padding counted."""
    model, _ = engine.load()
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(given["input_ids"].numel()), with_kwargs=True
    )
    samples = sample_in_order(engine, requests, sampling)
    hook.remove()
    return samples, sum(sizes)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_packaged_model_says_the_same(
    engine: TransformersEngine, requests: list[Request], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingSettings(temperature=temperature, top_p=0.9, max_new_tokens=24, tail_tokens=3)
    whole, num_whole = count_read(engine, requests, sampling)
    monkeypatch.setattr(decoding, "LEAST_SHARED", 8)
    apart, num_apart = count_read(engine, requests, sampling)
    assert [sample.text for sample in apart] == [sample.text for sample in whole]
    for one, other in zip(whole, apart, strict=True):
        for choice, same in zip(one.tail, other.tail, strict=True):
            assert same.alternatives == pytest.approx(choice.alternatives, abs=1e-3)
    # Six different prompts: five times what they share is not read again.
    shared = min(sample.cached_tokens for sample in apart if sample.cached_tokens)
    assert shared >= 8
    assert num_whole - num_apart == 5 * shared
    assert sorted(sample.cached_tokens for sample in apart)[:6] == [0, *[shared] * 5]
    assert sum(sample.cached_tokens == sample.prompt_tokens for sample in apart) == 2


def test_short_templates_are_read_whole(engine: TransformersEngine, requests: list[Request]) -> None:
    """So the rows of experiments on the small model have the bytes that they always had."""
    samples, _ = count_read(engine, requests, GREEDY)
    assert sorted(sample.cached_tokens for sample in samples)[:6] == [0] * 6


SIZES = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3},
}


def test_long_prefixes_are_shared_without_being_told() -> None:
    """300 tokens in common and ends of different lengths, one of them the shared part and a single token."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    begin = torch.randint(1, 64, (300,)).tolist()
    prompts = [[*begin, *end] for end in ([5], [6, 7, 8, 9], [5, 7], [6, 7, 8, 9])]
    sizes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )

    def decode(rows: list[list[int]]) -> list[list[int]]:
        sampling = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=12)
        sampler = SeededTopP([0] * len(rows), sampling, device=torch.device("cpu"))
        return [row.tokens for row in decode_batch(model, rows, sampler, stop_ids=frozenset(), pad_id=0)]

    alone = [decode([prompt])[0] for prompt in prompts]
    sizes.clear()
    assert decode(prompts) == alone
    assert sizes[:2] == [(1, 300), (3, 4)]


def test_what_prompts_share_is_counted() -> None:
    cache = build_growing_cache(Qwen2Config(**SIZES))
    begin = list(range(decoding.LEAST_SHARED))
    assert count_shared([(*begin, 1, 2), (*begin, 1, 3, 4), (*begin, 1)], cache) == len(begin)
    assert count_shared([(*begin, 1, 2), (*begin, 1, 3, 4)], cache) == len(begin) + 1
    # One prompt alone, one that is the beginning of the other, and too little.
    assert count_shared([(*begin, 1)], cache) == 0
    assert count_shared([tuple(begin), (*begin, 1)], cache) == 0
    assert count_shared([(*begin[1:], 1), (*begin[1:], 2)], cache) == 0


def test_a_sliding_window_reads_prompts_whole() -> None:
    """A window counts places, and padding between the shared tokens and the rest would take some of them."""
    config = MistralConfig(**SIZES, sliding_window=16)
    begin = list(range(decoding.LEAST_SHARED))
    assert count_shared([(*begin, 1), (*begin, 2)], build_growing_cache(config)) == 0
