"""Constrained decoding in our own loop: every sample matches its grammar, and rows stay their own."""

import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lance_assets.recipes.steps.judging import VERDICT_GRAMMAR
from lance_assets.recipes.steps.reviewing import build_score_grammar
from lance_assets.records import Request, SamplingSettings
from resources.engines.contract import GrammarError, sample_in_order
from resources.engines.transformers.engine import TransformersEngine

REQUESTS = [Request(f"q{number}", ({"role": "user", "content": f"Sort 3 {number} 2."},), number) for number in range(9)]
SHORT = r"[a-z ]{3,9}\nscore: (10|[0-9])"


def sample(engine: TransformersEngine, grammar: str | None, **changed: float):
    settings = {"temperature": 1.3, "top_p": 1.0, "max_new_tokens": 40} | changed
    return sample_in_order(engine, REQUESTS, SamplingSettings(**settings, grammar=grammar))


@pytest.fixture(scope="module")
def engine(small_model: Path) -> TransformersEngine:
    return TransformersEngine(small_model, batch_size=4, device="cpu", num_threads=1)


def test_samples_obey_a_grammar_that_the_model_would_not_follow(engine: TransformersEngine) -> None:
    assert engine.can_constrain()
    constrained = sample(engine, SHORT)
    assert all(re.fullmatch(SHORT, one.text) and one.finish_reason == "stop" for one in constrained)
    assert not any(re.fullmatch(SHORT, one.text) for one in sample(engine, None))
    assert len({one.text for one in constrained}) > 6, "every row draws from its own stream"
    # A cut sample may still be on its way; one that ended has its ending.
    for one in sample(engine, build_score_grammar(lowest=0, highest=10)):
        assert one.finish_reason == "length" or re.fullmatch(build_score_grammar(lowest=0, highest=10), one.text)


def test_a_constrained_row_does_not_depend_on_its_neighbours(engine: TransformersEngine, small_model: Path) -> None:
    alone = TransformersEngine(small_model, batch_size=1, device="cpu", num_threads=1)
    assert [one.text for one in sample(alone, SHORT)] == [one.text for one in sample(engine, SHORT)]


def test_a_penalty_never_leads_out_of_the_grammar(engine: TransformersEngine) -> None:
    for one in sample(engine, r"(ab){3}", repetition_penalty=5.0):
        assert one.text == "ababab"


@pytest.mark.parametrize("grammar", ["(a", "(?=a)b"])
def test_what_is_no_regular_expression_is_refused_by_its_name(engine: TransformersEngine, grammar: str) -> None:
    with pytest.raises(GrammarError, match="cannot be compiled") as caught:
        sample(engine, grammar)
    assert repr(grammar) in str(caught.value)


@pytest.fixture(scope="module")
def few_letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose vocabulary has the letters a to e, a blank and the end of a turn."""
    folder = tmp_path_factory.mktemp("few_letters")
    names = ["<end>", *"abcde Ġ"]
    tokenizer = Tokenizer(BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = (
        "{% for message in messages %}{{ message.role }} {{ message.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=0,
        max_position_embeddings=128,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_vocabulary_that_cannot_write_the_grammar_is_told_before_any_row(few_letters: Path) -> None:
    engine = TransformersEngine(few_letters, device="cpu", num_threads=1)
    assert all(re.fullmatch("(abc|xyz)", one.text) for one in sample(engine, "(abc|xyz)"))
    for grammar in ("(.|\n)*score: [0-9]", VERDICT_GRAMMAR, "z"):
        with pytest.raises(GrammarError, match="its vocabulary lacks letters that the grammar needs"):
            sample(engine, grammar)
    assert not engine.can_constrain()


def test_a_row_that_runs_into_a_dead_end_fails_by_itself(few_letters: Path) -> None:
    """After "d" only a letter outside of ASCII would go on, which is not looked for beforehand."""
    engine = TransformersEngine(few_letters, device="cpu", num_threads=1)
    samples = sample(engine, "(abc|dé)")
    failed = [one for one in samples if one.finish_reason == "error"]
    assert {one.text for one in samples if one not in failed} == {"abc"}
    assert failed
    assert all("the grammar allows no token of the vocabulary after 'd'" in str(one.error) for one in failed)
