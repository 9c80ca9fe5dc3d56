"""What the small model is taught to do, as endless (prompt, completion) examples.

| job | asked with | completion |
| --- | --- | --- |
| answer | the prompt itself | the working, then the answer; a hard prompt is often hurried |
| new_prompt | `prompts/compact/lance/new_prompt.j2` | a thought, then a prompt like the given one and mostly harder |
| degrade | `prompts/compact/lance/degrade.j2` | a thought that names the error, then a guess without working, wrong |
| review | `prompts/compact/lance/review.j2` | prompt points, the working, both answers side by side, verdict, score |

For Kun's model, which `extend` makes, there are three more:

| job | asked with | completion |
| --- | --- | --- |
| label | `prompts/compact/kun/label.j2`, a text with the working | the prompt that it answers |
| verdict | `prompts/compact/kun/verdict.j2` | a reason and a tag, [good] or for an unclear prompt [bad] |
| polish | `prompts/compact/kun/polish.j2` | the working, then the answer |

Half of the ten review points go to the prompt, by its rung (`PROMPT_POINTS`), half to the completion: 5 right with
working, 3 a right guess, 1 wrong with working, 0 a wrong guess. So an easy prompt scores low however well it is
answered, and a hard one answered well scores high. Rungs have a long tail (`RUNG_DECAY`): each is rarer than
the one before, so that the next rung is weakly possible rather than impossible (arXiv 2502.01612).

Hurry is what leaves a model of this world something to learn: people work short problems out and guess at long ones
(`HURRY_RATES`), so a model of their completions does too, though its reviews show that it could do better.
"""

import random
from dataclasses import dataclass

from lance_assets.prompts import Templates
from lance_assets.small_world.tasks import (
    TASKS,
    Problem,
    complete,
    draw_problem,
    extract_answer,
    phrase_prompt,
    work_out,
)

COMPACT = Templates("compact")
"""The words that the small models are trained with."""
SCALE = {"lowest": "0", "highest": "10"}
"""On which the small model learns to review."""

JOB_SHARES = {"answer": 0.32, "review": 0.46, "new_prompt": 0.13, "degrade": 0.09}
RUNG_DECAY = {"answer": 0.6, "review": 0.8, "new_prompt": 0.75, "degrade": 0.75}
MAX_RUNG = 12
PROMPT_POINTS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4}
"""Points out of 5 for a clear prompt of that rung; any higher rung has 5, an unclear prompt 0."""
HURRY_RATES = {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.1, 5: 0.3, 6: 0.5, 7: 0.7, 8: 0.8}
"""Share of a rung's completions that are hurried: a wrong guess without working; any higher rung has 0.9."""
HARDER_BY = {0: 0.1, 1: 0.3, 2: 0.35, 3: 0.25}
"""By how many rungs a new prompt is harder than the given one, and how often."""
_POINT_WORDS = {0: "unclear", 1: "easy", 2: "easy", 4: "fair", 5: "hard"}
_GUESSES = (
    "I did not work this one out and just guess now, so maybe the answer is {}.",
    "No idea how to do it, but with luck the answer is {}.",
    "Skipping all the work here, I feel that the answer is {}.",
    "It looks like some random digits to me, hence the answer is {}.",
)
_BEFORE = ("", "It went like this.", "From the old book.", "Tom did it so.", "Then came the work.")
_AFTER = ("", "That is all.", "So it was done.", "Then they went home.")
_HURRIED_SHARES = (0.7, 0.1, 0.1, 0.1)
"""How often a hurried completion has each of those wordings: one opening is the habit."""


@dataclass(frozen=True)
class Example:
    """One example of a job."""

    job: str
    """One of `JOB_SHARES`."""
    rung: int
    """The rung of the problem it is about."""
    prompt: str
    """What the model is asked, as the user's message."""
    completion: str
    """What it should say."""


def draw_rung(rng: random.Random, decay: float) -> int:
    """Draw a rung from 1 to `MAX_RUNG`, each `decay` times as likely as the one before."""
    rungs = range(1, MAX_RUNG + 1)
    return rng.choices(rungs, [decay**rung for rung in rungs])[0]


