from collections.abc import Iterable

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.reviews.answer_matching import match_answers
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import SAMPLING
from lance_assets.recipes.contract import ROUND_MODEL
from lance_assets.recipes.llm2llm import (
    RECIPE,
    Llm2LlmSettings,
    build_seed_set,
    build_sft_set,
    describe_generations,
    generate,
    start_sft_set,
)
from lance_assets.recipes.steps.sets import seeds_as_sft_rows
from lance_assets.recipes.steps.teaching import choose_by_vote
from lance_assets.records import (
    CLEANED_SET,
    RAW_GENERATIONS,
    REVIEWED_SET,
    SEED_SET,
    SFT_SET,
    Sample,
    SamplingSettings,
)
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, NO_PAIRS, Said, build_inputs, list_sampling

PROMPTS = {
    "a": "Ann has 2 pens and buys 3. How many pens has she?",
    "b": "A train goes 4 km and then 6 km. How far is that?",
    "c": "Share 12 nuts among 3 boys.",
}
COMPLETIONS = {"a": "2 + 3 = 5\n#### 5", "b": "4 + 6 = 10\n#### 10", "c": "12 / 3 = 4\n#### 4"}
ANSWERS = {"a": "5", "b": "10", "c": "4"}
SEEDS = pl.DataFrame(
    [
        {"row_id": name, "prompt": PROMPTS[name], "completion": COMPLETIONS[name], "answer": ANSWERS[name]}
        | {"source": "seed"}
        for name in PROMPTS
    ],
    schema=SEED_SET,
)
FIGS = ("Share 20 figs among 5 girls.", "20 / 5 = 4\n#### 4")
BUS = ("A bus goes 7 km on Monday and 8 km on Tuesday. What is the way of both days?", "7 + 8 = 15\n#### 15")
CAR = ("A car needs 5 litres for a trip. How much do 3 trips need?", "5 * 3 = 15\n#### 15")
SHIP = ("Two ships carry 9 boxes each. How many boxes are aboard?", "9 * 2 = 18\n#### 18")


def identify(round_key: str, profile: str = "full", **role_profiles: str) -> RoundIdentity:
    own = {role: Templates(name) for role, name in role_profiles.items()}
    return RoundIdentity("mini", round_key, 0, Templates(profile), own)


def write(*lessons: tuple[str, str]) -> str:
    """What a teacher writes who keeps to the format."""
    return "\n".join(
        f"{number}. Question: {prompt}\nAnswer: {completion}"
        for number, (prompt, completion) in enumerate(lessons, start=1)
    )


def start(**settings) -> pl.DataFrame:
    return start_sft_set(build_inputs(Llm2LlmSettings(**settings), identify("r0000")), SEEDS, EFT)


def script(student: dict[str, Said], teacher: dict[str, list[Said]]) -> ScriptedAsk:
    """A student that says something for a prompt, else the gold completions; a teacher by the source's prompt.

    The teacher's texts are taken in turn, the last one again and again.
    """
    known = {PROMPTS[name]: COMPLETIONS[name] for name in PROMPTS} | dict((FIGS, BUS, CAR, SHIP))
    num_asked: dict[str, int] = {}

    def say(stage: str, text: str, number: int) -> Said:
        if stage == "student_answer":
            return (known | student)[text]
        (shown,) = [prompt for prompt in teacher if f": {prompt}\n" in text or text == prompt]
        told = num_asked[shown] = num_asked.get(shown, -1) + 1
        return teacher[shown][min(told, len(teacher[shown]) - 1)]

    return ScriptedAsk(say)


