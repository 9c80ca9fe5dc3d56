"""OP and BWT of a study's arms after their last round, over seeds, and how far the method is ahead in them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lance_assets.algorithms.measures.progress import format_round, parse_round
from lance_assets.algorithms.measures.statistics import compute_mean_interval
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.continual import find_continual

Interval = tuple[float, float, float]


def measure_transfer(last: Round) -> tuple[float, float]:
    """OP and BWT of a round that learned the second task or a later one."""
    found = find_continual(last, [format_round(number) for number in range(parse_round(last.key) + 1)])[-1]
    assert found.performance is not None, "the tasks have accuracies"
    assert found.transfer is not None, "a task was learned before"
    return found.performance[0], found.transfer[0]


def describe_continual(lasts: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    """Of each arm OP and BWT, and the method's less those of the others.

    Args:
        lasts: by arm, the method first, the last round of each seed, in the order of the seeds.

    Returns:
        By name the mean with its 95% interval over seeds, differences paired; with one seed it is endless.
    """
    found: dict[str, Any] = {}
    values = {arm: [measure_transfer(last) for last in rounds] for arm, rounds in lasts.items()}
    method = next(iter(values))
    for place, name in enumerate(("OP", "BWT")):
        own = {arm: [pair[place] for pair in pairs] for arm, pairs in values.items()}
        found |= {f"{name}, {arm}": compute_mean_interval(one) for arm, one in own.items()}
        for arm, one in list(own.items())[1:]:
            gains = [mine - theirs for mine, theirs in zip(own[method], one, strict=True)]
            found[f"{name}, {method} less {arm}"] = compute_mean_interval(gains)
    return found
