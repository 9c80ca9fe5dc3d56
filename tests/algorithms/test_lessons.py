import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from lance_assets.algorithms.selection.lessons import (
    LESSON_DROP_REASONS,
    REJECTIONS,
    Lesson,
    LessonDecision,
    accept_lessons,
    parse_lessons,
)
from lance_assets.algorithms.similarity.words import compute_rouge_l

ANN = Lesson("Ann has 2 pens and buys 3. How many has she?", "2 + 3 = <<2+3=5>>5 pens\n#### 5", "5")
BEN = Lesson("Ben walks 4 km a day. How far in 2 days?", "He walks 4 * 2 = 8 km.\nThat is all.\n#### 8", "8")
PLAIN = """1. Question: Ann has 2 pens and buys 3. How many has she?
Answer: 2 + 3 = <<2+3=5>>5 pens
#### 5

2. Question: Ben walks 4 km a day. How far in 2 days?
Answer: He walks 4 * 2 = 8 km.
That is all.
#### 8
"""


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        "Sure! Here are 2 questions:\n\n" + PLAIN + "\nI hope these help!",
        "<think>1. Question: what? Answer: hm #### 0</think>\n" + PLAIN,
        PLAIN.replace("1. ", "").replace("2. ", ""),
        PLAIN.replace("1. Q", "1) Q").replace("2. Q", "(2) Q"),
        PLAIN.replace("1. Question:", "**1. Question:**").replace("Answer:", "**Answer:**"),
        PLAIN.replace("1. Question:", "1. **Question**:").replace("Answer:", "**Answer**:"),
        PLAIN.replace("1. Question:", "**1.** __Question:__").replace("Answer:", "_Answer:_"),
        PLAIN.replace("1. Question:", "### 1. Question:").replace("Answer:", "#### Answer:"),
        PLAIN.replace("2. Question:", "#### 2. Question:"),
        PLAIN.replace("1. Question:", "Question 1:").replace("2. Question:", "- Question #2:"),
        PLAIN.replace("1. Question:", "1.\nQuestion:").replace("Answer:", "- Answer:"),
        PLAIN.replace("1. Question: Ann", "1. **Question: Ann").replace("she?", "she?**"),
        PLAIN.replace("#### 5", "**#### 5**").replace("#### 8", "#### **8**"),
        PLAIN.replace("#### 5", "#### 5\n---").replace("#### 8", "####8\nNote: one day has 24 hours."),
        PLAIN.replace("#### 5\n\n2.", "#### 5 2."),
        PLAIN.replace("QUESTION", "Question").replace("Answer", "ANSWER").replace("Question", "QUESTION"),
    ],
)
def test_writings_of_two_lessons(text: str) -> None:
    parsed = parse_lessons(text, was_cut=False)
    assert parsed.lessons == [ANN, BEN]
    assert parsed.rejected == []


def test_the_last_piece_of_a_cut_text_is_rejected_however_whole() -> None:
    parsed = parse_lessons(PLAIN, was_cut=True)
    assert parsed.lessons == [ANN]
    assert parsed.rejected == [("cut_off", PLAIN[PLAIN.index("2. Question") :].strip())]
    assert parse_lessons("Sure! Here", was_cut=True).rejected == [("cut_off", "Sure! Here")]
    assert parse_lessons("<think>Once", was_cut=True).rejected == [("cut_off", "<think>Once")]


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        ("1. Question: \nAnswer: 2 + 3 = 5\n#### 5", "empty_question"),
        ("1. Question: What is 2 + 3?\n#### 5", "no_answer"),
        ("1. Question: What is 2 + 3?\nSolution: 5\n#### 5", "no_answer"),
        ("1. Question: What is 2 + 3?\nAnswer: 5\nFinal Answer: 5\n#### 5", "several_answers"),
        ("1. Question: What is 2 + 3?\nAnswer: 2 + 3 = 5", "no_mark"),
        ("1. Question: What is 2 + 3?\nAnswer: 2 + 3 = 5\n### 5", "no_mark"),
        ("1. Question: What is 2 + 3?\nAnswer: 5\n#### 5\n#### 6", "several_marks"),
        ("1. Question: What #### is 2 + 3?\nAnswer: 5\n#### 5", "several_marks"),
        ("1. Question: What is 2 + 3? #### 5\nAnswer: 2 + 3 = 5", "mark_in_question"),
        ("1. Question: What is 2 + 3?\nAnswer: 2 + 3 = 5\n####", "empty_mark"),
        ("1. Question: What is 2 + 3?\nAnswer: 2 + 3 = 5\n#### ** **\n5", "empty_mark"),
    ],
)
def test_a_malformed_piece_is_kept_with_its_reason(piece: str, reason: str) -> None:
    assert reason in REJECTIONS
    parsed = parse_lessons(f"{piece}\n\n{PLAIN}", was_cut=False)
    assert parsed.lessons == [ANN, BEN]
    assert parsed.rejected == [(reason, piece)]