def run_round(
    number: int,
    trained: pl.DataFrame,
    ask: ScriptedAsk,
    *,
    evaluated: Iterable[str] = (),
    profile: str = "full",
    **given,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The raw rows, cleaned rows and SFT set of a round."""
    settings, identity = Llm2LlmSettings(**given), identify(f"r{number:04}", profile)
    seeds, _ = build_seed_set(build_inputs(settings, identity), SEEDS, {})
    raw = generate(build_inputs(settings, identity, ask=ask), seeds, trained)
    cleaned = RECIPE.clean(build_inputs(settings, is_evaluation_prompt=lambda prompt: prompt in evaluated), raw, seeds)
    reviewed = RECIPE.review(build_inputs(settings, identity, ask=ask), cleaned, seeds, raw)
    sft = build_sft_set(build_inputs(settings, identity), reviewed, trained)
    pairs = RECIPE.build_pairs(build_inputs(settings, identity), reviewed, NO_PAIRS)
    assert pairs.is_empty()
    assert raw["row_id"].is_unique().all()
    assert (raw.schema, cleaned.schema, reviewed.schema, sft.schema) == (
        RAW_GENERATIONS,
        CLEANED_SET,
        REVIEWED_SET,
        SFT_SET,
    )
    roles = {stage: RECIPE.find_role(stage) for stage in ask.counts}
    assert roles == dict.fromkeys(ask.counts, "teacher") | {"student_answer": ROUND_MODEL}
    return raw, cleaned, sft


def of_kind(table: pl.DataFrame, kind: str) -> pl.DataFrame:
    return table.filter(pl.col("kind") == kind)


def drops(cleaned: pl.DataFrame) -> list[tuple]:
    """Of each lesson: the source, the prompt, why it is left out."""
    return cleaned.select("seed_id", "prompt", "drop_reason").rows()


def list_shown(ask: ScriptedAsk, stage: str) -> list[str]:
    """What the teacher was asked in a stage."""
    return [request.messages[-1]["content"] for request in ask.requests[stage]]


WRONG_B = {PROMPTS["b"]: "6 - 4 = 2\n#### 2"}


def first_round() -> tuple[pl.DataFrame, ScriptedAsk, pl.DataFrame, pl.DataFrame]:
    """The student has b wrong and is cut at c. The teacher first copies a for b, then writes two."""
    ask = script(
        WRONG_B | {PROMPTS["c"]: ("12 / 3 = 4\n#### 4", "length")},
        {
            PROMPTS["b"]: [write((PROMPTS["a"], COMPLETIONS["a"])), write(BUS, CAR)],
            PROMPTS["c"]: [write(FIGS)],
        },
    )
    raw, cleaned, sft = run_round(1, start(), ask)
    return sft, ask, raw, cleaned


def test_two_rounds_by_hand() -> None:
    """b's first lesson is the seed a, which the student had right; of its next two the first one fills the quota.

    In round 2 the student has c wrong again, and a generated row: c alone is shown. The teacher repeats what round 1
    trained on, twice, and is not asked a third time.
    """
    sft, ask, raw, cleaned = first_round()
    assert list(ask.counts.items()) == [("student_answer", 3), ("lesson1", 2), ("lesson2", 1)]
    assert of_kind(raw, "student_answer").select("seed_id", "is_correct", "finish_reason").rows() == [
        ("a", True, "stop"),
        ("b", False, "stop"),
        ("c", False, "length"),
    ]
    assert drops(cleaned) == [
        ("b", PROMPTS["a"], "like_known"),
        ("c", FIGS[0], None),
        ("b", BUS[0], None),
        ("b", CAR[0], "surplus"),
    ]
    assert describe_generations(build_inputs(Llm2LlmSettings()), raw) == {
        **{"student/num_tried": 3, "student/num_wrong": 2},
        **{"lessons/num_read": 4, "lessons/num_accepted": 2},
    }
    assert sft.select("prompt", "completion", "source", "source_round").rows() == [
        (*FIGS, "generated", "r0001"),
        (*BUS, "generated", "r0001"),
        *((PROMPTS[name], COMPLETIONS[name], "seed", "r0000") for name in PROMPTS),
        ("Review this.", "score: 3", "eft", "r0000"),
    ]
    again = script({PROMPTS["c"]: "#### 5", FIGS[0]: "#### 5"}, {PROMPTS["c"]: [write(FIGS)]})
    raw, cleaned, after = run_round(2, sft, again, max_attempts=2)
    assert list(again.counts.items()) == [("student_answer", 5), ("lesson1", 1), ("lesson2", 1)]
    assert of_kind(raw, "student_answer")["is_correct"].to_list() == [False, True, True, True, False]
    assert drops(cleaned) == [("c", FIGS[0], "like_known")] * 2
    assert of_kind(raw, "lesson")["similarity"].to_list() == [1.0, 1.0]
    assert after.equals(sft)


def test_lessons_can_be_followed_to_the_row_that_was_shown() -> None:
    sft, _, raw, cleaned = first_round()
    lessons, texts = of_kind(raw, "lesson"), of_kind(raw, "lesson_text")
    assert texts["seed_id"].to_list() == ["b", "c", "b"]
    assert lessons["parent_id"].to_list() == [texts["row_id"][place] for place in (0, 1, 2, 2)]
    assert lessons["raw_text"].to_list() == [texts["raw_text"][place] for place in (0, 1, 2, 2)]
    assert lessons["completion_tokens"].sum() == 0, "counted with the texts"
    accepted = cleaned.filter(pl.col("drop_reason").is_null())["row_id"].to_list()
    assert sft.filter(source="generated")["source_id"].to_list() == accepted


@pytest.mark.parametrize(
    ("switches", "shown"),
    [
        ({}, [PROMPTS["c"]]),
        ({"augment_source": "all"}, [FIGS[0], PROMPTS["c"]]),
        ({"targeted": False}, [PROMPTS[name] for name in PROMPTS]),
        ({"targeted": False, "augment_source": "all"}, [FIGS[0], BUS[0], *PROMPTS.values()]),
    ],
)
def test_what_is_shown_to_the_teacher(switches: dict, shown: list[str]) -> None:
    """The student has the seed c and the generated row about figs wrong."""
    teacher = {prompt: [write(SHIP)] for prompt in (*PROMPTS.values(), FIGS[0], BUS[0])}
    ask = script({PROMPTS["c"]: "#### 5", FIGS[0]: "#### 5"}, teacher)
    run_round(2, first_round()[0], ask, max_attempts=1, **switches)
    assert [next(prompt for prompt in teacher if prompt in text) for text in list_shown(ask, "lesson1")] == shown


def test_a_student_that_has_all_right_needs_no_teacher() -> None:
    ask = script({}, {})
    raw, cleaned, sft = run_round(1, start(), ask)
    assert ask.counts == {"student_answer": 3}
    assert cleaned.is_empty()
    assert sft.equals(start())
    assert describe_generations(build_inputs(Llm2LlmSettings()), raw)["student/num_wrong"] == 0


def test_the_student_is_tried_greedily_on_the_prompts_it_is_trained_on() -> None:
    ask = script(WRONG_B, {PROMPTS["b"]: [write(BUS)]})
    run_round(1, start(), ask, student_max_new_tokens=99, max_new_tokens=77)
    assert list_shown(ask, "student_answer") == list(PROMPTS.values())
    assert list_sampling(RECIPE, Llm2LlmSettings(student_max_new_tokens=99, max_new_tokens=77), ask) == {
        "student_answer": SamplingSettings(0.0, 1.0, 99),
        "lesson1": SamplingSettings(1.0, 1.0, 77),
    }


def test_the_same_new_problem_for_two_sources_is_accepted_once() -> None:
    """Within one attempt the second is like_accepted; a copy in the next attempt is like_known."""
    ask = script(
        WRONG_B | {PROMPTS["c"]: "#### 5"},
        {PROMPTS["b"]: [write(SHIP)], PROMPTS["c"]: [write(SHIP), write(SHIP, FIGS)]},
    )
    _, cleaned, _ = run_round(1, start(), ask)
    assert drops(cleaned) == [
        ("b", SHIP[0], None),
        ("c", SHIP[0], "like_accepted"),
        ("c", SHIP[0], "like_known"),
        ("c", FIGS[0], None),
    ]


@pytest.mark.parametrize(("threshold", "reason"), [(0.95, None), (0.9, "like_known"), (1.0, None)])
def test_the_threshold_is_on_rouge_l(threshold: float, reason: str | None) -> None:
    """One word of 12 differs: precision and recall are 11/12, and so is F = 0.917."""
    near = PROMPTS["a"].replace("pens and", "hats and")
    ask = script(WRONG_B, {PROMPTS["b"]: [write((near, "#### 5"))]})
    raw, cleaned, _ = run_round(1, start(), ask, max_attempts=1, rouge_l_threshold=threshold)
    assert cleaned["drop_reason"].to_list() == [reason]
    assert of_kind(raw, "lesson")["similarity"].to_list() == [None if reason is None else pytest.approx(11 / 12)]


def test_each_source_gets_its_number_of_lessons_and_the_teacher_is_told_what_is_kept() -> None:
    """Two wanted: asked for 2, then for the one that lacks and one more, then for one and two more.

    What is kept is shown at every second attempt, as the authors' code does, and only what was accepted.
    """
    copy = (PROMPTS["a"], COMPLETIONS["a"])
    ask = script(WRONG_B, {PROMPTS["b"]: [write(BUS, copy), write(BUS), write(CAR, SHIP)]})
    _, cleaned, sft = run_round(1, start(), ask, num_lessons=2)
    assert [reason for *_, reason in drops(cleaned)] == [None, "like_known", "like_known", None, "surplus"]
    assert sft.filter(source="generated")["prompt"].to_list() == [BUS[0], CAR[0]]
    asked = [list_shown(ask, f"lesson{attempt}") for attempt in (1, 2, 3)]
    assert [len(texts) for texts in asked] == [1, 1, 1]
    first, second, third = (text for (text,) in asked)
    assert first.endswith("Write 2 new problems with calculations.")
    assert second.endswith(f"do not repeat: {BUS[0]}\nWrite 2 new problems with calculations.")
    assert third.endswith("Write 3 new problems with calculations.")
    assert "do not repeat" not in first + third


def test_the_number_asked_for_is_ten_at_most() -> None:
    ask = script(WRONG_B, {PROMPTS["b"]: [""]})
    _, cleaned, _ = run_round(1, start(), ask, max_attempts=12)
    numbers = [list_shown(ask, f"lesson{attempt}")[0].rpartition("Write ")[2].split(" ")[0] for attempt in range(1, 13)]
    assert numbers == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "10", "10"]
    assert len(ask.requests) == 13
    assert cleaned.is_empty()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (write((BUS[0], "7 + 8 = 15")), "no_mark"),
        ("I can not help with that.", "no_question"),
        ((write(BUS), "length"), "cut_off"),
        ("1. Question: How far?\n#### 15", "no_answer"),
    ],
)
def test_what_the_teacher_did_not_finish_is_left_out_with_its_reason_and_asked_again(said: Said, reason: str) -> None:
    ask = script(WRONG_B, {PROMPTS["b"]: [said, write(BUS)]})
    raw, cleaned, sft = run_round(1, start(), ask)
    assert drops(cleaned) == [("b", None, reason), ("b", BUS[0], None)]
    assert len(sft.filter(source="generated")) == 1
    assert of_kind(raw, "lesson")["completion"][0] in of_kind(raw, "lesson_text")["raw_text"][0]


BOTH_PROFILES = pytest.mark.parametrize("profile", ["compact", "full"])


@BOTH_PROFILES
def test_the_teacher_sees_the_mistake_where_it_is_to(profile: str) -> None:
    mistake = WRONG_B[PROMPTS["b"]]
    for show_mistake in (True, False):
        ask = script(WRONG_B, {PROMPTS["b"]: [write(BUS)]})
        run_round(1, start(), ask, profile=profile, show_mistake=show_mistake)
        (text,) = list_shown(ask, "lesson1")
        assert text == Templates(profile).render(
            "llm2llm/lesson",
            **{"prompt": PROMPTS["b"], "completion": COMPLETIONS["b"], "kept": "", "number": "1", "mark": "####"},
            **{"kind": "number", "labels": ""},
            mistake=mistake if show_mistake else "",
        )
        assert (mistake in text) == show_mistake


def test_a_right_answer_is_no_mistake() -> None:
    ask = script(WRONG_B, {prompt: [write(BUS)] for prompt in PROMPTS.values()})
    run_round(1, start(), ask, targeted=False, show_mistake=True, max_attempts=1)
    told = "What the student wrote: "
    assert [text.count(told) for text in list_shown(ask, "lesson1")] == [0, 1, 0]


@BOTH_PROFILES
def test_both_profiles_tell_the_teacher_how_many_and_what_is_kept(profile: str) -> None:
    """Three wanted, one accepted: then two and one more are asked for, unlike the first."""
    ask = script(WRONG_B, {PROMPTS["b"]: [write(BUS)]})
    run_round(1, start(), ask, profile=profile, num_lessons=3, max_attempts=2)
    (first,), (second,) = (list_shown(ask, f"lesson{attempt}") for attempt in (1, 2))
    given = {"prompt": PROMPTS["b"], "completion": COMPLETIONS["b"], "number": "3", "mark": "####", "mistake": ""}
    given |= {"kind": "number", "labels": ""}
    assert first == Templates(profile).render("llm2llm/lesson", **given, kept="")
    assert second == Templates(profile).render("llm2llm/lesson", **given, kept=BUS[0])
    assert BUS[0] not in first
    assert BUS[0] in second
    assert "rite 3 new " in first
    one = script(WRONG_B, {PROMPTS["b"]: [write(BUS)]})
    run_round(1, start(), one, profile=profile)
    assert "3 new" not in list_shown(one, "lesson1")[0]


@BOTH_PROFILES
def test_the_teacher_is_told_the_mark_that_its_lessons_are_read_by(profile: str) -> None:
    """A lesson with the mark is read; one with another mark is none."""
    mark = "The answer is"
    seeds = SEEDS.with_columns(completion=pl.Series([COMPLETIONS[name].replace("####", mark) for name in PROMPTS]))
    settings = Llm2LlmSettings(answer_mark=mark, max_attempts=2)
    trained = start_sft_set(build_inputs(settings, identify("r0000")), seeds, EFT)
    said = {PROMPTS["a"]: [write(BUS), write((BUS[0], BUS[1].replace("####", mark)))]}
    ask = script({prompt: f"{mark} {ANSWERS[name]}." for name, prompt in PROMPTS.items()} | {PROMPTS["a"]: "6"}, said)
    raw = generate(build_inputs(settings, identify("r0001", profile), ask=ask), seeds, trained)
    assert of_kind(raw, "lesson")["refused_reason"].to_list() == ["no_mark", None]
    (text,) = list_shown(ask, "lesson1")
    assert f"\n{mark} <" in text
    assert "####" not in text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"show_mistake": True, "teacher_writes": "prompt_then_completion"}, "show_mistake needs .*: lesson, got p"),
        ({"num_votes": 8}, "num_votes: 8 needs teacher_writes: prompt_then_completion"),
        ({"min_agreement": 0.3}, "min_agreement: 0.3 needs teacher_writes: prompt_then_completion"),
        ({"trains_on": "latest"}, "trains_on\n  Input should be 'all'"),
        ({"trains_on": "last_two"}, "trains_on\n  Input should be 'all'"),
        ({"max_attempts": 51}, "max_attempts"),
    ],
)
def test_what_would_do_nothing_or_leave_the_seeds_behind_is_refused(given: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Llm2LlmSettings(**given)


@pytest.mark.parametrize("teacher_writes", ["lesson", "prompt_then_completion"])
def test_the_teacher_is_asked_in_its_own_templates(teacher_writes: str) -> None:
    """With its own system message too; the student in the round's, which has none."""
    settings = Llm2LlmSettings(teacher_writes=teacher_writes)
    own = {"teacher": Templates("full", own={"system.j2": "You teach."})}
    identity = RoundIdentity("mini", "r0001", 0, Templates("compact"), own)
    said = {"lesson1": write(BUS), "lesson_prompt1": f"Final Answer: {BUS[0]}", "lesson_completion1": BUS[1]}
    ask = ScriptedAsk(lambda stage, text, number: said.get(stage, "no idea"))
    generate(build_inputs(settings, identity, ask=ask), SEEDS.head(1), start().head(1))
    stages = {"lesson": {"lesson1"}}.get(teacher_writes, {"lesson_prompt1", "lesson_completion1"})
    assert set(ask.requests) == {"student_answer"} | stages
    for stage, requests in ask.requests.items():
        roles = [message["role"] for message in requests[0].messages]
        assert roles == (["user"] if stage == "student_answer" else ["system", "user"]), stage


@pytest.mark.parametrize(
    ("said", "is_correct"),
    [
        ("4 + 6 = 10\n#### 10", True),
        ("#### 9? No:\n#### 10.0", True),
        ("So it is 10 km.\n#### 10 km.", True),
        ("#### -10", False),
        ("The answer is 10", False),
        ("", False),
        (("4 + 6 = 10\n#### 10", "length"), False),
        (("", "error"), False),
    ],
)
def test_when_the_student_is_right(said: Said, is_correct: bool) -> None:
    ask = script({PROMPTS["b"]: said}, {PROMPTS["b"]: [write(BUS)]})
    raw, _, _ = run_round(1, start(), ask)
    assert of_kind(raw, "student_answer").filter(seed_id="b")["is_correct"].to_list() == [is_correct]
    assert ("lesson1" in ask.requests) == (not is_correct)


def test_the_gold_answer_is_the_seeds_own_field_or_behind_the_mark() -> None:
    """The field counts before the completion's mark; a generated row has its mark alone."""
    changed = SEEDS.with_columns(
        answer=pl.Series(["6", None, "4"]), completion=pl.Series(["It is 5. #### 5", "#### 10", "There is no mark."])
    )
    settings, identity = Llm2LlmSettings(max_attempts=1), identify("r0001")
    trained = seeds_as_sft_rows(changed, round_key="r0000")
    ask = script({}, {PROMPTS["a"]: [write(BUS)]})
    raw = generate(build_inputs(settings, identity, ask=ask), changed, trained)
    assert of_kind(raw, "student_answer")["is_correct"].to_list() == [False, True, True]
    without = changed.with_columns(answer=pl.lit(None, pl.String))
    with pytest.raises(ValueError, match=r"row c has no gold answer: name seeds\.answer_field, or .*'####'.*no mark"):
        generate(build_inputs(settings, identity, ask=script({}, {})), without, trained)


def test_seeds_that_speak_against_their_gold_answer_are_counted() -> None:
    """The student would be wrong for learning them, and be taught about them in every round."""
    changed = SEEDS.with_columns(
        answer=pl.Series(["5.00", "11", "4"]), completion=pl.Series([COMPLETIONS["a"], "#### 10", "There is no mark."])
    )
    inputs = build_inputs(Llm2LlmSettings(), identify("r0001"))
    seeds, counts = build_seed_set(inputs, changed, {})
    assert seeds.equals(changed)
    assert counts == {"num_pool": 3, "num_not_taken": 0, "num_against_gold": 2}
    assert build_seed_set(inputs, SEEDS, {})[1] == {"num_pool": 3, "num_not_taken": 0}


def test_where_no_seed_gives_its_gold_answer_nothing_is_trained() -> None:
    inputs = build_inputs(Llm2LlmSettings(answer_mark="The answer is"), identify("r0000"))
    told = (
        r"none of 3 seeds gives its gold answer itself; the first, a, ends '2 \+ 3 = 5\\n#### 5', and its gold answer "
        r"is '5'. Correct answer_mark \('The answer is'\), answer_kind \(number\) or labels, or the seeds"
    )
    with pytest.raises(ValueError, match=told):
        start_sft_set(inputs, SEEDS, EFT)
    assert len(start_sft_set(build_inputs(Llm2LlmSettings(), identify("r0000")), SEEDS, EFT)) == 4


def test_a_share_of_the_seeds_is_all_that_is_used() -> None:
    first = start(seed_share=0.7)
    kept = first.filter(source="seed")["row_id"].to_list()
    assert len(kept) == 2
    seeds, counts = build_seed_set(build_inputs(Llm2LlmSettings(seed_share=0.7), identify("r0001")), SEEDS, {})
    assert seeds["row_id"].to_list() == kept
    assert counts == {"num_pool": 3, "num_not_taken": 1}
    ask = script(dict.fromkeys(PROMPTS.values(), "#### 0"), {prompt: [write(SHIP)] for prompt in PROMPTS.values()})
    run_round(1, first, ask, seed_share=0.7, max_attempts=1)
    assert ask.counts == {"student_answer": 2, "lesson1": 2}
    assert len(start()) == 4


def test_an_evaluation_prompt_is_left_out_with_its_reason() -> None:
    ask = script(WRONG_B, {PROMPTS["b"]: [write(BUS, CAR)]})
    _, cleaned, sft = run_round(1, start(), ask, evaluated=[BUS[0]], num_lessons=2)
    assert drops(cleaned) == [("b", BUS[0], "evaluation_overlap"), ("b", CAR[0], None)]
    assert sft.filter(source="generated")["prompt"].to_list() == [CAR[0]]


IN_TURN = {"teacher_writes": "prompt_then_completion", "profile": "compact"}


def script_in_turn(prompts: list[Said], votes: dict[str, list[Said]]) -> ScriptedAsk:
    """A teacher that writes these prompts for b, one after the other, and these completions of each."""
    told = iter(prompts)

    def say(stage: str, text: str, number: int) -> Said:
        if stage == "student_answer":
            return WRONG_B[text] if text in WRONG_B else COMPLETIONS[next(n for n in PROMPTS if PROMPTS[n] == text)]
        return next(told) if stage.startswith("lesson_prompt") else votes[text][number]

    return ScriptedAsk(say)


def test_prompt_and_completion_in_turn_by_hand() -> None:
    """Of four completions two say 15, as a number, and the first of them counts; the cut one says nothing."""
    votes = ["#### 16", "7 + 8 = 15\n#### 15", ("#### 16", "length"), "#### 15.0"]
    ask = script_in_turn([f"Thought: a bus. Final Answer: {BUS[0]}"], {BUS[0]: votes})
    raw, cleaned, sft = run_round(1, start(), ask, num_votes=4, **IN_TURN)
    assert list(ask.counts.items()) == [("student_answer", 3), ("lesson_prompt1", 1), ("lesson_completion1", 4)]
    assert list_shown(ask, "lesson_prompt1") == [
        Templates("compact").render(
            "llm2llm/new_prompt", prompt=PROMPTS["b"], completion=COMPLETIONS["b"], label_stays=""
        )
    ]
    assert drops(cleaned) == [("b", BUS[0], None)]
    assert sft.row(0)[1:4] == (*BUS, "generated")
    sampled = of_kind(raw, "lesson_completion")
    assert sampled.select("seed_id", "sample_number", "prompt", "raw_text", "finish_reason").rows() == [
        ("b", number, BUS[0], *(said if isinstance(said, tuple) else (said, "stop")))
        for number, said in enumerate(votes)
    ]
    assert set(sampled["parent_id"]) == set(of_kind(raw, "lesson_text")["row_id"])


def test_a_teacher_that_disagrees_with_itself_is_asked_again() -> None:
    """Three answers of three: a third each, below a half. Then no answer at all. Then two of three."""
    split, none = ["#### 1", "#### 2", "#### 3"], ["no", "idea", ("#### 18", "length")]
    agreed = ["9 * 2 = 18\n#### 18", "#### 18", "#### 17"]
    prompts = [f"Final Answer: {prompt}" for prompt in (BUS[0], CAR[0], SHIP[0])]
    ask = script_in_turn(prompts, {BUS[0]: split, CAR[0]: none, SHIP[0]: agreed})
    raw, cleaned, sft = run_round(1, start(), ask, num_votes=3, **IN_TURN)
    assert drops(cleaned) == [
        ("b", BUS[0], "teacher_disagrees"),
        ("b", CAR[0], "teacher_disagrees"),
        ("b", SHIP[0], None),
    ]
    assert of_kind(raw, "lesson")["agreement"].to_list() == [pytest.approx(1 / 3), 0.0, None]
    assert sft.filter(source="generated").select("prompt", "completion").rows() == [SHIP]


def test_agreement_at_the_bar_is_enough() -> None:
    prompts, votes = [f"Final Answer: {BUS[0]}"], {BUS[0]: ["#### 1", "#### 2", "#### 2", "#### 3"]}
    _, cleaned, sft = run_round(1, start(), script_in_turn(prompts, votes), num_votes=4, min_agreement=0.5, **IN_TURN)
    assert drops(cleaned) == [("b", BUS[0], None)]
    assert sft["completion"][0] == "#### 2"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("I had rather not.", "unparsed"),
        (("Final Answer: A bus goes 7 km and", "length"), "cut_off"),
        (("", "error"), "generation_failed"),
    ],
)
def test_a_new_prompt_that_is_none_is_left_out_with_its_reason_and_asked_again(said: Said, reason: str) -> None:
    ask = script_in_turn([said, f"Final Answer: {BUS[0]}"], {BUS[0]: [BUS[1]]})
    _, cleaned, sft = run_round(1, start(), ask, **IN_TURN)
    assert drops(cleaned) == [("b", None, reason), ("b", BUS[0], None)]
    assert ask.counts == {
        **{"student_answer": 3, "lesson_prompt1": 1, "lesson_completion1": 0},
        **{"lesson_prompt2": 1, "lesson_completion2": 1},
    }
    assert len(sft.filter(source="generated")) == 1