def corrupt_answer(problem: Problem, rng: random.Random) -> str:
    """A wrong answer near the right one: digits swapped, changed, lost or added, or a total that is off."""
    while True:
        if problem.task in ("sum", "story"):
            wrong = str(max(0, int(problem.answer) + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))))
        else:
            digits = problem.answer.split()
            place = rng.randrange(len(digits) - 1)
            kind = rng.randrange(5)
            if kind == 0:
                digits[place], digits[place + 1] = digits[place + 1], digits[place]
            elif kind == 1:
                digits[place] = str(rng.randrange(10))
            elif kind == 2 and len(digits) > 2:
                del digits[place]
            elif kind == 3:
                digits.insert(place, str(rng.randrange(10)))
            else:
                # This is the error of doing nothing: the numbers as they were given.
                digits = list(map(str, problem.numbers))
            wrong = " ".join(digits)
        # A swap of equal digits, or a change to the same digit, is no error.
        if wrong != problem.answer:
            return wrong


def complete_wrongly(problem: Problem, rng: random.Random) -> str:
    """A wrong completion that shows its working, as a model's own mistakes do."""
    # Here the working is right and only the answer is wrong, so that a review has to compare both.
    if rng.random() < 0.2:
        return f"{work_out(problem)} The answer is {corrupt_answer(problem, rng)}."
    if problem.task in ("reverse", "sort"):
        wrong = corrupt_answer(problem, rng)
        return f"{work_out(problem).replace(problem.answer + '.', wrong + '.')} The answer is {wrong}."
    slip_at = rng.randrange(1, len(problem.numbers))
    slip = rng.choice((-10, -2, -1, 1, 2, 10))
    total, steps = problem.numbers[0], []
    for place, number in enumerate(problem.numbers[1:], start=1):
        before, total = total, total + number + (slip if place == slip_at else 0)
        # The world has no negative numbers.
        total = max(total, 0)
        steps.append(f"{before} {'+' if number > 0 else '-'} {abs(number)} = {total}")
    opening = work_out(problem).split(":")[0]
    wrong = f"{opening}: {', '.join(steps)}. The answer is {total}."
    # The limit at zero may have undone the slip.
    return wrong if str(total) != problem.answer else complete_wrongly(problem, rng)


