r"""Read a teacher's new practice problems, and decide which of them are trained on.

Source: LLM2LLM (arXiv 2403.15042), `generate_data.py` of the authors' code (SqueezeAILab/LLM2LLM, bcbcb1a): numbered
items "1. Question: ... Answer: ... #### value"; a new question is rejected where its ROUGE-L F with a former one is
above 0.95.

Differences from the authors' code:

1. Bold labels, headings, bullets, "1)", "Question 1:" and a missing number are read; the authors' code wants
   "1. Question:".
2. A piece that cannot be read is returned with the reason; the authors' code loses it.
3. Questions that open with a sign ("$5 is ...") or a letter outside ASCII ("Émile has ..."), or with "Write a program",
   are kept; the authors' code drops them.
4. A question is compared with every row trained so far and every one accepted in this round; the authors' code compares
   it with this step's wrong seeds and new questions alone, so copies of other seeds and of earlier rounds pass.
5. Candidates are decided about one by one in their order; the authors' code decides as its threads finish.
6. What a teacher thinks before it writes (`<think>`) is no part of the text.
7. Without a mark, as for labels, the answer is everything up to an empty line.

No one checks here that the teacher's answer is right.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lance_assets.algorithms.reviews.answer_matching import extract_final_answer
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.algorithms.similarity.lexical_pairs import find_rouge_pairs
from lance_assets.algorithms.similarity.words import compute_rouge_l

REJECTIONS = {
    "cut_off": "the last piece of a text that was cut at the token limit",
    "no_question": "nothing is labelled as a question",
    "empty_question": "no text between the labels of question and answer",
    "no_answer": "no text is labelled as the answer",
    "several_answers": "more than one label of an answer",
    "no_mark": "the final answer is not marked",
    "several_marks": "more than one final answer is marked",
    "mark_in_question": "the final answer is marked before the answer begins",
    "empty_mark": "nothing follows the mark",
    "no_label": "the answer names no single label (where answers are labels)",
}
"""Why a piece of a teacher's text is no lesson, in the order in which it is checked."""

LESSON_DROP_REASONS = {
    "surplus": "its source has as many accepted lessons as wanted",
    "like_known": "its prompt is a near-duplicate of one that was trained on",
    "like_accepted": "its prompt is a near-duplicate of one accepted before it in this round",
}
"""Why a lesson is not trained on, in the order in which it is checked."""

_NUMBER = r"\(?[0-9]{1,3}[.):]"
_EMPHASIS = "[*_]{0,4}"
_COLON = rf"(?:[ \t]{{0,4}}\#?[0-9]{{1,3}})?{_EMPHASIS}[ \t]{{0,4}}[:：]{_EMPHASIS}"
_QUESTION = re.compile(
    # at the start of a line, with or without a number; within a line only with one
    rf"(?:^[ \t>•-]*+(?:\#{{1,6}}[ \t]*+)?{_EMPHASIS}(?:{_NUMBER}{_EMPHASIS}[ \t]*+)?|(?<=[ \t]){_NUMBER}[ \t]++)"
    rf"{_EMPHASIS}(?:Question|QUESTION){_COLON}",
    re.MULTILINE,
)
_ANSWER = re.compile(rf"(?:^[ \t]*+[>•*#-]++[ \t]++)?{_EMPHASIS}(?<![A-Za-z])(?:Answer|ANSWER){_COLON}", re.MULTILINE)
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_LOOSE_EMPHASIS = re.compile(r"(?:\A|(?<=\s))\*+\Z")


@dataclass(frozen=True)
class Lesson:
    """A practice problem of a teacher."""

    prompt: str
    """The question."""
    completion: str
    """The worked answer; its last line is the mark and the final answer."""
    answer: str
    """The final answer as written."""


@dataclass(frozen=True)
class Parsed:
    """A teacher's text, read: every piece of it is in one of both."""

    lessons: list[Lesson]
    """In the order of the text."""
    rejected: list[tuple[str, str]]
    """(one of `REJECTIONS`, the piece as written), in the order of the text."""


@dataclass(frozen=True)
class LessonDecision:
    """Whether a lesson is trained on."""

    drop_reason: str | None
    """One of `LESSON_DROP_REASONS`; None where it is accepted."""
    similarity: float | None
    """For a near-duplicate, ROUGE-L F with the prompt it is most like, above the threshold; else None."""


def _tidy(text: str) -> str:
    """Without spaces around it, nor an emphasis that is all around it or opens or closes outside of it."""
    tidy = _LOOSE_EMPHASIS.sub("", text.strip()).rstrip()
    if bold := _BOLD.fullmatch(tidy):
        return bold[1].strip()
    if tidy.count("**") % 2:
        tidy = tidy.removesuffix("**") if tidy.endswith("**") else tidy.removeprefix("**")
    return tidy.strip()


def _read_piece(piece: str, mark: str | None) -> Lesson | str:
    """The lesson behind a question's label, or the reason why there is none."""
    question, *answers = _ANSWER.split(piece)
    if len(answers) != 1:
        return "several_answers" if answers else "no_answer"
    prompt = _tidy(question)
    if not prompt:
        return "empty_question"
    if mark is None:
        whole = _tidy(answers[0].strip().split("\n\n")[0])
        return Lesson(prompt, whole, whole) if whole else "no_answer"
    num_marks = question.count(mark) + answers[0].count(mark)
    if num_marks != 1:
        return "several_marks" if num_marks else "no_mark"
    if mark in question:
        return "mark_in_question"
    answer = _tidy(extract_final_answer(answers[0], mark) or "")
    if not answer:
        return "empty_mark"
    calculation = _tidy(answers[0].partition(mark)[0])
    return Lesson(prompt, f"{calculation}\n{mark} {answer}".strip(), answer)


