"""How far a loop of rounds has come: which round was best, from which the next one starts, and whether there is a next.

Hand-written because it is the platform's own rule; the papers run a fixed number of rounds and report the best.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

START_ROUND = "r0000"


@dataclass(frozen=True)
class RoundOutcome:
    """A finished round, as the stop rules see it."""

    round_key: str
    """Such as `r0003`."""
    score: float
    """The experiment's headline score."""
    is_regression: bool
    """Worse than the best round before it, beyond the noise band."""
    num_tokens: int
    """Tokens it sampled."""
    seconds: float
    """What its steps took together."""
    higher_is_better: bool = True
    """Whether a higher headline score is better; the same in every round."""
    broken_floors: tuple[str, ...] = ()
    """The floors of single scores that it breaks, in words."""


@dataclass(frozen=True)
class Decision:
    """Whether the loop goes on."""

    next_round: str | None
    """The round to start, or None."""
    reason: str
    """Why, in words for a person."""


def format_round(number: int) -> str:
    """The key of a round: zero-padded, since backfills run in string order.

    >>> format_round(3)
    'r0003'
    """
    if not 0 <= number <= 9999:
        raise ValueError(f"a round's number is in [0, 9999], got {number}")
    return f"r{number:04d}"


def parse_round(round_key: str) -> int:
    """The number of a round.

    Raises:
        ValueError: the key is not `r` and four digits.

    >>> parse_round("r0012")
    12
    """
    if not re.fullmatch(r"r[0-9]{4}", round_key):
        raise ValueError(f"a round's key is r and four digits, such as r0001; got {round_key!r}")
    return int(round_key[1:])


def is_round_key(text: str) -> bool:
    """Whether a text is the key of a round.

    >>> is_round_key("r0001"), is_round_key("round1")
    (True, False)
    """
    try:
        parse_round(text)
    except ValueError:
        return False
    return True


def find_best_round(scores: dict[str, float], *, higher_is_better: bool = True) -> str | None:
    """The round with the best score, the earliest on ties; None when there is none.

    >>> find_best_round({"r0000": 0.5, "r0001": 0.6, "r0002": 0.6})
    'r0001'
    >>> find_best_round({"r0000": 40.0, "r0001": 12.3}, higher_is_better=False)
    'r0001'
    """
    sign = -1 if higher_is_better else 1
    return min(scores, key=lambda key: (sign * scores[key], key)) if scores else None


def find_best_outcome(outcomes: Sequence[RoundOutcome]) -> str | None:
    """The round with the best headline, the earliest on ties; None when there is none.

    A round that breaks a floor is the best only where all do: nothing is built on it, so nothing is held against it.
    """
    standing = [outcome for outcome in outcomes if not outcome.broken_floors] or outcomes
    scores = {outcome.round_key: outcome.score for outcome in standing}
    return find_best_round(scores, higher_is_better=all(outcome.higher_is_better for outcome in standing))


def list_rejected_rounds(outcomes: Sequence[RoundOutcome], *, on_regression: str) -> list[str]:
    """The rounds that no later one starts from: those that broke a floor, and with `rollback` those that regressed.

    >>> outcomes = [RoundOutcome("r0000", 0.5, False, 0, 0.0), RoundOutcome("r0001", 0.3, True, 0, 0.0)]
    >>> list_rejected_rounds(outcomes, on_regression="rollback"), list_rejected_rounds(outcomes, on_regression="stop")
    (['r0001'], [])
    """
    return [
        outcome.round_key
        for outcome in outcomes
        if outcome.broken_floors or (outcome.is_regression and on_regression == "rollback")
    ]


def choose_parent_round(outcomes: list[RoundOutcome], *, before: str, on_regression: str) -> str:
    """The round whose checkpoint `before` starts from: the one before it, or the best when that one was rejected.

    Args:
        outcomes: finished rounds in order; the round just before must be among them.
        before: the round to start.
        on_regression: `rollback` goes back to the best; anything else goes on from the last, unless it breaks a floor.

    Raises:
        ValueError: the round just before has no outcome, or every round breaks a floor.
    """
    previous = format_round(parse_round(before) - 1)
    by_key = {outcome.round_key: outcome for outcome in outcomes if outcome.round_key < before}
    if previous not in by_key:
        raise ValueError(
            f"round {before} starts from {previous}, which has no finished eval_report; materialize it first"
        )
    rejected = list_rejected_rounds(list(by_key.values()), on_regression=on_regression)
    if previous not in rejected:
        return previous
    # A round that was rejected before must not be gone back to either.
    accepted = [outcome for key, outcome in by_key.items() if key not in rejected]
    standing = [outcome for outcome in by_key.values() if not outcome.broken_floors]
    if not standing:
        raise ValueError(
            f"round {before} has nothing to start from: every round before it breaks a floor, {previous} because "
            f"{'; '.join(by_key[previous].broken_floors)}; change evaluation.floors, or make these rounds again"
        )
    return find_best_outcome(accepted or standing) or previous


def decide_next_round(
    outcomes: list[RoundOutcome],
    *,
    max_rounds: int,
    patience: int | None,
    max_tokens: int | None,
    max_hours: float | None,
    on_regression: str,
) -> Decision:
    """Apply the stop rules.

    Args:
        outcomes: finished rounds in order, r0000 first.
        max_rounds: rounds after r0000.
        patience: rounds without a gain over the best after which to stop.
        max_tokens: budget of sampled tokens over all rounds.
        max_hours: budget of hours over all rounds.
        on_regression: `stop` ends after a regression, and after a round that breaks a floor.

    Returns:
        The next round, r0000 where none has finished, or None with the rule that ended the loop.

    >>> decide_next_round([], max_rounds=3, patience=None, max_tokens=None, max_hours=None, on_regression="stop")
    Decision(next_round='r0000', reason='no round has finished yet')
    """
    if not outcomes:
        return Decision(START_ROUND, "no round has finished yet")
    last = outcomes[-1]
    number = parse_round(last.round_key)
    best = find_best_outcome(outcomes) or last.round_key
    num_tokens = sum(outcome.num_tokens for outcome in outcomes)
    hours = sum(outcome.seconds for outcome in outcomes) / 3600
    if number >= max_rounds:
        return Decision(None, f"{last.round_key} is the last of max_rounds={max_rounds}")
    if on_regression == "stop" and last.is_regression:
        return Decision(None, f"{last.round_key} regressed against {best} beyond the noise band")
    if on_regression == "stop" and last.broken_floors:
        return Decision(None, f"{last.round_key} breaks a floor: {'; '.join(last.broken_floors)}")
    if all(outcome.broken_floors for outcome in outcomes):
        return Decision(None, f"every round breaks a floor: {'; '.join(last.broken_floors)}")
    if patience is not None and number - parse_round(best) >= patience:
        return Decision(None, f"no gain over {best} for patience={patience} rounds")
    if max_tokens is not None and num_tokens >= max_tokens:
        return Decision(None, f"{num_tokens} tokens sampled, the budget is max_tokens={max_tokens}")
    if max_hours is not None and hours >= max_hours:
        return Decision(None, f"{hours:.2f} hours spent, the budget is max_hours={max_hours}")
    return Decision(format_round(number + 1), f"{last.round_key} finished with score {last.score:.3f}")
