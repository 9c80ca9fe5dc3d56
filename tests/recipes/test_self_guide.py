"""SELF-GUIDE on rows worked by hand, with a model that says what the test wrote."""

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.algorithms.selection.annotated_inputs import GREETINGS
from lance_assets.conversations import read_conversation
from lance_assets.prompts import Templates, show_question
from lance_assets.recipes.contract import find_recipe
from lance_assets.recipes.self_guide import RECIPE, build_sft_set, word_prompt
from lance_assets.recipes.self_guide.settings import SelfGuideSettings
from lance_assets.recipes.self_guide.writing import choose_demos
from lance_assets.recipes.steps.rows import Seed, read_rows
from lance_assets.records import SEED_SET
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, NOT_TRAINED, build_inputs, identify, is_held_out, run_to_review

DEMOS = {"Is 4 even?": "even", "Is 5 even?": "odd", "Is 7 even?": "odd"}
LABELS = {"even": (), "odd": ("uneven",)}


def write_seeds(number: int = 3) -> pl.DataFrame:
    rows = [
        {"row_id": f"d{place}", "prompt": prompt, "completion": completion, "source": "seed"}
        for place, (prompt, completion) in enumerate(DEMOS.items())
    ]
    return pl.DataFrame(rows, schema=SEED_SET)[:number]


def settings(**given: object) -> SelfGuideSettings:
    few = {"num_waves": 2, "wave_size": 3, "num_annotations": 4, "filters_input_length": False}
    return SelfGuideSettings.model_validate(few | {"instruction": "Say whether it is even."} | given)


SAID = {
    "input1": ["Final Answer: Is 8 even?", "Final Answer: Is 8 even?", "Final Answer: Of course! Is 6 even?"],
    "input2": ["Final Answer: Is 9 even?", "I would ask something.", ("Final Answer: Is 10 ev", "length")],
}
ANNOTATED = {
    "Is 8 even?": ["even", "It is even.", "odd", "even or odd"],
    "Is 9 even?": ["odd", "uneven", "odd", "odd"],
}


def say(stage: str, text: str, number: int) -> str | tuple[str, str]:
    if stage != "annotation":
        return SAID[stage].pop(0) if SAID[stage] else "?"
    (asked,) = [prompt for prompt in ANNOTATED if prompt in text]
    return ANNOTATED[asked][number]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> ScriptedAsk:
    left = {stage: list(texts) for stage, texts in SAID.items()}
    monkeypatch.setitem(globals(), "SAID", left)
    return ScriptedAsk(say)


def test_a_classification_is_written_annotated_and_balanced(ask: ScriptedAsk) -> None:
    """Six inputs: two are accepted; each agrees on a label, so that both classes have one row."""
    recipe, own = find_recipe("self_guide"), settings(labels=LABELS)
    seeds = write_seeds()
    raw, cleaned, reviewed = run_to_review(recipe, own, seeds, ask)
    inputs = raw.filter(kind="new_prompt")
    assert inputs["refused_reason"].to_list() == [None, "repeated", "noise", None, "empty", "cut_off"]
    assert inputs["finish_reason"].to_list()[-1] == "length"
    annotations = raw.filter(kind="annotation")
    assert annotations["refused_reason"].to_list() == [None, None, None, "no_label", None, None, None, None]
    agreed = raw.filter(kind="completion").select("prompt", "completion", "agreement").rows()
    assert agreed == [("Is 8 even?", "even", 2 / 3), ("Is 9 even?", "odd", 1.0)]
    assert cleaned.filter(pl.col("drop_reason").is_null())["kind"].to_list() == ["new_prompt"] * 2 + ["completion"] * 2
    assert reviewed["drop_reason"].to_list() == [None, None]
    assert ask.counts == {"input1": 3, "input2": 3, "annotation": 8}


def test_each_wave_shows_what_earlier_ones_brought_and_names_a_label(ask: ScriptedAsk) -> None:
    own, recipe = settings(labels=LABELS), find_recipe("self_guide")
    recipe.generate(build_inputs(own, identify(profile="full"), ask=ask), write_seeds(), NOT_TRAINED)
    first, second = (
        [request.messages[-1]["content"] for request in ask.requests[stage]] for stage in ("input1", "input2")
    )
    assert not any("written before" in text for text in first)
    assert all("written before" in text and "Is 8 even?" in text for text in second)
    assert all("Say whether it is even." in text and all(demo in text for demo in DEMOS) for text in first + second)
    named = {text.partition("The right output of this input is: ")[2].split("\n")[0] for text in first + second}
    assert named <= {"even", "odd"}
    assert "" not in named


def test_rows_are_trained_on_in_the_words_of_the_annotations_and_evaluated_so(ask: ScriptedAsk) -> None:
    """The released code trains on the few-shot prompt, and asks with it."""
    own, seeds = settings(labels=LABELS), write_seeds()
    identity = identify(profile="full")
    raw = RECIPE.generate(build_inputs(own, identity, ask=ask), seeds, NOT_TRAINED)
    cleaned = RECIPE.clean(build_inputs(own, is_evaluation_prompt=is_held_out), raw, seeds)
    reviewed = RECIPE.review(build_inputs(own, identity), cleaned, seeds, raw)
    given = build_inputs(own, identity, seeds=seeds)
    trained = build_sft_set(given, reviewed, EFT)
    assert trained["completion"].to_list()[:2] == ["even", "odd"]
    assert trained["source"].to_list() == ["generated", "generated", "eft"]
    asked = {tuple(map(tuple, (message.items() for message in one.messages))) for one in ask.requests["annotation"]}
    for prompt in trained["prompt"].to_list()[:2]:
        turns = read_conversation(prompt)
        assert [turn.role for turn in turns] == ["user", "assistant"] * 3 + ["user"]
        assert tuple(map(tuple, (one.items() for one in Templates("full").build_messages(prompt)))) in asked
    assert word_prompt(given, "Is 9 even?") == trained["prompt"][1]
    assert show_question(word_prompt(given, "Is 9 even?")).endswith("Input: Is 9 even?")


