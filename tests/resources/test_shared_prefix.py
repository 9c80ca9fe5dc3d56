"""What all prompts of a batch begin with is read once, and the texts are those of reading every prompt whole."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.seeds import draw_seeds
from resources.engines.contract import sample_in_order
from resources.engines.sampling import SeededTopP
from resources.engines.transformers import prefixes, row_batch
from resources.engines.transformers.decoding import Rules, decode_batch
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.transformers.grouped_attention import use_grouped_attention
from resources.engines.transformers.growing_cache import build_growing_cache
from resources.engines.transformers.prefixes import PASS_TOKENS, count_begun, part_alike, plan_reading
from resources.engines.transformers.row_batch import find_least_shared, keeps_begins, passes_over_holes, reads_in_parts
from tests.resources.test_packed_products import KINDS, build_model

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
    # Both are tried once, on a few tokens.
    assert keeps_begins(engine.load()[0])
    assert passes_over_holes(engine.load()[0])
    whole, num_whole = count_read(engine, requests, sampling)
    monkeypatch.setattr(row_batch, "find_least_shared", lambda num_parameters: 8)
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


RULES = Rules(frozenset(), pad_id=0)
SIZES = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3},
}


@pytest.mark.parametrize("keeps_once", [True, False])
@pytest.mark.parametrize("num_common", [0, 30])
def test_rows_of_unlike_lengths_are_read_in_parts(
    keeps_once: bool, num_common: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model does so; here a small one, whose pass is worth four tokens of padding."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    if keeps_once:
        use_grouped_attention(model)
    monkeypatch.setattr(row_batch, "find_least_shared", lambda num_parameters: 16)
    monkeypatch.setattr(prefixes, "PASS_TOKENS", 4)
    begin = torch.randint(1, 64, (num_common,)).tolist()
    # Two groups have more in common than all, and one row is asked twice.
    ends = [*([7] * 40 + [place] for place in (1, 2)), [3], [4, 5], *([8] * 60 + [place] * place for place in (3, 9))]
    prompts = [[*begin, *end] for end in (*ends, [4, 5], *([place] * place for place in (11, 12, 25)))]
    sampling = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=12)
    sizes: list[int] = []
    model.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(given["input_ids"].numel()), with_kwargs=True
    )
    found, read = [], []
    for in_parts in (False, True):
        monkeypatch.setattr(row_batch, "FEWEST_PARAMETERS", 0 if in_parts else 10**9)
        sizes.clear()
        sampler = SeededTopP(range(len(prompts)), sampling, device=torch.device("cpu"))
        found.append([row.tokens for row in decode_batch(model, prompts, sampler, RULES)])
        read.append(sum(sizes))
        alone = []
        for place, prompt in enumerate(prompts):
            sampler = SeededTopP([place], sampling, device=torch.device("cpu"))
            alone += [row.tokens for row in decode_batch(model, [prompt], sampler, RULES)]
        assert found[-1] == alone
    assert found[0] == found[1]
    assert read[1] < read[0]


def test_only_a_large_model_that_keeps_all_reads_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    sliding = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)).eval()
    assert not reads_in_parts(model, build_growing_cache(model.config))
    monkeypatch.setattr(row_batch, "FEWEST_PARAMETERS", 1)
    cache = build_growing_cache(model.config)
    assert reads_in_parts(model, cache)
    assert not reads_in_parts(sliding, build_growing_cache(sliding.config))
    assert not reads_in_parts(model.to("meta"), cache)
    for layer in cache.layers:
        layer.update(torch.ones((1, 2, 3, 8)), torch.ones((1, 2, 3, 8)))
    # Of what rows have already, nothing is copied.
    assert not reads_in_parts(Qwen2ForCausalLM(Qwen2Config(**SIZES)), cache)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=7))
def test_parts_are_the_cheapest_of_all(lengths: list[int]) -> None:
    parts = part_alike(lengths)
    assert sorted(place for part in parts for place in part) == list(range(len(lengths)))

    def cost(sizes: list[list[int]]) -> int:
        return sum(len(part) * max(part) + PASS_TOKENS for part in sizes)

    ordered = sorted(lengths)
    # Every way to cut them in order: a bit for each place between two rows.
    ways = [
        [part for part in _cut(ordered, [place for place in range(1, len(ordered)) if bits >> place & 1]) if part]
        for bits in range(1 << len(ordered))
    ]
    assert cost([[lengths[place] for place in part] for part in parts]) == min(map(cost, ways))


def _cut(ordered: list[int], places: list[int]) -> list[list[int]]:
    return [ordered[start:end] for start, end in zip([0, *places], [*places, len(ordered)], strict=True)]


@pytest.mark.parametrize("keeps_once", [True, False])
def test_long_prefixes_are_shared_without_being_told(keeps_once: bool) -> None:
    """300 tokens in common and ends of different lengths, one of them the shared part and a single token."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    if keeps_once:
        use_grouped_attention(model)
    assert keeps_begins(model) == keeps_once
    begin = torch.randint(1, 64, (300,)).tolist()
    prompts = [[*begin, *end] for end in ([5], [6, 7, 8, 9], [5, 7], [6, 7, 8, 9])]
    sizes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )

    def decode(rows: list[list[int]]) -> list[list[int]]:
        sampling = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=12)
        sampler = SeededTopP([0] * len(rows), sampling, device=torch.device("cpu"))
        return [row.tokens for row in decode_batch(model, rows, sampler, RULES)]

    alone = [decode([prompt])[0] for prompt in prompts]
    assert passes_over_holes(model)
    sizes.clear()
    assert decode(prompts) == alone
    assert sizes[:2] == [(1, 300), (3, 4)]


