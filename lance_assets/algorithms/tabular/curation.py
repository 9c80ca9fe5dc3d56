"""CLLM's curation: a generated row is dropped where a model of the real rows is surely against its label.

Source: "Curated LLM: Synergy of LLMs and Data Curation for tabular augmentation in low-data regimes" (arXiv 2312.12112)
and its code, seedatnabeel/CLLM, commit 4ce879d, `src/cllm/curation.py`. A classifier is trained on the real rows step
by step, and asked at each step how likely it finds the label that a generated row has:

    confidence   the mean of these probabilities p
    aleatoric    the mean of p (1 - p): how undecided the classifier stays
    easy         confidence at least 1 - `min_margin`, and aleatoric at most `max_aleatoric`
    hard         confidence at most `min_margin`, and aleatoric at most `max_aleatoric`
    ambiguous    all others

Hard rows are dropped. Differences from the authors' code:

1.  Without any ambiguous row their indices are numbers with a point, which select nothing, and the whole run is lost.
    Here every row has a group, whichever groups are empty.
2.  `retrain`, by which the classifier is trained on the very rows that it judges, is left out.
3.  `min_margin` is below 0.5, so that no row is easy and hard at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Group = Literal["easy", "ambiguous", "hard"]
ADAPTIVE_SHARE = 0.75
"""Of the range of aleatoric uncertainty, what is allowed where no bound is given."""


@dataclass(frozen=True)
class Curated:
    """What the checkpoints of a classifier say of some rows, in the rows' order."""

    confidence: NDArray[np.float64]
    """[num_rows], 0..1: mean probability of each row's label."""
    aleatoric: NDArray[np.float64]
    """[num_rows], 0..0.25: mean of p (1 - p)."""
    max_aleatoric: float
    """The bound that was used."""
    groups: tuple[Group, ...]
    """The group of each row."""


def curate_rows(
    probabilities: NDArray[np.floating], *, min_margin: float = 0.2, max_aleatoric: float | None = 0.2
) -> Curated:
    """The group of each row by its label's probabilities over the checkpoints.

    Args:
        probabilities: [num_checkpoints, num_rows], 0..1: how likely each checkpoint finds each row's label.
        min_margin: in (0, 0.5): how near to 0 or 1 a confidence is sure.
        max_aleatoric: 0..0.25; a row above it is ambiguous. None: 0.75 of the range over the rows, as in the authors'
            tutorial.

    Returns:
        One group for each row. A row on a bound is within it. No rows have no groups.

    Raises:
        ValueError: there is no checkpoint, a value is no probability, or a bound is out of its range.

    >>> found = curate_rows(np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.4]]))
    >>> found.groups, found.aleatoric.round(3).tolist()
    (('easy', 'hard', 'ambiguous'), [0.09, 0.09, 0.245])
    """
    if probabilities.ndim != 2 or not len(probabilities):
        raise ValueError(f"probabilities must be [num_checkpoints, num_rows] of 1 or more, got {probabilities.shape}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must be in [0, 1], and one is not; is it a log-probability?")
    if not 0 < min_margin < 0.5:
        raise ValueError(f"min_margin must be in (0, 0.5), got {min_margin}")
    if max_aleatoric is not None and not 0 <= max_aleatoric <= 0.25:
        raise ValueError(f"max_aleatoric must be in [0, 0.25], the range of p (1 - p), got {max_aleatoric}")
    values = probabilities.astype(np.float64)
    confidence, aleatoric = values.mean(axis=0), (values * (1 - values)).mean(axis=0)
    if max_aleatoric is None:
        max_aleatoric = ADAPTIVE_SHARE * float(np.ptp(aleatoric)) if len(aleatoric) else 0.0
    is_settled = aleatoric <= max_aleatoric
    easy, hard = (confidence >= 1 - min_margin) & is_settled, (confidence <= min_margin) & is_settled
    groups: list[Group] = [
        "easy" if is_easy else "hard" if is_hard else "ambiguous" for is_easy, is_hard in zip(easy, hard, strict=True)
    ]
    return Curated(confidence, aleatoric, max_aleatoric, tuple(groups))


def count_groups(groups: Sequence[Group]) -> dict[str, int]:
    """How many rows each group has, every group named.

    >>> count_groups(["easy", "easy", "hard"])
    {'easy': 2, 'ambiguous': 0, 'hard': 1}
    """
    return {name: sum(group == name for group in groups) for name in ("easy", "ambiguous", "hard")}
