import json
from collections import Counter
from pathlib import Path

import pytest

from lance_assets.algorithms.review_parsing import parse_review
from lance_assets.small_world.seeds import draw_eft_rows, draw_seeds, write_rows
from lance_assets.small_world.tasks import TASKS, is_correct, parse_prompt

FOLDER = "lance_assets/experiments/mini_lance"


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def given_prompt(row: dict) -> str:
    """The prompt an EFT row is about."""
    return next(line for line in row["prompt"].splitlines() if line.startswith("Task: ")).removeprefix("Task: ")


@pytest.mark.parametrize(("name", "draw"), [("seeds.jsonl", draw_seeds), ("eft.jsonl", draw_eft_rows)])
def test_the_shipped_files_are_what_the_script_writes(name: str, draw, project_root: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / name, draw())
    assert (tmp_path / name).read_bytes() == (project_root / FOLDER / name).read_bytes()


def test_seeds_are_right_distinct_never_held_out_and_mostly_easy(project_root: Path) -> None:
    rows = read_rows(project_root / FOLDER / "seeds.jsonl")
    problems = [parse_prompt(row["prompt"]) for row in rows]
    assert all(is_correct(problem, row["completion"]) for problem, row in zip(problems, rows, strict=True))
    assert [problem.answer for problem in problems] == [row["answer"] for row in rows]
    assert not any(problem.is_held_out for problem in problems)
    assert len({problem.key for problem in problems}) == len(rows) == 160
    assert Counter(problem.task for problem in problems) == dict.fromkeys(TASKS, 40)
    assert Counter(problem.rung for problem in problems) == {1: 48, 2: 48, 3: 32, 4: 32}


def test_eft_rows_are_of_every_job_and_never_about_a_held_out_problem(project_root: Path) -> None:
    rows = read_rows(project_root / FOLDER / "eft.jsonl")
    opening = Counter(row["prompt"].splitlines()[0] for row in rows)
    assert opening == {
        "Review this.": 120,
        "Write a new and harder task like this.": 60,
        "Write a worse completion.": 60,
    }
    assert len({row["prompt"] for row in rows}) == 240
    for row in rows:
        problem = parse_prompt(given_prompt(row))  # None for the few unclear prompts
        assert problem is None or not problem.is_held_out
        if row["prompt"].startswith("Review"):
            assert isinstance(parse_review(row["completion"]), float)
        if row["prompt"].startswith("Write a new"):
            new = parse_prompt(row["completion"].partition("Final Answer: ")[2])
            assert new is not None
            assert not new.is_held_out
        if row["prompt"].startswith("Write a worse"):
            assert problem is not None
            assert not is_correct(problem, row["completion"])


@pytest.mark.parametrize("number", [0, -40, 41])
def test_a_number_that_gives_no_exact_shares_says_so(number: int) -> None:
    with pytest.raises(ValueError, match=f"got {number}"):
        draw_seeds(num_seeds=number)
    with pytest.raises(ValueError, match=f"got {number - 2}"):
        draw_eft_rows(num_rows=number - 2)
