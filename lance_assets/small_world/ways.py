"""The small world's prompts as a task of classification: in which way is a problem worked out?

Nothing is calculated here, and no number counts: an answer is one of four ways of working, in words. The prompts, the
rungs and what is held out are those of `tasks`, so that the packaged teacher, which works such problems out and so says
the way it goes, can teach this task too. The small model guesses at long problems and then names no way.
"""

from collections.abc import Sequence
from dataclasses import replace

from lance_assets.algorithms.reviews.label_matching import build_labels
from lance_assets.small_world.tasks import TASKS, WORLD, Problem, work_out
from lance_assets.worlds import Problem as AskedProblem
from lance_assets.worlds import World

WAYS = {task: work_out(Problem(task, (1, 1, 1))).partition(":")[0] for task in TASKS}
"""The way of working of each task, as a worked completion begins."""

_LABELS = build_labels({way: () for way in WAYS.values()})


def name_way(problem: AskedProblem) -> AskedProblem:
    """The problem with its way of working as the answer."""
    return replace(problem, answer=WAYS[problem.task])


def draw_held_out_ways(per_stratum: int) -> list[AskedProblem]:
    """The held-out problems of the small world, with their way of working as the answer."""
    return [name_way(problem) for problem in WORLD.draw_held_out(per_stratum)]


def is_way(problem: AskedProblem, completion: str) -> bool:
    """Whether a completion names the problem's way of working and no other; what it calculates does not matter."""
    return _LABELS.read(completion) == problem.answer


def read_way(prompt: str) -> AskedProblem | None:
    """The problem that a prompt asks, with its way of working as the answer; None for a prompt of no wording here."""
    problem = WORLD.read_prompt(prompt)
    return None if problem is None else name_way(problem)


def label_seeds(seeds: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Seeds of the small world with the way of working in place of the working itself."""
    ways = []
    for seed in seeds:
        problem = read_way(seed["prompt"])
        assert problem is not None, "the world reads its own seeds"
        ways.append({"prompt": seed["prompt"], "completion": problem.answer, "answer": problem.answer})
    return ways


WAYS_WORLD = World(
    name="small_world_ways",
    axis="rung",
    strata=WORLD.strata,
    draw_held_out=draw_held_out_ways,
    is_right=is_way,
    read_prompt=read_way,
    build_guard=WORLD.build_guard,
    mean_tokens=(31.0, 7.0),
)
"""In which way a problem is worked out, on the same ladder."""