def parse_lessons(text: str, *, was_cut: bool, mark: str | None = "####") -> Parsed:
    r"""Read the practice problems out of a teacher's text.

    A piece begins at a label "Question:" and ends before the next. It needs exactly one label "Answer:" and one mark;
    what follows on the lines behind the mark is no part of the lesson. What precedes the first question is a piece
    where it has a mark.

    Args:
        text: what the teacher wrote.
        was_cut: whether it ended at the token limit: its last piece is rejected, however whole it looks.
        mark: what announces the final answer; None: the answer is all that the label "Answer:" announces.

    Returns:
        Lessons and rejected pieces. A text without a question is one piece; one of spaces alone is none.

    Raises:
        ValueError: the mark is empty.

    >>> parsed = parse_lessons("1. Question: What is 2 + 3?\nAnswer: 2 + 3 = 5\n#### 5\n2. Question: And", was_cut=True)
    >>> parsed.lessons
    [Lesson(prompt='What is 2 + 3?', completion='2 + 3 = 5\n#### 5', answer='5')]
    >>> parsed.rejected
    [('cut_off', '2. Question: And')]
    """
    if mark is not None and not mark:
        raise ValueError("mark must not be empty: name the text before the answer, as '####'")
    written = strip_thinking(text).replace("\r\n", "\n")
    found = list(_QUESTION.finditer(written))
    if not found:
        reason = "cut_off" if was_cut else "no_question"
        return Parsed([], [(reason, text.strip())] if text.strip() else [])
    ends = [label.start() for label in found[1:]] + [len(written)]
    preamble = written[: found[0].start()].strip()
    parsed = Parsed([], [("no_question", preamble)] if mark is not None and mark in preamble else [])
    for label, end in zip(found, ends, strict=True):
        is_last = label is found[-1]
        read = "cut_off" if was_cut and is_last else _read_piece(written[label.end() : end], mark)
        if isinstance(read, Lesson):
            parsed.lessons.append(read)
        else:
            parsed.rejected.append((read, written[label.start() : end].strip()))
    return parsed


def _find_like(
    prompts: list[str], *, threshold: float, against: Sequence[str] | None
) -> dict[int, list[tuple[float, int]]]:
    """For each prompt the others whose ROUGE-L F is above the threshold: (F, their place).

    F is never above the share of the shorter text, so that the pairs found by that hold all of them (of texts up to
    `lexical_pairs.MAX_WORDS` words).
    """
    others = prompts if against is None else against
    like: dict[int, list[tuple[float, int]]] = {}
    for left, right, _ in find_rouge_pairs(prompts, threshold=threshold, against=against).iter_rows():
        similarity = compute_rouge_l(prompts[left], others[right]).f
        if similarity > threshold:
            later, other = (left, right) if against is not None else (right, left)
            like.setdefault(later, []).append((similarity, other))
    return like


def accept_lessons(
    candidates: Sequence[tuple[str, Lesson]],
    known_prompts: Sequence[str],
    *,
    threshold: float = 0.95,
    per_source: int = 1,
    num_accepted: Mapping[str, int] | None = None,
) -> list[LessonDecision]:
    """Decide about each lesson in turn: the first ones of a source that are like nothing trained on nor accepted.

    Cost: O(candidates * (known_prompts + candidates)) comparisons in C++, each O(words * words / 64).

    Args:
        candidates: (id of the row that the teacher was shown, lesson), in the order in which they are decided about.
        known_prompts: of every row trained so far, and of every lesson accepted earlier in this round.
        threshold: 0..1; a prompt whose ROUGE-L F with another is strictly above it is a near-duplicate. At 1 copies
            pass too.
        per_source: lessons wanted for each source, at least 1.
        num_accepted: how many a source has from earlier calls in this round; none where it is not named.

    Returns:
        One decision for each candidate, in their order. A dropped lesson does not drop others.

    Raises:
        ValueError: the threshold is not in [0, 1], or per_source is below 1.

    >>> lessons = [("s1", Lesson("How much is 2 + 3?", "#### 5", "5")), ("s1", Lesson("Double 4.", "#### 8", "8")),
    ...            ("s2", Lesson("Double 4!", "#### 8", "8"))]
    >>> [decision.drop_reason for decision in accept_lessons(lessons, ["How much is 2 + 3"])]
    ['like_known', None, 'like_accepted']
    """
    if per_source < 1:
        raise ValueError(f"per_source must be at least 1, got {per_source}")
    prompts = [lesson.prompt for _, lesson in candidates]
    like_known = _find_like(prompts, threshold=threshold, against=known_prompts)
    like_earlier = _find_like(prompts, threshold=threshold, against=None)
    accepted = Counter(num_accepted or {})
    decisions: list[LessonDecision] = []
    for place, (source_id, _) in enumerate(candidates):
        known = like_known.get(place, [])
        earlier = [pair for pair in like_earlier.get(place, []) if decisions[pair[1]].drop_reason is None]
        drop_reason, similarity = None, None
        if accepted[source_id] >= per_source:
            drop_reason = "surplus"
        elif known or earlier:
            drop_reason = "like_known" if known else "like_accepted"
            similarity = max(pair[0] for pair in known or earlier)
        else:
            accepted[source_id] += 1
        decisions.append(LessonDecision(drop_reason, similarity))
    return decisions
