"""Decisions by themselves: what is refused, how they are kept, the files they come in, and whom a sample asks."""

import json
import random
import sqlite3
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.selection.draws import select_over_strata
from lance_assets.rounds.deciding.asked import name_strata
from lance_assets.rounds.deciding.decisions import Decision, Ledger, decide, hash_text, keep_decisions, read_ledger
from lance_assets.rounds.deciding.exchange import (
    DecisionFileError,
    Known,
    know_rows,
    read_lines,
    take_answers,
    write_lines,
)
from lance_assets.rounds.deciding.label_studio import read_annotations, write_labeling_config, write_tasks
from lance_assets.settings.values import count_asked
from resources.stores.decisions import DecisionStore
from resources.stores.files import DamagedFileError
from tests.rounds.decided_rows import SCALE, Method, review, say, table

ROWS = table(review("good", 9.0), review("fair", 6.0), review("poor", 2.0), review("s", 9.0, "seed"))
KNOWN = know_rows("mini", {"r0001": ROWS})
FILE = Path("rows.jsonl")


NOTHING = Ledger()


def take(content: str, ledger: Ledger = NOTHING, *, who: str | None = "Ann", known: Known = KNOWN) -> list[Decision]:
    read = read_annotations(content) if content.startswith("[") else read_lines(content)
    return take_answers(read, known, ledger, scale=SCALE, who=who, file=FILE)


def fill(**by_row: dict[str, object]) -> str:
    """The file of all rows, with some filled in."""
    lines = [json.loads(line) for line in write_lines(KNOWN.rows.values(), "r0001").decode().splitlines()]
    return "".join(json.dumps(line | by_row.get(line["row_id"], {})) + "\n" for line in lines)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"action": "keep"}, "decision must be one of accept, reject, edit, score, got 'keep'"),
        ({"who": "  "}, "who must have 1 to 100 characters, got ''; say who decides"),
        ({"action": "edit"}, "edit needs another completion in 'edited', got no text"),
        ({"action": "edit", "edited": "b"}, "got the completion as it is; write one, or accept the row"),
        ({"action": "accept", "edited": "c"}, "accept takes no edited text, got 'c'"),
        ({"action": "reject", "score": 3}, "reject takes no score, got 3; decide score, or leave it out"),
        ({"action": "score"}, "score needs a score, got none"),
        ({"action": "score", "score": 11}, r"a score must be in \[0, 10\], the reviewer's scale, got 11"),
        ({"action": "score", "score": float("nan")}, r"a score must be in \[0, 10\]"),
        ({"action": "score", "score": 1, "scale": None}, "this recipe goes by no scores, got 1"),
        ({"note": "x" * 10_001}, "a note has at most 10000 characters, got 10001"),
        ({"at": "soon"}, "'soon' is no time; write it as 2026-01-31T12:00:00Z"),
        ({"at": "2999-01-01"}, "'2999-01-01' lies in the future"),
    ],
)
def test_what_is_no_decision_is_refused_with_value_and_remedy(values: dict[str, object], told: str) -> None:
    given_ = {"action": "accept", "who": "Ann", "scale": SCALE} | values
    with pytest.raises(ValueError, match=told):
        decide("a", "b", **given_)  # type: ignore[arg-type]


def test_times_of_all_zones_sort_as_times_do() -> None:
    early = decide("a", "b", "accept", who="Ann", scale=SCALE, at="2026-01-01T12:00:00+02:00")
    late = decide("a", "b", "reject", who="Bo", scale=SCALE, at="2026-01-01T11:00:00Z")
    assert (early.at, late.at) == ("2026-01-01T10:00:00.000000Z", "2026-01-01T11:00:00.000000Z")
    found = Ledger([late, early]).find("a", "b")
    assert found is not None
    assert found.who == "Bo"


def test_the_setting_says_how_many_are_asked() -> None:
    assert [count_asked(text) for text in ("none", "sample 7", "all")] == [0, 7, None]
    for text in ("sample", "sample 0", "sample -1", "some", "ALL", ""):
        with pytest.raises(ValueError, match="human_review must be none, all, or sample N"):
            count_asked(text)


