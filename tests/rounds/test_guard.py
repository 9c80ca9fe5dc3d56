import json
import random
from pathlib import Path

import numpy as np
import pytest

from lance_assets.conversations import Turn, write_conversation
from lance_assets.prompts import Templates
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.rounds.guard import (
    EvaluationGuard,
    build_evaluation_guard,
    list_protected_prompts,
    read_judge_prompts,
    read_protected_prompts,
)
from lance_assets.settings.evaluation import EvaluationSettings, JudgeSettings, WorldSettings
from lance_assets.small_world.tasks import Problem, draw_held_out_prompts, parse_prompt, phrase_prompt

HELD_OUT = draw_held_out_prompts(per_rung=1)
SMALL_WORLD = EvaluationSettings(world=WorldSettings(name="lance_assets.small_world:WORLD", per_stratum=1))
LONG = "A farmer has twelve hens and each hen lays two eggs every day of the week"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "protected.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def guard(tmp_path: Path):
    """Guards the small world's held-out problems and two protected prompts."""
    write(tmp_path, json.dumps({"question": "What is 5 + 3?"}), json.dumps({"question": LONG + "."}))
    protected = {"protected_prompts": "protected.jsonl", "protected_field": "question"}
    return build_evaluation_guard(SMALL_WORLD.model_copy(update=protected), tmp_path)


@pytest.mark.parametrize("row", random.Random(0).sample(HELD_OUT, 12), ids=lambda row: row["key"])
def test_a_held_out_problem_is_guarded_in_every_wording(guard, row: dict) -> None:
    problem = parse_prompt(row["prompt"])
    assert problem is not None
    wordings = {phrase_prompt(problem, random.Random(number)) for number in range(20)}
    assert len(wordings) > 1
    assert all(guard(wording) for wording in wordings | {row["prompt"]})


@pytest.mark.parametrize("wording", ["{} reversed, please!", "reverse the LIST {}.", "Do something with {}"])
@pytest.mark.parametrize("separator", [" ", ", ", "", " then "])
def test_a_paraphrase_with_the_same_numbers_is_guarded(guard, wording: str, separator: str) -> None:
    row = next(row for row in HELD_OUT if row["task"] == "reverse" and row["rung"] == 4)
    numbers = parse_prompt(row["prompt"]).numbers
    assert guard(wording.format(separator.join(map(str, numbers))))
    assert not guard(wording.format(separator.join(map(str, (*numbers, 7)))))


def test_a_prompt_that_quotes_a_held_out_one_is_guarded(guard) -> None:
    held_out, free = HELD_OUT[5]["prompt"], "Reverse the list 1 2 3 4 5 6 7 8 9 9 9 9 9 9 9."
    for prompt, is_guarded in ((held_out, True), (free, False)):
        asked = Templates("compact").render(
            "lance/review", prompt=prompt, completion="The answer is 3.", **RUBRIC.scale
        )
        assert guard(asked) == is_guarded


def test_a_story_retold_is_guarded(guard) -> None:
    row = next(row for row in HELD_OUT if row["task"] == "story" and row["rung"] == 3)
    numbers = [abs(number) for number in parse_prompt(row["prompt"]).numbers]
    assert guard(f"Starting from {numbers[0]}, follow " + " and ".join(map(str, numbers[1:])))


def test_other_numbers_or_another_task_are_not(guard) -> None:
    keys = {row["key"] for row in HELD_OUT}
    free = [Problem("reverse", (1, 2, number)) for number in range(10)]
    free = [problem for problem in free if problem.key not in keys]
    assert free
    assert not any(guard(phrase_prompt(problem, random.Random(0))) for problem in free)
    row = next(row for row in HELD_OUT if row["task"] == "reverse")
    numbers = parse_prompt(row["prompt"]).numbers
    for other in (Problem("sort", numbers), Problem("reverse", numbers[::-1])):
        assert guard(phrase_prompt(other, random.Random(0))) == (other.key in keys)