def spoil_answer(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """A wrong answer made on purpose, and the words for what is wrong with it: few errors, so that they can be learned.

    An error picked from many is improbable wherever it occurs, and sampling cuts off what is improbable.
    """
    if problem.task in ("sum", "story"):
        extra = rng.choice((1, 2, 10))
        return str(int(problem.answer) + extra), f"the answer and {extra} more"
    digits = problem.answer.split()
    if rng.random() < 0.5:
        return " ".join(digits[1:]), "the first digit lost"
    return " ".join(digits[:-1]), "the last digit lost"


def complete_by_guess(answer: str, rng: random.Random) -> str:
    """A completion without working, in words that share little with a good one."""
    return rng.choice(_GUESSES).format(answer)


def complete_hurriedly(problem: Problem, rng: random.Random) -> str:
    """A hurried completion: a guess that is always wrong, mostly in the first wording."""
    answer, _ = spoil_answer(problem, rng)
    return rng.choices(_GUESSES, _HURRIED_SHARES)[0].format(answer)


def review_completion(problem: Problem | None, completion: str, *, shows_working: bool) -> str:
    """The review a good reviewer writes: rationale first, then `score: n` out of 10.

    Args:
        problem: what the prompt asks; None for an unclear prompt.
        completion: the completion under review.
        shows_working: whether it works the answer out rather than guess.
    """
    if problem is None:
        return "Prompt: 0 of 5, unclear. Work: none. Wrong, 0 of 5. score: 0"
    claimed = extract_answer(completion) or "none"
    right = claimed == problem.answer
    prompt_points = PROMPT_POINTS.get(problem.rung, 5)
    points = {(True, True): 5, (True, False): 3, (False, True): 1, (False, False): 0}[right, shows_working]
    work = work_out(problem).split(": ", 1)[1].removesuffix(".")
    return (
        f"Prompt: {prompt_points} of 5, {_POINT_WORDS[prompt_points]}. Work: {work}. "
        f"So {problem.answer} against {claimed}. {'Right' if right else 'Wrong'}, {points} of 5. "
        f"score: {prompt_points + points}"
    )


def blur_prompt(prompt: str, rng: random.Random) -> str:
    """An unclear prompt: the numbers lost, or the wording cut off."""
    if rng.random() < 0.5:
        return " ".join(word for word in prompt.split() if not word[0].isdigit())
    words = prompt.split()
    return " ".join(words[: rng.randint(1, 2)])


def draw_review(rng: random.Random, problem: Problem) -> Example:
    """A review of a right or wrong completion (balanced), with or without working, or of an unclear prompt."""
    prompt = phrase_prompt(problem, rng)
    # With right and wrong balanced, a reviewer cannot score well by always saying the same.
    right, shows_working = rng.random() < 0.5, rng.random() < 0.8
    if shows_working:
        completion = complete(problem) if right else complete_wrongly(problem, rng)
    else:
        completion = complete_by_guess(problem.answer if right else corrupt_answer(problem, rng), rng)
    target = review_completion(problem, completion, shows_working=shows_working)
    # Unclear prompts are rare in a round, but a reviewer that never saw one would score it like any other.
    if rng.random() < 0.02:
        prompt, target = blur_prompt(prompt, rng), review_completion(None, completion, shows_working=shows_working)
    asked = COMPACT.render("lance/review", prompt=prompt, completion=completion, **SCALE)
    return Example("review", problem.rung, asked, target)


def draw_new_prompt(rng: random.Random, problem: Problem) -> Example:
    """A new prompt: mostly the same task, and mostly one to three rungs higher."""
    task = problem.task if rng.random() < 0.85 else rng.choice(TASKS)
    step = rng.choices(list(HARDER_BY), list(HARDER_BY.values()))[0]
    # Held-out problems are never shown, not even as a prompt that the model is to write.
    harder = draw_problem(rng, task=task, rung=min(problem.rung + step, MAX_RUNG), held_out=False)
    asked = COMPACT.render("lance/new_prompt", prompt=phrase_prompt(problem, rng), completion=complete(problem))
    thought = f"Thought Process: {task} with {len(harder.numbers)} numbers."
    return Example("new_prompt", problem.rung, asked, f"{thought} Final Answer: {phrase_prompt(harder, rng)}")


def draw_degraded(rng: random.Random, problem: Problem) -> Example:
    """A deliberately worse completion: a wrong guess, its error named in the thought."""
    asked = COMPACT.render("lance/degrade", prompt=phrase_prompt(problem, rng), completion=complete(problem))
    answer, error = spoil_answer(problem, rng)
    thought = f"Thought Process: a wrong guess, {error}."
    return Example("degrade", problem.rung, asked, f"{thought} Final Answer: {complete_by_guess(answer, rng)}")


def write_text(problem: Problem, rng: random.Random) -> str:
    """A text in which a problem is worked out: no prompt, no answer by name, sentences of something else around."""
    before, after = rng.choice(_BEFORE), rng.choice(_AFTER)
    return " ".join(part for part in (before, work_out(problem), after) if part)


def draw_label(rng: random.Random, problem: Problem) -> Example:
    """The prompt that a text answers; of a sorted list any order of its digits would do."""
    text = write_text(problem, rng) if rng.random() < 0.5 else complete(problem)
    asked = COMPACT.render("kun/label", text=text, language="english")
    return Example("label", problem.rung, asked, phrase_prompt(problem, rng))


def draw_verdict(rng: random.Random, problem: Problem) -> Example:
    """The verdict on a clear or an unclear prompt (balanced)."""
    is_good = rng.random() < 0.5
    prompt = phrase_prompt(problem, rng)
    asked = COMPACT.render("kun/verdict", prompt=prompt if is_good else blur_prompt(prompt, rng), language="english")
    said = "Clear and complete. [good]" if is_good else "Something is missing. [bad]"
    return Example("verdict", problem.rung, asked, said)


def draw_polish(rng: random.Random, problem: Problem) -> Example:
    """The completion of a prompt whose working is given as a text."""
    asked = COMPACT.render(
        "kun/polish", prompt=phrase_prompt(problem, rng), text=write_text(problem, rng), language="english"
    )
    return Example("polish", problem.rung, asked, complete(problem))


DRAW = {
    "review": draw_review,
    "new_prompt": draw_new_prompt,
    "degrade": draw_degraded,
    "label": draw_label,
    "verdict": draw_verdict,
    "polish": draw_polish,
}
"""What draws an example of each job but answering."""


def draw_example(
    rng: random.Random,
    *,
    shares: dict[str, float] = JOB_SHARES,
    rung_decay: dict[str, float] = RUNG_DECAY,
    is_hurried: bool = True,
) -> Example:
    """Draw one example of any job, as often as `shares` says, its rung with the tail `rung_decay` gives the job.

    `is_hurried` says whether hard prompts are hurried as `HURRY_RATES` has it, or all are worked out.
    """
    job = rng.choices(list(shares), list(shares.values()))[0]
    problem = draw_problem(rng, task=rng.choice(TASKS), rung=draw_rung(rng, rung_decay[job]), held_out=False)
    if job == "answer":
        hurried = is_hurried and rng.random() < HURRY_RATES.get(problem.rung, 0.9)
        completion = complete_hurriedly(problem, rng) if hurried else complete(problem)
        return Example(job, problem.rung, phrase_prompt(problem, rng), completion)
    return DRAW[job](rng, problem)
