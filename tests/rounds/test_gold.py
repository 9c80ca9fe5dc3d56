"""A round's reviews are held against what is known to be right, and its scores have to differ."""

from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.measures.gold_accuracy import measure_gold_accuracy
from lance_assets.records import REVIEWED_SET, SEED_SET
from lance_assets.rounds.gold import find_right, list_misled_rounds, measure_reviews
from lance_assets.rounds.making.holding import MIN_SCORED, judge_scores, scores_tell
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.report import Judged
from lance_assets.rounds.round import Round
from lance_assets.settings.checks import CheckSettings
from lance_assets.small_world.tasks import complete, parse_prompt
from tests.assets.tiny_experiment import plan_tiny as plan_loose
from tests.assets.tiny_experiment import write_tiny_experiment

DEFAULTS = CheckSettings().model_dump()
"""The bars that an experiment has which names none."""
PROMPTS = [f"Reverse the list {number} 2 5." for number in range(10)] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_experiment(tmp_path_factory.mktemp("gold"))


def plan_tiny(folder: Path, checks: dict[str, object] | None = None, **changed: object) -> Plan:
    return plan_loose(folder, checks=DEFAULTS | (checks or {}), **changed)


def review(rows: list[tuple[str, str, float | None]]) -> pl.DataFrame:
    """A reviewed set of (prompt, completion, score)."""
    named = [
        {"row_id": f"{place:03d}", "kind": "completion", "seed_id": "s", "prompt": prompt, "completion": completion}
        | {"review_score": score, "reviews": [f"score: {score}"], "scores": [score]}
        for place, (prompt, completion, score) in enumerate(rows)
    ]
    return pl.DataFrame(named, schema=REVIEWED_SET)


def answer(prompt: str, *, is_right: bool) -> str:
    problem = parse_prompt(prompt)
    assert problem is not None
    return complete(problem) if is_right else "Who knows. The answer is 0 0 0."


def open_round(plan: Plan, root: Path, reviewed: pl.DataFrame, key: str = "r0001", seeds: list | None = None) -> Round:
    this_round = Round(plan, Platform(data_root=str(root)), key, lambda _: None)
    for each in ("r0000", key):
        this_round.at(each).write("seed_set", pl.DataFrame(seeds or [], schema=SEED_SET))
    this_round.write("reviewed_set", reviewed)
    return this_round


def judge(plan: Plan, root: Path, *rows: tuple[str, str, float | None]) -> Judged:
    return scores_tell(open_round(plan, root, review(list(rows))))


def invert() -> list[tuple[str, str, float | None]]:
    """Wrong completions have 9, right ones from 1 to 3."""
    return [
        (prompt, answer(prompt, is_right=place % 2 == 0), 1.0 + place % 3 if place % 2 == 0 else 9.0)
        for place, prompt in enumerate(PROMPTS)
    ]


def test_a_reviewer_that_scores_wrong_answers_high_stops_the_round(folder: Path, tmp_path: Path) -> None:
    plan = plan_tiny(folder)
    judged = judge(plan, tmp_path, *invert())
    assert not judged.passed
    assert judged.is_error
    assert judged.facts["gold/auc"] == 0.0
    assert (judged.facts["gold/num_right"], judged.facts["gold/num_wrong"]) == (15, 15)
    for part in (
        "scores wrong completions higher than right ones: the AUC 0.00 [0.00, 0.",
        "below checks.min_gold_auc=0.5",
        "Wrong and scored 9 is 'Who knows. The answer is 0 0 0.' to 'Reverse the list 1 2 5.'",
        "roles.reviewer",
    ):
        assert part in str(judged.description), judged.description
    # Without a bar it is measured and said.
    measured = judge(plan_tiny(folder, checks={"min_gold_auc": None}), tmp_path, *invert())
    assert measured.passed
    assert "The AUC of the scores is 0.00" in str(measured.description)


def test_a_reviewer_that_is_right_passes_and_a_bar_may_be_higher(folder: Path, tmp_path: Path) -> None:
    rows = [(prompt, text, 10 - score) for prompt, text, score in invert() if score is not None]
    assert judge(plan_tiny(folder), tmp_path, *rows).passed
    drawn = [
        (prompt, answer(prompt, is_right=place % 2 == 0), float(place * 7 % 10)) for place, prompt in enumerate(PROMPTS)
    ]
    chance = judge(plan_tiny(folder), tmp_path, *drawn)
    assert chance.passed
    assert not judge(plan_tiny(folder, checks={"min_gold_auc": 0.9}), tmp_path, *drawn).passed


