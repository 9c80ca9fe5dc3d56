"""An experiment's own words: which files there may be, what is wrong with one, and what a change of one marks."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lance_assets.cli.app import app
from lance_assets.prompts.own_words import read_own_words
from lance_assets.recipes.lance_settings import RUBRIC, LanceSettings
from lance_assets.rounds.nouns import compute_fingerprint, list_nouns
from lance_assets.rounds.plan import JUDGE_STEPS, Plan
from lance_assets.settings.writing.template import render_experiment
from tests.assets.tiny_experiment import WORLD, build_tiny_settings, plan_tiny, write_tiny_experiment

KUN = {"recipe": "kun", "language": "english", "texts": {"path": "texts.jsonl"}}
LLM2LLM = {"recipe": "llm2llm", "answer_mark": "The answer is"}
JUDGE = {"path": "seeds.jsonl", "model": "small"}
JUDGED = {"evaluation": {"world": WORLD, "judge": JUDGE}}
REVIEWED = {"evaluation": {"world": WORLD, "judge": JUDGE | {"by": "score"}}}
REVIEW = "Review this for a nurse.\nTask: {{ prompt }}\nCompletion: {{ completion }}\n"
FULL = {"prompt_profile": "full"}
SHOT = "- prompt: a\n  completion: b\n  thought: c\n  final: d\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_experiment(tmp_path / "tiny")


def put(folder: Path, name: str, text: str) -> Path:
    file = folder / "prompts" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("name", "text", "changed", "line", "said"),
    [
        ("lance/reviev.j2", REVIEW, {}, 1, "there is no such step; did you mean 'lance/review.j2'?"),
        ("kun/label.j2", REVIEW, {}, 1, "there is no such step; ... lance/degrade.j2, ... system.j2"),
        ("lance/review.jinja", REVIEW, {}, 1, "there is no such step; did you mean"),
        ("notes.txt", "words", {}, 1, "there is no such step; This experiment may have lance/degrade.j2"),
        ("judge/review.j2", REVIEW, {}, 1, "there is no such step"),
        ("lance/review.j2", "{{ prompt }}\n{{ completoin }}", {}, 2, "'completoin'; did you mean 'completion'?"),
        ("lance/review.j2", "{{ prompt }}\n\n{{ turns }}", {}, 3, "'turns'; ... prompt, completion, lowest, highest"),
        ("lance/review.j2", "{{ prompt }}", {}, 1, "lance/review has to show {{ completion }}; the variables"),
        ("lance/new_prompt.j2", "", {}, 1, "lance/new_prompt has to show {{ prompt }}"),
        ("lance/review.j2", "a\n{% if prompt %}\nb", {}, 2, "not a Jinja template: Unexpected end of template"),
        ("lance/review.j2", "a\n{{ prompt | shout }} {{ completion }}", {}, 2, "No filter named 'shout'"),
        ("lance/review.j2", "{{ prompt }}\n{{ completion + 1 }}", {}, 2, "it cannot be filled"),
        ("lance/review.j2", "{{ prompt }}\n{% include 'x' %}{{ completion }}", {}, 2, "cannot include another one"),
        ("system.j2", "You are\n{{ name }}", {}, 2, "no variable 'name'; The variables here are none"),
        ("lance/review.criteria.yaml", "- of: response\n  text: a\n- text: b", {}, 3, "fields of, text, got text"),
        ("lance/review.criteria.yaml", "of: response", {}, 1, "a list of mappings from a field to a text"),
        ("lance/review.criteria.yaml", "- {of: response, text: 3}", {}, 1, "a list of mappings from a field to a text"),
        ("lance/review.criteria.yaml", "- {of\n- ]", {}, 2, "not YAML"),
        ("lance/review.prompt.yaml", "- {a: b}", {}, 1, "'prompt' is a variable of lance/review; give"),
        ("lance/review.scores.yaml", "- {a: b}", {}, 1, "shows no list 'scores'; put a review.j2 that shows it beside"),
        ("lance/new_prompt.shots.yaml", SHOT, {}, 1, "of the profile compact shows no list 'shots'"),
        ("lance/new_prompt.shots.yaml", SHOT[:-11], FULL, 1, "fields prompt, completion, thought, final"),
        ("kun/polish.j2", "{{ text }}{{ lowest }}", KUN, 1, "no variable 'lowest'"),
        ("judge/judge_pair.j2", "{{ prompt }}{{ completion_a }}", JUDGED, 1, "has to show {{ completion_b }}"),
        ("spin/ask.j2", "words", {"recipe": "spin"}, 1, "there is no such step; This experiment may have system.j2"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_and_what_there_is(
    folder: Path, name: str, text: str, changed: dict[str, object], line: int, said: str
) -> None:
    file = put(folder, name, text)
    with pytest.raises(ValueError, match="prompts/") as error:
        plan_tiny(folder, **changed)
    assert str(error.value).startswith(f"{file}:{line}: ")
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in said.split(" ... "))


def test_every_mistake_is_listed_once(folder: Path) -> None:
    """Also where a role's profile asks the same template again."""
    put(folder, "lance/review.j2", "{{ promt }}")
    put(folder, "lance/degrade.j2", "{% for %}")
    with pytest.raises(ValueError, match="promt") as error:
        plan_tiny(folder, roles={"reviewer": {"model": "small", "prompt_profile": "full"}})
    assert [text.split("prompts/")[1].split(":")[0] for text in str(error.value).splitlines()] == [
        "lance/degrade.j2",
        "lance/review.j2",
    ]


