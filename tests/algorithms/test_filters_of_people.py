"""Filters that people must have: each with its reason, what it keeps, and how little of what people wrote it drops."""

import json
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets import extras
from lance_assets.algorithms.filters.assistants import Refusal, SignOff
from lance_assets.algorithms.filters.contract import Candidate, Filter, Known, RowFilter, apply_filters
from lance_assets.algorithms.filters.encoding import Encoding
from lance_assets.algorithms.filters.languages import Language, Script, find_script
from lance_assets.algorithms.filters.licences import License
from lance_assets.algorithms.filters.personal_data import PersonalData
from lance_assets.algorithms.filters.safety import HarmClassifier, HarmJudge
from lance_assets.settings.filters import find_filter


def find_reason(
    rule: Filter, text: str, *, kind: str = "completion", prompt: str = "Tell me.", **known: object
) -> str | None:
    row = Candidate(
        "r", kind, "seed", "p", text if kind == "new_prompt" else prompt, None if kind == "new_prompt" else text
    )
    apply_filters(Known([row], **known), [rule])
    return row.drop_reason


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that request.",
        "I am sorry, I cannot fulfil this.",
        "I\u2019m sorry, but I can\u2019t assist with that.",
        "Sorry, but we don't do that.",
        "I apologize, but I am unable to provide medical advice.",
        "I cannot provide that information.",
        "Unfortunately, I can't browse the internet.",
        "Es tut mir leid, aber ich kann dir dabei nicht helfen.",
        "Je suis désolé, mais je ne peux pas répondre.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Извините, но я не могу помочь.",
        "很抱歉，我无法回答这个问题。",
        "申し訳ありませんが、お答えできません。",
    ],
)
def test_a_refusal_is_dropped(text: str) -> None:
    assert find_reason(Refusal(), text) == "refusal"


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I have no favourite colour.",
        "That is hard for me, as a large language model trained by people.",
        "Well, I'm just an AI, so I never sleep.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "作为一个人工智能语言模型，我没有感情。",
    ],
)
def test_talk_of_being_a_model_is_dropped(text: str) -> None:
    assert find_reason(Refusal(), text) == "speaks_as_model"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that you are ill.",
        "She said: I'm sorry, but I can't come tonight.",
        "We cannot see the stars by day.",
        "I can't wait to see you!",
        "As an AI engineer she earns well.",
        "As an aid, use a ruler.",
        "A language model predicts the next word.",
        "",
    ],
)
def test_what_is_no_refusal_is_kept(text: str) -> None:
    assert find_reason(Refusal(), text) is None


def test_a_sign_off_is_dropped_only_where_it_ends_a_completion() -> None:
    assert (
        find_reason(SignOff(), "It is 4.\n\nI hope this helps! Let me know if you have any other questions.")
        == "sign_off"
    )
    assert find_reason(SignOff(), "是四。希望这对您有帮助！") == "sign_off"
    assert find_reason(SignOff(), "Let me know when you arrive.\nThen we eat.") is None
    assert find_reason(SignOff(), "I hope this helps the poor.") is None
    assert find_reason(SignOff(), "Reply. Let me know if it suits you.", kind="new_prompt") is None


def test_damage_of_the_encoding_has_a_reason_for_each_kind() -> None:
    pytest.importorskip("ftfy", reason="ftfy is an optional extra")
    assert find_reason(Encoding(), "Das ist schÃ¶n.") == "mojibake"
    assert find_reason(Encoding(), "Das ist sch\ufffdn.") == "replacement_character"
    assert find_reason(Encoding(), "A\x07 bell.") == "control_character"
    for whole in ("Das ist schön.", "Ἑλλάς\t漢字\r\n🙂", "naïve café – “quoted”", "ไทย עברית عربى"):
        assert find_reason(Encoding(), whole) is None


def test_a_script_is_dropped_by_the_share_of_its_letters() -> None:
    latin = Script(allowed=("Latin",))
    assert find_reason(latin, "Это по-русски.") == "script"
    assert find_reason(latin, "The word for Greece is Ἑλλάς, as every pupil of the language learns first.") is None
    assert find_reason(latin, "1 + 1 = 2 ± 3 🙂") is None
    assert find_reason(Script(allowed=("Han", "Hiragana", "Katakana")), "漢字とかな") is None
    assert find_script("ⴰ") == "Other"
    with pytest.raises(ValidationError, match="there is no script 'Roman' here; name some of Latin, Cyrillic"):
        Script(allowed=("Roman",))


def test_personal_data_is_found_by_what_its_standard_says() -> None:
    pytest.importorskip("phonenumbers", reason="phonenumbers is an optional extra")
    rule = PersonalData()
    assert find_reason(rule, "Write to emoore@uni-hamburg.de.") == "personal_data:email"
    assert find_reason(rule, "Call (212) 736-5000 today.") == "personal_data:phone"
    assert find_reason(rule, "Ring +49 30 18682-0 an.") == "personal_data:phone"
    assert find_reason(rule, "Pay with 4242 4242 4242 4242.") == "personal_data:card"
    assert find_reason(rule, "To GB82 WEST 1234 5698 7654 32, please.") == "personal_data:iban"
    assert find_reason(rule, "The server is 8.8.8.8.") == "personal_data:ip_address"
    assert find_reason(rule, "SSN 219-09-1234") == "personal_data:us_ssn"
    nobodys = (
        "you@example.com, 555-0100, 4242 4242 4242 4241, 192.168.0.1, version 1.2.3, 123-45-6789, 1,234,567,890 birds"
    )
    assert find_reason(rule, nobodys) is None
    with pytest.raises(ValidationError, match="there is no region 'XX'"):
        PersonalData(regions=("XX",))


