import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lance_assets.algorithms.reviews.review_parsing import parse_review
from lance_assets.rounds.guard import build_evaluation_guard
from lance_assets.settings.evaluation import EvaluationSettings, JudgeSettings, WorldSettings
from lance_assets.small_world.seeds import (
    EVALUATED_PER_RUNG,
    HARD_RUNG_SHARES,
    NUM_KUN_EFT_ROWS,
    NUM_TEXTS,
    POOL_RUNG_SHARES,
    build_files,
    draw_eft_rows,
    draw_judge_prompts,
    draw_kun_rows,
    draw_seeds,
    draw_texts,
    list_held_out_digits,
    write_rows,
)
from lance_assets.small_world.tasks import (
    RUNGS,
    TASKS,
    Problem,
    complete,
    draw_held_out_prompts,
    find_digits,
    is_correct,
    parse_prompt,
    work_out,
)
from lance_assets.small_world.ways import WAYS

FOLDER = "lance_assets/experiments/mini_lance"


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def given_prompt(row: dict) -> str:
    """The prompt an EFT row is about."""
    return next(line for line in row["prompt"].splitlines() if line.startswith("Task: ")).removeprefix("Task: ")


EXPERIMENTS = "lance_assets/experiments"
FILES = build_files()
SEED_FILES = [name for name in FILES if name.endswith(("seeds.jsonl", "pool.jsonl"))]
EFT_FILES = [name for name in FILES if name.endswith("eft.jsonl")]
IN_THE_SMALL_WORLD = sorted({name.split("/")[0] for name in FILES} | {"mini_self_rewarding", "mini_i_sheep"})


def test_every_shipped_file_is_what_the_script_writes(project_root: Path, tmp_path: Path) -> None:
    shipped = {
        path.relative_to(project_root / EXPERIMENTS)
        for path in (project_root / EXPERIMENTS).glob("mini_*/*.jsonl")
        # A real table: tests/test_table_world.py draws it again.
        if path.parent.name != "mini_cllm"
    }
    assert {str(path) for path in shipped} == set(FILES)
    for name, rows in FILES.items():
        write_rows(tmp_path / "written.jsonl", rows)
        assert (tmp_path / "written.jsonl").read_bytes() == (project_root / EXPERIMENTS / name).read_bytes(), name


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


@pytest.mark.parametrize("name", SEED_FILES)
def test_the_seeds_of_every_experiment_are_right_distinct_and_never_held_out(name: str) -> None:
    rows = FILES[name]
    problems = [parse_prompt(row["prompt"]) for row in rows]
    assert not any(problem.is_held_out for problem in problems)
    ways = [(WAYS[problem.task], WAYS[problem.task]) for problem in problems]
    worked = [(complete(problem), problem.answer) for problem in problems]
    right = ways if name.startswith("mini_llm2llm_labels/") else worked
    assert right == [(row["completion"], row["answer"]) for row in rows]
    assert len({problem.key for problem in problems}) == len(rows)
    assert len({row["prompt"] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("name", "num_rows", "shares"),
    [
        ("mini_spin/seeds.jsonl", 160, HARD_RUNG_SHARES),
        ("mini_llm2llm/seeds.jsonl", 80, HARD_RUNG_SHARES),
        ("mini_llm2llm_labels/seeds.jsonl", 40, HARD_RUNG_SHARES),
        ("mini_diverse_evol/pool.jsonl", 1200, POOL_RUNG_SHARES),
    ],
)
def test_every_task_and_rung_has_its_share(name: str, num_rows: int, shares: dict[int, float]) -> None:
    assert sum(shares.values()) == pytest.approx(1)
    problems = [parse_prompt(row["prompt"]) for row in FILES[name]]
    assert Counter((problem.task, problem.rung) for problem in problems) == {
        (task, rung): round(num_rows * share / 4) for task in TASKS for rung, share in shares.items()
    }
    assert len(problems) == num_rows


def test_the_files_of_experiments_share_no_drawing() -> None:
    """Each has a drawing of its own: most problems of one are in no other."""
    keys = {name: {parse_prompt(row["prompt"]).key for row in FILES[name]} for name in SEED_FILES}
    for name, own in keys.items():
        for other in set(keys) - {name}:
            long = {key for key in own if len(key) > 16}  # short lists are few, so that they come again
            assert len(long & keys[other]) < 0.2 * len(long), (name, other)


def test_the_files_know_what_the_experiments_are_evaluated_on(project_root: Path) -> None:
    for name in IN_THE_SMALL_WORLD:
        text = (project_root / EXPERIMENTS / name / "defs.yaml").read_text(encoding="utf-8")
        evaluation = yaml.safe_load(text)["attributes"]["evaluation"]
        assert evaluation["world"]["per_stratum"] == EVALUATED_PER_RUNG, name


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(("texts.jsonl", "judge_prompts.jsonl"))])
def test_no_row_is_an_evaluation_prompt_by_the_rounds_own_guard(name: str, tmp_path: Path) -> None:
    world = WorldSettings(name="lance_assets.small_world:WORLD", per_stratum=EVALUATED_PER_RUNG)
    is_evaluation_prompt = build_evaluation_guard(EvaluationSettings(world=world), tmp_path)
    held_out = draw_held_out_prompts(per_rung=EVALUATED_PER_RUNG)[5]["prompt"]
    assert is_evaluation_prompt(f"Is this task clear?\nTask: {held_out}")
    assert [row["prompt"] for row in FILES[name] if is_evaluation_prompt(row["prompt"])] == []


