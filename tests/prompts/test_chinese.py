"""The Chinese templates: the same steps, variables and marks as the English ones, and read by the same parsers."""

import re

import pytest
from jinja2 import meta

from lance_assets.algorithms.reviews.pairwise import parse_verdict
from lance_assets.algorithms.reviews.review_parsing import parse_review
from lance_assets.algorithms.selection.lessons import parse_lessons
from lance_assets.prompts import ENVIRONMENT, PROFILES, Templates, list_steps, read_rows
from lance_assets.prompts.own_words import stand_in
from lance_assets.recipes.asking import read_final
from lance_assets.recipes.contract import list_recipes
from lance_assets.records import FINAL_MARKER, Sample
from lance_assets.settings.experiment import ExperimentSettings
from tests.prompts.test_prompts import DECLARED, fill

ENGLISH, CHINESE = Templates("full"), Templates("full_zh")
STEPS = [step for recipe in list_recipes() for step in list_steps("full", recipe.name)]
_HAN = re.compile("[\u4e00-\u9fff]")
_WORDS = re.compile(r"[A-Za-z]{4,}(?: [A-Za-z]+){3,}")


def test_every_step_and_system_message_of_full_is_there() -> None:
    assert [step for recipe in list_recipes() for step in list_steps("full_zh", recipe.name)] == STEPS
    for recipe in list_recipes():
        systems = [Templates(profile, recipe.name).system for profile in ("full", "full_zh")]
        assert bool(systems[0]) == bool(systems[1])


@pytest.mark.parametrize("step", STEPS)
def test_a_step_has_the_variables_lists_and_marks_of_the_english_one(step: str) -> None:
    both = [templates.look_up(step) for templates in (ENGLISH, CHINESE)]
    variables = [meta.find_undeclared_variables(ENVIRONMENT.parse(words.template)) for words in both]
    assert variables[0] == variables[1]
    lists = [{name: read_rows(text) for name, text in words.lists.items()} for words in both]
    sizes = [{name: len(rows) for name, rows in one.items()} for one in lists]
    assert sizes[0] == sizes[1]
    for name in lists[0]:
        assert [row.keys() for row in lists[0][name]] == [row.keys() for row in lists[1][name]]
    for mark in (FINAL_MARKER, "score:", "verdict:", "Question:", "Answer:"):
        assert (mark in both[0].template) == (mark in both[1].template), mark


@pytest.mark.parametrize(("recipe", "step"), DECLARED, ids=[f"{recipe.name}/{step.name}" for recipe, step in DECLARED])
def test_the_words_are_chinese(recipe, step) -> None:  # type: ignore[no-untyped-def]
    """But for the marks that are parsed, no English sentence is left; Kun's steps have both languages."""
    said = fill("full_zh", recipe, step)
    if recipe.name != "kun":
        assert len(_HAN.findall(said)) > 20
        assert _WORDS.findall(said.replace("return max(items)", "")) == []


@pytest.mark.parametrize("recipe", ["lance", "self_rewarding", "i_sheep"])
@pytest.mark.parametrize(("lowest", "highest"), [(0, 10), (1, 5), (0, 5), (0, 3)])
def test_a_review_is_asked_on_the_scale_and_ends_as_the_parser_reads(recipe: str, lowest: int, highest: int) -> None:
    texts = {"prompt": "什么是罗勒？", "completion": "一种香草。", "lowest": str(lowest), "highest": str(highest)}
    asked = CHINESE.render(f"{recipe}/review", **texts)
    assert texts["prompt"] in asked
    assert str(highest) in asked
    for score in (lowest, highest):
        written = f"回答正确，但只说了一半，还应当说明用途。\nscore: {score}"
        assert parse_review(written, lowest=float(lowest), highest=float(highest)) == score


@pytest.mark.parametrize(("lowest", "highest"), [(0, 10), (1, 5), (0, 3)])
def test_the_example_reviews_are_read_as_scores_of_the_scale_in_rising_order(lowest: int, highest: int) -> None:
    filled = CHINESE.render("lance/review", prompt="甲", completion="乙", lowest=str(lowest), highest=str(highest))
    parts = re.split(r"\n\n(?:示例|下面是要评审)", filled)[1:-1]
    shown = [part.rpartition("</回答>\n")[2].strip() for part in parts]
    scores = [parse_review(text, lowest=float(lowest), highest=float(highest)) for text in shown]
    assert all(isinstance(score, float) for score in scores), scores
    assert len(scores) == 3
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]


def test_lances_questions_are_judged_before_its_answers() -> None:
    asked = CHINESE.render("lance/review", prompt="甲", completion="乙", lowest="0", highest="10")
    assert asked.index("提问每符合一条得一分") < asked.index("答复每符合一条得一分")
    assert "每符合一条" not in CHINESE.render("lance/review", prompt="甲", completion="乙", lowest="1", highest="5")


def test_proposals_verdicts_and_lessons_are_read() -> None:
    said = Sample("r", "这是一类阅读题，可以换一个机构。\nFinal Answer: 请说出三种鸟。", "stop", 1, 1)
    assert read_final(said) == "请说出三种鸟。"
    assert parse_verdict("A 更切题，B 跑题了。\nverdict: A", finish_reason="stop") == "A"
    written = "1. Question: 小文每小时挣 7 元，工作 5 小时。他挣了多少？\nAnswer: 7 * 5 = 35。\n#### 35"
    (lesson,) = parse_lessons(written, was_cut=False).lessons
    assert lesson.answer == "35"


@pytest.mark.parametrize(
    "opened", ["示例 4\n指令：数到五。\n回答：1 2 3 4 5\n思考过程：容易。\n", "指令：数到五。\n思考过程：容易。\n"]
)
def test_where_the_model_goes_on_with_another_example_the_first_text_counts(opened: str) -> None:
    said = Sample("r", f"可以问鸟。\nFinal Answer: 请说出三种鸟。\n\n{opened}Final Answer: 请数到六。", "stop", 1, 1)
    assert read_final(said) == "请说出三种鸟。"


@pytest.mark.parametrize("step", ["lance/new_prompt", "lance/degrade"])
def test_the_examples_are_as_long_as_what_they_should_teach(step: str) -> None:
    shots = read_rows(CHINESE.look_up(step).lists["shots"])
    filled = CHINESE.render(step, prompt="甲", completion="乙", examples=stand_in("examples"))
    assert len(shots) == 3
    for shot in shots:
        assert 80 <= len(_HAN.findall(shot["final"])) <= 300
        assert shot["final"] in filled
        assert shot["thought"] in filled
    if step == "lance/degrade":
        for shot in shots:
            pairs = [{text[n : n + 2] for n in range(len(text) - 1)} for text in (shot["completion"], shot["final"])]
            assert len(pairs[0] & pairs[1]) / len(pairs[0] | pairs[1]) < 0.4


def test_an_experiment_chooses_it_by_name() -> None:
    assert "full_zh" in PROFILES
    attributes = {
        **{"recipe": "lance", "model": "small", "seeds": {"path": "seeds.jsonl"}, "prompt_profile": "full_zh"},
        "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
    }
    assert ExperimentSettings.model_validate(attributes).prompt_profile == "full_zh"
