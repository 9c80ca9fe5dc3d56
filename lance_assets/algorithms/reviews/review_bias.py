"""How a round's reviewer behaved: whether it favours length, how far reviews of a row differ, if their order matters.

Sources: judges favour long completions (verbosity bias, MT-Bench, arXiv 2306.05685, section 3.3; lengths grew from
1,092 to 2,552 characters over Self-Rewarding's rounds, arXiv 2401.10020). The measures are plain statistics:

1. Spearman's correlation of score and length over all rows mixes length with difficulty: a hard prompt has a long
   completion. Within a prompt it does not, so that the mean over prompts of the within-prompt correlation is beside it.
2. The spread is the standard deviation of a row's scores (n - 1 in the denominator).
3. Reviews 1, 2, 3 of a row differ in their sampling seed alone, so they are exchangeable: the mean difference of
   review k from the row's others has 0 in its interval, in 95% of cases each. A clear difference is a fault of the
   pipeline, such as a cache or a seed that is shared.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lance_assets.algorithms.measures.diversity import compute_score_length_correlation
from lance_assets.algorithms.measures.statistics import compute_mean_interval

WIDE_SPREAD = 2.0
"""Points between the highest and the lowest score of a row above which its reviews disagree: LANCE's score gap."""


@dataclass(frozen=True)
class SampleShift:
    """How one review of each row differs from the row's others."""

    sample_number: int
    """From 0, among the reviews of a row."""
    num_rows: int
    """Rows in which it and another review are scored."""
    mean_score: float
    """Of these reviews."""
    shift: float
    """Mean of its score minus the mean of the row's other scores."""
    interval: tuple[float, float]
    """Student's 95% interval of the shift; infinite for one row."""

    @property
    def is_exchangeable(self) -> bool:
        """Whether the interval holds 0, so that no difference shows."""
        return self.interval[0] <= 0.0 <= self.interval[1]


@dataclass(frozen=True)
class ReviewBias:
    """The measures of one round; None where too few rows are scored."""

    score_length_correlation: float | None
    """Spearman's correlation of review score and length over all rows, -1..1."""
    within_prompt_correlation: float | None
    """Mean of the correlations among the rows of one prompt, -1..1."""
    num_prompts: int
    """Prompts in that mean: those with three scored rows that differ in score and length."""
    mean_deviation: float | None
    """Mean standard deviation of a row's scores, over rows with two or more."""
    max_deviation: float | None
    """The largest."""
    wide_rate: float | None
    """Share of those rows whose scores lie more than `WIDE_SPREAD` apart, 0..1."""
    shifts: list[SampleShift]
    """One for each sample number that can be compared."""


def _measure_within(
    scores: Sequence[float | None], lengths: Sequence[int], prompts: Sequence[str]
) -> tuple[float | None, int]:
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        rows_of[prompt].append(row)
    correlations = [
        compute_score_length_correlation([scores[row] for row in rows], [lengths[row] for row in rows])
        for rows in rows_of.values()
    ]
    # A prompt whose rows do not differ in score or length has no correlation.
    known = [value for value in correlations if value is not None]
    return (fmean(known) if known else None), len(known)


def compute_sample_shifts(reviews: Sequence[Sequence[float | None]]) -> list[SampleShift]:
    """Each sample number's mean difference from the other reviews of its rows.

    Args:
        reviews: the scores of each row by sample number, null where unscored.

    >>> [shift.shift for shift in compute_sample_shifts([[8.0, 6.0], [9.0, 7.0], [5.0]])]
    [2.0, -2.0]
    """
    shifts = []
    for number in range(max((len(scores) for scores in reviews), default=0)):
        mine, differences = [], []
        for scores in reviews:
            others = [score for place, score in enumerate(scores) if place != number and score is not None]
            score = scores[number] if number < len(scores) else None
            # The difference is taken within a row, so that the quality of the row cancels out.
            if score is not None and others:
                mine.append(score)
                differences.append(score - fmean(others))
        if differences:
            mean, low, high = compute_mean_interval(differences)
            shifts.append(SampleShift(number, len(mine), fmean(mine), mean, (low, high)))
    return shifts


def measure_review_bias(
    *,
    scores: Sequence[float | None],
    reviews: Sequence[Sequence[float | None]],
    lengths: Sequence[int],
    prompts: Sequence[str],
) -> ReviewBias:
    """Measure the reviews of a round. Cost: O(n log n) in the rows.

    Args:
        scores: [num_rows] review scores, null where unscored.
        reviews: [num_rows] the scores of each row's reviews, null where unscored.
        lengths: [num_rows] of the completions, 0 or more.
        prompts: [num_rows]; rows with the same text share a prompt.

    Raises:
        ValueError: the columns are not equally long.

    >>> reviews = [[1.0, 3.0], [4.0, 4.0], [6.0, None]]
    >>> bias = measure_review_bias(
    ...     scores=[2.0, 4.0, 6.0], reviews=reviews, lengths=[10, 30, 20], prompts=["p", "p", "p"]
    ... )
    >>> bias.score_length_correlation, bias.within_prompt_correlation, bias.wide_rate
    (0.5, 0.5, 0.0)
    """
    columns = {"scores": scores, "reviews": reviews, "lengths": lengths, "prompts": prompts}
    if len({len(column) for column in columns.values()}) > 1:
        found = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise ValueError(f"every row needs a value in each column, got {found}")
    known = [[score for score in row if score is not None] for row in reviews]
    several = [row for row in known if len(row) > 1]
    deviations = [stdev(row) for row in several]
    within, num_prompts = _measure_within(scores, lengths, prompts)
    return ReviewBias(
        score_length_correlation=compute_score_length_correlation(scores, lengths),
        within_prompt_correlation=within,
        num_prompts=num_prompts,
        mean_deviation=fmean(deviations) if deviations else None,
        max_deviation=max(deviations, default=None),
        # Scores such as 8.3 and 6.3 are 2 apart up to rounding.
        wide_rate=fmean(max(row) - min(row) > WIDE_SPREAD + 1e-9 for row in several) if several else None,
        shifts=compute_sample_shifts(reviews),
    )
