"""What follows a sample is asked while the engine holds it, and gives what a stage of its own gives."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lance_assets.recipes.steps.judging import build_verdict_ending_sampling, list_verdict_endings
from lance_assets.recipes.steps.reviewing import (
    Rubric,
    build_ending_sampling,
    force_endings,
    list_endings,
    read_review,
)
from lance_assets.records import FollowUp, Request, Sample, SamplingSettings, derive_row_id
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.seeds import draw_seeds
from resources.engines.contract import FollowingEngine, GrammarError, ModellessEngine, sample_in_order
from resources.engines.durable_stage import run_durably
from resources.engines.sampling import SeededTopP
from resources.engines.transformers import decoding, follow_ups, prefixes, row_batch
from resources.engines.transformers.decoding import Decoded, EndedRows, Rules, decode_batch
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.transformers.grouped_attention import use_grouped_attention
from tests.resources.test_packed_products import KINDS, build_model
from tests.resources.test_shared_prefix import ASKED, SIZES

LEFT_TO_THE_STAGE = ("gemma2", "gemma3_text", "mistral", "mamba", "mpt")
"""Families with sliding windows, without attention, or whose attention goes by a token's place."""
RUBRIC = Rubric("lance/review", 0, 10)
REVIEWS = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=12, tail_tokens=8)
ENDINGS = build_ending_sampling(RUBRIC)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    engine = TransformersEngine(SMALL_MODEL, batch_size=8, device="cpu", dtype="float32", num_threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Three reviews of each of five seeds, which a cut of 12 tokens leaves without a score."""
    return [
        Request(f"{place}-{number}", ({"role": "user", "content": ASKED.format(**seed)},), 10 * place + number)
        for place, seed in enumerate(draw_seeds(num_seeds=40)[:5])
        for number in range(3)
    ]


def list_all(request: Request, sample: Sample) -> list[Request]:
    return list_endings(request, sample, rubric=RUBRIC, score_from="expected")


def follow(
    engine: TransformersEngine, requests: list[Request], follow_up: FollowUp, sampling: SamplingSettings
) -> list[Sample]:
    groups = engine.generate_followed(requests, REVIEWS, follow_up, sampling)
    samples = {sample.row_id: sample for group in groups for sample in group}
    return [samples[request.row_id] for request in requests]


@pytest.mark.parametrize("at_once", [32, 2])
def test_an_ending_at_once_is_that_of_a_stage_of_its_own(
    engine: TransformersEngine, requests: list[Request], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_ups, "ASKED_AT_ONCE", at_once)
    reviews = follow(engine, requests, FollowUp("review_ending", list_all), ENDINGS)
    # What follows changes nothing of the samples themselves.
    assert [replace(review, followed=()) for review in reviews] == sample_in_order(engine, requests, REVIEWS)
    followed = [ending for review in reviews for ending in review.followed]
    asked = [one for request, own in zip(requests, reviews, strict=True) for one in list_all(request, own)]
    assert len(asked) > len(requests)
    apart = sample_in_order(engine, asked, ENDINGS)
    assert [ending.row_id for ending in followed] == [request.row_id for request in asked]
    for one, other in zip(followed, apart, strict=True):
        assert (one.text, one.finish_reason, one.prompt_tokens) == (
            other.text,
            other.finish_reason,
            other.prompt_tokens,
        )
        assert 0 < one.cached_tokens < one.prompt_tokens
        for choice, same in zip(one.tail, other.tail, strict=True):
            assert choice.alternatives == pytest.approx(same.alternatives, abs=1e-3)


def test_reviews_that_have_their_endings_are_not_asked_again(
    engine: TransformersEngine, requests: list[Request]
) -> None:
    reviews = follow(engine, requests, FollowUp("review_ending", list_all), ENDINGS)
    apart = [replace(review, followed=()) for review in reviews]
    asked: list[str] = []

    def ask(stage: str, requests: list[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        asked.extend(request.row_id for request in requests)
        return sample_in_order(engine, requests, ENDINGS)

    given = {"rubric": RUBRIC, "score_from": "expected"}
    at_once = force_endings(ask, "review", requests, reviews, **given)
    assert asked == []
    # An engine may have left out some.
    some = [review if place % 2 else own for place, (review, own) in enumerate(zip(reviews, apart, strict=True))]
    failed = [replace(ending, finish_reason="error", error="no") for ending in reviews[1].followed]
    some[1] = replace(reviews[1], followed=tuple(failed))
    mixed = force_endings(ask, "review", requests, some, **given)
    assert {ending.row_id for ending in failed} <= set(asked)
    assert len(asked) < sum(len(review.followed) for review in reviews)
    scores = [[read_review(one, rubric=RUBRIC, score_from="expected") for one in each] for each in (at_once, mixed)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert all(not one.followed for one in at_once)


def test_what_does_not_go_on_from_the_sample_is_left_to_its_stage(
    engine: TransformersEngine, requests: list[Request]
) -> None:
    """Other messages, a turn that has not begun, one that began before the sample, and what the model cannot hold."""

    def others(request: Request, sample: Sample) -> list[Request]:
        named = replace(request, row_id=derive_row_id(request.row_id, "other"), prefill=sample.text)
        return [replace(named, messages=({"role": "user", "content": "Hi."},)), replace(named, prefill="")]

    assert all(not one.followed for one in follow(engine, requests, FollowUp("other", others), ENDINGS))
    long = replace(ENDINGS, max_new_tokens=10**6)
    assert all(not one.followed for one in follow(engine, requests, FollowUp("long", list_all), long))
    begun = [replace(request, prefill="It is") for request in requests]
    assert all(not one.followed for one in follow(engine, begun, FollowUp("begun", list_all), ENDINGS))


def test_comparisons_are_followed_too(engine: TransformersEngine, requests: list[Request]) -> None:
    sampling = build_verdict_ending_sampling()
    found = follow(engine, requests, FollowUp("judge_pair_ending", list_verdict_endings), sampling)
    asked = [one for request, own in zip(requests, found, strict=True) for one in list_verdict_endings(request, own)]
    assert len(asked) == len(requests)
    apart = sample_in_order(engine, asked, sampling)
    assert [one.text for own in found for one in own.followed] == [one.text for one in apart]
    assert {one.text.strip() for one in apart} <= {"A", "B", "tie"}


def test_samples_with_what_follows_are_taken_up_as_they_were(
    engine: TransformersEngine, requests: list[Request], tmp_path: Path
) -> None:
    """A stage that is killed after its first batch gives the bytes of one that ran through, endings included."""
    follow_up, asked = FollowUp("review_ending", list_all), list[int]()

    def run(name: str, most: int) -> list[Sample]:
        def generate(rows: Sequence[Request]) -> Iterator[list[Sample]]:
            for number, group in enumerate(engine.generate_followed(rows, REVIEWS, follow_up, ENDINGS)):
                if number >= most:
                    raise KeyboardInterrupt
                asked.append(len(group))
                yield group

        given = {"folder": tmp_path / name, "fingerprint": "f", "log": lambda line: None, "stage": "review"}
        return run_durably(requests, generate=generate, flush_seconds=0.0, sampling=REVIEWS, **given).samples

    through = run("through", 9)
    with pytest.raises(KeyboardInterrupt):
        run("killed", 1)
    asked.clear()
    assert run("killed", 9) == through
    assert sum(asked) == len(requests) - 8
    assert all(one.tail for review in through for one in review.followed)
    # All is stored: nothing is asked again.
    asked.clear()
    assert (run("killed", 0), asked) == (through, [])


def test_memory_that_runs_out_leaves_what_follows_to_its_stage(
    engine: TransformersEngine, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples are there already, and are not asked again for it."""

    def refuse(*given: object, **named: object) -> list[Decoded]:
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as changed:
        changed.setattr(EndedRows, "go_on", refuse)
        found = follow(engine, requests, FollowUp("review_ending", list_all), ENDINGS)
    assert found == sample_in_order(engine, requests, REVIEWS)


def test_a_batch_that_is_halved_has_what_follows_each_row(
    engine: TransformersEngine, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = follow(engine, requests, FollowUp("review_ending", list_all), ENDINGS)
    decode = decoding.decode_batch

    def refuse_many(model: torch.nn.Module, prompts: list[tuple[int, ...]], *given: object, **named: object):
        if len(prompts) > 4:
            raise torch.OutOfMemoryError("no room")
        return decode(model, prompts, *given, **named)

    monkeypatch.setattr(decoding, "decode_batch", refuse_many)
    found = follow(engine, requests, FollowUp("review_ending", list_all), ENDINGS)
    assert [one.text for one in found] == [one.text for one in wanted]
    assert [[own.row_id for own in one.followed] for one in found] == [
        [own.row_id for own in one.followed] for one in wanted
    ]


def test_a_text_that_stops_a_sample_is_not_gone_on_from(engine: TransformersEngine, requests: list[Request]) -> None:
    """The sample is what comes before it, and so is what its ending begins with."""
    [first] = sample_in_order(engine, requests[:1], REVIEWS)
    stop = first.text[5:8]
    sampling = replace(REVIEWS, stop=(stop,))
    groups = engine.generate_followed(requests[:1], sampling, FollowUp("review_ending", list_all), ENDINGS)
    [cut] = [sample for group in groups for sample in group]
    assert stop not in cut.text
    apart = sample_in_order(engine, list_all(requests[0], cut), ENDINGS)
    assert len(cut.followed) == len(apart) == 2
    for one, other in zip(cut.followed, apart, strict=True):
        assert (one.text, one.prompt_tokens) == (other.text, other.prompt_tokens)
        assert one.tail[0].alternatives == pytest.approx(other.tail[0].alternatives, abs=1e-3)


def test_a_grammar_that_cannot_be_compiled_is_told_before_anything_is_asked(
    engine: TransformersEngine, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "decode_batch", lambda *given, **named: pytest.fail("a batch was decoded"))
    with pytest.raises(GrammarError, match="cannot be compiled"):
        follow(engine, requests, FollowUp("review_ending", list_all), replace(ENDINGS, grammar="(["))


def test_engines_without_rows_at_hand_do_not_follow(engine: TransformersEngine) -> None:
    assert isinstance(engine, FollowingEngine)
    assert not isinstance(ModellessEngine(), FollowingEngine)


def decode_behind(
    model: torch.nn.Module, prompts: list[list[int]], behind: list[list[tuple[int, ...]]], *, num_new: int, stop: int
) -> tuple[list[Decoded], dict[tuple[int, int], Decoded]]:
    """What the prompts gave, and by row and place what comes behind each of its pieces."""
    found: dict[tuple[int, int], Decoded] = {}

    def note(ended: EndedRows) -> None:
        keys = [(row, place) for row in ended.describe() for place in range(len(behind[row]))]
        sampler = SeededTopP([0] * len(keys), SamplingSettings(0.0, 1.0, 4), device=CPU)
        asked = [(row, behind[row][place]) for row, place in keys]
        if asked:
            found.update(zip(keys, ended.go_on(asked, sampler, Rules(frozenset(), 0, tail_tokens=4)), strict=True))

    sampling = SamplingSettings(1.0, 1.0, num_new)
    sampler = SeededTopP(list(range(len(prompts))), sampling, device=CPU)
    rules = Rules(frozenset({stop}), pad_id=0)
    return decode_batch(model, prompts, sampler, rules, on_ended=note), found


def compare_with_reading_anew(model: torch.nn.Module, prompts: list[list[int]]) -> None:
    """Go on from some, all and none of what rows gave; rows end at different steps, and leave in several groups."""
    written, _ = decode_behind(model, prompts, [[] for _ in prompts], num_new=16, stop=3)
    assert len({len(row.tokens) for row in written}) > 2
    behind = []
    for row, own in enumerate(written):
        tokens = tuple(own.tokens)
        behind.append([(*tokens[: row % 5], 7, 8), (*tokens, 9), (5,), tokens[: max(1, len(tokens) // 2)]])
    again, found = decode_behind(model, prompts, behind, num_new=16, stop=3)
    assert [row.tokens for row in again] == [row.tokens for row in written]
    assert len(found) == 4 * len(prompts)
    for (row, place), one in found.items():
        whole = [[*prompts[row], *behind[row][place]]]
        sampler = SeededTopP([0], SamplingSettings(0.0, 1.0, 4), device=CPU)
        [alone] = decode_batch(model, whole, sampler, Rules(frozenset(), 0, tail_tokens=4))
        assert one.tokens == alone.tokens
        for (_, choices), (_, same) in zip(one.tail, alone.tail, strict=True):
            assert dict(choices) == pytest.approx(dict(same), abs=1e-4)
        assert len(prompts[row]) <= one.num_shared < len(whole[0])


@pytest.mark.parametrize("keeps_once", [True, False])
@pytest.mark.parametrize("begins_alike", [True, False])
@pytest.mark.parametrize("in_parts", [True, False])
def test_rows_are_gone_on_with_from_any_of_their_tokens(
    keeps_once: bool, begins_alike: bool, in_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_parts:
        # As of a large model, whose pass is worth four tokens of padding.
        monkeypatch.setattr(row_batch, "FEWEST_PARAMETERS", 0)
        monkeypatch.setattr(prefixes, "PASS_TOKENS", 4)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    if keeps_once:
        use_grouped_attention(model)
    monkeypatch.setattr(row_batch, "find_least_shared", lambda num_parameters: 16)
    begin = torch.randint(5, 64, (40,)).tolist() if begins_alike else []
    prompts = [[*begin, *torch.randint(5, 64, (length,)).tolist()] for length in (3, 20, 7, 7, 31, 2, 9, 12) * 3]
    compare_with_reading_anew(model, prompts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_goes_on_as_if_it_read_anew_or_not_at_all(kind: str) -> None:
    model = build_model(kind)
    use_grouped_attention(model)
    prompts = [[5 + row, 6, 7, 8 + row][: 2 + row % 3] for row in range(4)]
    behind = [[(20, 21), (22,)] for _ in prompts]
    written, found = decode_behind(model, prompts, behind, num_new=6, stop=-1)
    for (row, place), one in found.items():
        sampler = SeededTopP([0], SamplingSettings(0.0, 1.0, 4), device=CPU)
        whole = [[*prompts[row], *behind[row][place]]]
        [alone] = decode_batch(model, whole, sampler, Rules(frozenset(), 0, tail_tokens=4))
        assert one.tokens == alone.tokens
        for (_, choices), (_, same) in zip(one.tail, alone.tail, strict=True):
            assert dict(choices) == pytest.approx(dict(same), abs=1e-3)
    assert len(found) == (0 if kind in LEFT_TO_THE_STAGE else 8)
    assert len(written) == 4


def test_a_sliding_window_leaves_what_follows_to_its_stage() -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16)).eval()
    _, found = decode_behind(model, [[5, 6, 7]], [[(8, 9)]], num_new=4, stop=-1)
    assert found == {}


def test_scores_of_endings_are_finite(engine: TransformersEngine, requests: list[Request]) -> None:
    """The probabilities behind "score: " and behind "score: 1" are of one distribution each."""
    for review in follow(engine, requests, FollowUp("review_ending", list_all), ENDINGS):
        for ending in review.followed:
            shares = [math.exp(value) for value in ending.tail[0].alternatives.values()]
            assert 0.5 < sum(shares) <= 1.0 + 1e-6