ACTIONS = st.sampled_from(
    [
        ("accept", {}),
        ("reject", {}),
        ("score", {"score": 8.5}),
        ("edit", {"edited": "Another"}),
        ("score", {"score": 1}),
    ]
)
DRAWN = st.lists(st.tuples(st.sampled_from(["good", "fair", "poor"]), ACTIONS, st.integers(0, 59)), max_size=12)


@given(DRAWN, st.randoms(use_true_random=False))
def test_the_order_in_which_decisions_are_kept_changes_nothing(
    drawn: list[tuple[str, tuple[str, dict[str, object]], int]], rng: random.Random
) -> None:
    method = Method("lance")
    decisions = [say(ROWS, row, action, minute=minute, **more) for row, (action, more), minute in drawn]
    shuffled = rng.sample(decisions, len(decisions))
    first = method.decide(ROWS, *decisions)
    # Kept twice, as by an import that was repeated, they count once.
    unique = {one.identity: one for one in shuffled}
    assert method.decide(ROWS, *unique.values()).equals(
        method.decide(ROWS, *{one.identity: one for one in decisions}.values())
    )
    assert first["row_id"].to_list() == [row for row in ("good", "fair", "poor") if any(row == one[0] for one in drawn)]


def test_an_import_that_breaks_off_keeps_nothing_and_a_repeated_one_adds_nothing(tmp_path: Path) -> None:
    one, other = say(ROWS, "good", "accept"), say(ROWS, "fair", "reject")

    class Torn(dict[str, str]):
        def items(self):  # type: ignore[no-untyped-def]
            yield one.identity, one.text
            raise KeyboardInterrupt

    store = DecisionStore(tmp_path, "mini")
    with pytest.raises(KeyboardInterrupt):
        store.add(Torn({one.identity: one.text, other.identity: other.text}))
    assert store.read() == []
    assert keep_decisions(tmp_path, "mini", [one, other]) == 2
    assert keep_decisions(tmp_path, "mini", [other, one]) == 0
    assert read_ledger(tmp_path, "mini").decisions == [one, other]


def test_each_byte_that_a_cut_leaves_of_a_commit_gives_the_state_before_or_after(tmp_path: Path) -> None:
    """The journal that a killed writer left is rolled back; without one the file is whole."""
    one, other = say(ROWS, "good", "accept"), say(ROWS, "fair", "reject")
    keep_decisions(tmp_path, "mini", [one])
    file = DecisionStore(tmp_path, "mini").file
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO decisions VALUES (?, ?)", [(f"{n}", "x" * 4000) for n in range(50)])
    copy = tmp_path / "copy" / "decisions" / "mini"
    copy.mkdir(parents=True)
    for part in file.parent.iterdir():
        (copy / part.name).write_bytes(part.read_bytes())
    connection.rollback()
    connection.close()
    assert read_ledger(tmp_path / "copy", "mini").decisions == [one]
    assert keep_decisions(tmp_path / "copy", "mini", [other]) == 1


def test_a_damaged_store_is_told_with_file_and_remedy(tmp_path: Path) -> None:
    keep_decisions(tmp_path, "mini", [say(ROWS, "good", "accept")])
    DecisionStore(tmp_path, "mini").file.write_bytes(b"no database at all" * 500)
    with pytest.raises(
        DamagedFileError, match=r"decisions\.sqlite is not what was written .* bring it back from a copy"
    ):
        read_ledger(tmp_path, "mini")