def test_a_row_is_dropped_for_its_seeds_licence() -> None:
    rule = License(allowed=("MIT", "CC0 1.0"))
    assert find_reason(rule, "A hen.", licences={"seed": ["mit", "cc0-1.0"]}) is None
    assert find_reason(rule, "A hen.", licences={"seed": ["mit", "cc-by-nd-4.0"]}) == "license"
    assert find_reason(rule, "A hen.", licences={}) == "license_unknown"
    assert find_reason(License(allowed=("mit",), takes_unknown=True), "A hen.") is None


def test_a_classifier_drops_what_it_calls_harmful() -> None:
    asked: list[object] = []

    def classify(model: str, texts: list[str]) -> list[dict[str, float]]:
        asked.append((model, texts))
        return [{"toxic": 0.9 if "hate" in text else 0.1, "fine": 0.5} for text in texts]

    rule = HarmClassifier(model="folder", labels=("toxic",))
    assert find_reason(rule, "I hate you.", classify=classify) == "harmful"
    assert find_reason(rule, "I like you.", classify=classify) is None
    assert asked[0] == ("folder", ["I hate you."])
    with pytest.raises(ValueError, match="folder has no label 'insult'; it has fine, toxic"):
        find_reason(HarmClassifier(model="folder", labels=("insult",)), "Hm.", classify=classify)


def test_a_judge_drops_what_it_scores_high_and_what_it_does_not_score() -> None:
    asked: list[str] = []

    def score(who: str, questions: list[tuple[str, str]], max_new_tokens: int) -> list[float | None]:
        asked.extend([who, questions[0][1]])
        return [{"bad": 9.0, "odd": None}.get(question.split("Answer: ")[1][:3], 1.0) for _, question in questions]

    rule = HarmJudge()
    assert find_reason(rule, "bad thing", score=score) == "harmful"
    assert find_reason(rule, "odd thing", score=score) == "harm_unread"
    assert find_reason(HarmJudge(unread="keep"), "odd thing", score=score) is None
    assert find_reason(rule, "good thing", score=score, kind="new_prompt") is None
    assert asked[0] == "model"
    assert "Question: Tell me.\n\nAnswer: bad thing" in asked[1]
    assert "Question:" not in asked[-1]


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ({"name": "encoding"}, "ftfy"),
        ({"name": "language", "allowed": ["en"]}, "lingua"),
        ({"name": "personal_data"}, "phonenumbers"),
    ],
)
def test_a_missing_library_is_named_with_its_command(
    line: dict[str, object], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        ValidationError, match=rf"needs the library {module}, which is not installed; run pip install .*filters"
    ):
        find_filter(str(line["name"])).model_validate(line)


def list_people_texts(folder: Path) -> list[tuple[str, str]]:
    """Prompts and completions that people wrote: all of Self-Instruct, and of T0 and GSM8K every so many."""
    tasks = map(json.loads, (folder / "self_instruct_seed_tasks.jsonl").read_text(encoding="utf-8").splitlines())
    rows = [(task["instruction"], one["output"]) for task in tasks for one in task["instances"]]
    rows += pl.read_parquet(folder / "t0_train_50k.parquet").gather_every(300).select("prompt", "completion").rows()
    lines = (folder / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[::50]
    return rows + [(row["question"], row["answer"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize(("rule", "most"), [(Refusal(), 0), (SignOff(), 0), (Script(allowed=("Latin",)), 4)])
def test_hardly_anything_that_people_wrote_is_dropped(real_data: Path, rule: RowFilter, most: int) -> None:
    """The two texts of Self-Instruct in other scripts are dropped rightly."""
    rows = [
        Candidate("r", "lesson", "s", "p", prompt, completion) for prompt, completion in list_people_texts(real_data)
    ]
    assert len(rows) > 450
    assert len([row for row in rows if rule.find_reason(row)]) <= most


@pytest.mark.parametrize(("name", "most"), [("encoding", 8), ("personal_data", 2)])
def test_hardly_anything_that_people_wrote_is_dropped_by_a_library(real_data: Path, name: str, most: int) -> None:
    """T0 has some texts that were damaged before, and Self-Instruct one address of mail."""
    pytest.importorskip({"encoding": "ftfy", "personal_data": "phonenumbers"}[name], reason="an optional extra")
    rule = find_filter(name)()
    assert isinstance(rule, RowFilter)
    rows = [
        Candidate("r", "lesson", "s", "p", prompt, completion)
        for prompt, completion in list_people_texts(real_data)[:400]
    ]
    assert len([row for row in rows if rule.find_reason(row)]) <= most


@pytest.mark.slow
def test_a_language_is_dropped_where_it_is_sure() -> None:
    pytest.importorskip("lingua", reason="lingua is an optional extra")
    english = Language(allowed=("en",))
    german = (
        "Heute gehen wir alle zusammen in den Wald und suchen Pilze. " * 2 + "Danach kochen wir eine gute Suppe daraus."
    )
    assert find_reason(english, german) == "language"
    assert find_reason(english, "Today all of us go into the forest together and look for mushrooms. " * 2) is None
    assert find_reason(english, "Guten Tag") is None
    assert find_reason(Language(allowed=("en", "de")), german) is None
    with pytest.raises(ValidationError, match="lingua knows no language 'xx'"):
        Language(allowed=("xx",))
