"""CLLM's curation: worked by hand from the specification, properties, and the trees that it asks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lance_assets.algorithms.tabular.boosting import boost_probabilities, encode_rows
from lance_assets.algorithms.tabular.columns import Column
from lance_assets.algorithms.tabular.curation import count_groups, curate_rows
from lance_assets.algorithms.tabular.downstream import compute_auc, teach_classifiers

PROBABILITIES = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(0, 8)), elements=st.floats(0, 1))


def decide_by_hand(column: list[float], margin: float, bound: float) -> str:
    """The specification in plain Python: a row's probabilities over the checkpoints to its group."""
    confidence = sum(column) / len(column)
    aleatoric = sum(one * (1 - one) for one in column) / len(column)
    if confidence >= 1 - margin and aleatoric <= bound:
        return "easy"
    return "hard" if confidence <= margin and aleatoric <= bound else "ambiguous"


def test_groups_by_hand() -> None:
    """Three checkpoints: sure of the label, sure against it, undecided, and wavering between both."""
    found = curate_rows(
        np.array([[0.8, 0.2, 0.5, 0.9], [0.9, 0.1, 0.5, 0.1], [1.0, 0.0, 0.5, 0.8]]), min_margin=0.2, max_aleatoric=0.2
    )
    assert found.groups == ("easy", "hard", "ambiguous", "ambiguous")
    assert found.confidence == pytest.approx([0.9, 0.1, 0.5, 0.6])
    # (0.16 + 0.09 + 0) / 3, the same, 0.25, and (0.09 + 0.09 + 0.16) / 3
    assert found.aleatoric == pytest.approx([0.25 / 3, 0.25 / 3, 0.25, 0.34 / 3])
    assert count_groups(found.groups) == {"easy": 1, "ambiguous": 2, "hard": 1}


def test_bounds_are_within() -> None:
    assert curate_rows(np.array([[0.75, 0.25]]), min_margin=0.25, max_aleatoric=0.1875).groups == ("easy", "hard")
    assert curate_rows(np.array([[0.75, 0.25]]), min_margin=0.25, max_aleatoric=0.187).groups == ("ambiguous",) * 2


def test_the_adaptive_bound_is_three_quarters_of_the_range() -> None:
    found = curate_rows(np.array([[1.0, 0.9, 0.5]]), max_aleatoric=None)
    assert found.max_aleatoric == pytest.approx(0.75 * 0.25)
    assert found.groups == ("easy", "easy", "ambiguous")


def test_without_ambiguous_rows_nothing_is_lost() -> None:
    """The released code joins an empty list of floats to the indices, selects nothing by them, and loses the run."""
    found = curate_rows(np.array([[0.95, 0.02]]))
    assert found.groups == ("easy", "hard")
    assert curate_rows(np.zeros((3, 0))).groups == ()
    assert curate_rows(np.zeros((3, 0)), max_aleatoric=None).groups == ()


@given(PROBABILITIES, st.floats(0.01, 0.49), st.floats(0, 0.25))
def test_every_row_has_the_group_of_the_specification(values: np.ndarray, margin: float, bound: float) -> None:
    found = curate_rows(values, min_margin=margin, max_aleatoric=bound)
    assert len(found.groups) == values.shape[1]
    for place, group in enumerate(found.groups):
        column = values[:, place].tolist()
        confidence, aleatoric = sum(column) / len(column), sum(one * (1 - one) for one in column) / len(column)
        # A sum in another order may differ in its last bits at a bound.
        ends = (confidence - margin, confidence - 1 + margin, aleatoric - bound)
        if min(map(abs, ends)) > 1e-9:
            assert group == decide_by_hand(column, margin, bound)
    assert ((found.aleatoric >= 0) & (found.aleatoric <= 0.25 + 1e-12)).all()


@given(PROBABILITIES)
def test_a_turned_label_turns_easy_and_hard(values: np.ndarray) -> None:
    """Of two classes the other label has 1 - p, which is as uncertain."""
    turned = {"easy": "hard", "hard": "easy", "ambiguous": "ambiguous"}
    values = np.round(values, 3)
    one, other = curate_rows(values, min_margin=0.20017), curate_rows(1 - values, min_margin=0.20017)
    assert [turned[group] for group in one.groups] == list(other.groups)


