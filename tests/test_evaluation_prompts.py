import json
import random
from pathlib import Path

import pytest

from lance_assets.evaluation_prompts import build_evaluation_guard, read_protected_prompts
from lance_assets.prompts import render_prompt
from lance_assets.settings import EvaluationSettings, SmallWorldSettings
from lance_assets.small_world.tasks import Problem, draw_held_out_prompts, parse_prompt, phrase_prompt

HELD_OUT = draw_held_out_prompts(per_rung=1)
SMALL_WORLD = EvaluationSettings(small_world=SmallWorldSettings(per_rung=1))
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
        asked = render_prompt("compact", "lance/review", prompt=prompt, completion="The answer is 3.")
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
        ('{"prompt": "cut', ":2: every line is a JSON object with the field 'prompt': JSONDecodeError"),
        ('{"question": "x"}', ":2: every line is .* the field 'prompt': KeyError.*; .*set evaluation.protected_field"),
        ('["x"]', ":2: every line is a JSON object with the field 'prompt': TypeError"),
        ("7", ":2: every line is a JSON object with the field 'prompt': TypeError"),
        ('{"prompt": 7}', ":2: the field 'prompt' holds a prompt, got 7; make it a string"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, '{"prompt": "fine"}', line)
    with pytest.raises(ValueError, match=f"protected.jsonl{message}"):
        read_protected_prompts(path, "prompt")


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluation.protected_prompts: no file .*none.jsonl; give a JSONL file"):
        read_protected_prompts(tmp_path / "none.jsonl", "prompt")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"latin.jsonl: not UTF-8 at byte 15; save it as UTF-8"):
        read_protected_prompts(tmp_path / "latin.jsonl", "prompt")
