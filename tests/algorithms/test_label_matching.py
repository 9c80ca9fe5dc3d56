"""Which label an answer names: by words, by any of its names, and by no more than one."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.reviews.label_matching import build_labels, split_label

INTENTS = build_labels(
    {"AddToPlaylist": ("add a song",), "PlayMusic": ("listen",), "GetWeather": (), "weather": ("the sky",), "R&B": ()}
)
SENTIMENT = build_labels({"positive": ("good", "very good"), "negative": ("bad",), "no opinion": (), "neutral": ()})


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("AddToPlaylist", "AddToPlaylist"),
        ("addtoplaylist", None),  # one word is no other three
        ("add to playlist", "AddToPlaylist"),
        ("ADD_TO_PLAYLIST", "AddToPlaylist"),
        ("**Add-to-Playlist.**", "AddToPlaylist"),
        ("「AddToPlaylist」", "AddToPlaylist"),
        ("ＡｄｄＴｏＰｌａｙｌｉｓｔ", "AddToPlaylist"),
        ("The intent is AddToPlaylist, I think: AddToPlaylist.", "AddToPlaylist"),
        ("Please add a song!", "AddToPlaylist"),
        ("AddToPlaylist or PlayMusic", None),
        ("PlayMusic (not AddToPlaylist)", None),
        ("playing music", None),
        ("PlayMusics", None),
        ("GetWeather", "GetWeather"),  # and not the shorter label within it
        ("get the weather", "weather"),
        ("r & b", "R&B"),
        ("", None),
        ("...", None),
    ],
)
def test_intents(answer: str, label: str | None) -> None:
    assert INTENTS.read(answer) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("It is very good.", "positive"),
        ("not good", None),
        ("not bad", None),
        ("It isn't bad", None),
        ("It isn’t bad", None),
        ("never negative", None),
        ("no opinion", "no opinion"),
        ("good, very good", "positive"),
        ("positive and negative", None),
        ("neutral - neither good nor bad", None),
        ("good to bad", None),
    ],
)
def test_sentiments(answer: str, label: str | None) -> None:
    assert SENTIMENT.read(answer) == label


def test_a_label_may_be_a_denial_itself() -> None:
    answers = build_labels({"yes": (), "no": ("not at all",)})
    assert [answers.read(text) for text in ("No.", "Yes!", "no, yes", "Not at all", "no no")] == [
        *("no", "yes", None, "no", "no")
    ]


def test_marks_belong_to_their_letters() -> None:
    thai = build_labels({"ดี": (), "ดีมาก": ("ยอดเยี่ยม",), "แย่": ()})
    assert [thai.read(text) for text in ("ดี", "ดีมาก", "ยอดเยี่ยม!", "แย่.", "ดีๆ")] == ["ดี", "ดีมาก", "ดีมาก", "แย่", None]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({}, "labels must be two or more to choose from, got none"),
        ({"spam": ("junk",)}, "two or more to choose from, got spam"),
        ({"spam": ("junk",), "ham": ("JUNK!",)}, "the labels 'spam' and 'ham' have the same name 'JUNK!'"),
        ({"a": (), "A.": ()}, "the labels 'a' and 'A.' have the same name 'A.'"),
        ({"+": (), "minus": ()}, r"needs a letter or a digit, got '\+' for the label '\+'"),
    ],
)
def test_labels_that_can_not_be_told_apart_are_refused(labels: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build_labels(labels)


LABELS = st.lists(st.text(min_size=1, max_size=12).filter(split_label), min_size=2, max_size=5, unique_by=split_label)


@given(LABELS, st.data())
def test_every_label_names_itself_and_two_name_none(names: list[str], data: st.DataObject) -> None:
    """Whatever the labels are; alone as it is written, in other case, and with signs around it."""
    labels = build_labels({name: () for name in names})
    one = data.draw(st.sampled_from(names))
    assert labels.read(one) == one
    assert labels.read(f" «{one}».\n") == one
    rule = AnswerRule("label", None, {name: () for name in names})
    assert rule.match(one, rule.read(one)) or rule.read(one) is None
    other = data.draw(st.sampled_from([name for name in names if name != one]))
    found = labels.read(f"{one}; {other}")
    assert found is None or split_label(one) + split_label(other) in labels.names


@pytest.mark.parametrize(
    ("kind", "mark", "completion", "gold", "is_right"),
    [
        ("text", None, "The Eiffel Tower.", "eiffel tower", True),
        ("text", None, "Eiffel", "eiffel tower", False),
        ("text", "Answer:", "It is in Paris.\nAnswer: the EIFFEL tower", "Eiffel Tower", True),
        ("text", None, "a", "A", True),
        ("text", None, "++", "++", True),
        ("text", None, "", "++", False),
        ("number", "####", "#### 1,200", "1200", True),
        ("number", "####", "1200", "1200", False),
    ],
)
def test_other_kinds(kind: str, mark: str | None, completion: str, gold: str, is_right: bool) -> None:
    rule = AnswerRule(kind, mark)  # type: ignore[arg-type]
    assert rule.match(gold, rule.read(completion)) is is_right


def test_a_gold_answer_that_is_no_label_is_told_with_the_labels() -> None:
    rule = AnswerRule("label", None, {"spam": (), "ham": ()})
    with pytest.raises(ValueError, match=r"a gold answer must be a label \(spam, ham\), got 'eggs'"):
        rule.match("eggs", "spam")


SNIPS = Path(__file__).parents[3] / "shared" / "data" / "snips_train.jsonl"


@pytest.mark.skipif(not SNIPS.exists(), reason="the real data is not here")
def test_every_row_of_snips_matches_its_own_intent() -> None:
    rows = [json.loads(line) for line in SNIPS.read_text().splitlines()]
    intents = sorted({row["intent"] for row in rows})
    rule = AnswerRule("label", None, {intent: () for intent in intents})
    assert len(rows) > 10_000
    assert len(intents) == 7
    assert all(rule.match(row["intent"], rule.read(row["intent"])) for row in rows)
    assert sum(rule.match(row["intent"], intents[0]) for row in rows) == sum(
        row["intent"] == intents[0] for row in rows
    )