def test_hidden_files_are_left_out_and_others_have_to_be_text(folder: Path) -> None:
    put(folder, ".DS_Store", "bytes")
    assert plan_tiny(folder).own_words == {}
    put(folder, "system.j2", "").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"system\.j2:1: not UTF-8 text"):
        read_own_words(folder)


def test_own_words_replace_the_packages_in_whatever_profile(folder: Path) -> None:
    put(folder, "lance/review.j2", REVIEW)
    put(folder, "system.j2", "You are a nurse.\n")
    plan = plan_tiny(folder, roles={"reviewer": {"model": "small", "prompt_profile": "full"}})
    for templates in (plan.templates, plan.role_templates["reviewer"]):
        asked = templates.render("lance/review", prompt="P", completion="C", **RUBRIC.scale)
        assert asked == "Review this for a nurse.\nTask: P\nCompletion: C"
        assert templates.build_messages("P")[0] == {"role": "system", "content": "You are a nurse."}
    assert plan.templates.render("lance/degrade", prompt="P", completion="C").startswith("Write a worse completion.")


def test_an_empty_system_message_is_none_at_all(folder: Path) -> None:
    """LANCE's full profile has one, which an experiment may switch off."""
    assert plan_tiny(folder, prompt_profile="full").templates.build_messages("P")[0]["role"] == "system"
    put(folder, "system.j2", "\n")
    assert plan_tiny(folder, prompt_profile="full").templates.build_messages("P") == [{"role": "user", "content": "P"}]


def test_own_criteria_are_shown_in_both_profiles(folder: Path) -> None:
    put(folder, "lance/review.criteria.yaml", "- {of: response, text: It names the dose.}\n")
    for profile, scale in (("compact", {}), ("full", {"lowest_score": 1, "highest_score": 5})):
        plan = plan_tiny(folder, prompt_profile=profile, branch_threshold=3.0, sft_threshold=4.0, **scale)
        rubric = plan.settings.parameters.rubric
        asked = plan.templates.render("lance/review", prompt="P", completion="C", **rubric.scale)
        assert asked.count("It names the dose.") == 1
        assert ("from 1 to 5" in asked) == bool(scale)
        assert "harmful" not in asked


def test_own_examples_replace_the_packages_and_an_empty_list_shows_none(folder: Path) -> None:
    for text, num_shown in ((SHOT, 1), ("[]\n", 0)):
        put(folder, "lance/degrade.shots.yaml", text)
        templates = plan_tiny(folder, prompt_profile="full").templates
        asked = templates.render("lance/degrade", prompt="P", completion="C")
        assert (asked.count("Final Answer: d"), asked.count("\nExample ")) == (num_shown, num_shown)


