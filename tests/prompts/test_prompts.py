import re
from itertools import pairwise
from pathlib import Path

import pytest
from jinja2 import UndefinedError, meta
from jinja2.exceptions import SecurityError

from lance_assets import prompts
from lance_assets.algorithms.reviews.review_parsing import parse_review
from lance_assets.prompts import (
    ENVIRONMENT,
    PROFILES,
    PromptStep,
    Templates,
    hash_words,
    list_steps,
    read_rows,
    show_question,
)
from lance_assets.prompts.own_words import stand_in
from lance_assets.recipes.contract import AnyRecipe, find_recipe, list_recipes
from lance_assets.recipes.lance_settings import RUBRIC

TEXTS = {"prompt": "Sort {{ 3 }} & <1> 2.", "completion": "It is\n1 2 3."} | RUBRIC.scale
PAIR = {"prompt": TEXTS["prompt"], "completion_a": "It is\n1 2 3.", "completion_b": "No idea {% if %}."}
PROPOSING = ("lance/new_prompt", "lance/degrade")
DECLARED = [
    (recipe, step)
    for recipe in list_recipes()
    if recipe.list_prompts is not None
    for step in recipe.list_prompts(recipe.settings())
]
STEPS = pytest.mark.parametrize(
    ("recipe", "step"), DECLARED, ids=[f"{recipe.name}/{step.name}" for recipe, step in DECLARED]
)
EVERY_PROFILE = pytest.mark.parametrize("profile", PROFILES)


def fill(profile: str, recipe: AnyRecipe, step: PromptStep, **texts: str) -> str:
    values = {name: stand_in(name) for name in (*step.needs, *step.may)} | dict(step.given)
    return show_question(Templates(profile).render(f"{recipe.name}/{step.name}", **(values | texts)))


def read_as_text(profile: str, step: str, **variables: object) -> str:
    return show_question(Templates(profile).render(step, examples=stand_in("examples"), **variables))


@EVERY_PROFILE
@pytest.mark.parametrize("step", ["lance/review", *PROPOSING])
def test_every_step_shows_its_texts_as_they_are(profile: str, step: str) -> None:
    """Nothing is escaped, and what looks like a template inside a text is not filled."""
    words = read_as_text(profile, step, **TEXTS)
    assert TEXTS["prompt"] in words
    assert (TEXTS["completion"] in words) or (not profile.startswith("full") and step == "lance/new_prompt")


@EVERY_PROFILE
def test_a_pair_is_shown_in_the_order_given(profile: str) -> None:
    words = read_as_text(profile, "lance/judge_pair", **PAIR)
    assert words.index(PAIR["prompt"]) < words.index(PAIR["completion_a"]) < words.index(PAIR["completion_b"])


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_every_profile_has_a_recipes_steps_and_the_recipe_declares_them(recipe: AnyRecipe) -> None:
    declared = [f"{recipe.name}/{step.name}" for own, step in DECLARED if own is recipe]
    assert all(list_steps(profile, recipe.name) == sorted(declared) for profile in PROFILES)


@EVERY_PROFILE
@STEPS
def test_a_template_shows_what_its_step_needs_and_nothing_that_it_is_not_given(
    profile: str, recipe: AnyRecipe, step: PromptStep
) -> None:
    words = Templates(profile).look_up(f"{recipe.name}/{step.name}")
    shown = meta.find_undeclared_variables(ENVIRONMENT.parse(words.template))
    # A compact template shows criteria only where an experiment has some.
    assert set(step.needs) <= shown <= {*step.variables, *words.lists, "criteria"}
    assert set(words.lists) <= shown, "a list that no template shows"


@STEPS
def test_every_profile_shows_every_text_that_a_step_needs(recipe: AnyRecipe, step: PromptStep) -> None:
    for profile in PROFILES:
        filled = fill(profile, recipe, step)
        assert all(f"<{name}>" in filled for name in step.needs)


@pytest.mark.parametrize(
    ("step", "asks_for"), [("lance/review", "score:"), *((step, "Final Answer:") for step in PROPOSING)]
)
def test_full_steps_ask_for_what_is_parsed(step: str, asks_for: str) -> None:
    assert asks_for in Templates("full").render(step, **TEXTS)
    assert "verdict:" in Templates("full").render("lance/judge_pair", **PAIR)


