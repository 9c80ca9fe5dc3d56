import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.forced_endings import NOT_CONTINUED
from lance_assets.algorithms.reviews.pairwise import (
    UNREAD_REASONS,
    Unread,
    combine_orders,
    parse_verdict,
    summarise_verdicts,
)

GOLDEN = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden_verdicts.jsonl").read_text(encoding="utf-8").splitlines()
]
VERDICTS = st.sampled_from(["A", "B", "tie", None])
SWAPPED = {"A": "B", "B": "A", "tie": "tie", None: None}


@pytest.mark.parametrize("row", GOLDEN, ids=[f"{i}-{row['text'][-30:]!a}" for i, row in enumerate(GOLDEN)])
def test_golden(row: dict) -> None:
    parsed = parse_verdict(row["text"], finish_reason=row["finish_reason"])
    assert parsed == (row["verdict"] if row["reason"] is None else Unread(row["reason"], row["text"]))


def test_golden_covers_every_verdict_and_reason() -> None:
    # Where no ending was forced, none can fail to be.
    assert {row["reason"] for row in GOLDEN} == {None, *UNREAD_REASONS} - {NOT_CONTINUED}
    assert {row["verdict"] for row in GOLDEN} == {None, "A", "B", "tie"}
    assert len(GOLDEN) >= 40


@given(st.text(), st.sampled_from(["stop", "length", "error"]))
def test_never_raises(text: str, finish_reason: str) -> None:
    for written in (text, f"verdict: {text}", f"Response {text} is better"):
        parsed = parse_verdict(written, finish_reason=finish_reason)
        assert parsed in ("A", "B", "tie") or parsed.reason in UNREAD_REASONS


@pytest.mark.parametrize(
    "text",
    ["verdict: " * 20_000, "A is " * 30_000, "[[" * 50_000, "A is better " * 10_000, "I prefer response " * 9_000],
)
def test_long_text_takes_linear_time(text: str) -> None:
    started = time.process_time()
    parse_verdict(text)
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("chosen_first", "rejected_first", "outcome"),
    [
        ("A", "B", "chosen"),
        ("B", "A", "rejected"),
        ("tie", "tie", "tie"),
        ("A", "A", "flipped"),
        ("B", "B", "flipped"),
        ("A", "tie", "flipped"),
        ("tie", "A", "flipped"),
        ("A", None, "unread"),
        (None, None, "unread"),
    ],
)
def test_both_orders(chosen_first: str | None, rejected_first: str | None, outcome: str) -> None:
    assert combine_orders(chosen_first, rejected_first) == outcome


def test_report_worked_by_hand() -> None:
    """Ten pairs: 4 chosen, 1 rejected, 1 tie, 3 flipped to the first shown, 1 unread (its one verdict is A).

    Flips: 3 of 9 readable. Shown first: 4 * 1 + 1 * 1 + 3 * 2 + 1 = 12 of 4 * 2 + 1 * 2 + 3 * 2 + 1 = 17.
    """
    verdicts = [("A", "B")] * 4 + [("B", "A")] + [("tie", "tie")] + [("A", "A")] * 3 + [("A", None)]
    report = summarise_verdicts(verdicts)
    assert (report.num_pairs, report.num_unread, report.num_decided) == (10, 1, 5)
    assert report.flip_rate == pytest.approx(3 / 9)
    assert report.first_rate == pytest.approx(12 / 17)
    assert report.agreement == pytest.approx(4 / 5)
    low, high = report.first_interval
    assert low < 12 / 17 < high
    assert [round(bound, 3) for bound in report.agreement_interval] == [0.376, 0.964]


def test_report_of_nothing() -> None:
    for verdicts in ([], [(None, None)]):
        report = summarise_verdicts(verdicts)
        assert (report.flip_rate, report.first_rate, report.agreement) == (None, None, None)
        assert report.first_interval == report.agreement_interval == (0.0, 1.0)


@given(st.lists(st.tuples(VERDICTS, VERDICTS)))
def test_naming_the_other_completion_chosen_changes_the_agreement_alone(verdicts: list[tuple]) -> None:
    """Chosen and rejected change places, so the two orders do: flips and position bias stay, agreement turns over."""
    report, swapped = summarise_verdicts(verdicts), summarise_verdicts([(b, a) for a, b in verdicts])
    assert (report.flip_rate, report.first_rate, report.num_decided) == (
        swapped.flip_rate,
        swapped.first_rate,
        swapped.num_decided,
    )
    if report.agreement is not None:
        assert swapped.agreement == pytest.approx(1 - report.agreement)


@given(st.lists(st.tuples(VERDICTS, VERDICTS)))
def test_a_judge_that_reads_the_labels_the_other_way_round_has_the_opposite_bias(verdicts: list[tuple]) -> None:
    report = summarise_verdicts(verdicts)
    turned = summarise_verdicts([(SWAPPED[a], SWAPPED[b]) for a, b in verdicts])
    assert turned.flip_rate == report.flip_rate
    if report.first_rate is not None:
        assert turned.first_rate == pytest.approx(1 - report.first_rate)
