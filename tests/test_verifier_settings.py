"""The section `verifier` of an experiment's file: what it needs, what it refuses, and what it changes."""

import re
from pathlib import Path
from typing import Any

import pytest

from lance_assets.recipes.contract import list_recipes
from lance_assets.rounds.nouns import identify, list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings

LANCE = {
    "recipe": "lance",
    "model": "small",
    "prompt_profile": "compact",
    "seeds": {"path": "seeds.jsonl", "answer_field": "answer"},
    "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
}
ANSWER = {"kind": "answer", "weight": 0.5}


def read(verifier: dict[str, Any] | None, **settings: Any) -> ExperimentSettings:
    return ExperimentSettings.model_validate(LANCE | {"verifier": verifier} | settings)


@pytest.mark.parametrize(
    ("verifier", "settings", "message"),
    [
        (
            {"kind": "answer"},
            {"seeds": {"path": "seeds.jsonl"}},
            "needs gold answers: name their column as seeds.answer",
        ),
        ({"kind": "code"}, {"seeds": {"path": "seeds.jsonl"}}, "needs tests"),
        ({"kind": "rules"}, {"seeds": {"path": "seeds.jsonl"}}, "needs rules"),
        ({"kind": "function"}, {}, "kind: function needs a name"),
        (
            {"kind": "function", "name": "my.py:f"},
            {},
            "verifier.name: my.py:f runs Python, and evaluation.allow_task_c",
        ),
        ({"kind": "answer", "isolation": "limits"}, {}, "isolation: needs kind: code, got answer"),
        ({"kind": "answer", "without_verdict": "review"}, {}, "needs a weight below 1"),
        ({"kind": "answer", "weight": 0}, {}, "greater than 0"),
        ({"kind": "rules", "rules": [{"kind": "no"}]}, {}, "there is no rule of the kind 'no'"),
        (
            {"kind": "answer"},
            {"recipe": "spin"},
            "recipe spin chooses no row by a score here; remove the section verif",
        ),
        *[
            ({"kind": "answer"}, {"recipe": name} | own, f"recipe {name} {words}.*; remove the section verifier")
            for name, own, words in (
                ("r_zero", {}, "takes for right what most answers of the model say"),
                ("clear", {}, "takes a correction where a judge prefers it"),
                ("cllm", {}, "keeps rows by its trees' confidence"),
            )
        ],
        (
            {"kind": "answer", "without_gold": "majority"},
            {"recipe": "kun", "texts": {"path": "texts.jsonl"}},
            "verifier.without_gold: majority takes the commonest of several answers to a prompt, and recipe kun",
        ),
        *[
            ({"kind": "answer"}, {"recipe": name} | own, f"recipe {name} chooses no row by a score here; remove the")
            for name, own in (
                ("llm2llm", {}),
                ("diverse_evol", {}),
                ("trace", {}),
                ("self_guide", {"parameters": {"instruction": "Answer."}}),
                ("lance", {"parameters": {"reviewer": "none"}}),
            )
        ],
        (None, {"recipe": "star"}, "recipe star keeps what is right: add a section verifier"),
        (ANSWER, {"recipe": "rft"}, "recipe rft asks no reviewer, so verifier.weight must be 1: 0.5"),
    ],
)
def test_what_cannot_be_verified_is_refused_with_the_remedy(
    verifier: dict[str, Any] | None, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(verifier, **settings)


def test_the_page_names_every_recipe_that_refuses_a_verifier() -> None:
    page = (Path(__file__).parents[1] / "docs" / "verifier.md").read_text(encoding="utf-8")
    taken, refused = page.partition("Every recipe that chooses")[2].partition("\n\n")[0].split("the file is refused: ")
    needs = {"self_guide": {"instruction": "Answer."}, "cllm": {"label": "ill"}}
    recipes = {recipe.name: recipe for recipe in list_recipes()}
    scores = {
        name: recipe.settings(**needs.get(name, {})).has_reviews and recipe.ignores_verifier is None
        for name, recipe in recipes.items()
    }
    assert {*re.findall(r"`(\w+)`", taken)} == {name for name in recipes if scores[name]}
    # LANCE stands there with the settings that make it refuse one.
    assert {*re.findall(r"`(\w+)`", refused)} - {"lance"} == {name for name in recipes if not scores[name]}


def test_a_function_needs_the_permission_that_task_code_needs() -> None:
    world = LANCE["evaluation"]
    assert isinstance(world, dict)
    allowed = read({"kind": "function", "name": "my.py:f"}, evaluation=world | {"allow_task_code": True})
    assert allowed.verifier is not None


def identify_all(tmp_path: Path, verifier: dict[str, Any] | None) -> dict[str, Any]:
    (tmp_path / "seeds.jsonl").write_text('{"prompt": "p", "completion": "c", "answer": "a"}\n')
    plan = Plan("mine", tmp_path, read(verifier))
    return {noun.name: identify(plan, noun.name) for noun in list_nouns(plan)}


def test_a_verifier_marks_what_it_judges_and_nothing_else(tmp_path: Path) -> None:
    without, mixed = identify_all(tmp_path, None), identify_all(tmp_path, ANSWER)
    changed = {name for name in mixed if mixed[name] != without[name]}
    assert changed == {"raw_generations", "reviewed_set", "review_signal"}
    faster = identify_all(tmp_path, ANSWER | {"num_processes": 7})
    assert faster == mixed, "how many rows are judged at once decides nothing"


def test_the_content_of_a_function_is_part_of_the_identity(tmp_path: Path) -> None:
    from resources.verifying.naming import hash_named_file

    (tmp_path / "my.py").write_text("def f(*given): return True")
    before = hash_named_file("my.py:f", tmp_path)
    (tmp_path / "my.py").write_text("def f(*given): return False")
    assert hash_named_file("my.py:f", tmp_path) != before
    assert hash_named_file("nothing.py:f", tmp_path) == "missing"
    assert hash_named_file("resources.verifying.naming:hash_named_file", tmp_path) != "missing"


def test_a_verifier_alone_measures_no_reviewer(tmp_path: Path) -> None:
    assert "review_signal" not in identify_all(tmp_path, {"kind": "answer"})