def read_working(text: str) -> Problem | None:
    """The problem that a text works out; None where the text does not tell it, as for a sorted list."""
    if found := re.search(r"Take the digits from the end: ([0-9 ]+)\.", text):
        return Problem("reverse", tuple(reversed([int(digit) for digit in found[1].split()])))
    opening = "Add one at a time" if "Add one" in text else "Follow each change"
    steps = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", text)
    if not steps:
        return None
    numbers = (int(steps[0][0]), *(int(sign + number) for _, sign, number, _ in steps))
    return Problem("sum" if opening.startswith("Add") else "story", numbers)


def test_texts_are_workings_without_prompt_and_answer() -> None:
    rows = FILES["mini_kun/texts.jsonl"]
    assert rows == draw_texts()
    assert len(rows) == NUM_TEXTS
    assert set(rows[0]) == {"text"}
    kinds = Counter()
    for row in rows:
        problem = read_working(row["text"])
        kinds["sort" if problem is None else problem.task] += 1
        assert "Pick the smallest" in row["text"] or problem is not None
        assert problem is None or (work_out(problem) in row["text"] and not problem.is_held_out)
        assert "answer" not in row["text"]
        assert all(parse_prompt(part) is None for part in re.split(r"(?<=[.?]) ", row["text"]))
    assert set(kinds) == set(TASKS)
    assert min(kinds.values()) > NUM_TEXTS / 6
    assert sum(row["text"].startswith(("Add", "Follow", "Pick", "Take")) for row in rows) < 0.4 * len(rows)


def test_kun_rows_are_verdicts_and_polishings_without_the_evaluations_digits() -> None:
    rows = FILES["mini_kun/eft.jsonl"]
    assert rows == draw_kun_rows()
    assert len({row["prompt"] for row in rows}) == len(rows) == NUM_KUN_EFT_ROWS
    held_out = list_held_out_digits()
    assert held_out == {find_digits(row["key"]) for row in draw_held_out_prompts(per_rung=EVALUATED_PER_RUNG)}
    jobs: Counter[str] = Counter()
    for row in rows:
        shown, task = row["prompt"].split("\n")
        problem = parse_prompt(task.removeprefix("Task: "))
        assert problem is None or not problem.is_held_out
        assert not held_out & {find_digits(text) for text in (row["prompt"], shown, task)}
        if shown == "Is this task clear?":
            jobs["good" if row["completion"].endswith("[good]") else "bad"] += 1
            assert row["completion"] == (
                "Something is missing. [bad]" if problem is None else "Clear and complete. [good]"
            )
        else:
            jobs["polish"] += 1
            assert shown.startswith("Known: ")
            assert problem is not None
            assert work_out(problem) in shown
            assert row["completion"] == complete(problem)
    assert jobs["polish"] == jobs["good"] + jobs["bad"] == NUM_KUN_EFT_ROWS / 2
    assert min(jobs.values()) > 50


def test_a_judges_prompts_are_held_out_problems_of_every_task_and_rung() -> None:
    rows = FILES["mini_diverse_evol/judge_prompts.jsonl"]
    problems = [parse_prompt(row["prompt"]) for row in rows]
    assert all(problem.is_held_out for problem in problems)
    assert Counter((problem.task, problem.rung) for problem in problems) == {
        (task, rung): 1 for task in TASKS for rung in RUNGS
    }
    assert rows == draw_judge_prompts()
    evaluated = {row["key"] for row in draw_held_out_prompts(per_rung=EVALUATED_PER_RUNG)}
    assert sum(problem.key in evaluated for problem in problems) < 8, "a drawing of its own; short lists come again"


def test_no_row_of_the_pool_is_a_prompt_of_its_judge(project_root: Path) -> None:
    """By the round's own guard, so that adding the judge has changed nothing of what is trained on."""
    folder = project_root / EXPERIMENTS / "mini_diverse_evol"
    judge = JudgeSettings.model_validate({"path": "judge_prompts.jsonl", "opponent": "backbone", "model": "small"})
    world = WorldSettings(name="lance_assets.small_world:WORLD", per_stratum=EVALUATED_PER_RUNG)
    is_evaluation_prompt = build_evaluation_guard(EvaluationSettings(world=world, judge=judge), folder)
    assert is_evaluation_prompt(FILES["mini_diverse_evol/judge_prompts.jsonl"][0]["prompt"])
    assert [row for row in FILES["mini_diverse_evol/pool.jsonl"] if is_evaluation_prompt(row["prompt"])] == []


def test_other_seeds_draw_other_files() -> None:
    assert draw_texts(num_texts=20, rng_seed=1) != draw_texts(num_texts=20, rng_seed=2)
    assert draw_kun_rows(num_rows=20, rng_seed=1) != draw_kun_rows(num_rows=20, rng_seed=2)
    assert len(draw_texts(num_texts=20)) == len(draw_kun_rows(num_rows=20)) == 20
