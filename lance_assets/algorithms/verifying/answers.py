"""Verdicts by a gold answer, with this project's own readers, and the commonest answer where there is none.

An answer is read as `reviews/answer_kinds.py` has it where a mark announces it, and otherwise as
`reviews/gold_answers.py` finds it. Where the gold answer is a number, no process is needed: the readers are regular
expressions whose time is linear. Expressions, sets and intervals need the library math-verify (`resources/verifying`).

The commonest answer is self-consistency (arXiv 2203.11171) as a label: it is right where the model mostly is, and
teaches the model's own mistakes where it is not.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.reviews.gold_answers import find_said_answer, says_gold_answer
from lance_assets.algorithms.verifying.verdict import RIGHT, Completed, Verdict

MAX_SHOWN = 80
"""Characters of an answer that a reason shows."""
NO_GOLD = Verdict(None, "no seed of this prompt has a gold answer", "no_gold")
"""Of a row that nothing is known of."""


def shorten(text: str) -> str:
    r"""A text for a reason: one line, cut where it is long.

    >>> shorten("two\nlines")
    'two lines'
    """
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."


def lack_answer(gold: str) -> Verdict:
    """The verdict on a completion in which nothing announces an answer: it is wrong."""
    return Verdict(0.0, f"no answer could be read, and gold is {shorten(gold)}")


def check_answer(row: Completed, rule: AnswerRule) -> Verdict:
    """Whether a completion's final answer is the gold one.

    Args:
        row: with the gold answer; without one it is unverified.
        rule: how answers are read. Without a mark the answer is looked for (`says_gold_answer`), but for labels, which
            are then the whole completion.

    >>> row = Completed("r", "What is 2 + 3?", "2 + 3 = 6. The answer is 6.", "5")
    >>> check_answer(row, AnswerRule(mark="The answer is")).reason
    'read 6, and gold is 5'
    """
    if row.answer is None or not row.answer.strip():
        return NO_GOLD
    gold = shorten(row.answer)
    if rule.mark is None and rule.kind != "label":
        found = says_gold_answer(row.completion, row.answer)
        if found is None:
            return Verdict(None, f"no answer could be read to hold against gold, {gold}", "unread")
        return Verdict(RIGHT if found else 0.0, f"the answer {'is' if found else 'is not'} gold, {gold}")
    read = rule.read(row.completion)
    if read is None:
        return lack_answer(row.answer)
    return Verdict(RIGHT if rule.match(row.answer, read) else 0.0, f"read {shorten(read)}, and gold is {gold}")


def choose_majority(
    completions: Sequence[tuple[str, str]], rule: AnswerRule, *, min_agreement: float, min_votes: int
) -> Mapping[str, str]:
    """The commonest answer of each prompt that enough of its completions agree on.

    Args:
        completions: (prompt, completion) of every sample; one without a readable answer counts as a vote for none.
        rule: how answers are read. Without a mark the answer is looked for (`find_said_answer`), but for labels, which
            are then the whole completion.
        min_agreement: the share of a prompt's samples that must have the answer, 0 to 1.
        min_votes: fewest samples that must have it.

    Returns:
        By prompt, the answer as its first completion wrote it. Of answers that are as common the first one counts.

    >>> said = [("q", "The answer is 4."), ("q", "The answer is 5"), ("q", "so The answer is 4")]
    >>> dict(choose_majority(said, AnswerRule(mark="The answer is"), min_agreement=0.5, min_votes=2))
    {'q': '4'}
    """
    is_looked_for = rule.mark is None and rule.kind != "label"
    votes: dict[str, Counter[object]] = {}
    totals: Counter[str] = Counter()
    written: dict[tuple[str, object], str] = {}
    for prompt, completion in completions:
        totals[prompt] += 1
        read = find_said_answer(completion, is_number=rule.kind == "number") if is_looked_for else rule.read(completion)
        normal = None if read is None else rule.normalise(read)
        if read is not None and normal is not None:
            votes.setdefault(prompt, Counter())[normal] += 1
            written.setdefault((prompt, normal), read)
    found = {}
    for prompt, counts in votes.items():
        answer, number = counts.most_common(1)[0]
        if number >= min_votes and number >= min_agreement * totals[prompt]:
            found[prompt] = written[prompt, answer]
    return found
