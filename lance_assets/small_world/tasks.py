"""The small world's problems: four tasks, each on a ladder of rungs, each checkable by rule.

| task | rung r asks for | completion works by |
| --- | --- | --- |
| reverse | a list of r + 2 digits, backwards | copying from the end |
| sort | a list of r + 2 digits, ascending | taking the smallest each time |
| sum | the sum of r + 2 digits | adding one at a time |
| story | what is left after r + 1 changes | one line of arithmetic a change |

A problem is identified by its task and numbers alone (`Problem.key`), never by its wording, so a paraphrase
with the same numbers is the same problem. One problem in `HELD_OUT_ONE_IN` belongs to evaluation by the hash
of its key: the training corpus and the seeds never contain one.

At the end is `WORLD`, the same tasks by the platform's contract (`lance_assets.worlds`): what an experiment names as
`lance_assets.small_world:WORLD`. A problem of that contract is an `AskedProblem` here.
"""

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lance_assets.worlds import Problem as AskedProblem
from lance_assets.worlds import World

TASKS = ("reverse", "sort", "sum", "story")
RUNGS = tuple(range(1, 13))
HELD_OUT_ONE_IN = 8

_NAMES = ("Tom", "Ana", "Max", "Eva", "Leo", "Mia")
_THINGS = ("pens", "cards", "shells", "coins", "books", "nuts")
_LIST_PHRASINGS = {
    "reverse": (
        "Reverse the list {}.",
        "Write {} in backward order.",
        "Read the digits {} from last to first.",
        "What is {} turned around?",
    ),
    "sort": (
        "Sort the list {}.",
        "Put {} in rising order.",
        "Arrange the digits {} from small to large.",
        "What is {} when sorted?",
    ),
    "sum": (
        "Add the numbers {}.",
        "Find the total of {} together.",
        "How much do the values {} make?",
        "What is the sum of {}?",
    ),
}
_GAINS = ("finds", "gets", "buys")
_LOSSES = ("loses", "gives away", "drops")
_NUMBER_LIST = r"(\d(?: \d)+)"
_LIST_PATTERNS = [
    (task, re.compile(re.escape(text).replace(r"\{\}", _NUMBER_LIST)))
    for task, texts in _LIST_PHRASINGS.items()
    for text in texts
]
_VERB = r"[a-z]+(?: [a-z]+)*"  # one way to read each word: a made-up story must not be tried in all ways
_STORY = re.compile(rf"(\w+) has (\d) (\w+)\.((?: Then \w+ {_VERB} \d\.)+) How many \w+ are left\?")
_CHANGE = re.compile(rf"Then \w+ ({_VERB}) (\d)\.")
_ANSWER = re.compile(r"answer is (\d+(?: \d+)*)", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """One problem, apart from its wording."""

    task: str
    """One of `TASKS`."""
    numbers: tuple[int, ...]
    """The digits in the order they are named; in a story a loss is negative."""

    @property
    def rung(self) -> int:
        """The difficulty, from 1; the length of the list decides it."""
        return len(self.numbers) - 2

    @property
    def key(self) -> str:
        """The identity: task and numbers."""
        return f"{self.task}:{' '.join(map(str, self.numbers))}"

    @property
    def is_held_out(self) -> bool:
        """Whether the problem belongs to evaluation."""
        # The hash needs no list, and says the same on every machine and for every wording.
        return hashlib.sha256(self.key.encode()).digest()[0] % HELD_OUT_ONE_IN == 0

    @property
    def answer(self) -> str:
        """The gold answer as text, digits of a list separated by spaces."""
        if self.task == "reverse":
            return " ".join(map(str, reversed(self.numbers)))
        if self.task == "sort":
            return " ".join(map(str, sorted(self.numbers)))
        return str(sum(self.numbers))


def draw_problem(rng: random.Random, *, task: str, rung: int, held_out: bool) -> Problem:
    """Draw a problem of a task and rung.

    Args:
        rng: the source of randomness.
        task: one of `TASKS`.
        rung: the difficulty, at least 1.
        held_out: whether to draw from the problems kept for evaluation or from the others.

    Returns:
        A problem with `is_held_out == held_out`.

    Raises:
        ValueError: the task is unknown or the rung below 1.

    >>> draw_problem(random.Random(0), task="reverse", rung=1, held_out=False).rung
    1
    """
    if task not in TASKS or rung < 1:
        raise ValueError(f"task must be one of {TASKS} and rung at least 1, got {task!r} and {rung}")
    while True:
        if task == "story":
            numbers = [rng.randint(1, 9)]
            for _ in range(rung + 1):
                change = rng.randint(1, 9)
                # Nobody gives away more than there is: `parse_prompt` takes no such story for a problem.
                losing = rng.random() < 0.5 and sum(numbers) >= change
                numbers.append(-change if losing else change)
        else:
            # A 0 in a sum would be a step that changes nothing.
            numbers = [rng.randint(1 if task == "sum" else 0, 9) for _ in range(rung + 2)]
        problem = Problem(task, tuple(numbers))
        # One problem in eight is held out, so a few draws are enough.
        if problem.is_held_out == held_out:
            return problem


def phrase_prompt(problem: Problem, rng: random.Random) -> str:
    """Word a problem as a prompt, in one of four wordings (six names and things in a story)."""
    if problem.task != "story":
        return rng.choice(_LIST_PHRASINGS[problem.task]).format(" ".join(map(str, problem.numbers)))
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    changes = "".join(
        f" Then {name} {rng.choice(_GAINS if number > 0 else _LOSSES)} {abs(number)}." for number in problem.numbers[1:]
    )
    return f"{name} has {problem.numbers[0]} {thing}.{changes} How many {thing} are left?"


def parse_prompt(prompt: str) -> Problem | None:
    """Read a problem back from a prompt; None when the prompt is not a well-formed one of this world.

    >>> parse_prompt("Reverse the list 3 1 4.").answer
    '4 1 3'
    >>> parse_prompt("Reverse the list.") is None
    True
    """
    prompt = prompt.strip()
    for task, pattern in _LIST_PATTERNS:
        if match := pattern.fullmatch(prompt):
            problem = Problem(task, tuple(map(int, match[1].split())))
            return problem if problem.rung >= 1 else None
    if match := _STORY.fullmatch(prompt):
        numbers = [int(match[2])]
        for verb, count in _CHANGE.findall(match[4]):
            # A verb that the world does not know may be a gain or a loss, so the answer is not known.
            if verb not in _GAINS + _LOSSES:
                return None
            numbers.append(int(count) if verb in _GAINS else -int(count))
            if sum(numbers) < 0:
                return None
        return Problem("story", tuple(numbers))
    return None


def find_digits(text: str) -> str:
    """The digits of a text in order, without signs: what every wording of a problem has in common.

    >>> find_digits("Please turn 3, 1 and 4 around")
    '314'
    """
    return "".join(character for character in text if character.isdecimal())


def work_out(problem: Problem) -> str:
    """The working that leads to the answer, without naming it as the answer."""
    if problem.task in ("reverse", "sort"):
        opening = "Take the digits from the end" if problem.task == "reverse" else "Pick the smallest first each time"
        return f"{opening}: {problem.answer}."
    totals = [problem.numbers[0]]
    steps = []
    for number in problem.numbers[1:]:
        totals.append(totals[-1] + number)
        steps.append(f"{totals[-2]} {'+' if number > 0 else '-'} {abs(number)} = {totals[-1]}")
    opening = "Add one at a time" if problem.task == "sum" else "Follow each change"
    return f"{opening}: {', '.join(steps)}."


def complete(problem: Problem) -> str:
    """A right completion: the working, then the answer."""
    return f"{work_out(problem)} The answer is {problem.answer}."


def extract_answer(completion: str) -> str | None:
    """The last answer a completion names, as digits separated by single spaces; None when it names none.

    >>> extract_answer("Take the digits from the end: 4 1 3. The answer is 4 1 3.")
    '4 1 3'
    """
    matches = _ANSWER.findall(completion)
    # A completion may correct itself, so its last answer counts.
    return matches[-1] if matches else None


def is_correct(problem: Problem, completion: str) -> bool:
    """Whether the completion's answer is the problem's. Evaluation only: never part of a training signal."""
    return extract_answer(completion) == problem.answer


def draw_held_out_prompts(*, per_rung: int, rungs: tuple[int, ...] = RUNGS, rng_seed: int = 7) -> list[dict]:
    """The held-out prompts, the same on every machine.

    Args:
        per_rung: problems for each task and rung, all different.
        rungs: the rungs to cover.
        rng_seed: the seed of the drawing.

    Returns:
        Dicts with `prompt`, `answer`, `task`, `rung`, `key`.
    """
    rng = random.Random(rng_seed)
    rows: dict[str, dict] = {}
    for task in TASKS:
        for rung in rungs:
            kept = 0
            while kept < per_rung:
                problem = draw_problem(rng, task=task, rung=rung, held_out=True)
                # The easiest rungs have few problems, and a problem that is asked twice would count twice.
                if problem.key in rows:
                    continue
                rows[problem.key] = {
                    "prompt": phrase_prompt(problem, rng),
                    "answer": problem.answer,
                    "task": task,
                    "rung": rung,
                    "key": problem.key,
                }
                kept += 1
    return list(rows.values())


def draw_held_out(per_stratum: int) -> list[AskedProblem]:
    """The held-out problems of every task and rung, `per_stratum` of each; the same on every machine."""
    return draw_rungs(per_stratum, RUNGS)


def draw_rungs(per_stratum: int, rungs: tuple[int, ...]) -> list[AskedProblem]:
    """The held-out problems of some rungs. They depend on which rungs are drawn together."""
    return [
        AskedProblem(row["key"], row["task"], row["rung"], row["prompt"], row["answer"])
        for row in draw_held_out_prompts(per_rung=per_stratum, rungs=rungs)
    ]


def is_right(problem: AskedProblem, completion: str) -> bool:
    """Whether the last answer that the completion names is the problem's."""
    return extract_answer(completion) == problem.answer


def read_prompt(prompt: str) -> AskedProblem | None:
    """The problem that a prompt asks, in any wording of this world; None for any other prompt."""
    problem = parse_prompt(prompt)
    if problem is None:
        return None
    return AskedProblem(problem.key, problem.task, problem.rung, prompt, problem.answer)


def build_guard(problems: Sequence[AskedProblem]) -> Callable[[str], bool]:
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