def test_the_larger_class_loses_its_surplus_and_the_balanced_set_is_trained_on() -> None:
    """The released demo computes the balanced set and trains on the other one."""
    prompts = ["Is 11 even?", "Is 13 even?", "Is 15 even?", "Is 12 even?"]

    def answer(stage: str, text: str, number: int) -> str:
        if stage == "annotation":
            return "even" if "12" in text.rpartition("\n")[2] else "odd"
        return f"Final Answer: {waiting.pop(0)}"

    waiting = list(prompts)
    own = settings(labels=LABELS, num_waves=1, wave_size=4)
    _, _, reviewed = run_to_review(find_recipe("self_guide"), own, write_seeds(), ScriptedAsk(answer))
    assert sorted(reviewed["drop_reason"].fill_null("kept")) == ["kept", "kept", "surplus", "surplus"]
    trained = build_sft_set(build_inputs(own, seeds=write_seeds()), reviewed, NOT_TRAINED)
    assert sorted(trained["completion"]) == ["even", "odd"]


def test_without_agreement_an_input_and_its_row_are_dropped_with_the_reason() -> None:
    def disagree(stage: str, text: str, number: int) -> str:
        return f"no{number}" if stage == "annotation" else "Final Answer: What is 2 and 2?"

    own = settings(num_waves=1, wave_size=1, min_agreement=0.3)
    raw, cleaned, reviewed = run_to_review(find_recipe("self_guide"), own, write_seeds(), ScriptedAsk(disagree))
    assert raw.filter(kind="completion").select("agreement", "refused_reason").rows() == [(0.25, "no_agreement")]
    assert cleaned.select("kind", "drop_reason").rows() == [
        ("new_prompt", "no_completion"),
        ("completion", "no_agreement"),
    ]
    assert reviewed.is_empty()


def test_a_request_that_would_grow_too_long_shows_fewer_inputs_and_every_demonstration(ask: ScriptedAsk) -> None:
    """The released code draws for ever where the demonstrations alone are too long."""
    own = settings(labels=LABELS, max_shown_chars=0)
    RECIPE.generate(build_inputs(own, identify(profile="full"), ask=ask), write_seeds(), NOT_TRAINED)
    texts = [request.messages[-1]["content"] for request in ask.requests["input2"]]
    assert all(demo in text for demo in DEMOS for text in texts)
    assert not any("written before" in text for text in texts)


def test_the_switch_of_the_inputs_lengths_acts() -> None:
    """The released switch compares a text of the folder's name with "True", and never acts."""

    def write(stage: str, text: str, number: int) -> str:
        return "4" if stage == "annotation" else "Final Answer: Is the sum of 4, 5, 6 and 7 even?"

    for is_on, reason in ((True, "odd_length"), (False, None)):
        own = settings(num_waves=1, wave_size=1, filters_input_length=is_on)
        raw = RECIPE.generate(build_inputs(own, ask=ScriptedAsk(write)), write_seeds(), NOT_TRAINED)
        assert raw.filter(kind="new_prompt")["refused_reason"].to_list() == [reason]


def test_a_tasks_noise_is_added_to_the_greetings() -> None:
    """Of three inputs the first has a greeting and the second the task's own noise; so have two of four annotations.

    The two that are left say the same: an agreement of 1. Where the task's list stood in the place of the greetings,
    the first input would be accepted; without the task's list the second one would be.
    """
    written = ["Great question! Is 8 even?", "[input] Is 6 even?", "Is 2 even?"]
    said = ["even", "Of course! It is.", "[output] even", "even"]

    def write(stage: str, text: str, number: int) -> str:
        return said[number] if stage == "annotation" else f"Final Answer: {waiting.pop(0)}"

    expected = {
        ("[input]", "[output]"): (["noise", "noise", None], [None, "noise", "noise", None], [1.0]),
        (): (["noise", None, None], [None, "noise", None, None] * 2, [2 / 3, 2 / 3]),
    }
    for noise, (inputs, annotations, agreement) in expected.items():
        waiting = list(written)
        own = settings(num_waves=1, noise=noise, filters_output_length=False)
        raw = RECIPE.generate(build_inputs(own, ask=ScriptedAsk(write)), write_seeds(), NOT_TRAINED)
        assert raw.filter(kind="new_prompt")["refused_reason"].to_list() == inputs
        assert raw.filter(kind="annotation")["refused_reason"].to_list() == annotations
        assert raw.filter(kind="completion")["agreement"].to_list() == agreement


def test_too_few_seeds_and_wrong_labels_are_told() -> None:
    with pytest.raises(ValueError, match="num_demos: 3 demonstrations are wanted, and there are 2 seeds; give more"):
        choose_demos(read_rows(Seed, write_seeds(2)), settings())
    with pytest.raises(ValidationError, match="labels must be two or more to choose from, got even"):
        settings(labels={"even": ()})
    with pytest.raises(ValidationError, match="noise has an empty text, which every text contains; remove it"):
        settings(noise=("",))
    assert settings().all_noise == GREETINGS
    assert settings(noise=("[input]",)).all_noise == (*GREETINGS, "[input]")
    assert settings().sampling.temperature == 0.7
    assert RECIPE.find_sampling("annotation", settings()).temperature == 0.2
    assert RECIPE.find_sampling("input7", settings()).max_new_tokens == 500
