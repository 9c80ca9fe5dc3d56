"""A user's own checkable task: the file of docs/your-own-task.md goes through two rounds."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from lance_assets.assets.self_evolution import describe_self_evolution
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.rounds.nouns import compute_code_versions
from lance_assets.worlds import Problem, World, WorldError, draw_problems, find_world, hash_world_file
from tests.assets.scripted_platform import SCRIPTED, ScriptedEngine, ScriptedPlatform, without_drawing
from tests.assets.tiny_experiment import World as TinyWorld
from tests.assets.tiny_experiment import open_world, plan_tiny, write_tiny_experiment

PAGE = Path(__file__).parents[1] / "docs" / "your-own-task.md"
OWN = {"name": "my_task.py:WORLD", "per_stratum": 3, "max_new_tokens": 64}


def read_file_of_the_page() -> str:
    found = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


class ConvertingEngine(ScriptedEngine):
    """Right on numbers of one and two digits; reviews and proposals are the scripted engine's."""

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        for group in super().generate(requests, sampling):
            (sample,) = group
            asked = next(request for request in requests if request.row_id == sample.row_id).messages[-1]["content"]
            match = re.fullmatch(r"How many (?:minutes|hours) are (\d\d?) (hours|days)\?", asked)
            if match is None:
                yield group
                continue
            number = int(match[1]) * {"hours": 60, "days": 24}[match[2]]
            text = f"One of them is so many, and {match[1]} of them are {number}."
            yield [Sample(sample.row_id, text, "stop", 10, len(text.split()))]


class ConvertingPlatform(ScriptedPlatform):
    def open_engine(self, *_: object, **__: object) -> ConvertingEngine:
        return ConvertingEngine(self)


