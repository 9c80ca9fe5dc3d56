"""Prompts that the model writes as the user's turn: what stands before it, what is read, and where it is refused."""

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.conversations import Turn, write_conversation
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.contract import AnyRecipe, find_recipe
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.recipes.steps.rows import Example
from lance_assets.recipes.steps.user_turns import propose_user_turns
from lance_assets.records import RAW_GENERATIONS, Sample
from lance_assets.settings.experiment import ExperimentSettings
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import NOT_TRAINED, build_inputs, identify, seeds

ROWS = [Example(f"s{number}", f"Prompt {number}", f"Completion {number}") for number in range(5)]

SERVER = {"base_url": "http://s.example/v1"}


class Writer(ScriptedAsk):
    """Writes a user's turn where it is asked to, and may be given no message before it."""

    def __call__(self, stage, requests, sampling=None):  # type: ignore[no-untyped-def]
        self.requests[stage] = list(requests)
        return [Sample(r.row_id, self.say(stage, "", n), "stop", 1, 1) for n, r in enumerate(requests)]


def test_magpie_has_nothing_but_the_system_message_before_the_turn() -> None:
    for profile, roles in (("small", []), ("full", ["system"])):
        identity = RoundIdentity("mini", "r0001", 0, Templates(profile, "lance"))
        ask = Writer(lambda stage, text, number: f" <think>What now?</think>\nName {number} birds. ")
        made = propose_user_turns(identity, ask, ROWS[:2], num_samples=2, pool=ROWS, num_examples=3, is_seeded=False)
        requests = ask.requests["new_prompt"]
        assert [[message["role"] for message in request.messages] for request in requests] == [roles] * 4
        assert {request.writes for request in requests} == {"user"}
        assert len({request.sampling_seed for request in requests}) == len({r.row_id for r in requests}) == 4
        assert [row.prompt for row in made] == [f"Name {number} birds." for number in range(4)]
        assert [(row.seed_id, row.sample_number) for row in made] == [("s0", 0), ("s0", 1), ("s1", 0), ("s1", 1)]


def test_seeds_stand_before_the_turn_as_conversations_the_rows_own_last() -> None:
    talk = Example("t", write_conversation([Turn("system", "Brief."), Turn("user", "Hi?")]), "Ho.")
    ask = Writer(lambda stage, text, number: "Name a bird.")
    propose_user_turns(identify(), ask, [talk], num_samples=1, pool=[*ROWS, talk], num_examples=2, is_seeded=True)
    (request,) = ask.requests["new_prompt"]
    assert [message["role"] for message in request.messages] == ["user", "assistant"] * 3
    assert [message["content"] for message in request.messages[-2:]] == ["Hi?", "Ho."]
    shown = {message["content"] for message in request.messages[:-2:2]}
    assert len(shown) == 2
    assert shown < {row.prompt for row in ROWS}


def test_a_turn_without_words_is_no_prompt_and_one_with_a_mark_is_text() -> None:
    said = ["", "<think>So", "␞ assistant\nMine."]
    ask = Writer(lambda stage, text, number: said[number])
    made = propose_user_turns(identify(), ask, ROWS[:3], num_samples=1, is_seeded=False)
    assert [row.prompt for row in made] == [None, None, "␞ user\n␞␞ assistant\nMine."]


@pytest.mark.parametrize("recipe", [find_recipe(name) for name in ("lance", "self_rewarding", "i_sheep")])
@pytest.mark.parametrize("proposals", ["magpie", "magpie_seeded"])
def test_a_round_completes_what_the_model_wrote_as_the_user(recipe: AnyRecipe, proposals: str) -> None:
    def say(stage: str, text: str, number: int) -> str:
        return {"seed_review": "score: 3", "new_prompt": f"Name {number} birds."}.get(stage, "Hens and ducks.")

    settings = recipe.settings(proposals=proposals, num_prompts=1)
    raw = recipe.generate(build_inputs(settings, ask=Writer(say)), seeds({"a": 3.0, "b": 3.0}), NOT_TRAINED)
    assert raw.schema == RAW_GENERATIONS
    assert raw.filter(kind="new_prompt")["prompt"].to_list() == ["Name 0 birds.", "Name 1 birds."]
    assert set(raw.filter(kind="completion")["prompt"]) == {"Name 0 birds.", "Name 1 birds."}
    assert recipe.list_prompts is not None
    assert "new_prompt" not in {step.name for step in recipe.list_prompts(settings) if step.is_asked}


def test_what_is_proposed_is_as_before_where_nothing_is_said() -> None:
    assert LanceSettings().proposals == "template"
    ask = ScriptedAsk(lambda stage, text, number: "score: 3" if stage == "seed_review" else "Final Answer: Sort 3 1.")
    raw = find_recipe("lance").generate(build_inputs(LanceSettings(), ask=ask), seeds({"a": 3.0}), NOT_TRAINED)
    assert {request.writes for requests in ask.requests.values() for request in requests} == {"assistant"}
    assert raw.filter(pl.col("kind") == "new_prompt").height == 4


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        (
            {"engine": {"kind": "openai", "openai": {"base_url": "http://s.example/v1", "load_adapters": True}}},
            "engine",
        ),
        (
            {
                "recipe": "self_rewarding",
                "roles": {"prompter": {"engine": {"kind": "openai", "openai": SERVER}}},
            },
            r"roles\.prompter\.engine",
        ),
    ],
)
def test_a_server_that_only_answers_is_refused_when_the_file_is_read(changed: dict, where: str) -> None:
    attributes = {
        **{"recipe": "lance", "model": "small", "seeds": {"path": "seeds.jsonl"}},
        "training": {"lora": {}},
        "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
        "parameters": {"proposals": "magpie"},
    }
    with pytest.raises(ValidationError, match=rf"proposals: magpie .* and {where}\.kind is openai"):
        ExperimentSettings.model_validate(attributes | changed)
    ExperimentSettings.model_validate(attributes | changed | {"parameters": {}})