@pytest.mark.parametrize("keeps_once", [True, False])
def test_groups_are_shared_too(keeps_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three continuations of each of three questions, of which two begin alike, and a question that is asked once."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    if keeps_once:
        use_grouped_attention(model)
    template = torch.randint(1, 64, (40,)).tolist()
    questions = [[*template, *torch.randint(1, 64, (length,)).tolist()] for length in (70, 90, 90, 75)]
    ends = [torch.randint(1, 64, (length,)).tolist() for length in (3, 8, 20)]
    prompts = [[*question, *end] for question in questions[:3] for end in ends] + [questions[3]]
    sizes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )

    def decode(rows: list[list[int]]) -> list[tuple[list[int], int]]:
        sampling = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=12)
        sampler = SeededTopP([0] * len(rows), sampling, device=torch.device("cpu"))
        found = decode_batch(model, rows, sampler, RULES)
        return [(row.tokens, row.num_shared) for row in found]

    alone = [decode([prompt])[0][0] for prompt in prompts]
    sizes.clear()
    monkeypatch.setattr(row_batch, "find_least_shared", lambda num_parameters: 32)
    assert keeps_begins(model) == keeps_once
    assert passes_over_holes(model)
    sizes.clear()
    found = decode(prompts)
    assert [tokens for tokens, _ in found] == alone
    # The template, the four questions, and what is behind each.
    assert sizes[:3] == [(1, 40), (4, 90), (10, 20)]
    assert [shared for _, shared in found] == [0, 110, 110, 40, 130, 130, 40, 130, 130, 40]


prompts_of_few_tokens = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=24).map(tuple), min_size=1, max_size=12
)


@given(prompts=prompts_of_few_tokens, least=st.one_of(st.none(), st.integers(1, 6)))
def test_every_prompt_is_read_whole_and_in_its_order(prompts: list[tuple[int, ...]], least: int | None) -> None:
    reading = plan_reading(prompts, least_shared=least)
    read: list[tuple[int, ...]] = [()]
    for level in reading.levels:
        assert all(level.pieces)
        read = [read[parent] + piece for parent, piece in zip(level.parents, level.pieces, strict=True)]
    assert [read[row] for row in reading.rows] == prompts
    # What was read, and what was not read again, are all tokens.
    num_read = sum(len(piece) for level in reading.levels for piece in level.pieces)
    assert num_read + sum(reading.shared) == sum(map(len, prompts))
    if least is None:
        assert num_read == sum(map(len, dict.fromkeys(prompts)))


