import pytest
from jinja2 import UndefinedError

from lance_assets import prompts
from lance_assets.prompts import PROFILES, STEPS, build_messages, hash_templates, render_prompt

TEXTS = {"prompt": "Sort {{ 3 }} & <1> 2.", "completion": "It is\n1 2 3."}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("step", [step for step in STEPS if step != "system"])
def test_every_step_shows_its_texts_as_they_are(profile: str, step: str) -> None:
    """Nothing is escaped, and what looks like a template inside a text is not filled."""
    words = render_prompt(profile, step, **TEXTS)
    assert TEXTS["prompt"] in words
    assert (TEXTS["completion"] in words) or (profile, step) == ("compact", "new_prompt")


@pytest.mark.parametrize(
    ("step", "asks_for"), [("review", "score:"), ("new_prompt", "Final Answer:"), ("degrade", "Final Answer:")]
)
def test_full_steps_ask_for_what_is_parsed(step: str, asks_for: str) -> None:
    assert asks_for in render_prompt("full", step, **TEXTS)


def test_a_system_message_only_where_the_profile_has_one() -> None:
    assert build_messages("compact", "Sort 3 1 2.") == [{"role": "user", "content": "Sort 3 1 2."}]
    system, user = build_messages("full", "Sort 3 1 2.")
    assert (system["role"], user) == ("system", {"role": "user", "content": "Sort 3 1 2."})
    assert system["content"].strip()


@pytest.mark.parametrize(("profile", "step"), [("short", "review"), ("full", "grade"), ("full", "../full/review")])
def test_an_unknown_template_is_named(profile: str, step: str) -> None:
    with pytest.raises(ValueError, match=f"no prompt template {profile}/{step}; profiles: .*'full'.*steps: .*'review'"):
        render_prompt(profile, step, **TEXTS)


def test_a_variable_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="completion"):
        render_prompt("compact", "review", prompt="Sort 3 1 2.")


def test_the_hash_follows_every_template(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    for step in STEPS:
        (tmp_path / "full" / f"{step}.j2").write_text("words")
    monkeypatch.setattr(prompts, "_FOLDER", tmp_path)
    hashes = {hash_templates("full")}
    for step in STEPS:
        (tmp_path / "full" / f"{step}.j2").write_text("other")
        hashes.add(hash_templates("full"))
    assert len(hashes) == 1 + len(STEPS)