def test_texts_without_a_question() -> None:
    assert parse_lessons(" \n", was_cut=False).rejected == []
    for text in ("I cannot help with that.", "1. What is 2 + 3? Answer: 5 #### 5", "<think>never ends"):
        assert parse_lessons(text, was_cut=False).rejected == [("no_question", text)]
    begun = "What is 1 + 1?\nAnswer: 2\n#### 2\n\n"
    assert parse_lessons(begun + PLAIN, was_cut=False).rejected == [("no_question", begun.strip())]


def test_an_answer_without_calculation_signs_and_letters_at_the_start_and_other_marks() -> None:
    text = "1. Question: $5 is what share of $10? Answer: #### 50%"
    assert parse_lessons(text, was_cut=False).lessons == [Lesson("$5 is what share of $10?", "#### 50%", "50%")]
    text = "Question: Émile sings ___\nAnswer: intent\n=> PlayMusic"
    lesson = Lesson("Émile sings ___", "intent\n=> PlayMusic", "PlayMusic")
    assert parse_lessons(text, was_cut=False, mark="=>").lessons == [lesson]
    with pytest.raises(ValueError, match="mark must not be empty"):
        parse_lessons(text, was_cut=False, mark="")


WORDS = st.lists(st.sampled_from(["Ann", "2", "pens", "**", "$5,", "50%.", "é", "x_y"]), min_size=1, max_size=8)
LESSONS = st.lists(st.tuples(WORDS, WORDS, st.integers(-99, 99)), max_size=4)


@given(LESSONS, st.booleans())
def test_lessons_written_in_the_format_are_read_back(
    written: list[tuple[list[str], list[str], int]], cut: bool
) -> None:
    items = [("Tell: " + " ".join(q), "So: " + " ".join(a) + " end", value) for q, a, value in written]
    text = "\n\n".join(f"{i}. Question: {q}\nAnswer: {a}\n#### {v}" for i, (q, a, v) in enumerate(items, start=1))
    parsed = parse_lessons(text, was_cut=cut)
    assert len(parsed.lessons) + len(parsed.rejected) == len(items)
    assert [lesson.answer for lesson in parsed.lessons] == [str(v) for *_, v in items[: len(items) - cut]]
    for lesson, (question, answer, value) in zip(parsed.lessons, items, strict=False):
        assert lesson.prompt.replace("*", "").split() == question.replace("*", "").split()
        assert lesson.completion.splitlines()[-1] == f"#### {value}"
        assert lesson.completion.replace("*", "").split()[:-2] == answer.replace("*", "").split()


@given(
    st.text(max_size=80), st.lists(st.sampled_from(["1. Question:", "Answer:", "####", "\n", " 5 ", "**"]), max_size=12)
)
def test_any_text_is_read_without_losing_a_piece(noise: str, parts: list[str]) -> None:
    text = "".join(parts) + noise
    parsed = parse_lessons(text, was_cut=False)
    assert bool(parsed.lessons or parsed.rejected) == bool(text.strip())
    assert all(reason in REJECTIONS and piece for reason, piece in parsed.rejected)
    assert all(lesson.prompt and lesson.completion.endswith(lesson.answer) for lesson in parsed.lessons)


