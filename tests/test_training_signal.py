"""No rule that knows the answers has a part in what is trained on: the model's own review and agreement alone."""

import ast
import random
from pathlib import Path

from lance_assets.rounds.guard import build_evaluation_guard
from lance_assets.settings.evaluation import EvaluationSettings, WorldSettings
from lance_assets.small_world.jobs import JOB_SHARES, draw_example
from lance_assets.small_world.tasks import parse_prompt

ROOT = Path(__file__).parents[1]
VERIFIERS = {"is_correct", "is_right", "extract_answer", "complete", "work_out"}
MAY_VERIFY = {
    # what trains on what a verifier calls right, which an experiment's file asks for
    *("lance_assets/recipes/star/__init__.py", "lance_assets/recipes/steps/right_rows.py"),
    "resources/verifying/sandbox.py",
    # what GRPO trains on, which an experiment's file asks for; and a check that stops a round holds reviews against it
    "lance_assets/rewards.py",
    "lance_assets/rounds/identity/used_code.py",  # names the rule, whose code counts in it, and never calls it
    "lance_assets/rounds/study.py",  # counts right and wrong of what was accepted, for the report, after the fact
    "lance_assets/rounds/world_evaluation.py",
    "lance_assets/small_world/jobs.py",  # pretraining
    "lance_assets/small_world/seeds.py",  # the seeds
    "lance_assets/small_world/ways.py",  # the rule of a task whose answers are ways of working
}


def read_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return names | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_only_evaluation_and_the_making_of_the_world_know_answers() -> None:
    files = [path for folder in ("lance_assets", "resources") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    knowing = {str(path.relative_to(ROOT)) for path in files if read_imports(path) & VERIFIERS}
    assert knowing == MAY_VERIFY


def test_only_experiments_of_recipes_that_need_one_have_a_verifier() -> None:
    files = sorted((ROOT / "lance_assets" / "experiments").glob("*/defs.yaml"))
    having = {file.parent.name for file in files if "\n  verifier:" in file.read_text()}
    assert having == {"mini_rft", "mini_star"}


def test_pretraining_holds_no_held_out_problem_in_any_wording() -> None:
    rng, seen = random.Random(3), set()
    world = WorldSettings(name="lance_assets.small_world:WORLD", per_stratum=12)
    guard = build_evaluation_guard(EvaluationSettings(world=world), ROOT)
    for _ in range(4000):
        example = draw_example(rng, rung_decay=dict.fromkeys(JOB_SHARES, 0.9))
        task = example.prompt.split("Task: ")[-1].split("\n")[0]
        proposed = example.completion.split("Final Answer: ")[-1] if example.job == "new_prompt" else task
        for prompt in (task, proposed):
            problem = parse_prompt(prompt)
            assert problem is None or not problem.is_held_out, f"held out: {prompt}"
            assert not guard(prompt), f"of the evaluation: {prompt}"
            seen.add(prompt)
    assert len(seen) > 3000
