"""What a set of rows teaches: classifiers are trained on it and scored on held-out rows, as in CLLM's comparison.

Source: `notebooks/compute_downstream.ipynb` of seedatnabeel/CLLM, commit 4ce879d: boosted trees, a random forest and a
logistic regression, each with 100 trees or scikit-learn's defaults on standardised columns, and the mean of the three.
Differences:

1.  The boosted trees are those of `boosting`, and not XGBoost's.
2.  A table may have more than two classes: then the area under the ROC curve is the mean over each class against the
    rest. Theirs reads the second class alone.
3.  A set of one class still has a score, that of a constant answer. Theirs leaves the whole run out.
4.  The single decision tree, which the notebook computes and leaves out of the mean, is not computed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lance_assets.algorithms.tabular.boosting import LIKE_XGBOOST, Matrix

Labels = NDArray[np.int64]
NUM_TREES = 100
NUM_DRAWS = 200
"""Bootstrap draws of the held-out rows."""


@dataclass(frozen=True)
class Taught:
    """What classifiers that were trained on a set do on held-out rows."""

    hit_rates: Matrix
    """[num_held_out], 0..1: the share of the classifiers that are right on the row; its mean is the accuracy."""
    auc: float
    """Mean of the classifiers' areas under the ROC curve, 0..1."""
    auc_low: float
    """95% interval over draws of the held-out rows."""
    auc_high: float
    """Its upper end."""

    @property
    def accuracy(self) -> float:
        """Mean of the classifiers' accuracies, 0..1."""
        return float(self.hit_rates.mean())


def compute_auc(probabilities: Matrix, labels: Labels) -> float:
    """The area under the ROC curve, of several classes the mean over each against the rest.

    Args:
        probabilities: [num_rows, num_classes].
        labels: [num_rows], 0..num_classes - 1.

    Returns:
        0..1; classes without a row, or without another class's, are left out, and 0.5 where none is left.

    >>> compute_auc(np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 1]))
    1.0
    """
    from scipy.stats import rankdata

    # Of two classes each has the other's area.
    classes = range(1, 2) if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    found = []
    for one in classes:
        is_one = labels == one
        num_ones = int(is_one.sum())
        if 0 < num_ones < len(labels):
            ranks = rankdata(probabilities[:, one])[is_one].sum() - num_ones * (num_ones + 1) / 2
            found.append(float(ranks) / (num_ones * (len(labels) - num_ones)))
    return float(np.mean(found)) if found else 0.5


def teach_classifiers(
    rows: Matrix, labels: Labels, held_out: Matrix, held_out_labels: Labels, *, num_classes: int, rng_seed: int = 0
) -> Taught | None:
    """Train three classifiers on a set and score them on held-out rows.

    Args:
        rows: [num_rows, num_features], the set.
        labels: [num_rows], 0..num_classes - 1.
        held_out: [num_held_out, num_features], 1 row or more.
        held_out_labels: [num_held_out].
        num_classes: of the table, 2 or more.
        rng_seed: of the forest and of the draws.

    Returns:
        The scores; None where the set has no row.
    """
    if not len(rows):
        return None
    probabilities = [_predict(model, rows, labels, held_out, num_classes) for model in _build(rng_seed)]
    hit_rates = np.mean([one.argmax(axis=1) == held_out_labels for one in probabilities], axis=0)
    rng = np.random.default_rng(rng_seed)
    drawn = []
    for places in rng.integers(len(held_out), size=(NUM_DRAWS, len(held_out))):
        drawn.append(np.mean([compute_auc(one[places], held_out_labels[places]) for one in probabilities]))
    auc = float(np.mean([compute_auc(one, held_out_labels) for one in probabilities]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Taught(hit_rates, auc, min(auc, float(low)), max(auc, float(high)))


def _build(rng_seed: int) -> list[Any]:
    """The three classifiers, unfitted."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return [
        HistGradientBoostingClassifier(max_iter=NUM_TREES, random_state=0, **LIKE_XGBOOST),
        RandomForestClassifier(n_estimators=NUM_TREES, random_state=rng_seed, n_jobs=1),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    ]


def _predict(model: Any, rows: Matrix, labels: Labels, held_out: Matrix, num_classes: int) -> Matrix:
    """Probabilities of all the table's classes, [num_held_out, num_classes]; a class that the set lacks has 0."""
    known = np.unique(labels)
    predicted = np.zeros((len(held_out), num_classes))
    predicted[:, known] = 1.0 if len(known) == 1 else model.fit(rows, labels).predict_proba(held_out)
    return predicted