def write_world(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_task.py").write_text(text, encoding="utf-8")
    draw = random.Random(1)
    units = {"hours": ("minutes", 60), "days": ("hours", 24)}
    rows = [
        {"prompt": f"How many {units[unit][0]} are {number} {unit}?", "completion": str(number * units[unit][1])}
        for unit in units
        for number in draw.sample([number for number in range(1, 100) if number % 3], 6)
    ]
    (folder / "my_seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def open_own(root: Path, text: str, **machines: object) -> Iterator[TinyWorld]:
    """An experiment with this world's file beside it, on the scripted platform."""
    write_world(root / "tiny", text)
    sections = {"evaluation": {"world": OWN}, "seeds": {"path": "my_seeds.jsonl"}}
    arguments = SCRIPTED | {"platform_class": ConvertingPlatform, "machines": machines} | sections
    with without_drawing(), open_world(root, in_memory=True, **arguments) as world:
        yield world


@pytest.mark.slow
def test_a_world_in_one_file_goes_through_two_rounds(tmp_path: Path) -> None:
    """3 problems of each unit and difficulty; every new prompt is a held-out one in other words, and none is kept.

    The engine cannot do three digits, so that a third of the problems is wrong.
    """
    text = read_file_of_the_page()
    retold = f"Please convert all of {draw_problems(load(text), 3)[0].key} into minutes for me."
    with open_own(tmp_path, text, proposes=retold) as world:
        for key in ("r0000", "r0001"):
            assert world.run(key).success
        cleaned = world.round("r0001").read("cleaned_set").filter(pl.col("kind") == "new_prompt")
        assert set(cleaned["prompt"]) == {retold}
        assert set(cleaned["drop_reason"]) == {"evaluation_overlap"}
        report = world.round("r0001").read("eval_report").filter(metric="greedy")
        shown = world.metadata("eval_report", "r0001")
        rounds = str(describe_self_evolution(world.plan, world.platform).metadata["rounds"].value)
    assert set(report["benchmark"]) == {"durations"}
    assert report.select("task", "stratum", "score", "num_items").rows() == [
        ("all", None, pytest.approx(2 / 3), 18),
        ("hours", None, pytest.approx(2 / 3), 9),
        ("days", None, pytest.approx(2 / 3), 9),
        ("all", 1, 1.0, 6),
        ("all", 2, 1.0, 6),
        ("all", 3, 0.0, 6),
    ]
    assert shown["metric"] == "durations greedy"
    assert "by_difficulty" in shown
    assert "| greedy accuracy, %, by difficulty | 1 | 2 | 3 |" in rounds
    assert "| lance, r0001 | 100 | 100 | 0 |" in rounds
    assert "mean difficulty" in rounds


@pytest.mark.slow
def test_without_a_guard_of_its_own_a_world_is_protected_by_its_words(tmp_path: Path) -> None:
    text = read_file_of_the_page().replace("    build_guard=build_guard,\n", "")
    with open_own(tmp_path, text) as world:
        guard, asked = world.round("r0001").guard.is_evaluation_prompt, draw_problems(world.plan.world, 3)[0].prompt
    assert guard(asked.upper())
    assert guard(f"Review this.\nTask: {asked}")
    assert not guard(f"Please convert all of {asked.split()[4]} hours into minutes for me.")


def load(text: str) -> World:
    members: dict[str, object] = {"__name__": "page"}
    exec(text, members)
    found = members["WORLD"]
    assert isinstance(found, World)
    return found


def test_the_rule_and_the_prompts_of_the_page_agree() -> None:
    world = load(read_file_of_the_page())
    problems = draw_problems(world, 3)
    assert problems == draw_problems(world, 3)
    assert [world.read_prompt(problem.prompt) for problem in problems] == problems
    assert all(world.is_right(problem, f"So it is {problem.answer}.") for problem in problems)
    assert not any(world.is_right(problem, "") or world.is_right(problem, "So it is 1.") for problem in problems)


def test_a_changed_file_is_another_world(tmp_path: Path) -> None:
    write_world(tmp_path / "tiny", text := read_file_of_the_page())
    evaluation = {"world": OWN}
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"), evaluation=evaluation)
    before, hashed = compute_code_versions(plan), hash_world_file(OWN["name"], tmp_path / "tiny")
    (tmp_path / "tiny" / "my_task.py").write_text(text.replace('axis="difficulty"', 'axis="digits"'))
    again = plan_tiny(tmp_path / "tiny", evaluation=evaluation)
    assert again.world.axis == "digits"
    assert hash_world_file(OWN["name"], tmp_path / "tiny") != hashed
    changed = {noun for noun, code_version in compute_code_versions(again).items() if code_version != before[noun]}
    assert "start_checkpoint" not in changed
    assert {"seed_set", "cleaned_set", "eval_report"} <= changed


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("WORLD", "", r"no world 'WORLD': 'WORLD' is not a dotted name; write package.module:NAME; .*my_task.py:NAME"),
        ("none.py:WORLD", "", r"no world 'none.py:WORLD': there is no file .*none.py; put it there or correct"),
        ("my_task.py:WORLDS", None, r"my_task.py has no WORLDS; its worlds are: WORLD$"),
        ("my_task.py:AMOUNT", None, r"'my_task.py:AMOUNT' is a Pattern, not a lance_assets.worlds.World"),
        ("my_task.py:WORLD", "x =", r"my_task.py cannot be imported: SyntaxError: .*; correct the file"),
        ("my_task.py:WORLD", "\nx = y", r"NameError: name 'y' is not defined \(.*my_task.py:2\); correct the file"),
        ("no_such_package:WORLD", "", r"the module no_such_package cannot be imported: ModuleNotFoundError: .*install"),
        ("lance_assets.worlds:WORLD", "", r"the module lance_assets.worlds has no WORLD; correct the name"),
    ],
)
def test_a_world_that_cannot_be_found_is_named_with_file_and_line(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    write_world(tmp_path / "tiny", read_file_of_the_page() if text is None else text)
    (tmp_path / "tiny" / "defs.yaml").write_text(f"attributes:\n  evaluation:\n    world:\n      name: {name}\n")
    place = r"defs.yaml:4: attributes.evaluation.world.name: "
    with pytest.raises(ValueError, match=rf"(?s){place}.*{message}"):
        plan_tiny(write_tiny_experiment(tmp_path / "tiny"), evaluation={"world": OWN | {"name": name}})
    with pytest.raises(WorldError, match=message):
        find_world(name, tmp_path / "tiny")


ONE, TWO = Problem("a", "t", 1, "What is a?", "1"), Problem("b", "t", 2, "b?", "1")


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ([ONE], r"world w: draw_held_out\(1\) returned no problem of level 2"),
        ([ONE, Problem("a", "t", 2, "b?", "1")], r"world w: 2 held-out problems have the same key 'a'"),
        ([ONE, Problem("b", "t", 2, ONE.prompt, "1")], r"have the same prompt 'What is a\?'"),
        (
            [ONE, TWO, Problem("c", "t", 3, "c?", "1")],
            r"'c' has stratum 3, not one of 1, 2",
        ),
        ([ONE, Problem("b", "all", 2, "b?", "1")], r"'b' has the task 'all', which means every task"),
    ],
)
def test_problems_that_break_the_contract_are_named(problems: list[Problem], message: str) -> None:
    world = World("w", "level", (1, 2), lambda _: problems, lambda _, __: True)
    with pytest.raises(WorldError, match=message):
        draw_problems(world, 1)


@pytest.mark.parametrize(("name", "strata"), [("My task", (1,)), ("w", ()), ("w", (2, 1)), ("w", (1, 1))])
def test_a_worlds_name_and_strata_are_checked(name: str, strata: tuple[int, ...]) -> None:
    with pytest.raises(WorldError, match=r"a world's name has|strata must be different numbers in ascending order"):
        World(name, "level", strata, lambda _: [], lambda _, __: True)