def test_the_judge_has_words_of_its_own(folder: Path) -> None:
    """The recipe's own words are none of the judge's, which is to be the same in every experiment."""
    put(folder, "lance/judge_pair.j2", "{{ prompt }}{{ completion_a }}{{ completion_b }}, says the recipe")
    put(folder, "system.j2", "You are a nurse.")
    pair = {"prompt": "P", "completion_a": "A", "completion_b": "B"}
    plan = plan_tiny(folder, prompt_profile="full", **JUDGED)
    assert "says the recipe" not in plan.judge_templates.render("lance/judge_pair", **pair)
    assert plan.judge_templates.system == ""
    put(folder, "judge/judge_pair.j2", "{{ prompt }}{{ completion_a }}{{ completion_b }}, says the judge")
    put(folder, "judge/system.j2", "You compare.")
    plan = plan_tiny(folder, prompt_profile="full", **JUDGED)
    assert plan.judge_templates.render("lance/judge_pair", **pair) == "PAB, says the judge"
    assert (plan.judge_templates.system, plan.templates.system) == ("You compare.", "You are a nurse.")


def test_the_judges_scale_is_lances() -> None:
    assert [step.given for step in JUDGE_STEPS if step.name == "review"] == [LanceSettings().rubric.scale]


EVERYWHERE = {"raw_generations", "reviewed_set", "checkpoint", "eval_report"}


@pytest.mark.parametrize(
    ("name", "changed", "marked"),
    [
        ("lance/review.j2", {}, {"raw_generations", "reviewed_set"}),
        ("lance/review.criteria.yaml", {}, {"raw_generations", "reviewed_set"}),
        ("lance/review.j2", {"reviewer": "none"}, set()),
        ("lance/new_prompt.j2", {}, {"raw_generations"}),
        ("lance/degrade.j2", {}, {"raw_generations"}),
        ("lance/degrade.j2", {"branches": "low"}, set()),
        ("lance/judge_pair.j2", {}, set()),
        ("lance/judge_pair.j2", {"num_judged_pairs": 2}, {"preference_pairs"}),
        ("lance/judge_pair.j2", JUDGED, set()),
        ("judge/judge_pair.j2", JUDGED, {"eval_report"}),
        ("judge/judge_pair.j2", REVIEWED, set()),
        ("judge/review.j2", REVIEWED, {"eval_report"}),
        ("judge/system.j2", REVIEWED, {"eval_report"}),
        ("system.j2", {}, EVERYWHERE),
        ("system.j2", {"num_judged_pairs": 2}, EVERYWHERE | {"preference_pairs"}),
        ("system.j2", {"recipe": "diverse_evol"}, EVERYWHERE - {"reviewed_set"}),
        ("system.j2", {"recipe": "spin"}, EVERYWHERE - {"reviewed_set"}),
        ("system.j2", KUN, EVERYWHERE | {"label_checkpoint"}),
        ("kun/label.j2", KUN, {"label_checkpoint", "raw_generations"}),
        ("kun/verdict.j2", KUN, {"reviewed_set"}),
        ("kun/verdict.j2", KUN | {"signal": "pair_score"}, set()),
        ("kun/review_pair.j2", KUN, set()),
        ("kun/review_pair.j2", KUN | {"signal": "pair_score"}, {"reviewed_set"}),
        ("kun/polish.j2", KUN | {"polish": False}, set()),
        ("llm2llm/lesson.j2", LLM2LLM, {"raw_generations"}),
        ("llm2llm/new_prompt.j2", LLM2LLM, set()),
        ("self_rewarding/review.j2", {"recipe": "self_rewarding"}, {"reviewed_set"}),
        ("i_sheep/new_prompt.j2", {"recipe": "i_sheep"}, {"raw_generations"}),
    ],
)
def test_a_changed_file_marks_exactly_the_nouns_that_are_asked_with_it(
    folder: Path, name: str, changed: dict[str, object], marked: set[str]
) -> None:
    shown = "{{ prompt }} {{ completion }} {{ text }} {{ completion_a }} {{ completion_b }} {{ examples }}"

    def identify(text: str) -> dict[str, str]:
        put(folder, name, text)
        # The file's variables are no matter here, so the plan is made without its checks.
        plan = Plan(folder.name, folder, build_tiny_settings(**changed))
        return {noun.name: compute_fingerprint(plan, noun.name) for noun in list_nouns(plan)}

    texts = (
        ("- {of: response, text: a}", "- {of: response, text: b}") if name.endswith("yaml") else (shown, f"{shown}!")
    )
    texts = ("a", "b") if "system" in name else texts
    before, after = map(identify, texts)
    assert {noun for noun in before if before[noun] != after[noun]} == marked


