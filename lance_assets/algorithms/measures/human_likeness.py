"""How far generated texts can be told from what people wrote, by a classifier on their vectors.

Source: the third mitigation of regurgitative training (Zhang et al., arXiv 2407.12835): a classifier of human and
generated texts says how human a generated one is. The paper orders rows by it. Here its mean is a measure of a round:
a loop whose texts can be told from the seeds ever more surely moves away from what people write.

How it differs:

1. The classifier is a logistic regression on the vectors that the history holds, minimised by SciPy's L-BFGS. Scikit-
   learn's, which minimises the same sum by the same method, takes a second to import in every process.
2. A text is scored by a classifier that saw neither it nor any text of its group, such as its prompt: five folds. So
   a classifier that only remembers texts scores at chance.
3. The measure is the chance that a generated text looks more human than one by a person, and so does not depend on how
   many texts there are, as a mean probability does.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_FOLDS = 5
FEWEST = 20
"""Texts of each side below which nothing is measured: each fold needs some of both."""
PENALTY = 1.0
"""How much the losses count against the squared weights: scikit-learn's C."""


def measure_human_likeness(
    human: NDArray[np.float32],
    generated: NDArray[np.float32],
    *,
    human_groups: Sequence[str],
    generated_groups: Sequence[str],
) -> float | None:
    """The chance that a generated text looks more human than one by a person.

    Args:
        human: float32 [num_human, dim], L2-normalised vectors of what people wrote.
        generated: float32 [num_generated, dim], the same of what a model wrote.
        human_groups: of each text a name; texts of one name are never on both sides of a split.
        generated_groups: the same.

    Returns:
        0..1: 0.5 where they cannot be told apart, 0 where they always can; None for fewer than 20 texts of a side.

    Raises:
        ValueError: vectors of different widths, or not as many groups as texts.
    """
    if human.ndim != 2 or generated.ndim != 2 or human.shape[1] != generated.shape[1]:
        raise ValueError(f"both sides must be 2D arrays of one width, got {human.shape} and {generated.shape}")
    if (len(human_groups), len(generated_groups)) != (len(human), len(generated)):
        raise ValueError(
            f"each text needs a group, got {len(human_groups)} for {len(human)} and {len(generated_groups)} for "
            f"{len(generated)}"
        )
    if min(len(human), len(generated)) < FEWEST:
        return None
    rows = np.concatenate([human, generated]).astype(np.float64)
    is_human = np.arange(len(rows)) < len(human)
    folds = np.array([_find_fold(group) for group in (*human_groups, *generated_groups)])
    wins = []
    for fold in range(NUM_FOLDS):
        held, seen = folds == fold, folds != fold
        # A fold without both sides compares nothing, and a classifier of one side learns nothing.
        if not _has_both(is_human[held]) or not _has_both(is_human[seen]):
            continue
        weights = _fit(rows[seen], is_human[seen])
        scores = rows[held] @ weights
        above = np.subtract.outer(scores[~is_human[held]], scores[is_human[held]])
        wins.append((np.count_nonzero(above > 0) + 0.5 * np.count_nonzero(above == 0), above.size))
    if not wins:
        return None
    return float(sum(won for won, _ in wins) / sum(number for _, number in wins))


def _has_both(is_human: NDArray[np.bool_]) -> bool:
    return bool(is_human.any()) and not bool(is_human.all())


def _find_fold(group: str) -> int:
    # By hash, so that a text more or less moves no other one.
    return hashlib.sha256(group.encode()).digest()[0] % NUM_FOLDS


def _fit(rows: NDArray[np.float64], is_human: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The weights of a logistic regression, both sides counting alike however many texts they have."""
    from scipy.optimize import minimize

    signs = np.where(is_human, 1.0, -1.0)
    counts = np.where(is_human, is_human.sum(), (~is_human).sum())
    # Without a constant: it would add the same to every score, and no order depends on it.
    centred, shares = rows - rows.mean(axis=0), len(rows) / (2.0 * counts)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = signs * (centred @ weights)
        value = float(shares @ np.logaddexp(0.0, -margins)) + 0.5 / PENALTY * float(weights @ weights)
        slopes = -shares * signs / (1.0 + np.exp(np.clip(margins, -500, 500)))
        return value, centred.T @ slopes + weights / PENALTY

    found = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(found.x, dtype=np.float64)
