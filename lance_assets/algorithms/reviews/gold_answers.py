"""Whether a completion says the gold answer: by a mark, by its last number, or by its last words; else unknown.

Source of the last number: lm-evaluation-harness's filter `flexible-extract` of GSM8K. How it differs: numbers are
compared as `answer_matching` compares them, and a completion whose answer cannot be found is unknown and not wrong,
since here a review is held against it.
"""

import re

from lance_assets.algorithms.reviews.answer_matching import (
    extract_final_answer,
    match_answers,
    normalise_answer,
    parse_number,
)
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.algorithms.similarity.words import tokenize_words

_ANSWER_IS = re.compile(r"(?:answer|result)\s+is\b\s*:?|answer\s*:", re.I)
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")


def says_gold_answer(completion: str, gold: str, *, mark: str | None = None) -> bool | None:
    """Whether a completion's final answer is the gold one; None where that cannot be told.

    Args:
        completion: as written; what it thinks first is no part of it.
        gold: with text.
        mark: what announces the final answer, such as "####"; where it is missing, the other rules decide.

    >>> says_gold_answer("2 + 3 = 5, so the answer is 5.", "5"), says_gold_answer("It is 2 + 3 = 6", "5")
    (True, False)
    >>> says_gold_answer("That would be Paris.", "Paris"), says_gold_answer("Somewhere in France.", "Paris")
    (True, None)
    """
    said = strip_thinking(completion).strip()
    announced = _find_announced(said, mark)
    number = parse_number(gold)
    if announced:
        # "The answer is 7 because ..." is no answer to compare as a whole.
        read = announced if number is None else _find_number(announced)
        if read is not None and match_answers(gold, read.strip().rstrip(".")):
            return True
        if number is not None:
            return False if read is not None else None
    if number is not None:
        last = _NUMBER.findall(said)
        return match_answers(gold, last[-1]) if last else None
    words, wanted = tokenize_words(said), tokenize_words(gold)
    if normalise_answer(said) == normalise_answer(gold) or (wanted and words[-len(wanted) :] == wanted):
        return True
    # An announced answer of a few other words is another answer; a longer one may say the same in more words.
    return False if announced and len(tokenize_words(announced)) <= len(wanted) else None


def find_said_answer(completion: str, *, mark: str | None = None, is_number: bool = True) -> str | None:
    """The final answer of a completion where no gold answer is known: what is announced, else its last number.

    Args:
        completion: as written; what it thinks first is no part of it.
        mark: as for `says_gold_answer`.
        is_number: whether the answer is a number where it has one; of words only what is announced counts, as it is.

    Returns:
        The answer as written. Of an announced sentence with one number it is the number. None where nothing is
        announced and there is no number.

    >>> find_said_answer("2 + 3 = 5, so the answer is 5."), find_said_answer("It is 2 + 3 = 6"), find_said_answer("Yes")
    ('5', '6', None)
    """
    said = strip_thinking(completion).strip()
    announced = (_find_announced(said, mark) or "").strip().rstrip(" .")
    if not is_number:
        return announced or None
    numbers = _NUMBER.findall(announced or said)
    if not announced:
        return numbers[-1] if numbers else None
    return numbers[0] if len(numbers) == 1 and parse_number(announced) is None else announced


def says_same_answer(completion: str, answer: str, *, mark: str | None = None) -> bool:
    """Whether a completion's final answer is one that another completion gave (`find_said_answer`).

    >>> says_same_answer("So the answer is 5.0.", "5"), says_same_answer("No idea", "5")
    (True, False)
    """
    said = find_said_answer(completion, mark=mark)
    return said is not None and normalise_answer(said) == normalise_answer(answer)


def _find_announced(said: str, mark: str | None) -> str | None:
    """What a mark or the words "answer is" announce, to the end of the line; None where nothing does."""
    announced = extract_final_answer(said, mark) if mark else None
    if announced is None and (found := list(_ANSWER_IS.finditer(said))):
        announced = said[found[-1].end() :].strip().partition("\n")[0]
    return announced


def _find_number(text: str) -> str | None:
    """The text where it is one number with its unit, else the first number in it; None without one."""
    whole = text.strip().rstrip(".")
    if parse_number(whole) is not None:
        return whole
    found = _NUMBER.search(text)
    return found[0] if found else None