def test_rows_go_out_and_come_back_as_lines() -> None:
    assert take(fill()) == []
    taken = take(
        fill(good={"decision": "reject", "note": "wrong"}, fair={"decision": "edit", "edited": "x", "who": "Bo"})
    )
    assert [(one.action, one.who, one.note, one.edited) for one in taken] == [
        ("reject", "Ann", "wrong", None),
        ("edit", "Bo", "", "x"),
    ]
    # Taken again it adds nothing, unless it says when.
    same = fill(good={"decision": "reject", "note": "wrong"})
    assert take(same, Ledger(taken)) == []
    dated = fill(good={"decision": "reject", "note": "wrong", "at": "2026-03-01T00:00:00Z"})
    assert take(dated, Ledger(taken))[0].at == "2026-03-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"decision": "keep"}, r"rows\.jsonl line 1: decision must be one of accept, reject, edit, score, got 'keep'"),
        (
            {"decision": "accept", "completion": "changed"},
            "line 1: the completion was changed to 'changed'; write a text into",
        ),
        (
            {"decision": "accept", "key": "ffff"},
            "line 1: key 'ffff' is of no reviewed row of mini; write the file again",
        ),
        ({"decision": "score", "score": "9"}, "line 1: score must be a number, got '9'"),
        ({"decision": "score", "score": True}, "line 1: score must be a number, got True"),
        ({"decision": 1}, "line 1: decision must be a text, got 1"),
        ({"verdict": "accept"}, "line 1 has the unknown field 'verdict'; fill in decision, edited, score, who, note"),
        ({"key": None}, "line 1 has no 'key', by which its row is known"),
    ],
)
def test_a_wrong_line_is_told_with_line_value_and_remedy(change: dict[str, object], told: str) -> None:
    with pytest.raises(DecisionFileError, match=told) as error:
        take(fill(good=change, fair={"decision": "accept"}))
    assert "Nothing of the file was taken" in str(error.value)


def test_a_file_that_is_no_file_of_decisions() -> None:
    with pytest.raises(DecisionFileError, match="line 1 is no JSON"):
        take("decision: accept\n")
    with pytest.raises(DecisionFileError, match="who must have 1 to 100 characters"):
        take(fill(good={"decision": "accept"}), who=None)
    with pytest.raises(DecisionFileError, match="is no JSON"):
        take("[{")
    with pytest.raises(
        DecisionFileError, match="task 1 has no list 'annotations'; export the project as JSON, not as JSON-MIN"
    ):
        take(json.dumps([{"id": 1, "decision": "accept"}]))


def annotate(task: dict[str, object], *results: tuple[str, str, object], **more: object) -> dict[str, object]:
    """A task as Label Studio exports it: labelstud.io/guide/task_format."""
    values = {"choices": "choices", "textarea": "text", "number": "number"}
    return task | {
        "id": 7,
        "created_at": "2026-03-09T21:52:49.513742Z",
        "updated_at": "2026-03-09T22:16:08.746926Z",
        "project": 83,
        "annotations": [
            {
                **{"id": 1001, "was_cancelled": False, "ground_truth": False, "lead_time": 4.288, "result_count": 1},
                **{"created_at": "2026-03-09T22:16:08.728353Z", "updated_at": "2026-03-09T22:16:08.728378Z"},
                **{"task": 7, "completed_by": 10},
                "result": [
                    {
                        "from_name": name,
                        "id": "Dx",
                        "to_name": "completion",
                        "type": kind,
                        "value": {values[kind]: value},
                    }
                    for name, kind, value in results
                ],
            }
            | more
        ],
        "predictions": [],
    }