@pytest.mark.parametrize("step", PROPOSING)
def test_few_shot_examples_are_as_long_as_what_they_should_teach(step: str) -> None:
    """50 to 150 words of each proposed text, and the prompt shows every word of them before the row's own."""
    words = Templates("full").look_up(step)
    shots = read_rows(words.lists["shots"])
    filled = Templates("full").render(step, **TEXTS)
    assert len(shots) == 3
    for shot in shots:
        assert 50 <= len(shot["final"].split()) <= 150, shot["final"]
        assert 50 <= len(f"{shot['prompt']} {shot['completion']}".split()) <= 250
        assert shot["thought"]
        place = -1
        for text in (shot["prompt"], shot["completion"], shot["thought"], f"Final Answer: {shot['final']}"):
            assert (place := filled.find(text, place + 1)) >= 0, text
    assert filled.rindex(TEXTS["prompt"]) > filled.rindex(shots[-1]["final"])
    assert filled.endswith("Thought Process:")


def test_few_shot_examples_hold_a_given_text_a_task_that_cannot_be_done_and_lists() -> None:
    shots = read_rows(Templates("full").look_up("lance/new_prompt").lists["shots"])
    assert any(
        re.search(r'"[^"]{200,}"', shot["prompt"]) and re.search(r'"[^"]{200,}"', shot["final"]) for shot in shots
    )
    assert any("cannot see" in shot["completion"] and "cannot be done" in shot["thought"] for shot in shots)
    assert any(len(re.findall(r"^\d\. ", shot["completion"], re.M)) >= 5 for shot in shots)


def test_degraded_examples_differ_from_the_good_answer_in_their_words() -> None:
    for shot in read_rows(Templates("full").look_up("lance/degrade").lists["shots"]):
        good, bad = (set(re.findall(r"\w+", shot[name].lower())) for name in ("completion", "final"))
        assert len(good & bad) / len(good | bad) < 0.4
    asked = Templates("full").render("lance/degrade", **TEXTS)
    assert all(word in asked for word in ("toxic", "misleading", "inaccurate", "content", "structure"))


@pytest.mark.parametrize(("recipe", "num_criteria"), [("lance", 10), ("self_rewarding", 5), ("i_sheep", 3)])
def test_every_criterion_is_shown(recipe: str, num_criteria: int) -> None:
    criteria = read_rows(Templates("full").look_up(f"{recipe}/review").lists["criteria"])
    filled = Templates("full").render(f"{recipe}/review", **TEXTS)
    assert len(criteria) == num_criteria
    assert all(filled.count(criterion["text"]) == 1 for criterion in criteria)


def test_lances_rubric_is_additive_where_the_scale_is_one_point_each() -> None:
    criteria = read_rows(Templates("full").look_up("lance/review").lists["criteria"])
    assert [criterion["of"] for criterion in criteria] == ["question"] * 5 + ["response"] * 5
    of_response = " ".join(criterion["text"] for criterion in criteria[5:])
    assert all(word in of_response for word in ("comprehensive", "helpful", "engaging", "concise", "insightful"))
    for scale, is_additive in ((("0", "10"), True), (("1", "5"), False), (("0", "5"), False)):
        asked = Templates("full").render(
            "lance/review", **(TEXTS | dict(zip(("lowest", "highest"), scale, strict=True)))
        )
        assert ("one point for each" in asked) == is_additive
        assert (f"from {scale[0]} to {scale[1]}" in asked) or is_additive


@EVERY_PROFILE
def test_the_steps_of_kun_show_examples_of_their_language_alone(profile: str) -> None:
    recipe = find_recipe("kun")
    for language, other in (("english", "评判"), ("chinese", "Verdict")):
        (step,) = [step for step in recipe.list_prompts(recipe.settings(language=language)) if step.name == "verdict"]
        filled = fill(profile, recipe, step)
        assert other not in filled
        least = {"compact": 0, "full": 5, "full_zh": 5, "small": 3}[profile]
        assert filled.count("[bad]" if language == "english" else "【差】") >= least


