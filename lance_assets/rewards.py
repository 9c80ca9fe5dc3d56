"""What a completion earns: whether it is right, by a world's rule or a gold answer, or a function of a person's own."""

import math
from collections.abc import Callable
from pathlib import Path

from lance_assets.algorithms.reviews.gold_answers import says_gold_answer
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.dotted_names import find_dotted
from lance_assets.worlds import World, run_file, split_file_name

Reward = Callable[[str, str, str | None], float | None]
"""Given prompt, completion and gold answer, if there is one: what the completion earns; None leaves it out."""


class RewardError(ValueError):
    """A reward function cannot be found, or returned what is no number."""


def tell_right(
    prompt: str, completion: str, *, world: World | None, answer: str | None, mark: str | None = None
) -> bool | None:
    """Whether a completion is right; None where that is not known.

    Args:
        prompt: what was asked.
        completion: as written; what it thinks first is no part of it.
        world: whose rule decides where the prompt asks one of its problems.
        answer: the prompt's gold answer, which decides elsewhere.
        mark: what announces the final answer in a completion.
    """
    problem = world.read_prompt(prompt) if world is not None else None
    if world is not None and problem is not None:
        return world.is_right(problem, strip_thinking(completion))
    return says_gold_answer(completion, answer, mark=mark) if answer else None


def find_reward_function(name: str, folder: Path) -> Reward:
    """A person's function, whose every value is checked to be a number.

    Args:
        name: `package.module:NAME`, or `my_reward.py:NAME` for a file.
        folder: the experiment's, which a file's path is relative to.

    Raises:
        RewardError: there is no such function.
    """
    path, attribute = split_file_name(name, folder)
    try:
        found = find_dotted(name) if path is None else run_file(path).get(attribute)
    except (ValueError, OSError) as error:
        raise RewardError(
            f"no reward {name!r}: {error}; it is rule, gold, package.module:NAME or file.py:NAME"
        ) from None
    if not callable(found):
        raise RewardError(f"no reward {name!r}: {attribute or name} is no function; name one that takes three texts")

    def score(prompt: str, completion: str, answer: str | None) -> float | None:
        value = found(prompt, completion, answer)
        if value is None:
            return None
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise RewardError(
                f"the reward {name} must return a finite number or None, got {value!r} for {prompt[:60]!r}"
            )
        return float(value)

    return score
