"""Verdicts by rule: answers, mixing, agreement, programs and tests, worked by hand."""

import pytest

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.verifying.agreement import measure_review_agreement
from lance_assets.algorithms.verifying.answers import check_answer, choose_majority
from lance_assets.algorithms.verifying.programs import extract_program, list_tested, read_tests
from lance_assets.algorithms.verifying.verdict import Completed, Verdict, mix_score, write_verdict

MARKED = AnswerRule(mark="####")


@pytest.mark.parametrize(
    ("completion", "answer", "rule", "share", "reason"),
    [
        ("48 / 2 = 24\n#### 24", "24", MARKED, 1.0, "read 24, and gold is 24"),
        ("#### $1,200.00", "1200", MARKED, 1.0, "read $1,200.00, and gold is 1200"),
        ("#### 25", "24", MARKED, 0.0, "read 25, and gold is 24"),
        ("It is 24.", "24", MARKED, 0.0, "no answer could be read, and gold is 24"),
        ("It is 24.", "24", AnswerRule(mark=None), 1.0, "the answer is gold, 24"),
        ("It is 25.", "24", AnswerRule(mark=None), 0.0, "the answer is not gold, 24"),
        ("Somewhere.", "24", AnswerRule(mark=None), None, "no answer could be read to hold against gold, 24"),
        ("#### 24", None, MARKED, None, "no seed of this prompt has a gold answer"),
        ("<think>#### 24</think> #### 3", "24", MARKED, 0.0, "read 3, and gold is 24"),
        ("spam", "spam", AnswerRule("label", None, {"spam": (), "ham": ()}), 1.0, "read spam, and gold is spam"),
    ],
)
def test_an_answer_is_right_wrong_or_unverified_and_says_why(
    completion: str, answer: str | None, rule: AnswerRule, share: float | None, reason: str
) -> None:
    verdict = check_answer(Completed("r", "How much?", completion, answer), rule)
    assert (verdict.share, verdict.reason) == (share, reason)


def test_a_mix_needs_both_scores_unless_reviews_may_stand_alone() -> None:
    """w = 0.25 on 0..10: right 2.5 + 0.75 * 4 = 5.5; wrong 3."""
    right, wrong, unknown = Verdict(1.0, ""), Verdict(0.0, ""), Verdict(None, "", "no_gold")
    scale = {"lowest": 0.0, "highest": 10.0}
    assert mix_score(4.0, right, weight=0.25, **scale) == 5.5
    assert mix_score(4.0, wrong, weight=0.25, **scale) == 3.0
    assert mix_score(4.0, unknown, weight=0.25, **scale) is None
    assert mix_score(4.0, unknown, weight=0.25, takes_review_alone=True, **scale) == 4.0
    assert mix_score(None, right, weight=0.25, **scale) is None
    assert mix_score(None, Verdict(0.5, ""), weight=1.0, lowest=1.0, highest=5.0) == 3.0
    with pytest.raises(ValueError, match="weight must lie above 0 and be at most 1, got 0"):
        mix_score(4.0, right, weight=0, **scale)


def test_a_verdict_stands_among_reviews_in_words() -> None:
    assert write_verdict(Verdict(None, "no gold", "no_gold")) == "verifier: unverified: no gold"
    assert write_verdict(Verdict(0.5, "half")) == "verifier: 50%: half"


def test_the_commonest_answer_needs_its_share_and_its_votes() -> None:
    rule = AnswerRule(mark="is")
    said = [("a", "is 4"), ("a", "is 4.0"), ("a", "is 5"), ("b", "is 1"), ("b", "is 2"), ("c", "is 7"), ("c", "none")]
    assert choose_majority(said, rule, min_agreement=0.5, min_votes=2) == {"a": "4"}
    assert choose_majority(said, rule, min_agreement=0.7, min_votes=2) == {}
    assert choose_majority(said, rule, min_agreement=0.5, min_votes=3) == {}


def test_the_commonest_answer_is_looked_for_where_no_mark_announces_it() -> None:
    """Three solutions in other words that end alike agree; whole completions never would."""
    said = [("a", "2 + 3 = 5"), ("a", "We add. The answer is 5."), ("a", "First 2, then 3: so 5"), ("a", "I think 6")]
    assert choose_majority(said, AnswerRule(mark=None), min_agreement=0.5, min_votes=3) == {"a": "5"}
    words = AnswerRule("text", mark=None)
    said = [("a", "It was signed in Paris in 1783."), ("a", "Signed 1783"), ("a", "The answer is: Paris, in 1783.")]
    assert choose_majority(said, words, min_agreement=0.3, min_votes=1) == {"a": "Paris, in 1783"}
    labels = AnswerRule("label", None, {"spam": ("junk",), "ham": ()})
    said = [("b", "spam"), ("b", " Junk."), ("b", "the answer is ham")]
    assert choose_majority(said, labels, min_agreement=0.5, min_votes=2) == {"b": "spam"}


def test_agreement_is_chance_for_a_reviewer_that_praises_everything() -> None:
    found = measure_review_agreement([9.0] * 10, [True] * 8 + [False] * 2, list("abcdefghij"), bar=5)
    assert found.balanced.value == 0.5
    assert found.accuracy.auc.value == 0.5
    assert found.balanced.low < 0.5 < found.balanced.high


def test_agreement_rests_on_prompts_and_not_on_rows() -> None:
    """100 rows of 4 prompts say as much as 4 rows."""
    many = measure_review_agreement(
        [9.0] * 50 + [1.0] * 50, [True] * 50 + [False] * 50, ["a", "b"] * 25 + ["c", "d"] * 25, bar=5
    )
    few = measure_review_agreement([9.0] * 2 + [1.0] * 2, [True] * 2 + [False] * 2, "abcd", bar=5)
    assert many.balanced == few.balanced
    assert many.balanced.value == 1.0
    assert many.balanced.low < 0.9
    unknown = measure_review_agreement([9.0, None], [True, False], "ab", bar=5)
    assert unknown.balanced.value is None


def test_a_program_is_the_last_python_block() -> None:
    assert extract_program("```\nx = 1\n```\nBetter:\n```python\nx = 2\n```") == "x = 2\n"
    assert extract_program("```json\n{}\n```") is None
    assert extract_program("def f(x):\n    return x") == "def f(x):\n    return x"
    assert extract_program("Sure") is None
    assert extract_program("<think>```python\nx = 1\n```</think>none") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print(1)", "no assert"),
        ("assert (", "no Python"),
        ("[1, 2]", "input and output"),
        ("[", "no JSON list"),
    ],
)
def test_tests_that_cannot_be_read_say_so(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tests(text)


def test_asserts_may_come_as_a_json_list() -> None:
    assert read_tests('["assert f(1) == 2", "assert f(2) == 3"]').asserts == "assert f(1) == 2\nassert f(2) == 3"
    case = read_tests('[{"input": "1", "output": "a \\nb\\n\\n"}]').cases[0]
    assert case.is_kept_by("a\nb")
    assert not case.is_kept_by("a b")


def test_a_builtin_is_the_programs_only_where_tests_name_nothing_else() -> None:
    assert list_tested("assert sum([1]) == 1\nassert max(1, 2) == 2") == ["max", "sum"]
    assert list_tested("values = [1]\nassert sum(values) == 1") == ["sum"]
    assert list_tested("assert abs(root(4)) < 1") == []
