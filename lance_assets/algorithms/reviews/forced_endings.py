r"""Force a review or a comparison to its ending: what the model goes on from, and what is read of what it would write.

A review that was cut, or ended without a score, is continued: behind its rationale the words "score: " are put, and the
score is read from the probabilities of the scale's numbers there. So it has a score, which need not be a true one.

Source: G-Eval (arXiv 2303.16634) for the mean over probabilities. Differences from `compute_expected_score`: no text is
parsed, so the place is known; the probabilities are divided by those of the scale's numbers however small these are,
since the model was not asked whether it would write one; and 1 and 10 are told apart by a second question.

A comparison is continued likewise, from "verdict: ", and the likeliest of A, B and tie is its verdict.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from lance_assets.algorithms.reviews.pairwise import Verdict
from lance_assets.algorithms.reviews.thoughts import part_thoughts, write_closing
from lance_assets.records import TokenChoice

LABEL = "score: "
"""What is put behind a rationale."""
VERDICT_LABEL = "verdict: "
"""What is put behind a comparison."""
VERDICTS: tuple[Verdict, ...] = ("A", "B", "tie")
"""What a comparison may end in."""
NOT_CONTINUED = "not_continued"
"""Why a review has no score: its ending was to be forced, and the engine does not go on from a turn that has begun."""

_DANGLING = re.compile(r"\s*(?:\n|^)[ *_#]*(?:final |overall |total )?score[ *_:=]*[0-9./]*[ *_]*\Z", re.I)
_DANGLING_VERDICT = re.compile(r"\s*(?:\n|^)[ *_#]*(?:final )?verdict[ *_:=]*[A-Za-z]?[ *_]*\Z", re.I)
_FORCED_VERDICT = re.compile(r"\n\(forced ending\) (?:verdict: (?P<verdict>A|B|tie)|no verdict: (?P<reason>[a-z_]+))\Z")
_FORCED = re.compile(r"\n\(forced ending\) (?:score: (?P<score>[0-9.]+)|no score: (?P<reason>[a-z_]+))\Z")
_DIGITS = re.compile(r"[0-9]+")


def build_prefill(review: str, label: str = LABEL) -> str:
    r"""The turn that the model goes on from: its review, and then `score: `, or `VERDICT_LABEL`.

    A thought that is still open is closed, and a score line that was begun is begun anew.

    >>> build_prefill("Clear, but wrong.\nScore: 1"), build_prefill("")
    ('Clear, but wrong.\nscore: ', 'score: ')
    """
    closed = f"{review.rstrip()}\n{write_closing(review)}" if part_thoughts(review).is_open else review
    rationale = (_DANGLING if label == LABEL else _DANGLING_VERDICT).sub("", closed).rstrip()
    return f"{rationale}\n{label}" if rationale else label


def build_number_grammar(*, lowest: int, highest: int) -> str:
    """A regular expression for one whole number of the scale.

    >>> build_number_grammar(lowest=8, highest=10)
    ' ?(10|9|8)'
    """
    return f" ?({'|'.join(str(number) for number in range(highest, lowest - 1, -1))})"


def weigh_numbers(
    tail: Sequence[TokenChoice], after_one: Sequence[TokenChoice], *, lowest: int, highest: int
) -> dict[int, float]:
    """The probability of each whole number of the scale where a score is due.

    Args:
        tail: the tokens sampled behind `LABEL`, with their alternatives.
        after_one: those sampled behind `LABEL` and a 1; empty where that was not asked, and a 1 is then a 1.
        lowest: the smallest score, 0 or more.
        highest: the largest, 10 at most.

    Returns:
        By number its probability, as the model has it among all tokens; empty where the tokens have no alternatives.

    >>> ones = [TokenChoice("1", {"1": math.log(0.5), "7": math.log(0.25)})]
    >>> weigh_numbers(ones, [TokenChoice("0", {"0": math.log(0.5)})], lowest=0, highest=10)
    {1: 0.25, 7: 0.25, 10: 0.25}
    """
    first = _read_first(tail)
    mass: defaultdict[int, float] = defaultdict(float)
    for token, probability in first.items():
        digits = _DIGITS.match(token)
        if digits is None:
            continue
        # Only a token that ends with the digit may become a 10; "1/" and "1." are a 1.
        if token == "1" and highest >= 10:
            rest = _read_first(after_one, keep_blanks=True)
            longer = {text: share for text, share in rest.items() if _DIGITS.match(text)}
            mass[1] += probability * max(0.0, 1.0 - sum(longer.values()))
            tens = sum(share for text, share in longer.items() if re.fullmatch(r"0(?![0-9]).*", text, re.S))
            mass[10] += probability * tens
        elif len(digits[0]) <= 2:
            mass[int(digits[0])] += probability
    return {number: mass[number] for number in sorted(mass) if lowest <= number <= highest and mass[number] > 0}


def _read_first(tail: Sequence[TokenChoice], *, keep_blanks: bool = False) -> dict[str, float]:
    """The probability of each token at the first place that is not blank, without blanks before it."""
    for choice in tail:
        if choice.text.strip() or keep_blanks or not choice.text:
            merged: defaultdict[str, float] = defaultdict(float)
            for token, log_probability in choice.alternatives.items():
                merged[token if keep_blanks else token.strip()] += math.exp(log_probability)
            return dict(merged)
    return {}


def choose_score(mass: dict[int, float], *, is_expected: bool) -> float:
    """The mean over the numbers by their probabilities, or the likeliest, the lower of two that are equal.

    Args:
        mass: by number its probability, any sum above 0; at least one.
        is_expected: whether the mean is taken.

    >>> choose_score({2: 0.25, 10: 0.25}, is_expected=True), choose_score({1: 0.1, 7: 0.1}, is_expected=False)
    (6.0, 1.0)
    """
    if is_expected:
        return sum(number * share for number, share in mass.items()) / sum(mass.values())
    return float(min(mass, key=lambda number: (-mass[number], number)))


def write_forced(review: str, score: float | str) -> str:
    r"""The review with its forced ending, as tables keep it: a score, or the reason why there is none.

    >>> write_forced("Clear.", 7.25)
    'Clear.\n(forced ending) score: 7.25'
    """
    ending = f"no score: {score}" if isinstance(score, str) else f"score: {score:.6g}"
    return f"{review.rstrip()}\n(forced ending) {ending}"


def read_forced(review: str) -> float | str | None:
    r"""The score of a review whose ending was forced, or why it has none; None for any other review.

    >>> read_forced("score: 3\n(forced ending) score: 7.25"), read_forced("score: 3")
    (7.25, None)
    """
    found = _FORCED.search(review)
    if found is None:
        return None
    return found["reason"] if found["score"] is None else float(found["score"])


def remove_forced(review: str) -> str:
    r"""The review as the model wrote it, without the ending that it was forced to.

    >>> remove_forced("Clear.\n(forced ending) score: 7.25"), remove_forced("score: 3")
    ('Clear.', 'score: 3')
    """
    return _FORCED.sub("", review)


def is_forced(review: str) -> bool:
    """Whether the review has the score of a forced ending."""
    return isinstance(read_forced(review), float)


VERDICT_ENDING = r" ?(A|B|tie)"
"""A regular expression for one verdict."""


def choose_verdict(tail: Sequence[TokenChoice], text: str) -> Verdict | None:
    """The likeliest verdict behind `VERDICT_LABEL`; None where none is likely, or written.

    Args:
        tail: the tokens sampled there, with their alternatives; empty where the engine gives none.
        text: what was sampled, which counts then.

    >>> choose_verdict([TokenChoice(" A", {" A": math.log(0.3), " B": math.log(0.2), " t": math.log(0.4)})], " tie")
    'tie'
    >>> choose_verdict([], " B."), choose_verdict([], "Both are fine")
    ('B', None)
    """
    mass: defaultdict[Verdict, float] = defaultdict(float)
    for token, probability in _read_first(tail).items():
        for verdict in VERDICTS:
            # A word may come in several tokens, of which the first is enough.
            if token and (token == verdict or (verdict == "tie" and "tie".startswith(token.lower()))):
                mass[verdict] += probability
    if mass:
        return max(VERDICTS, key=lambda verdict: mass[verdict])
    written = re.match(r"\s*(A|B|tie)(?![A-Za-z])", text)
    return next((verdict for verdict in VERDICTS if written and written[1] == verdict), None)


def write_forced_verdict(comparison: str, verdict: Verdict | None, *, reason: str) -> str:
    r"""The comparison with its forced ending, as tables keep it: a verdict, or the reason why there is none.

    >>> write_forced_verdict("A is right.", "A", reason="")
    'A is right.\n(forced ending) verdict: A'
    """
    ending = f"no verdict: {reason}" if verdict is None else f"verdict: {verdict}"
    return f"{comparison.rstrip()}\n(forced ending) {ending}"


def read_forced_verdict(comparison: str) -> tuple[Verdict | None, str | None] | None:
    r"""The verdict of a comparison whose ending was forced, or why it has none; None for any other comparison.

    >>> read_forced_verdict("So A.\n(forced ending) verdict: B"), read_forced_verdict("verdict: B")
    (('B', None), None)
    """
    found = _FORCED_VERDICT.search(comparison)
    if found is None:
        return None
    return next((verdict for verdict in VERDICTS if verdict == found["verdict"]), None), found["reason"]
