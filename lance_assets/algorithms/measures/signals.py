"""How well a review signal tells the better completion of a pair: AUC, accuracy, unscored rate, spread and biases.

1. AUC is the probability that a better completion has a higher score than a worse one, of any prompts: what a signal
   is worth that chooses rows by a threshold. A tie counts as half (Mann and Whitney 1947).
2. Its variance is that of DeLong, DeLong and Clarke-Pearson (1988, Biometrics 44, 837-845), with the covariance of the
   two scores of a pair, which share a prompt: Obuchowski (1997, Biometrics 53, 567-578) for clusters of one better and
   one worse completion. The interval is Wilson's at as many items as have that variance, and at most the number of
   pairs: DeLong's own interval has no width where all pairs are told apart.
3. Accuracy is the share of pairs whose better completion has the higher score, a tie counted as half, with Wilson's
   interval: what a signal is worth that compares completions of one prompt.
4. Over all kinds of pairs, both are means over the kinds by their pairs, so that scores of one kind are never compared
   with another's.
5. A pair of which a score is missing counts in the unscored rate alone.
6. Length bias is Spearman's correlation of score and length among the better completions of a kind, and among the worse
   ones, in the mean: across both it would measure what is better, since truncated completions are short.
7. A signal that compares two completions has no score of one. Its AUC is its accuracy. Its position bias is the share
   of comparisons for the completion shown first.

Hand-written: `scipy.stats.mannwhitneyu` and scikit-learn's `roc_auc_score` have no interval, and neither knows pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import numpy as np

from lance_assets.algorithms.measures.diversity import compute_score_length_correlation
from lance_assets.algorithms.measures.statistics import compute_wilson_interval

CHANCE = 0.5
"""AUC and accuracy of a coin."""


@dataclass(frozen=True)
class ScoredPair:
    """What a signal gave the two completions of a pair."""

    kind: str
    """What the worse completion is."""
    better: float | None
    """Score of the better completion; None where it has none."""
    worse: float | None
    """Score of the worse one."""
    better_length: int
    """In words or tokens, 0 or more."""
    worse_length: int
    """In the same unit."""


@dataclass(frozen=True)
class Rate:
    """A rate in [0, 1] with its 95% interval; of no pairs the rate is None and the interval is 0 to 1."""

    value: float | None
    low: float
    high: float

    @property
    def is_above_chance(self) -> bool:
        """Whether the interval lies wholly above what a coin would give."""
        return self.low > CHANCE


@dataclass(frozen=True)
class Discrimination:
    """How well pairs are told apart, of one kind or of all."""

    num_pairs: int
    """Pairs that were asked about."""
    num_scored: int
    """Of them, those with both scores."""
    auc: Rate
    """Of any better completion against any worse one of the same kind."""
    accuracy: Rate
    """Of the two completions of each pair."""
    tied_rate: float | None
    """Share of the scored pairs whose scores are equal; None of no pairs."""


@dataclass(frozen=True)
class SignalMeasures:
    """Everything that is measured of a signal."""

    overall: Discrimination
    """Over all kinds."""
    by_kind: dict[str, Discrimination]
    """By kind, in the order of the pairs."""
    unscored_rate: float | None
    """Share of completions without a score; None of no pairs."""
    num_distinct: int
    """Different scores."""
    deviation: float | None
    """Standard deviation of all scores; None without any."""
    length_bias: float | None
    """-1..1; None where too few scores differ."""


def compute_auc(better: Sequence[float], worse: Sequence[float]) -> tuple[float, float]:
    """The AUC of paired scores and its variance. Cost: O(n^2) in time and memory.

    Args:
        better: [num_pairs], at least one.
        worse: [num_pairs], of the same pairs in the same order.

    Returns:
        (AUC in [0, 1], variance, 0 for one pair).

    Raises:
        ValueError: no pairs, or the lengths differ.

    Of the four comparisons 3 > 2, 3 > 1, 1 < 2 and 1 = 1 two and a half are right:

    >>> compute_auc([3.0, 1.0], [2.0, 1.0])[0]
    0.625
    """
    if not len(better) or len(better) != len(worse):
        raise ValueError(f"as many better as worse scores are needed, at least one, got {len(better)} and {len(worse)}")
    above = np.sign(np.subtract.outer(np.asarray(better, dtype=np.float64), np.asarray(worse, dtype=np.float64)))
    wins = (above + 1) / 2
    auc, num_pairs = float(wins.mean()), len(better)
    if num_pairs == 1:
        return auc, 0.0
    # The parts of a pair are added before they are squared, which holds the covariance of its two scores.
    parts = wins.mean(axis=1) + wins.mean(axis=0) - 2 * auc
    return auc, float((parts**2).sum()) / (num_pairs * (num_pairs - 1))


def build_rate(value: float, variance: float, num_pairs: int) -> Rate:
    """A rate with Wilson's interval at as many items as have the variance, and at most the number of pairs.

    >>> rate = build_rate(1.0, 0.0, 30)
    >>> round(rate.low, 3), rate.high
    (0.886, 1.0)
    """
    num_items = min(float(num_pairs), value * (1 - value) / variance) if variance > 0 else float(num_pairs)
    # A rounding error must not lead out of the range.
    num_right = min(max(value * num_items, 0.0), num_items)
    return Rate(value, *compute_wilson_interval(num_right, num_items))


def _compare(better: float, worse: float) -> float:
    return CHANCE if better == worse else float(better > worse)


_UNKNOWN = Rate(None, 0.0, 1.0)


def _measure_kind(pairs: Sequence[ScoredPair], *, is_comparison: bool) -> tuple[Discrimination, float]:
    """The discrimination of one kind of pairs, and the variance of its AUC."""
    both = [(pair.better, pair.worse) for pair in pairs if pair.better is not None and pair.worse is not None]
    if not both:
        return Discrimination(len(pairs), 0, _UNKNOWN, _UNKNOWN, None), 0.0
    right = [_compare(*scores) for scores in both]
    accuracy = Rate(fmean(right), *compute_wilson_interval(sum(right), len(both)))
    tied_rate = fmean(better == worse for better, worse in both)
    if is_comparison:
        return Discrimination(len(pairs), len(both), accuracy, accuracy, tied_rate), 0.0
    auc, variance = compute_auc(*zip(*both, strict=True))
    rate = build_rate(auc, variance, len(both))
    return Discrimination(len(pairs), len(both), rate, accuracy, tied_rate), variance


def _pool(kinds: Sequence[tuple[Discrimination, float]], *, is_comparison: bool) -> Discrimination:
    """All kinds together, each weighed by its scored pairs."""
    num_pairs = sum(kind.num_pairs for kind, _ in kinds)
    known = [(kind.auc.value, kind, variance) for kind, variance in kinds if kind.auc.value is not None]
    num_scored = sum(kind.num_scored for _, kind, _ in known)
    if not num_scored:
        return Discrimination(num_pairs, 0, _UNKNOWN, _UNKNOWN, None)
    auc = sum(value * kind.num_scored for value, kind, _ in known) / num_scored
    variance = sum(variance * (kind.num_scored / num_scored) ** 2 for _, kind, variance in known)
    num_right = sum((kind.accuracy.value or 0.0) * kind.num_scored for _, kind, _ in known)
    num_right = min(num_right, float(num_scored))
    accuracy = Rate(num_right / num_scored, *compute_wilson_interval(num_right, num_scored))
    tied = sum((kind.tied_rate or 0.0) * kind.num_scored for _, kind, _ in known) / num_scored
    rate = accuracy if is_comparison else build_rate(auc, variance, num_scored)
    return Discrimination(num_pairs, num_scored, rate, accuracy, tied)


def _measure_length_bias(by_kind: dict[str, list[ScoredPair]]) -> float | None:
    correlations = []
    for pairs in by_kind.values():
        correlations += [
            compute_score_length_correlation([p.better for p in pairs], [p.better_length for p in pairs]),
            compute_score_length_correlation([p.worse for p in pairs], [p.worse_length for p in pairs]),
        ]
    known = [value for value in correlations if value is not None]
    return fmean(known) if known else None


def measure_signal(pairs: Sequence[ScoredPair], *, is_comparison: bool = False) -> SignalMeasures:
    """Measure a signal on the pairs that it scored.

    Args:
        pairs: of any kinds, also none.
        is_comparison: whether the scores compare the two completions of a pair, so that no two pairs share a scale.

    >>> pairs = [ScoredPair("gold", 9.0, 2.0, 5, 5), ScoredPair("gold", 4.0, 6.0, 5, 5), ScoredPair("gold", 8.0, None,
    ... 5, 5)]
    >>> measured = measure_signal(pairs)
    >>> measured.overall.auc.value, measured.overall.accuracy.value, round(measured.unscored_rate, 3)
    (0.75, 0.5, 0.167)
    """
    by_kind: dict[str, list[ScoredPair]] = {}
    for pair in pairs:
        by_kind.setdefault(pair.kind, []).append(pair)
    kinds = {kind: _measure_kind(own, is_comparison=is_comparison) for kind, own in by_kind.items()}
    scores = [score for pair in pairs for score in (pair.better, pair.worse)]
    known = [score for score in scores if score is not None]
    return SignalMeasures(
        overall=_pool(list(kinds.values()), is_comparison=is_comparison),
        by_kind={kind: found for kind, (found, _) in kinds.items()},
        unscored_rate=1 - len(known) / len(scores) if scores else None,
        num_distinct=len(set(known)),
        deviation=pstdev(known) if known else None,
        length_bias=_measure_length_bias(by_kind),
    )