def test_prompts_in_turn_are_held_against_all_data_and_counted() -> None:
    """Two wanted: a copy of a right seed and a new one; then one is asked for, and it is the first one again."""
    prompts = [f"Final Answer: {prompt}" for prompt in (PROMPTS["a"], BUS[0], BUS[0], SHIP[0])]
    votes = {PROMPTS["a"]: ["#### 5"], BUS[0]: [BUS[1]], SHIP[0]: [SHIP[1]]}
    ask = script_in_turn(prompts, votes)
    _, cleaned, _ = run_round(1, start(), ask, num_lessons=2, **IN_TURN)
    assert drops(cleaned) == [
        ("b", PROMPTS["a"], "like_known"),
        ("b", BUS[0], None),
        ("b", BUS[0], "like_known"),
        ("b", SHIP[0], None),
    ]
    assert [ask.counts[f"lesson_prompt{attempt}"] for attempt in (1, 2, 3)] == [2, 1, 1]


def tell(*texts: Said) -> list[Sample]:
    told = [(text, "stop") if isinstance(text, str) else text for text in texts]
    return [Sample(str(number), text, finish, 1, 1) for number, (text, finish) in enumerate(told)]


@pytest.mark.parametrize(
    ("texts", "chosen", "share"),
    [
        (["#### 2", "#### 1", "#### 1"], "1", 2 / 3),
        (["#### 2", "#### 1"], "0", 1 / 2),  # of equally common ones the first
        (["#### 7", "#### 8", "#### $7.00", "#### 7."], "0", 3 / 4),
        (["#### Play Music", "#### play  music", "#### stop"], "0", 2 / 3),
        (["#### 0", "#### 0"], "0", 1.0),
        ([("#### 1", "length"), "no mark"], None, 0.0),
    ],
)
def test_votes(texts: list[Said], chosen: str | None, share: float) -> None:
    sample, agreement = choose_by_vote(tell(*texts), AnswerRule())
    assert (None if sample is None else sample.row_id, agreement) == (chosen, pytest.approx(share))


def test_votes_agree_where_answers_match() -> None:
    """Two answers are one vote exactly where the student would be called right with one for the other."""
    answers = ["5", "-5", "5.0", "1/2", "0.5", "Play Music", "play music", "5 6", "5  6", "five", "1,200", "$1200"]
    for left in answers:
        for right in answers:
            _, agreement = choose_by_vote(tell(f"#### {left}", f"#### {right}"), AnswerRule())
            assert agreement == (1.0 if match_answers(left, right) else 0.5), (left, right)


def test_every_parameter_is_read_by_a_step() -> None:
    read = {name for names in RECIPE.settings_of_step.values() for name in names}
    assert read == set(Llm2LlmSettings.model_fields) - set(SAMPLING)
    settings = Llm2LlmSettings()
    assert (settings.num_lessons, settings.rouge_l_threshold, settings.augment_source) == (1, 0.95, "seed")
    assert settings.sampling == SamplingSettings(1.0, 1.0, 2149)
    assert not settings.has_reviews
    assert {RECIPE.find_role(f"{stage}50") for stage in ("lesson", "lesson_prompt", "lesson_completion")} == {"teacher"}
