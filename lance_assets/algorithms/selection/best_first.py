"""The order of quality in which rows are trained on: the first mitigation of regurgitative training.

Source: Zhang et al. (arXiv 2407.12835): each synthetic row is scored, and the best are trained on first. Difference:
rows that people wrote come before all of them, since the paper finds them to be worth more than any generated one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

PEOPLE = ("seed", "eft")
"""Sources of rows that people wrote."""


def sort_best_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of an SFT set or preference pairs in the order of their quality; rows of equal quality keep their order.

    Args:
        rows: of `SFT_SET`: what people wrote, then the others from the highest `review_score` to the lowest, then those
            without a score. Or of `PREFERENCE_PAIRS`: from the widest `score_gap` to the narrowest, then those without.

    >>> rows = [{"source": "generated", "review_score": score} for score in (None, 3.0, 8.0)]
    >>> [row["review_score"] for row in sort_best_first(rows)]
    [8.0, 3.0, None]
    """

    def place(row: Mapping[str, Any]) -> tuple[int, float]:
        if "score_gap" in row:
            quality, is_first = row["score_gap"], False
        else:
            quality, is_first = row["review_score"], row["source"] in PEOPLE
        if is_first:
            return 0, 0.0
        return (2, 0.0) if quality is None else (1, -quality)

    return sorted(rows, key=place)
