import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.review_bias import compute_sample_shifts, measure_review_bias

SCORES = st.one_of(st.none(), st.integers(0, 10).map(float))


def test_length_within_a_prompt_is_told_from_length_over_all() -> None:
    """Longer is better within both prompts, ranks 1 2 3; the short prompt's rows score higher.

    Over all: ranks of score 4 5 6 1 2 3 against ranks of length 1 2 3 4 5 6: sum d^2 = 6 * 9 = 54, so
    1 - 6 * 54 / (6 * 35) = -0.543.
    """
    bias = measure_review_bias(
        scores=[7.0, 8.0, 9.0, 1.0, 2.0, 3.0, None],
        reviews=[[]] * 7,
        lengths=[10, 20, 30, 100, 110, 120, 1],
        prompts=["short"] * 3 + ["long"] * 3 + ["other"],
    )
    assert bias.score_length_correlation == pytest.approx(1 - 6 * 54 / (6 * 35))
    assert (bias.within_prompt_correlation, bias.num_prompts) == (1.0, 2)


def test_spread_worked_by_hand() -> None:
    """Deviations: of 8 6 7: 1; of 5 5: 0; of 9 3: sqrt(18) = 4.24. One review has none. 1 of 3 spans more than 2."""
    reviews = [[8.0, 6.0, 7.0], [5.0, None, 5.0], [9.0, 3.0], [4.0, None], [None], []]
    bias = measure_review_bias(scores=[None] * 6, reviews=reviews, lengths=[0] * 6, prompts=list("abcdef"))
    assert bias.max_deviation == pytest.approx(math.sqrt(18))
    assert bias.mean_deviation == pytest.approx((1 + math.sqrt(18)) / 3)
    assert bias.wide_rate == pytest.approx(1 / 3)
    assert bias.score_length_correlation is None


def test_shifts_worked_by_hand() -> None:
    """Review 0 is 1 and 2 above its row's others, so 1.5; review 1 the same below. The third row has one review."""
    first, second = compute_sample_shifts([[8.0, 7.0], [6.0, 4.0], [None, 5.0]])
    assert (first.sample_number, first.num_rows, first.mean_score, first.shift) == (0, 2, 7.0, 1.5)
    assert (second.sample_number, second.num_rows, second.mean_score, second.shift) == (1, 2, 5.5, -1.5)
    assert first.interval == pytest.approx((1.5 - 12.706 * 0.5, 1.5 + 12.706 * 0.5), abs=0.01)
    assert first.is_exchangeable


def test_a_review_that_is_always_higher_is_not_exchangeable() -> None:
    """Three reviews of 60 rows by lot; then the first raised by two points."""
    rng = random.Random(0)
    rows = [[rng.gauss(5, 1) for _ in range(3)] for _ in range(60)]
    assert all(shift.is_exchangeable for shift in compute_sample_shifts(rows))
    raised = compute_sample_shifts([[first + 2, *others] for first, *others in rows])
    assert not any(shift.is_exchangeable for shift in raised)
    assert raised[0].shift > 1.5


def test_nothing_to_measure() -> None:
    bias = measure_review_bias(scores=[], reviews=[], lengths=[], prompts=[])
    assert (bias.score_length_correlation, bias.within_prompt_correlation, bias.num_prompts) == (None, None, 0)
    assert (bias.mean_deviation, bias.max_deviation, bias.wide_rate, bias.shifts) == (None, None, None, [])


def test_columns_of_unequal_length_are_told() -> None:
    with pytest.raises(ValueError, match="1 scores, 2 reviews, 1 lengths, 1 prompts"):
        measure_review_bias(scores=[1.0], reviews=[[], []], lengths=[1], prompts=["p"])


@given(
    st.lists(st.tuples(SCORES, st.lists(SCORES, max_size=3), st.integers(0, 99), st.sampled_from("pq"))), st.randoms()
)
def test_the_order_of_rows_does_not_matter(rows: list[tuple], rng: random.Random) -> None:
    def measure(table: list[tuple]) -> dict[str, object]:
        names = ("scores", "reviews", "lengths", "prompts")
        columns = list(zip(*table, strict=True)) or [()] * 4
        bias = vars(measure_review_bias(**dict(zip(names, columns, strict=True))))
        return {name: value for name, value in bias.items() if name != "shifts"}

    before, after = measure(rows), measure(rng.sample(rows, len(rows)))
    assert before == pytest.approx(after)
    assert before["max_deviation"] is None or 0 <= before["mean_deviation"] <= before["max_deviation"] + 1e-9
