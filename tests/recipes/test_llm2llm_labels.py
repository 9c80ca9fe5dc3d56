"""LLM2LLM beyond numbers: lessons and answers that are labels, or a few words, on texts and on real intents."""

import json
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.llm2llm import RECIPE, Llm2LlmSettings, build_sft_set, generate, start_sft_set
from lance_assets.records import SEED_SET
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, build_inputs


def identify(round_key: str) -> RoundIdentity:
    return RoundIdentity("mini", round_key, 0, Templates("full"))


def of_kind(table: pl.DataFrame, kind: str) -> pl.DataFrame:
    return table.filter(pl.col("kind") == kind)


def drops(cleaned: pl.DataFrame) -> list[tuple]:
    """Of each lesson: the source, the prompt, why it is left out."""
    return cleaned.select("seed_id", "prompt", "drop_reason").rows()


def list_shown(ask: ScriptedAsk, stage: str) -> list[str]:
    """What the teacher was asked in a stage."""
    return [request.messages[-1]["content"] for request in ask.requests[stage]]


LABELS = {"AddToPlaylist": ("add a song",), "PlayMusic": (), "GetWeather": ()}
INTENTS = pl.DataFrame(
    [
        {"row_id": name, "prompt": prompt, "completion": intent, "answer": intent, "source": "seed"}
        for name, prompt, intent in (
            ("a", "Put this track on my evening list.", "AddToPlaylist"),
            ("b", "Play something slow.", "PlayMusic"),
            ("c", "Will it rain in Oslo?", "GetWeather"),
        )
    ],
    schema=SEED_SET,
)
BY_LABEL = {"answer_kind": "label", "labels": LABELS, "answer_mark": None}


def classify(
    said: dict[str, str], written: str, **given
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, ScriptedAsk]:
    """A round on the intents: the student says the gold label but of some prompts, and the teacher one text."""
    settings, identity = Llm2LlmSettings(**BY_LABEL, max_attempts=1, **given), identify("r0001")
    gold = dict(INTENTS.select("prompt", "completion").iter_rows())
    ask = ScriptedAsk(lambda stage, text, number: said.get(text, gold.get(text, written)))
    trained = start_sft_set(build_inputs(settings, identify("r0000")), INTENTS, EFT)
    raw = generate(build_inputs(settings, identity, ask=ask), INTENTS, trained)
    cleaned = RECIPE.clean(build_inputs(settings, is_evaluation_prompt=lambda _: False), raw, INTENTS)
    reviewed = RECIPE.review(build_inputs(settings, identity, ask=ask), cleaned, INTENTS, raw)
    return raw, cleaned, build_sft_set(build_inputs(settings, identity), reviewed, trained), ask


def test_a_lesson_on_a_label_has_the_label_as_the_seeds_spell_it() -> None:
    """b is wrong. Of three lessons one says the label by another name, one names two, one names none of them."""
    written = (
        "1. Question: Save the chorus for my run.\nAnswer: Add a song.\n\n"
        "2. Question: What is on?\nAnswer: PlayMusic or GetWeather\n"
        "3. Question: Book a table.\nAnswer: BookRestaurant"
    )
    raw, cleaned, sft, ask = classify({"Play something slow.": "GetWeather"}, written, num_lessons=3)
    assert of_kind(raw, "student_answer")["is_correct"].to_list() == [True, False, True]
    assert drops(cleaned) == [
        ("b", None, "no_label"),
        ("b", None, "no_label"),
        ("b", "Save the chorus for my run.", None),
    ]
    assert sft.filter(source="generated").select("prompt", "completion").rows() == [
        ("Save the chorus for my run.", "AddToPlaylist")
    ]
    (shown,) = list_shown(ask, "lesson1")
    assert "AddToPlaylist, PlayMusic, GetWeather" in shown
    # Nothing in it is about numbers.
    assert not [word for word in ("calculat", "numeric", "decimal", "####") if word in shown]


@pytest.mark.parametrize(
    ("said", "is_correct"),
    [
        ("PlayMusic", True),
        ("play music.", True),
        ("**PlayMusic**", True),
        ("The intent is PlayMusic.", True),
        ("PlayMusic, AddToPlaylist", False),
        ("not PlayMusic", False),
        ("music", False),
        ("", False),
    ],
)
def test_when_a_label_is_right(said: str, is_correct: bool) -> None:
    raw, *_ = classify({"Play something slow.": said}, "nothing")
    assert of_kind(raw, "student_answer").filter(seed_id="b")["is_correct"].to_list() == [is_correct]