def test_the_same_words_in_the_folder_are_the_same_identity(folder: Path) -> None:
    """A copy of the package's file changes nothing."""
    settings = build_tiny_settings()
    before = compute_fingerprint(Plan("tiny", folder, settings), "reviewed_set")
    put(folder, "lance/review.j2", Plan("tiny", folder, settings).templates.look_up("lance/review").template)
    assert compute_fingerprint(Plan("tiny", folder, settings), "reviewed_set") == before


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"highest_score": 5}, "branch_threshold: 7 is no score on the scale 0 to 5; set one"),
        ({"highest_score": 5, "branch_threshold": 3.5}, "sft_threshold: 8 is no score on the scale 0 to 5; set one"),
        ({"lowest_score": 7, "highest_score": 8}, "score_gap: 2 is more than two scores from 7 to 8 can differ"),
        ({"lowest_score": 5, "highest_score": 5}, "lowest_score: 5 has to be below highest_score: 5"),
        ({"highest_score": 100}, "less than or equal to 10"),
        ({"recipe": "i_sheep", "highest_score": 5}, "accept_score: 8 is no score on the scale 0 to 5"),
        (KUN | {"lowest_score": 6, "highest_score": 9}, "accept_score: 5 is no score on the scale 6 to 9"),
    ],
)  # fmt: skip
def test_thresholds_lie_on_the_scale(parameters: dict[str, object], said: str) -> None:
    # The tiny experiment sets thresholds of its own, which are put back to the paper's here.
    defaults = {} if "recipe" in parameters else {"sft_threshold": 8.0, "score_gap": 2.0}
    with pytest.raises(ValueError, match=said):
        build_tiny_settings(**(defaults | parameters))


def read_page(page: Path) -> dict[str, str]:
    """The files that the page shows, by their names."""
    return dict(re.findall(r"^`prompts/([^`]+)`:\n\n```\w+\n(.*?)```", page.read_text(), re.M | re.S))


def test_the_page_shows_an_experiment_that_loads_and_how_it_asks(
    project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = read_page(project_root / "docs" / "your-own-words.md")
    assert set(files) == {
        *("system.j2", "lance/review.criteria.yaml", "lance/degrade.j2", "lance/degrade.shots.yaml"),
    }
    call = CliRunner().invoke
    assert call(app, ["new", "nurses", "--recipe", "lance", "--folder", str(tmp_path)]).exit_code == 0
    folder = tmp_path / "nurses"
    for name, text in files.items():
        put(folder, name, text)
    scale = re.search(r"parameters: \{(.*)\}", (project_root / "docs" / "your-own-words.md").read_text())
    assert scale is not None
    written = yaml.safe_load((folder / "defs.yaml").read_text())
    written["attributes"]["parameters"] |= yaml.safe_load(f"{{{scale[1]}}}")
    (folder / "defs.yaml").write_text(yaml.safe_dump(written))
    monkeypatch.setenv("LANCE_EXPERIMENTS", str(tmp_path))
    done = call(app, ["show", "nurses", "--prompts"])
    assert done.exit_code == 0, done.exception
    seed = json.loads((folder / "seeds.jsonl").read_text().splitlines()[0])
    _, system, review, new_prompt, degrade, judge_pair, yes_no = re.split(r"^-- ", done.stdout, flags=re.M)
    assert system == f"system message (the experiment's own)\n{files['system.j2']}\n"
    assert review.startswith(
        "lance/review: asked for raw_generations, reviewed_set; own words: lance/review.criteria.yaml;"
    )
    assert "Review this from 1 to 5.\n- It describes the patient's situation" in review
    assert f"Task: {seed['prompt']}\nCompletion: {seed['completion']}" in review
    assert "the package's words; variables: prompt, completion, examples\n" in new_prompt
    assert "leaves out what protects the patient" in degrade
    assert "Final Answer: Anywhere on the ward is fine" in degrade
    assert judge_pair.startswith("lance/judge_pair: not asked with these settings")
    assert yes_no.startswith("lance/yes_no: not asked with these settings")


def test_the_file_of_a_new_experiment_names_the_folder_of_its_own_words() -> None:
    attributes = {"recipe": "kun", "model": "small", "seeds": {"path": "s"}, "texts": {"path": "t"}, "evaluation": {}}
    assert "prompts/kun/STEP.j2" in render_experiment(attributes)