@pytest.mark.parametrize(
    ("prompt", "is_guarded"),
    [
        ("what is 5 + 3", True),
        ("What is 5 + 4?", False),
        (f"Once more: {LONG}, and eats.", True),
        (" ".join(LONG.split()[:12]), False),
        ("", False),
    ],
)
def test_protected_prompts_are_guarded(guard, prompt: str, is_guarded: bool) -> None:
    assert guard(prompt) == is_guarded


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("asked", ["what is 5 + 3", HELD_OUT[5]["prompt"]])
def test_every_turn_of_a_conversation_is_looked_at(tmp_path: Path, guard, asked: str, place: int) -> None:
    said = [Turn("system", "Be kind."), Turn("user", "Hi."), Turn("assistant", "Ho."), Turn("user", "And now?")]
    free = write_conversation(said)
    said[place] = said[place]._replace(text=asked)
    asking = write_conversation(said)
    assert (guard(asking), guard(free)) == (True, False)
    protected = {"protected_prompts": "protected.jsonl", "protected_field": "question"}
    opened = EvaluationGuard(SMALL_WORLD.model_copy(update=protected), tmp_path, list, lambda texts: np.zeros((0, 1)))
    assert opened.find(["free", "asking"], [free, asking])["row_id"].to_list() == ["asking"]


def test_without_the_small_world_its_problems_are_free(tmp_path: Path) -> None:
    lm_eval = {"lm_eval": {"tasks": ["gsm8k"]}}
    guard = build_evaluation_guard(EvaluationSettings.model_validate(lm_eval), tmp_path)
    assert not guard(HELD_OUT[0]["prompt"])


def test_lines_are_read_as_they_are(tmp_path: Path) -> None:
    """Blank lines are skipped, and a line separator inside a text does not end the line."""
    path = write(tmp_path, '{"prompt": "one\u2028two"}', "", '{"prompt": "three", "more": 1}')
    assert read_protected_prompts(path, "prompt") == ["one\u2028two", "three"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "cut', ": line 2: is not JSON"),
        ('{"question": "x"}', r": line 2: field 'prompt' is missing, found \['question'\]; add it"),
        ('\n{"prompt": ""}\n7', r": 2 rows cannot be used:\n  line 3: .*\n  line 4: must be"),
        ('["x"]', r": line 2: must be a JSON object, got list \['x'\]"),
        ("7", ": line 2: must be a JSON object, got int 7"),
        ('{"prompt": 7}', ": line 2: field 'prompt' must be a string, got int 7; put it in quotes"),
        ('{"prompt": " "}', ": line 2: field 'prompt' is empty"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, '{"prompt": "fine"}', line)
    with pytest.raises(ValueError, match=f"protected.jsonl{message}"):
        read_protected_prompts(path, "prompt")


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.jsonl: no such file; check the path in the experiment$"):
        read_protected_prompts(tmp_path / "none.jsonl", "prompt")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"latin.jsonl: line 1: is not UTF-8: byte 0xe9 at offset 15; save"):
        read_protected_prompts(tmp_path / "latin.jsonl", "prompt")
    for name in ("empty.jsonl", "empty.csv"):
        (tmp_path / name).write_text("\n")
        with pytest.raises(ValueError, match=rf"{name}: the file is empty; it needs at least one row"):
            read_protected_prompts(tmp_path / name, "prompt")
    (tmp_path / "other.csv").write_text("title,q\na,What is 2 + 2?\n")
    with pytest.raises(ValueError, match=r"the prompt, found \['q', 'title'\]; set evaluation.protected_f"):
        read_protected_prompts(tmp_path / "other.csv", None)


def test_protected_prompts_are_recognised_in_every_format(tmp_path: Path) -> None:
    """Of a dialogue everything is protected that the user asks; an Alpaca row is protected with its input."""
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "What is 2 + 2?"}\n')
    (tmp_path / "q.csv").write_text("question,answer\nWhat is 2 + 2?,\n")
    turns = [{"from": role, "value": text} for role, text in (("human", "A?"), ("gpt", "B."), ("human", "C?"))]
    rows = {
        "alpaca.json": [{"instruction": "Sort.", "input": "3 1", "output": "1 3"}],
        "sharegpt.json": [{"conversations": turns}, {"conversations": turns[:1]}],
        "pairs.json": [{"chosen": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}],
                        "rejected": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "D."}]}],
    }  # fmt: skip
    for name, written in rows.items():
        (tmp_path / name).write_text(json.dumps(written))
    found = {path.name: read_protected_prompts(path, None) for path in tmp_path.iterdir()}
    assert found["bom.jsonl"] == found["q.csv"] == ["What is 2 + 2?"]
    assert found["alpaca.json"] == ["Sort.\n\n3 1"]
    assert found["sharegpt.json"] == ["A?", "C?", "A?"]
    assert found["pairs.json"] == ["A?"]