@pytest.mark.parametrize("unit", ["*", "_", "> ", "#", "- ", "1. ", "(1", "\n", " ", "Question ", "1.**", "*_\n"])
def test_long_runs_take_no_time(unit: str) -> None:
    started = time.process_time()
    parse_lessons(unit * 20_000, was_cut=False)
    parse_lessons(f"Question: {unit * 20_000}", was_cut=False)
    assert time.process_time() - started < 1


def as_lessons(*prompts: str) -> list[tuple[str, Lesson]]:
    """One source for each prompt: s0, s1, ..."""
    return [(f"s{number}", Lesson(prompt, "#### 1", "1")) for number, prompt in enumerate(prompts)]


def reasons(decisions: list[LessonDecision]) -> list[str | None]:
    return [decision.drop_reason for decision in decisions]


TWENTY = " ".join(f"w{number}" for number in range(20))


def test_near_duplicates_are_strictly_above_the_threshold() -> None:
    """19 of 20 words in common: F is 0.95, not above it; 20 of 21 words: F is 40 / 41 = 0.976."""
    same_length, longer = TWENTY.replace("w7", "other"), TWENTY.replace("w7", "other w7")
    decisions = accept_lessons(as_lessons(same_length, longer, TWENTY), [TWENTY])
    assert reasons(decisions) == [None, "like_known", "like_known"]
    assert [decision.similarity for decision in decisions] == [None, 40 / 41, 1.0]
    assert reasons(accept_lessons(as_lessons(same_length), [TWENTY], threshold=0.94)) == ["like_known"]
    assert reasons(accept_lessons(as_lessons(TWENTY), [TWENTY], threshold=1.0)) == [None]


def test_the_similarity_is_that_of_the_most_like_prompt() -> None:
    near, exact = TWENTY.replace("w7", "other w7"), TWENTY
    for known, similarity in (([near, exact], 1.0), ([exact, near], 1.0), ([near], 40 / 41)):
        assert accept_lessons(as_lessons(TWENTY), known)[0].similarity == similarity


def test_a_part_of_a_long_prompt_is_no_near_duplicate() -> None:
    """Precision is 1, but F of 10 words among 20 is 20 / 30."""
    part = " ".join(TWENTY.split()[:10])
    assert reasons(accept_lessons(as_lessons(part, TWENTY), [])) == [None, None]
    assert reasons(accept_lessons(as_lessons(part), [TWENTY], threshold=0.66)) == ["like_known"]


def test_an_accepted_lesson_counts_and_a_dropped_one_does_not() -> None:
    """a is like b and b like c at 0.9, but a is not like c: b falls to a, so c stays."""
    a, b = TWENTY, TWENTY.replace("w1 ", "other ")
    c = b.replace("w2 ", "other ")
    decisions = accept_lessons(as_lessons(a, b, c), [], threshold=0.92)
    assert reasons(decisions) == [None, "like_accepted", None]
    assert decisions[1].similarity == 0.95
    assert reasons(accept_lessons(as_lessons(b, a, c), [], threshold=0.92)) == [None, "like_accepted", "like_accepted"]
    assert reasons(accept_lessons(as_lessons(a, c), [b], threshold=0.92)) == ["like_known", "like_known"]


def test_as_many_as_wanted_for_each_source() -> None:
    prompts = ["How many pens?", "Which day is it?", "Where is Ben now?", "How many pens?", "What weighs a ton?"]
    candidates = [("s", Lesson(prompt, "#### 1", "1")) for prompt in prompts]
    assert reasons(accept_lessons(candidates, [])) == [None, *["surplus"] * 4]
    assert reasons(accept_lessons(candidates, prompts[:1])) == ["like_known", None, "surplus", "surplus", "surplus"]
    three = [None, None, None, "surplus", "surplus"]
    assert reasons(accept_lessons(candidates, [], per_source=3)) == three
    assert reasons(accept_lessons(candidates, [], per_source=5)) == [None, None, None, "like_accepted", None]
    later = accept_lessons(candidates[2:], prompts[:2], per_source=3, num_accepted={"s": 2, "t": 3})
    assert reasons(later) == [None, "surplus", "surplus"]
    assert set(three) - {None} <= set(LESSON_DROP_REASONS)