@pytest.mark.parametrize(
    ("values", "given_settings", "told"),
    [
        (np.zeros((0, 2)), {}, "probabilities must be \\[num_checkpoints, num_rows\\] of 1 or more, got \\(0, 2\\)"),
        (np.array([[1.5]]), {}, "must be in \\[0, 1\\]"),
        (np.array([[np.nan]]), {}, "must be in \\[0, 1\\]"),
        (np.array([[0.5]]), {"min_margin": 0.5}, "min_margin must be in \\(0, 0.5\\), got 0.5"),
        (np.array([[0.5]]), {"max_aleatoric": 0.3}, "max_aleatoric must be in \\[0, 0.25\\]"),
    ],
)
def test_a_callers_mistake_is_told(values: np.ndarray, given_settings: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        curate_rows(values, **given_settings)


def draw_real(number: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose class is whether the first feature is above 0, well apart."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(number, 2))
    labels = (np.arange(number) % 2).astype(np.int64)
    rows[:, 0] = np.where(labels == 1, 3.0, -3.0) + 0.1 * rows[:, 0]
    return rows, labels


def test_trees_are_against_turned_labels_already_with_twenty_real_rows() -> None:
    """Scikit-learn's defaults ask for 20 rows in a leaf, split nothing, and would find every row ambiguous."""
    real, labels = draw_real()
    rows = np.array([[3.0, 0.0], [-3.0, 0.0], [3.0, 0.0], [-3.0, 0.0]])
    found = boost_probabilities(real, labels, rows, np.array([1, 0, 0, 1]), num_trees=100)
    assert found.shape == (99, 4)
    assert curate_rows(found).groups == ("easy", "easy", "hard", "hard")
    # The trees become surer step by step.
    assert (np.diff(found[:, 0]) >= -1e-9).all()
    assert boost_probabilities(real, labels, rows[:0], labels[:0], num_trees=100).shape == (99, 0)


def test_xgboosts_trees_agree_where_rows_are_plain() -> None:
    pytest.importorskip("xgboost")
    real, labels = draw_real()
    rows, own = np.array([[3.0, 0.0], [-3.0, 0.0]]), np.array([1, 1])
    found = boost_probabilities(real, labels, rows, own, num_trees=50, booster="xgboost")
    assert found.shape == (49, 2)
    assert curate_rows(found).groups == ("easy", "hard")


def test_trees_need_two_classes() -> None:
    real, labels = draw_real()
    with pytest.raises(ValueError, match="needs real rows of two or more classes, got rows of 1"):
        boost_probabilities(real, np.zeros_like(labels), real, labels, num_trees=10)


def test_an_absent_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lance_assets.extras.find_spec", lambda name: None)
    real, labels = draw_real()
    with pytest.raises(ValueError, match=r"booster: xgboost needs the library xgboost.*pip install .*\[tabular\]"):
        boost_probabilities(real, labels, real, labels, num_trees=10, booster="xgboost")


def test_categories_are_encoded_without_an_order() -> None:
    columns = [Column("bmi", "number"), Column("sex", "category", values=("f", "m"))]
    rows = [{"bmi": 21.5, "sex": "m"}, {"bmi": 30.0, "sex": "x"}]
    assert encode_rows(columns, rows).tolist() == [[21.5, 0.0, 1.0], [30.0, 0.0, 0.0]]
    assert encode_rows(columns, []).shape == (0, 3)


def test_auc_by_hand() -> None:
    """Of 2 x 2 pairs three are in order; a tie counts half; three classes are each held against the rest."""
    two = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]])
    assert compute_auc(two, np.array([0, 0, 1, 1])) == 0.75
    assert compute_auc(np.full((4, 2), 0.5), np.array([0, 0, 1, 1])) == 0.5
    three = np.eye(3)[[0, 1, 2, 0]]
    # class 0: of 2 x 2 pairs all in order; class 1: the row is called 1; class 2: of 3 pairs all
    assert compute_auc(three, np.array([0, 1, 2, 0])) == 1.0
    assert compute_auc(three, np.array([1, 1, 1, 1])) == 0.5


def test_a_set_teaches_what_it_says() -> None:
    """Right labels teach the rule, turned ones its opposite, one class a constant answer, and no row nothing."""
    real, labels = draw_real(40)
    held_out, own = draw_real(30)
    right = teach_classifiers(real, labels, held_out, own, num_classes=2)
    turned = teach_classifiers(real, 1 - labels, held_out, own, num_classes=2)
    constant = teach_classifiers(real, np.ones_like(labels), held_out, own, num_classes=2)
    assert right is not None
    assert turned is not None
    assert constant is not None
    assert (right.accuracy, right.auc, turned.accuracy, turned.auc) == (1.0, 1.0, 0.0, 0.0)
    assert (constant.accuracy, constant.auc, constant.auc_low, constant.auc_high) == (0.5, 0.5, 0.5, 0.5)
    assert teach_classifiers(real[:0], labels[:0], held_out, own, num_classes=2) is None