def judge_of(folder: Path, *rows: object, **changed: object) -> JudgeSettings:
    """A judge whose file holds these rows."""
    (folder / "judge.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return JudgeSettings.model_validate({"path": "judge.jsonl", "model": "small"} | changed)


def test_the_prompts_of_a_judge_are_protected_beside_others(tmp_path: Path) -> None:
    write(tmp_path, json.dumps({"prompt": "What is 5 + 3?"}))
    judge = judge_of(tmp_path, {"prompt": LONG, "completion": "None."}, {"prompt": "Name a hen.", "completion": "Ada."})
    both = EvaluationSettings(judge=judge, protected_prompts="protected.jsonl")
    assert list_protected_prompts(both, tmp_path) == ["What is 5 + 3?", LONG, "Name a hen."]
    guard = build_evaluation_guard(EvaluationSettings(judge=judge), tmp_path)
    assert guard(f"So: {LONG}!")
    assert guard("name a hen")
    assert not guard("What is 5 + 3?")


def test_problems_that_a_judge_evaluates_are_held_out_in_every_wording(tmp_path: Path) -> None:
    """All prompts of the file, whatever its limit; without a world nothing can read them."""
    problems = [Problem("sum", (4, 1, 9, 9, 2, number)) for number in (3, 8)]
    rows = [{"prompt": phrase_prompt(problem, random.Random(0))} for problem in problems]
    judge = judge_of(tmp_path, *rows, opponent="backbone", limit=1)
    guard = build_evaluation_guard(SMALL_WORLD.model_copy(update={"judge": judge}), tmp_path)
    for problem in problems:
        assert all(guard(phrase_prompt(problem, random.Random(number))) for number in range(9))
    assert guard("All of 4 1 9 9 2 3, please")
    assert not guard(phrase_prompt(Problem("sum", (4, 1, 9, 9, 2, 4)), random.Random(0)))
    assert not build_evaluation_guard(EvaluationSettings(judge=judge), tmp_path)("All of 4 1 9 9 2 3, please")


def test_a_judges_file_is_read_with_or_without_completions(tmp_path: Path) -> None:
    rows = [{"q": "One?", "a": "Yes."}, {"q": "Two?", "a": ""}]
    named = {"prompt_field": "q", "completion_field": "a"}
    assert read_judge_prompts(judge_of(tmp_path, *rows, **named), tmp_path) == {"One?": "Yes.", "Two?": ""}
    alone = judge_of(tmp_path, *rows, prompt_field="q", opponent="backbone")
    assert read_judge_prompts(alone, tmp_path) == {"One?": None, "Two?": None}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "judge.jsonl: the file is empty; it needs at least one row"),
        (
            [{"prompt": prompt, "completion": "y"} for prompt in "xyxx"],
            "2 rows cannot be used:\n  line 3: has the prompt of line 1 again: 'x'; remove one of them\n  line 4: ",
        ),
        ([{"prompt": "x"}], "the completion, found .*set evaluation.judge.completion_field to .*, or .*backbone"),
        ([{"text": "x", "completion": "y"}], "the prompt, found .*set evaluation.judge.prompt_field to"),
        ([{"prompt": "x", "completion": 7}], "line 1: field 'completion' must be a string, got int 7"),
        (
            [{"prompt": "x", "completion": "y", "input": "z"}],
            "'input' belongs to the task .*; write it into",
        ),
    ],
)
def test_a_judges_broken_file_is_named(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_judge_prompts(judge_of(tmp_path, *rows), tmp_path)
    (tmp_path / "judge.jsonl").unlink()
    missing = JudgeSettings.model_validate({"path": "judge.jsonl", "model": "small"})
    with pytest.raises(ValueError, match=r"judge.jsonl: no such file; check the path in the experiment"):
        read_judge_prompts(missing, tmp_path)