def test_with_a_mark_the_reason_before_the_label_is_kept() -> None:
    settings = Llm2LlmSettings(answer_kind="label", labels=LABELS, max_attempts=1)
    seeds = INTENTS.with_columns(completion="So it is.\n#### " + pl.col("completion"))
    trained = start_sft_set(build_inputs(settings, identify("r0000")), seeds, EFT)
    lesson = "1. Question: Hum along with me.\nAnswer: A song is wanted.\n#### add a song"
    ask = ScriptedAsk(lambda stage, text, number: lesson if stage == "lesson1" else "#### GetWeather")
    raw = generate(build_inputs(settings, identify("r0001"), ask=ask), seeds, trained)
    accepted = of_kind(raw, "lesson").filter(pl.col("refused_reason").is_null())
    assert accepted["completion"].to_list() == ["A song is wanted.\n#### AddToPlaylist"]


def test_the_teacher_chooses_among_the_labels_and_the_votes_are_on_them() -> None:
    """Two of three completions mean one label by two of its names; one names none."""
    votes = ["AddToPlaylist", "It could be anything", "add a song!"]

    def say(stage: str, text: str, number: int) -> str:
        if stage == "student_answer":
            return "GetWeather"
        return "Final Answer: Keep this tune." if stage == "lesson_prompt1" else votes[number % 3]

    ask = ScriptedAsk(say)
    given = {"teacher_writes": "prompt_then_completion", "num_votes": 3, "max_attempts": 1, "min_agreement": 0.6}
    settings = Llm2LlmSettings(**BY_LABEL, **given)
    trained = start_sft_set(build_inputs(settings, identify("r0000")), INTENTS.head(1), EFT)
    raw = generate(build_inputs(settings, identify("r0001"), ask=ask), INTENTS.head(1), trained)
    assert of_kind(raw, "lesson").select("prompt", "completion", "refused_reason").rows() == [
        ("Keep this tune.", "AddToPlaylist", None)
    ]
    asked = set(list_shown(ask, "lesson_completion1"))
    labels = ", ".join(LABELS)
    assert asked == {Templates("full").render("llm2llm/label", prompt="Keep this tune.", labels=labels, mark="")}
    assert labels in asked.pop()
    (shown,) = list_shown(ask, "lesson_prompt1")
    assert shown == Templates("full").render(
        "llm2llm/new_prompt", prompt=INTENTS["prompt"][0], completion="AddToPlaylist", kind="label", label_stays=""
    )


