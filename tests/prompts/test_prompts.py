from pathlib import Path

import pytest
from jinja2 import UndefinedError

from lance_assets import prompts
from lance_assets.prompts import PROFILES, build_messages, hash_templates, list_steps, render_prompt
from lance_assets.recipes.contract import list_recipes

TEXTS = {"prompt": "Sort {{ 3 }} & <1> 2.", "completion": "It is\n1 2 3."}
PAIR = {"prompt": TEXTS["prompt"], "completion_a": "It is\n1 2 3.", "completion_b": "No idea {% if %}."}
PROPOSING = ("lance/new_prompt", "lance/degrade")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("step", ["lance/review", *PROPOSING])
def test_every_step_shows_its_texts_as_they_are(profile: str, step: str) -> None:
    """Nothing is escaped, and what looks like a template inside a text is not filled."""
    words = render_prompt(profile, step, **TEXTS)
    assert TEXTS["prompt"] in words
    assert (TEXTS["completion"] in words) or (profile, step) == ("compact", "lance/new_prompt")


@pytest.mark.parametrize("profile", PROFILES)
def test_a_pair_is_shown_in_the_order_given(profile: str) -> None:
    words = render_prompt(profile, "lance/judge_pair", **PAIR)
    assert words.index(PAIR["prompt"]) < words.index(PAIR["completion_a"]) < words.index(PAIR["completion_b"])


@pytest.mark.parametrize("recipe", [recipe.name for recipe in list_recipes()])
def test_both_profiles_have_a_recipes_steps(recipe: str) -> None:
    compact, full = (list_steps(profile, recipe) for profile in PROFILES)
    assert compact == full


@pytest.mark.parametrize(
    ("step", "asks_for"), [("lance/review", "score:"), *((step, "Final Answer:") for step in PROPOSING)]
)
def test_full_steps_ask_for_what_is_parsed(step: str, asks_for: str) -> None:
    assert asks_for in render_prompt("full", step, **TEXTS)
    assert "verdict:" in render_prompt("full", "lance/judge_pair", **PAIR)


def test_a_system_message_only_where_the_profile_has_one() -> None:
    assert build_messages("compact", "Sort 3 1 2.") == [{"role": "user", "content": "Sort 3 1 2."}]
    system, user = build_messages("full", "Sort 3 1 2.")
    assert (system["role"], user) == ("system", {"role": "user", "content": "Sort 3 1 2."})
    assert system["content"].strip()


@pytest.mark.parametrize(
    ("profile", "step"), [("full", "review"), ("full", "lance/grade"), ("full", "../full/lance/review"), ("full", "")]
)
def test_an_unknown_template_is_named(profile: str, step: str) -> None:
    with pytest.raises(ValueError, match=f"no prompt template {profile}/{step}; profiles: .*'full'.*'lance/review'"):
        render_prompt(profile, step, **TEXTS)


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(ValueError, match=r"no prompt template short/lance/review; profiles: \('compact', 'full'\)"):
        render_prompt("short", "lance/review", **TEXTS)


def test_a_variable_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="completion"):
        render_prompt("compact", "lance/review", prompt="Sort 3 1 2.")


def test_the_hash_follows_every_template_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own steps and the system message; another recipe's are no part of it, and training has the system's alone."""
    steps = ["system", "lance/review", "lance/degrade", "other/review"]
    for step in steps:
        path = tmp_path / "full" / f"{step}.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("words")
    monkeypatch.setattr(prompts, "_FOLDER", tmp_path)
    lance, shared = [hash_templates("full", "lance")], [hash_templates("full")]
    for step in steps:
        (tmp_path / "full" / f"{step}.j2").write_text("other")
        lance.append(hash_templates("full", "lance"))
        shared.append(hash_templates("full"))
    assert len(set(lance)) == 4
    assert lance[-1] == lance[-2]
    assert len(set(shared)) == 2
    assert shared[1] == shared[-1]