@pytest.mark.parametrize("recipe", [recipe.name for recipe in list_recipes()])
def test_only_a_recipe_whose_method_has_one_sends_a_system_message(recipe: str) -> None:
    """LANCE's code sends its role card with every call; the other methods' specifications have none."""
    assert Templates("compact", recipe).build_messages("Sort 3.") == [{"role": "user", "content": "Sort 3."}]
    messages = Templates("full", recipe).build_messages("Sort 3.")
    assert [message["role"] for message in messages] == (["system", "user"] if recipe == "lance" else ["user"])
    assert messages[-1]["content"] == "Sort 3."


def test_the_role_card_has_its_sections() -> None:
    sections = re.findall(r"^#+ (.*)$", Templates("full", "lance").system, re.M)
    assert sections == [
        *("Role: multi-task assistant", "Profile", "Skills", "Goals", "Constraints"),
        *("Workflow", "Output format", "Greeting"),
    ]


@pytest.mark.parametrize(
    ("profile", "step"), [("full", "review"), ("full", "lance/grade"), ("full", "../full/lance/review"), ("full", "")]
)
def test_an_unknown_template_is_named(profile: str, step: str) -> None:
    with pytest.raises(ValueError, match=f"no prompt template {profile}/{step}; profiles: .*'full'.*'lance/review'"):
        Templates(profile).render(step, **TEXTS)


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"no prompt template short/lance/review; profiles: \('compact', 'full', 'full_zh', 'small'\)"
    ):
        Templates("short").render("lance/review", **TEXTS)


def test_a_variable_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="completion"):
        Templates("compact").render("lance/review", prompt="Sort 3 1 2.", **RUBRIC.scale)


def test_the_hash_of_a_step_follows_its_template_and_its_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another step's are no part of it, and training depends on the system message alone."""
    files = ["lance/system.j2", "lance/review.j2", "lance/review.criteria.yaml", "lance/degrade.j2", "other/review.j2"]
    for file in files:
        path = tmp_path / "full" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]" if file.endswith("yaml") else "words")
    monkeypatch.setattr(prompts, "_FOLDER", tmp_path)

    def hash_both() -> tuple[dict, dict]:
        return hash_words(Templates("full", "lance"), ["lance/review"]), hash_words(Templates("full", "lance"))

    seen = [hash_both()]
    for file in files:
        (tmp_path / "full" / file).write_text("[{a: b}]" if file.endswith("yaml") else "other")
        seen.append(hash_both())
    changed = [[name for name in after[0] if after[0][name] != before[0][name]] for before, after in pairwise(seen)]
    assert changed == [["system_message"], ["lance/review"], ["lance/review"], [], []]
    assert [after[1] != before[1] for before, after in pairwise(seen)] == [True, *[False] * 4]


@pytest.mark.parametrize(("lowest", "highest"), [(0, 10), (1, 5), (0, 3)])
def test_the_example_reviews_end_in_scores_of_the_scale(lowest: int, highest: int) -> None:
    """They are read as a model's reviews are, a poor answer below a good one, and the row to review comes last."""
    words = Templates("full").look_up("lance/review")
    shots = read_rows(words.lists["shots"])
    filled = Templates("full").render(
        "lance/review", prompt="What is it?", completion="It is this.", lowest=str(lowest), highest=str(highest)
    )
    parts = re.split(r"\n\n(?:Example|Now the one)", filled)[1:-1]
    shown = [part.rpartition("</response>\n")[2].strip() for part in parts]
    read = [parse_review(text, lowest=lowest, highest=highest) for text in shown]
    scores = [score for score in read if isinstance(score, float)]
    assert len(scores) == len(read) == len(shots) == 3, read
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]
    assert filled.index("What is it?") > filled.index(shots[-1]["completion"])


@pytest.mark.parametrize("text", ["{{ prompt.__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}"])
def test_a_template_reaches_no_python(text: str) -> None:
    with pytest.raises(SecurityError):
        ENVIRONMENT.from_string(text).render(prompt="a")
