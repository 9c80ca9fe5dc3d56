"""The score a reviewer gives on average, from the probabilities of the tokens at the score's place.

Source: G-Eval (Liu et al. 2023, arXiv 2303.16634), section 2: the score is the sum over the scale of p(score) times
score, which tells apart what whole scores leave tied.

Differences from the paper:

1. p is the model's own, of the likeliest tokens at the place where the sampled review has its score; theirs is
   estimated by sampling 20 times where the API told no probabilities. So it is the expectation given this rationale.
2. The sum is over the scores among those tokens and divided by their mass (`covered`), which the rest of the tokens
   does not enter; below `MIN_MASS` there is no score.
3. A token "1" begins both 1 and 10. Where "1" was sampled, its mass is split by the next token's probabilities. Where
   another was, or no next token is told, it counts as 1: `max_error` is what the value changes at most if all of it
   were 10.
4. Of a score with decimals the whole number's place alone is read: where 8.5 was sampled, 8 is what 8.5 counts as.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lance_assets.algorithms.reviews.review_parsing import ReadScore, Unscored, read_score
from lance_assets.records import Sample, TokenChoice

MIN_MASS = 0.5
"""Probability that scores must hold at the score's place."""


@dataclass(frozen=True)
class ExpectedScore:
    """A review's expected score."""

    value: float
    """In the range asked for."""
    covered: float
    """Probability of the scores it is the mean of, `MIN_MASS` to 1."""
    max_error: float
    """By how much the value is too low at most, for tokens "1" that might have become 10."""


def _find_place(read: ReadScore, tail: Sequence[TokenChoice]) -> tuple[int, str] | None:
    """The token in which the written score begins, and what of it comes before; None where the tail lacks it."""
    match = re.match(r"[0-9]+", read.written)
    text = "".join(choice.text for choice in tail)
    runs = list(re.finditer(r"[0-9]+", text, re.ASCII))
    if match is None or len(runs) <= read.num_later or runs[-1 - read.num_later][0] != match[0]:
        return None
    start = runs[-1 - read.num_later].start()
    for place, choice in enumerate(tail):
        if start < len(choice.text):
            return place, choice.text[:start]
        start -= len(choice.text)
    return None


def _read_digits(token: str, before: str) -> str | None:
    """The digits with which a token continues after what the sampled token has before its digits."""
    match = re.match(r"[0-9]+", token.strip().removeprefix(before.strip()).lstrip())
    return match[0] if match else None


def _weigh(alternatives: dict[str, float], before: str) -> dict[str, float]:
    """The probability of each run of digits that the token may be or begin."""
    mass: defaultdict[str, float] = defaultdict(float)
    for token, log_probability in alternatives.items():
        digits = _read_digits(token, before)
        if digits is not None:
            mass[digits] += math.exp(log_probability)
    return dict(mass)


def _split_one(mass: dict[str, float], next_choice: TokenChoice) -> dict[str, float]:
    """The mass of "1" over what the next token makes of it: 10, another number, or 1."""
    following = _weigh(next_choice.alternatives, "")
    longer = {f"1{digits}": mass["1"] * probability for digits, probability in following.items()}
    rest = {"1": mass["1"] * max(0.0, 1.0 - sum(following.values()))}
    return {
        digits: mass.get(digits, 0.0) * (digits != "1") + longer.get(digits, 0.0) + rest.get(digits, 0.0)
        for digits in {*mass, *longer, *rest}
    }


def compute_expected_score(sample: Sample, *, lowest: float = 0.0, highest: float = 10.0) -> ExpectedScore | Unscored:
    """The probability-weighted score of a review.

    Args:
        sample: the review with its `tail`.
        lowest: the smallest score allowed.
        highest: the largest, 10 at most.

    Returns:
        The expected score in [lowest, highest]; or why there is none: as `parse_review` where the text has no score,
        `no_tail` where no probabilities are told for its place, `low_mass` where scores hold too little of them.

    Raises:
        ValueError: highest is above 10, whose scores may begin in more ways than "1" and "10".

    >>> tail = (TokenChoice("score: ", {}), TokenChoice("8", {"8": math.log(0.75), "9": math.log(0.25)}))
    >>> compute_expected_score(Sample("r", "Good. score: 8", "stop", 9, 5, tail=tail))
    ExpectedScore(value=8.25, covered=1.0, max_error=0.0)
    """
    if highest > 10:
        raise ValueError(f"expected scores are read on scales up to 10, got highest={highest}: use score_from text")
    read = read_score(sample.text, finish_reason=sample.finish_reason, lowest=lowest, highest=highest)
    if isinstance(read, Unscored):
        return read
    found = _find_place(read, sample.tail)
    if found is None or not sample.tail[found[0]].alternatives:
        return Unscored("no_tail", sample.text)
    place, before = found
    choice = sample.tail[place]
    mass = _weigh(choice.alternatives, before)
    unsplit = mass["1"] if "1" in mass and highest >= 10 else 0.0
    if unsplit and _read_digits(choice.text, before) == "1" and place + 1 < len(sample.tail):
        mass, unsplit = _split_one(mass, sample.tail[place + 1]), 0.0
    on_scale = {int(digits): p for digits, p in mass.items() if lowest <= int(digits) <= highest and p > 0}
    covered = sum(on_scale.values())
    if covered < MIN_MASS:
        return Unscored("low_mass", sample.text)
    value = sum(score * p for score, p in on_scale.items()) / covered
    return ExpectedScore(
        min(highest, max(lowest, value)), min(1.0, covered), (highest - 1) * unsplit / covered if unsplit else 0.0
    )
