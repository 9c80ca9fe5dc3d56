"""The small world as a `World`: what an experiment names as `lance_assets.small_world:WORLD`."""

from collections.abc import Callable, Sequence

from lance_assets.small_world.tasks import RUNGS, draw_held_out_prompts, extract_answer, find_digits, parse_prompt
from lance_assets.worlds import Problem, World


def draw_held_out(per_stratum: int) -> list[Problem]:
    """The held-out problems of every task and rung, `per_stratum` of each; the same on every machine."""
    return draw_rungs(per_stratum, RUNGS)


def draw_rungs(per_stratum: int, rungs: tuple[int, ...]) -> list[Problem]:
    """The held-out problems of some rungs. They depend on which rungs are drawn together."""
    return [
        Problem(row["key"], row["task"], row["rung"], row["prompt"], row["answer"])
        for row in draw_held_out_prompts(per_rung=per_stratum, rungs=rungs)
    ]


def is_right(problem: Problem, completion: str) -> bool:
    """Whether the last answer that the completion names is the problem's."""
    return extract_answer(completion) == problem.answer


def read_prompt(prompt: str) -> Problem | None:
    """The problem that a prompt asks, in any wording of this world; None for any other prompt."""
    problem = parse_prompt(prompt)
    if problem is None:
        return None
    return Problem(problem.key, problem.task, problem.rung, prompt, problem.answer)


def build_guard(problems: Sequence[Problem]) -> Callable[[str], bool]:
    """A function that says whether a text asks one of these problems.

    A text in a wording of this world asks one when task and numbers are equal. A text in other words asks one when its
    digits are those of a problem of any task: what it wants to know of these numbers cannot be read.
    """
    keys = {problem.key for problem in problems}
    digits = {find_digits(key) for key in keys}

    def is_held_out(text: str) -> bool:
        problem = parse_prompt(text)
        return find_digits(text) in digits if problem is None else problem.key in keys

    return is_held_out


WORLD = World(
    name="small_world",
    axis="rung",
    strata=RUNGS,
    draw_held_out=draw_held_out,
    is_right=is_right,
    read_prompt=read_prompt,
    build_guard=build_guard,
    mean_tokens=(31.0, 29.0),  # measured on mini_lance
)
"""Four tasks, each on a ladder of twelve rungs."""
