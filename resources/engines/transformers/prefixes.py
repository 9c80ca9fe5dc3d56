"""In which order a batch's prompts are read, so that what some of them begin with is read once.

vLLM keeps what it has read in blocks and finds a prefix there (automatic prefix caching). Transformers has nothing of
the kind for a batch of its own `generate`. A batch is read in up to three steps: what all prompts begin with, what each
group of them begins with beyond that, and the rest of each. Rows of one pass of the model are padded to one length. So
a step that would pad much is read in several passes, each of rows of like length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SAVED = 1 / 8
"""Of the tokens of a batch: groups that save less are not read apart."""
PASS_TOKENS = 64
"""Tokens of padding that are worth a further pass. SmolLM2-135M takes 20 ms for a step of one row, in which it reads
some thirty tokens of many rows, on two cores of an AMD EPYC (`lance plan NAME --measure`, 2026-11-30)."""


@dataclass(frozen=True)
class Level:
    """One step of reading."""

    parents: list[int]
    """Of each row of the step, the row of the step before that it goes on from."""
    pieces: list[tuple[int, ...]]
    """Of each row, the token ids that are read, one or more."""


@dataclass(frozen=True)
class Reading:
    """How a batch's prompts are read."""

    levels: list[Level]
    """The steps; the last one ends all different prompts."""
    rows: list[int]
    """Of each prompt the row of the last step that is it."""
    shared: list[int]
    """Of each prompt the tokens that were read for an earlier one."""
    begins_alike: bool
    """Whether the first step reads what all prompts begin with."""


def count_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens with which both begin.

    >>> count_common((1, 2, 3), (1, 2, 4, 5))
    2
    """
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def part_alike(lengths: Sequence[int]) -> list[list[int]]:
    """The parts in which rows of these lengths are read: as few padded tokens and passes as can be.

    Args:
        lengths: tokens of each row, one or more.

    Returns:
        Places of the rows, each in one part; a pass more counts `PASS_TOKENS`.

    >>> part_alike([100, 400, 120, 380])
    [[0, 2], [3, 1]]
    >>> part_alike([10, 40, 12, 38])
    [[0, 2, 3, 1]]
    """
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    # What the first rows cost at least, and where their last part begins.
    costs, begins = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        cost, begin = min((costs[begin] + (end - begin) * longest + PASS_TOKENS, begin) for begin in range(end))
        costs.append(cost)
        begins.append(begin)
    parts, end = [], len(order)
    while end:
        parts.append(order[begins[end] : end])
        end = begins[end]
    return parts[::-1]


def plan_reading(prompts: Sequence[tuple[int, ...]], *, least_shared: int | None) -> Reading:
    """The steps in which prompts are read.

    Args:
        prompts: token ids, one or more of each.
        least_shared: tokens that prompts have in common before they are read apart; None for never.
    """
    distinct = list(dict.fromkeys(prompts))
    begun = count_begun(distinct, least_shared)
    groups = find_groups(distinct, begun, least_shared)
    levels = [Level([0], [distinct[0][:begun]])] if begun else []
    if groups is None:
        levels.append(Level([0] * len(distinct), [prompt[begun:] for prompt in distinct]))
        heads = dict.fromkeys(distinct, begun)
    else:
        distinct = [prompt for group, _ in groups for prompt in group]
        levels.append(Level([0] * len(groups), [group[0][begun:head] for group, head in groups]))
        parents = [place for place, (group, _) in enumerate(groups) for _ in group]
        heads = {prompt: head for group, head in groups for prompt in group}
        levels.append(Level(parents, [prompt[heads[prompt] :] for prompt in distinct]))
    row = {prompt: place for place, prompt in enumerate(distinct)}
    return Reading(levels, [row[prompt] for prompt in prompts], count_shared(prompts, begun, heads), begun > 0)


def count_begun(distinct: Sequence[tuple[int, ...]], least_shared: int | None) -> int:
    """Tokens with which all prompts begin, less than any of them has; 0 where reading them once is not worth it."""
    if len(distinct) < 2 or least_shared is None:
        return 0
    # What the first and the last in order have in common, all between them have too. Each keeps a token to be read, for
    # the next one is drawn behind it.
    same = min(count_common(min(distinct), max(distinct)), min(map(len, distinct)) - 1)
    return same if same >= least_shared else 0


def find_groups(
    distinct: Sequence[tuple[int, ...]], begun: int, least_shared: int | None
) -> list[tuple[list[tuple[int, ...]], int]] | None:
    """Groups of prompts that have more in common than all, each with the tokens that it begins with.

    A prompt that has none to share with is a group of its own, whose beginning is all but its last token. None where
    too little would be saved.

    Args:
        distinct: different prompts.
        begun: tokens with which all of them begin, which are read before.
        least_shared: as `plan_reading` takes it.
    """
    if len(distinct) < 2 or least_shared is None:
        return None
    groups: list[tuple[list[tuple[int, ...]], int]] = []
    for prompt in sorted(distinct):
        group, head = groups[-1] if groups else ([], 0)
        same = min(count_common(group[-1], prompt), head, len(prompt) - 1) if group else 0
        # Less than half of what is to be read would leave the others of the group with more to read by themselves.
        half = (min(len(group[-1]), len(prompt)) - begun) / 2 if group else 0.0
        if group and same - begun >= max(least_shared, half):
            groups[-1] = ([*group, prompt], same)
        else:
            groups.append(([prompt], len(prompt) - 1))
    saved = sum((len(group) - 1) * (head - begun) for group, head in groups)
    is_worth_it = saved >= LEAST_SAVED * sum(len(prompt) - begun for prompt in distinct) and len(groups) > 1
    # A prompt of which nothing is left before its last token could not be begun.
    return groups if is_worth_it and all(head > begun for _, head in groups) else None


def count_shared(prompts: Sequence[tuple[int, ...]], begun: int, heads: dict[tuple[int, ...], int]) -> list[int]:
    """Of each prompt the tokens that were read before: all, what its group begins with, or what all begin with.

    Args:
        prompts: in their order.
        begun: tokens with which all begin.
        heads: of each prompt the tokens with which its group begins.
    """
    counts: list[int] = []
    seen: set[tuple[int, ...]] = set()
    for prompt in prompts:
        head = prompt[: heads[prompt]]
        known = len(prompt) if prompt in seen else len(head) if head in seen else begun if seen else 0
        counts.append(known)
        seen |= {prompt, head}
    return counts