def test_what_all_prompts_share_is_counted() -> None:
    least, begin = 5, tuple(range(5))
    assert count_begun([(*begin, 1, 2), (*begin, 1, 3, 4), (*begin, 1)], least) == 5
    assert count_begun([(*begin, 1, 2), (*begin, 1, 3, 4)], least) == 6
    # One prompt alone, one that is the beginning of the other, too little, and never.
    assert count_begun([(*begin, 1)], least) == 0
    assert count_begun([begin, (*begin, 1)], least) == 0
    assert count_begun([(*begin[1:], 1), (*begin[1:], 2)], least) == 0
    assert count_begun([(*begin, 1), (*begin, 2)], None) == 0


def test_a_sliding_window_reads_prompts_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window counts places, and padding between the shared tokens and the rest would take some of them."""
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16)).eval()
    monkeypatch.setattr(row_batch, "find_least_shared", lambda num_parameters: 4)
    sizes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    sampler = SeededTopP([0, 0], SamplingSettings(0.0, 1.0, 2), device=torch.device("cpu"))
    begin = list(range(1, 20))
    decode_batch(model, [[*begin, 1], [*begin, 2]], sampler, RULES)
    assert sizes[0] == (2, 20)


@pytest.mark.parametrize(("num_parameters", "least"), [(1_748_160, 256), (134_515_008, 32)])
def test_a_small_model_shares_long_beginnings_alone(num_parameters: int, least: int) -> None:
    assert find_least_shared(num_parameters) == least


def test_turns_that_begin_after_the_same_messages_lie_side_by_side(
    engine: TransformersEngine, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that reads them apart is asked so, and a small one by the lengths alone."""
    begun = [
        replace(request, row_id=f"{request.row_id}{end}", prefill=end)
        for end in ("1 2 3 4 5 6 7 8 9", "Yes.")
        for request in requests[:3]
    ]
    batches: list[list[str]] = []
    sample_batch = TransformersEngine._sample_batch

    def note(self: TransformersEngine, asked: list[Request], *given: object) -> list[Sample]:
        batches.append([request.row_id[:4] for request in asked])
        return sample_batch(self, asked, *given)

    monkeypatch.setattr(TransformersEngine, "_sample_batch", note)
    monkeypatch.setattr(engine, "batch_size", 2)
    by_length = sample_in_order(engine, begun, GREEDY)
    monkeypatch.setattr("resources.engines.transformers.engine.FEWEST_PARAMETERS", 0)
    side_by_side = sample_in_order(engine, begun, GREEDY)
    assert [sample.text for sample in side_by_side] == [sample.text for sample in by_length]
    assert all(one == other for one, other in batches[3:])
    assert not all(one == other for one, other in batches[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_keeps_its_beginning_once_or_not_at_all(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a family's attention does with the keys, its tokens are those of reading each prompt alone."""
    model = build_model(kind)
    use_grouped_attention(model)
    monkeypatch.setattr(row_batch, "find_least_shared", lambda num_parameters: 4)

    def decode(rows: list[list[int]]) -> list[list[int]]:
        sampler = SeededTopP([0] * len(rows), SamplingSettings(0.0, 1.0, 5), device=torch.device("cpu"))
        return [row.tokens for row in decode_batch(model, rows, sampler, RULES)]

    begin = list(range(1, 20))
    prompts = [[*begin, 30], [*begin, 31, 32, 33], [*begin, 34, 35]]
    assert decode(prompts) == [decode([prompt])[0] for prompt in prompts]