def test_open_answers_have_lessons_of_their_own() -> None:
    settings = Llm2LlmSettings(answer_kind="text", answer_mark=None, max_attempts=1)
    seeds = INTENTS.with_columns(completion=pl.lit("The Oslo ferry"), answer=pl.lit("oslo ferry"))
    trained = start_sft_set(build_inputs(settings, identify("r0000")), seeds, EFT)
    lesson = "1. Question: Which boat sails to Bergen?\nAnswer: The night boat\n\nGood luck!"
    ask = ScriptedAsk(lambda stage, text, number: lesson if stage == "lesson1" else "a train")
    raw = generate(build_inputs(settings, identify("r0001"), ask=ask), seeds.head(1), trained)
    assert of_kind(raw, "lesson")["completion"].to_list()[0] == "The night boat"
    assert not [word for word in ("calculat", "numeric", "####") if word in list_shown(ask, "lesson1")[0]]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"answer_kind": "label"}, "labels must be two or more to choose from, got none"),
        ({"labels": {"a": (), "b": ()}}, "labels need answer_kind: label, got number"),
        ({"answer_mark": None}, "answer_mark: null needs answer_kind: label or text"),
        ({"answer_kind": "label", "labels": {True: (), False: ()}}, "a label must be a text, got True: YAML reads yes"),
        ({"answer_kind": "label", "labels": {"a": ("x",), "b": ("X",)}}, "the labels 'a' and 'b' have the same name"),
        ({"answer_kind": "word"}, "Input should be 'number', 'label' or 'text'"),
    ],
)
def test_answers_that_can_not_be_read_are_refused(given: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Llm2LlmSettings(**given)


SNIPS = Path(__file__).parents[2].parent / "shared" / "data" / "snips_train.jsonl"


@pytest.mark.skipif(not SNIPS.exists(), reason="the real data is not here")
def test_two_rounds_on_snips() -> None:
    """70 real seeds, as in the paper; the student has every tenth wrong until it has seen a lesson on it."""
    rows = [json.loads(line) for line in SNIPS.read_text().splitlines()]
    intents, of_intent = sorted({row["intent"] for row in rows}), {}
    for row in rows:
        of_intent.setdefault(row["intent"], []).append(row["text"])
    chosen = [(text, intent) for intent in intents for text in of_intent[intent][:10]]
    spare = iter([(text, intent) for intent in intents for text in of_intent[intent][10:20]])
    seeds = pl.DataFrame(
        [
            {"row_id": f"s{number}", "prompt": text, "completion": intent, "answer": intent, "source": "seed"}
            for number, (text, intent) in enumerate(chosen)
        ],
        schema=SEED_SET,
    )
    settings = Llm2LlmSettings(
        answer_kind="label", answer_mark=None, labels={intent: () for intent in intents}, max_attempts=2
    )
    gold, hard = dict(chosen), {text for text, _ in chosen[::10]}
    taught: set[str] = set()

    def say(stage: str, text: str, number: int) -> str:
        if stage == "student_answer":
            return intents[0] if text in hard - taught and gold.get(text) != intents[0] else gold.get(text, "?")
        taught.update(seed for seed in hard if seed in text)
        prompt, intent = next(spare)
        gold[prompt] = intent
        return f"1. Question: {prompt}\nAnswer: {intent}"

    sft = start_sft_set(build_inputs(settings, identify("r0000")), seeds, EFT)
    num_wrong = []
    for number in (1, 2):
        identity = identify(f"r{number:04}")
        raw = generate(build_inputs(settings, identity, ask=ScriptedAsk(say)), seeds, sft)
        cleaned = RECIPE.clean(build_inputs(settings, is_evaluation_prompt=lambda _: False), raw, seeds)
        reviewed = RECIPE.review(build_inputs(settings, identity), cleaned, seeds, raw)
        sft = build_sft_set(build_inputs(settings, identity), reviewed, sft)
        num_wrong.append(int((~of_kind(raw, "student_answer")["is_correct"]).sum()))
    # One of the seven hard seeds has the intent that the student always says.
    assert num_wrong == [6, 0]
    assert len(sft.filter(source="generated")) == 6
    assert set(sft.filter(source="generated")["completion"]) <= set(intents)


def test_a_teacher_that_writes_the_prompt_alone_keeps_the_label_of_its_seed() -> None:
    """The student is wrong on b; the teacher is asked for prompts only, and its second is a copy of the seed."""
    written = ["Final Answer: Put on a waltz.", "Final Answer: Play something slow."]

    def say(stage: str, text: str, number: int) -> str:
        if stage == "lesson_prompt1":
            return written[number]
        return "GetWeather" if "slow" in text else dict(INTENTS.select("prompt", "completion").iter_rows())[text]

    ask = ScriptedAsk(say)
    settings = Llm2LlmSettings(**BY_LABEL, teacher_writes="prompt", num_lessons=2, max_attempts=1)
    trained = start_sft_set(build_inputs(settings, identify("r0000")), INTENTS, EFT)
    raw = generate(build_inputs(settings, identify("r0001"), ask=ask), INTENTS, trained)
    assert set(ask.requests) == {"student_answer", "lesson_prompt1"}
    assert of_kind(raw, "lesson").select("seed_id", "prompt", "completion", "refused_reason").rows() == [
        ("b", "Put on a waltz.", "PlayMusic", None),
        ("b", "Play something slow.", "PlayMusic", "like_known"),
    ]
    assert all("of the same class" in shown for shown in list_shown(ask, "lesson_prompt1"))


def test_a_seed_without_a_label_teaches_nothing_and_another_name_is_spelled_as_the_seeds_are() -> None:
    """Seed a says its label by another name, and b none; its gold answer is given beside it."""
    said = {"a": "Add a song.", "b": "Hm.", "c": "GetWeather"}
    seeds = INTENTS.with_columns(completion=pl.col("row_id").replace_strict(said))
    ask = ScriptedAsk(lambda stage, text, number: f"Final Answer: New {text[-9:-1]}." if "lesson" in stage else "?")
    settings = Llm2LlmSettings(**BY_LABEL, teacher_writes="prompt", max_attempts=1)
    trained = start_sft_set(build_inputs(settings, identify("r0000")), seeds, EFT)
    raw = generate(build_inputs(settings, identify("r0001"), ask=ask), seeds, trained)
    lessons = of_kind(raw, "lesson").sort("seed_id").select("seed_id", "completion", "refused_reason").rows()
    assert [row for row in lessons if row[0] == "b"] == [("b", "Hm.", "no_label")]
    assert lessons[0][:2] == ("a", "AddToPlaylist")


@pytest.mark.parametrize("profile", ["full", "full_zh", "small", "compact"])
def test_every_profile_says_that_the_class_stays(profile: str) -> None:
    given = {"prompt": "Play a waltz.", "completion": "PlayMusic", "kind": "label", "examples": ()}
    free, kept = (Templates(profile).render("llm2llm/new_prompt", **given, label_stays=stays) for stays in ("", "yes"))
    assert free != kept


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"teacher_writes": "prompt"}, "needs answer_kind: label, got number"),
        ({"teacher_writes": "prompt", **BY_LABEL, "num_votes": 3}, "num_votes: 3 needs teacher_writes"),
    ],
)
def test_a_prompt_alone_needs_labels_and_has_no_votes(given: dict, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Llm2LlmSettings(**given)
