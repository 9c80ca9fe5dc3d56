"""Whether generated texts can be told from people's: vectors of which it is known."""

import numpy as np
import pytest

from lance_assets.algorithms.measures.human_likeness import FEWEST, measure_human_likeness

DIM = 16


def draw(number: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Random directions; a shift moves all of them towards the first axis."""
    rows = np.random.default_rng(seed).normal(size=(number, DIM))
    rows[:, 0] += shift
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def measure(human: np.ndarray, generated: np.ndarray) -> float | None:
    groups = [[f"{side}{place}" for place in range(len(rows))] for side, rows in (("h", human), ("g", generated))]
    return measure_human_likeness(human, generated, human_groups=groups[0], generated_groups=groups[1])


def test_texts_of_one_kind_cannot_be_told_apart() -> None:
    assert measure(draw(200, 1), draw(300, 2)) == pytest.approx(0.5, abs=0.06)


def test_texts_that_lie_elsewhere_can() -> None:
    assert measure(draw(100, 1, 8.0), draw(100, 2, -8.0)) == 0.0
    some = measure(draw(200, 1), draw(200, 2, 2.0))
    assert some is not None
    assert 0.02 < some < 0.3, "the further away, the surer"


def test_a_classifier_that_remembers_texts_tells_nothing() -> None:
    """The same texts on both sides, each pair in one group: no split may show a text and ask about its copy."""
    rows = draw(60, 3)
    groups = [str(place) for place in range(60)]
    found = measure_human_likeness(rows, rows, human_groups=groups, generated_groups=groups)
    assert found == pytest.approx(0.5, abs=1e-9)


def test_how_many_texts_there_are_does_not_move_it_much() -> None:
    few, many = (measure(draw(number, 1), draw(number, 2, 2.0)) for number in (80, 800))
    assert few is not None
    assert many is not None
    assert abs(few - many) < 0.12
    # Nor does one side that is ten times the other.
    assert abs((measure(draw(60, 1), draw(600, 2, 2.0)) or 1) - many) < 0.12


def test_the_order_of_the_texts_does_not_matter() -> None:
    human, generated = draw(40, 1), draw(50, 2, 1.0)
    names = [f"g{place}" for place in range(50)]
    turned = measure_human_likeness(
        human, generated[::-1], human_groups=[f"h{place}" for place in range(40)], generated_groups=names[::-1]
    )
    assert turned == pytest.approx(measure(human, generated), abs=2e-3)


def test_few_texts_and_wrong_shapes() -> None:
    assert measure(draw(FEWEST - 1, 1), draw(90, 2)) is None
    assert measure(draw(0, 1), draw(90, 2)) is None
    with pytest.raises(ValueError, match=r"2D arrays of one width, got \(3, 16\) and \(3, 4\)"):
        measure(draw(3, 1), np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="each text needs a group, got 1 for 2 and 1 for 1"):
        measure_human_likeness(draw(2, 1), draw(1, 2), human_groups=["a"], generated_groups=["b"])