def test_rows_go_through_label_studio() -> None:
    tasks = json.loads(write_tasks(KNOWN.rows.values(), "r0001"))
    assert [task["data"]["row_id"] for task in tasks] == ["good", "fair", "poor"]
    assert tasks[0]["data"]["completion"] == "The completion of good"
    accept = ("decision", "choices", ["accept"])
    untouched = ("edited", "textarea", ["The completion of good"])
    export = [
        annotate(tasks[0], accept, untouched),
        annotate(
            tasks[1],
            ("decision", "choices", ["edit"]),
            ("edited", "textarea", ["Two", "lines"]),
            ("score", "number", 8),
            ("note", "textarea", ["clearer"]),
            completed_by={"id": 3, "email": "bo@example.org", "first_name": "Bo"},
        ),
        annotate(tasks[2], accept, was_cancelled=True),
    ]
    taken = take(json.dumps(export))
    assert [(one.action, one.who, one.at) for one in taken] == [
        ("accept", "Label Studio user 10", "2026-03-09T22:16:08.728378Z"),
        ("edit", "bo@example.org", "2026-03-09T22:16:08.728378Z"),
    ]
    assert (taken[1].edited, taken[1].score, taken[1].note) == ("Two\nlines", 8.0, "clearer")
    # Both of two annotations of one task are kept, and the later one counts.
    both = annotate(tasks[0], accept)
    later = annotate(tasks[0], ("decision", "choices", ["reject"]), updated_at="2026-04-01T00:00:00Z")
    both["annotations"] += later["annotations"]  # type: ignore[operator]
    found = Ledger(take(json.dumps([both]))).find("The prompt of good", "The completion of good")
    assert found is not None
    assert found.action == "reject"
    with pytest.raises(DecisionFileError, match=r"task 1 \(id 7\): an annotation has no decision"):
        take(json.dumps([annotate(tasks[0], ("note", "textarea", ["hm"]))]))


def test_the_labeling_configuration_names_what_is_read_back() -> None:
    from xml.etree import ElementTree

    tree = ElementTree.fromstring(write_labeling_config(SCALE))
    controls = {each.get("name"): each for each in tree.iter() if each.get("toName")}
    assert set(controls) == {"decision", "edited", "score", "note"}
    shown = {each.get("name") for each in tree.iter("Text")}
    assert {each.get("toName") for each in controls.values()} <= shown
    assert [each.get("value") for each in tree.iter("Choice")] == ["accept", "reject", "edit", "score"]
    assert (controls["score"].get("min"), controls["score"].get("max")) == ("0", "10")
    data = json.loads(write_tasks(KNOWN.rows.values(), "r0001"))[0]["data"]
    assert {each.get("value") for each in tree.iter("Text")} <= {f"${name}" for name in data}
    assert "score" not in write_labeling_config(None).split("Choices")[1].replace("scores", "")


def test_rows_of_seeds_are_not_asked_about_and_unknown_ones_are_told() -> None:
    assert {row["row_id"] for row in KNOWN.rows.values()} == {"good", "fair", "poor"}
    assert KNOWN.find("goo")["row_id"] == "good"
    with pytest.raises(ValueError, match="there is no reviewed row 's' in mini; lance review mini lists"):
        KNOWN.find("s")


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(0, 40), st.integers(0, 3))
def test_a_sample_is_even_over_strata_and_does_not_depend_on_order(strata: list[str], k: int, seed: int) -> None:
    keys = [f"row{number}" for number in range(len(strata))]
    drawn = select_over_strata(keys, strata, k, rng_seed=seed)
    assert len(drawn) == min(k, len(strata))
    assert drawn == sorted(set(drawn))
    counts = {name: [strata[n] for n in drawn].count(name) for name in set(strata)}
    for name, count in counts.items():
        # A stratum with fewer than another has given all it has.
        assert count >= max(counts.values()) - 1 or count == strata.count(name)
    order = list(reversed(range(len(strata))))
    again = select_over_strata([keys[n] for n in order], [strata[n] for n in order], k, rng_seed=seed)
    assert {keys[n] for n in drawn} == {keys[order[n]] for n in again}


def test_strata_are_kinds_outcomes_and_bands() -> None:
    rows = table(review("a", 0.0), review("b", 10.0), review("c", None), review("d", 5.0, "degraded_completion"))
    found = name_strata(rows, {"b": "sft"}, SCALE)
    assert found == [
        "completion left out 0",
        "completion sft 4",
        "completion left out unscored",
        "degraded_completion left out 2",
    ]


def test_the_key_of_a_text_is_of_prompt_and_completion() -> None:
    assert len({hash_text("a", "bc"), hash_text("ab", "c"), hash_text("a\x1fb", "c"), hash_text("a", "\x1fbc")}) == 4
    assert pl.Series([hash_text("a", "b")]).str.len_chars()[0] == 32