def test_too_few_rows_are_said_in_words_and_stop_nothing(folder: Path, tmp_path: Path) -> None:
    """Two right rows and thirty wrong ones with higher scores."""
    rows = [(prompt, answer(prompt, is_right=False), 9.0 + place % 2) for place, prompt in enumerate(PROMPTS)]
    rows += [(prompt, answer(prompt, is_right=True), 1.0) for prompt in PROMPTS[:2]]
    judged = judge(plan_tiny(folder), tmp_path, *rows)
    assert judged.passed
    assert "2 right and 30 wrong rows" in str(judged.description)
    assert "too few to tell: right or wrong rows are of 2 prompts" in str(judged.description)
    only_wrong = judge(plan_tiny(folder), tmp_path, *rows[:30])
    assert "there are 0 right and 30 wrong rows" in str(only_wrong.description)
    unknown = judge(plan_tiny(folder), tmp_path, ("Name a colour.", "Red.", 3.0))
    assert unknown.passed
    assert "Of no scored row is it known whether it is right" in str(unknown.description)
    assert judge(plan_tiny(folder), tmp_path, (PROMPTS[0], "No idea.", None)).passed


def test_gold_answers_of_seeds_tell_where_no_world_reads_the_prompt(folder: Path, tmp_path: Path) -> None:
    """As degraded completions of GSM8K's problems: they are held against the answer of the seed with their prompt."""
    seed = {"row_id": "s", "prompt": "Ann has 3 pears and buys 4. How many?", "completion": "3 + 4 = 7", "answer": "7"}
    rows = review(
        [
            (seed["prompt"], "3 + 4 = 7\n#### 7", 1.0),
            (seed["prompt"], "3 + 4 = 8\n#### 8", 9.0),
            (seed["prompt"], "I can not say.", 9.0),
            ("Another question?", "#### 7", 5.0),
        ]
    )
    this_round = open_round(plan_tiny(folder), tmp_path, rows, seeds=[seed])
    assert find_right(this_round, rows) == [True, False, None, None]
    assert measure_reviews(this_round, rows).auc.value == 0.0


@pytest.mark.parametrize("recipe", ["lance", "self_rewarding", "i_sheep", "kun"])
def test_every_recipe_that_scores_rows_is_held_to_it(folder: Path, tmp_path: Path, recipe: str) -> None:
    texts = {"texts": {"path": "texts.jsonl"}} if recipe == "kun" else {}
    assert judge(plan_tiny(folder, recipe=recipe, **texts), tmp_path, *invert()).is_error


def judge_equal(plan: Plan, num_rows: int) -> Judged:
    scored = review([(f"What is {place}?", "It is.", 7.0) for place in range(num_rows)])
    unknown = [None] * num_rows
    return judge_scores(plan, scored, unknown, measure_gold_accuracy([7.0] * num_rows, unknown, range(num_rows)))


def test_scores_that_are_all_equal_stop_the_round(folder: Path) -> None:
    judged = judge_equal(plan_tiny(folder), MIN_SCORED)
    assert not judged.passed
    assert judged.is_error
    for part in (
        "100% of the 20 scored rows have one score, 7.0, more than checks.max_equal_score_rate=0.98",
        "Such a review is: 'score: 7.0'",
        "Try one of: a second model under roles.reviewer",
    ):
        assert part in str(judged.description)
    assert judge_equal(plan_tiny(folder), MIN_SCORED - 1).passed
    assert judge_equal(plan_tiny(folder, checks={"max_equal_score_rate": 1.0}), MIN_SCORED).passed
    # Kun's verdict has two values, and good of all rows is told and stops nothing.
    kun = judge_equal(plan_tiny(folder, recipe="kun", texts={"path": "texts.jsonl"}), MIN_SCORED)
    assert not kun.passed
    assert not kun.is_error
    # Nor has a verifier's verdict more, where no model reviews beside it.
    alone, mixed = (
        judge_equal(plan_tiny(folder, verifier={"kind": "answer", "weight": weight}), MIN_SCORED) for weight in (1, 0.5)
    )
    assert not alone.is_error
    assert mixed.is_error


def test_tests_and_rules_of_seeds_are_no_gold_answers(folder: Path, tmp_path: Path) -> None:
    seed = {
        "row_id": "s",
        "prompt": "Add two numbers.",
        "completion": "def f(a, b): ...",
        "answer": "assert f(1, 2) == 3",
    }
    rows = review([(seed["prompt"], "The answer is 4", 1.0), (seed["prompt"], "assert f(1, 2) == 3", 9.0)])
    assert None not in find_right(open_round(plan_tiny(folder), tmp_path, rows, seeds=[seed]), rows)
    plan = plan_tiny(folder, verifier={"kind": "code"})
    assert find_right(open_round(plan, tmp_path, rows, seeds=[seed]), rows) == [None, None]


def test_the_data_of_a_round_whose_reviews_were_upside_down_can_be_left_out(folder: Path, tmp_path: Path) -> None:
    """What it trained is judged by its evaluation: the next round starts from its checkpoint, without its rows."""
    plan = plan_tiny(folder, stop={"max_rounds": 3, "rejected_data": "leave_out"})
    misled = open_round(plan, tmp_path, review(invert()))
    good = review([(prompt, text, 10 - score) for prompt, text, score in invert() if score is not None])
    open_round(plan, tmp_path, good, "r0002")
    assert list_misled_rounds(misled, ["r0000", "r0001", "r0002", "r0003"]) == ["r0001"]
    without_bar = plan_tiny(folder, checks={"min_gold_auc": None})
    assert list_misled_rounds(Round(without_bar, misled.platform, "r0002", lambda _: None), ["r0001"]) == []