def test_no_candidates_and_wrong_numbers() -> None:
    assert accept_lessons([], ["a"]) == []
    assert reasons(accept_lessons(as_lessons("?!", "?!"), ["?!"])) == [None, None]
    with pytest.raises(ValueError, match="per_source must be at least 1, got 0"):
        accept_lessons([], [], per_source=0)
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\], got 95"):
        accept_lessons(as_lessons("a"), [], threshold=95)


SHORT = st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), max_size=7)


@given(SHORT, SHORT, st.sampled_from([0.0, 0.5, 0.8, 0.95]))
def test_the_rule_is_rouge_scores_f(prompts: list[str], known: list[str], threshold: float) -> None:
    scorer, taken, wanted = RougeScorer(["rougeL"]), list[str](), list[str | None]()
    for prompt in prompts:
        against = {"like_known": known, "like_accepted": taken}
        above = {
            reason: any(scorer.score(other, prompt)["rougeL"].fmeasure > threshold + 1e-9 for other in others)
            for reason, others in against.items()
        }
        wanted.append(next((reason for reason, is_above in above.items() if is_above), None))
        taken += [prompt] if wanted[-1] is None else []
    decisions = accept_lessons(as_lessons(*prompts), known, threshold=threshold)
    assert reasons(decisions) == wanted
    assert len(decisions) == len(prompts)


@pytest.fixture(scope="module")
def questions(real_data: Path) -> list[str]:
    lines = (real_data / "gsm8k_train.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines]


def test_every_real_completion_is_a_lesson(real_data: Path) -> None:
    rows = [json.loads(line) for line in (real_data / "gsm8k_train.jsonl").read_text("utf-8").splitlines()]
    for start in range(0, len(rows), 10):
        some = rows[start : start + 10]
        items = [f"{i}. Question: {row['question']}\nAnswer: {row['answer']}" for i, row in enumerate(some, start=1)]
        parsed = parse_lessons("\n\n".join(items), was_cut=False)
        assert parsed.rejected == []
        assert [(lesson.prompt, lesson.completion) for lesson in parsed.lessons] == [
            (row["question"].strip(), row["answer"].strip()) for row in some
        ]


@pytest.mark.slow
def test_near_duplicates_among_all_real_questions(questions: list[str]) -> None:
    """Copies of seeds that were answered right, and of rows of earlier rounds, do not pass as in the authors' code."""
    lot = random.Random(0)
    places = lot.sample(range(len(questions)), 400)
    candidates, wanted = [], []
    for number, place in enumerate(places):
        words = questions[place].split()
        for changed in lot.sample(range(len(words)), (0, 1, 2, 6)[number % 4]):
            words[changed] = f"changed{number}"
        candidates.append((str(place), Lesson(" ".join(words), "#### 1", "1")))
        is_like = compute_rouge_l(" ".join(words), questions[place]).f > 0.95
        wanted.append("like_known" if is_like else None)
    started = time.process_time()
    decisions = accept_lessons(candidates, questions)
    assert time.process_time() - started < 10
    assert reasons(decisions) == wanted
    assert Counter(wanted)["like_known"] > 200
    assert wanted[0::4] == ["like_known"] * 100
    others = [question for place, question in enumerate(questions) if place not in set(places)]
    assert reasons(accept_lessons(candidates, others)) == [None] * 400


def test_one_real_question_is_like_another(questions: list[str]) -> None:
    """Of the first 2,000 and Amanda's and Josie's, who both received $50 as a gift, only the later of the two goes."""
    same = [question for question in questions if "received $50 as a gift. She plans to buy two cass" in question]
    assert len(same) == 2
    some = list(dict.fromkeys([*questions[:2000], *same]))
    decisions = accept_lessons(as_lessons(*some), [])
    dropped = [
        (decision.drop_reason, prompt)
        for prompt, decision in zip(some, decisions, strict=True)
        if decision.drop_reason is not None
    ]
    assert dropped == [("like_accepted", same[1])]
