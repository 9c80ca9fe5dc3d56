"""How far a loop of rounds has come: which round was best, from which the next one starts, and whether there is a next.

Hand-written because it is the platform's own rule; the papers run a fixed number of rounds and report the best.
"""

import re
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


def find_best_round(scores: dict[str, float]) -> str | None:
    """The round with the highest score, the earliest on ties; None when there is none.

    >>> find_best_round({"r0000": 0.5, "r0001": 0.6, "r0002": 0.6})
    'r0001'
    """
    return min(scores, key=lambda key: (-scores[key], key)) if scores else None


def choose_parent_round(outcomes: list[RoundOutcome], *, before: str, on_regression: str) -> str:
    """The round whose checkpoint `before` starts from: the one before it, or the best when that one was rejected.

    Args:
        outcomes: finished rounds in order; the round just before must be among them.
        before: the round to start.
        on_regression: `rollback` goes back to the best; anything else goes on from the last.

    Raises:
        ValueError: the round just before has no outcome.
    """
    previous = format_round(parse_round(before) - 1)
    by_key = {outcome.round_key: outcome for outcome in outcomes if outcome.round_key < before}
    if previous not in by_key:
        raise ValueError(
            f"round {before} starts from {previous}, which has no finished eval_report; materialize it first"
        )
    if on_regression != "rollback" or not by_key[previous].is_regression:
        return previous
    # A round that regressed was rejected, so a later one must not go back to it.
    accepted = {key: outcome.score for key, outcome in by_key.items() if not outcome.is_regression}
    return find_best_round(accepted) or previous


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
        on_regression: `stop` ends after a regression.

    Returns:
        The next round, or None with the rule that ended the loop.

    >>> decide_next_round([], max_rounds=3, patience=None, max_tokens=None, max_hours=None, on_regression="stop").reason
    'r0000 has not finished; materialize it to start the loop'
    """
    if not outcomes:
        return Decision(None, f"{START_ROUND} has not finished; materialize it to start the loop")
    last = outcomes[-1]
    number = parse_round(last.round_key)
    best = find_best_round({outcome.round_key: outcome.score for outcome in outcomes}) or last.round_key
    num_tokens = sum(outcome.num_tokens for outcome in outcomes)
    hours = sum(outcome.seconds for outcome in outcomes) / 3600
    if number >= max_rounds:
        return Decision(None, f"{last.round_key} is the last of max_rounds={max_rounds}")
    if on_regression == "stop" and last.is_regression:
        return Decision(None, f"{last.round_key} regressed against {best} beyond the noise band")
    if patience is not None and number - parse_round(best) >= patience:
        return Decision(None, f"no gain over {best} for patience={patience} rounds")
    if max_tokens is not None and num_tokens >= max_tokens:
        return Decision(None, f"{num_tokens} tokens sampled, the budget is max_tokens={max_tokens}")
    if max_hours is not None and hours >= max_hours:
        return Decision(None, f"{hours:.2f} hours spent, the budget is max_hours={max_hours}")
    return Decision(format_round(number + 1), f"{last.round_key} finished with score {last.score:.3f}")
