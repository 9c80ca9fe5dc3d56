"""What each decision does to training sets, worked by hand for four recipes."""

import polars as pl
import pytest

from lance_assets.algorithms.measures.agreement import measure_agreement
from lance_assets.records import PREFERENCE_PAIRS, REVIEWED_SET, SFT_SET
from lance_assets.rounds.deciding.applying import (
    apply_decisions,
    build_decided_pairs,
    build_decided_sft_set,
    find_outcomes,
)
from lance_assets.rounds.deciding.decisions import Decision, Ledger
from tests.rounds.decided_rows import Method, review, say, table

NO_SFT, NO_PAIRS = pl.DataFrame(schema=SFT_SET), pl.DataFrame(schema=PREFERENCE_PAIRS)
LANCE = Method("lance")
ROWS = table(
    review("s", 9.0, "seed", of="s"),
    review("worse", 3.0, "degraded_completion", of="s"),
    review("worst", 1.0, "degraded_completion", of="s"),
    review("good", 9.0),
    review("fair", 6.0),
    review("unread", None),
)
"""By their reviews: SFT takes good; the pairs are s and worse... against worst, the lowest, by more than 2 points."""


def sft(method: Method, reviewed: pl.DataFrame, *decisions: Decision) -> dict[str, tuple[str, float | None]]:
    decided = method.decide(reviewed, *decisions)
    built = build_decided_sft_set(method.recipe, method.inputs, reviewed, decided, NO_SFT)
    return {
        source: (text, score) for source, text, score in built.select("source_id", "completion", "review_score").rows()
    }


def pairs(method: Method, reviewed: pl.DataFrame, *decisions: Decision) -> list[tuple[str, str, float, float]]:
    decided = method.decide(reviewed, *decisions)
    built = build_decided_pairs(method.recipe, method.inputs, reviewed, decided, NO_PAIRS)
    return built.select("chosen_id", "rejected_id", "chosen_score", "rejected_score").rows()


def test_without_decisions_the_sets_are_the_recipes_own() -> None:
    assert sft(LANCE, ROWS) == {"good": ("The completion of good", 9.0)}
    assert pairs(LANCE, ROWS) == [("s", "worst", 9.0, 1.0)]
    assert find_outcomes(LANCE.recipe, LANCE.inputs, ROWS) == {"good": "sft", "s": "chosen", "worst": "rejected"}


def test_lance_by_hand() -> None:
    """A rejected row is nowhere, an accepted one is trained on with its own score, an edited one with its new text."""
    assert sft(LANCE, ROWS, say(ROWS, "good", "reject")) == {}
    assert pairs(LANCE, ROWS, say(ROWS, "worst", "reject")) == [("s", "worse", 9.0, 3.0)]
    accepted = sft(LANCE, ROWS, say(ROWS, "fair", "accept"), say(ROWS, "unread", "accept"))
    assert accepted["fair"] == ("The completion of fair", 6.0)
    assert accepted["unread"] == ("The completion of unread", None)
    edited = sft(LANCE, ROWS, say(ROWS, "fair", "edit", edited="A better completion"))
    assert edited["fair"] == ("A better completion", 10.0)
    scored = sft(LANCE, ROWS, say(ROWS, "fair", "score", score=8.5), say(ROWS, "good", "score", score=2))
    assert scored == {"fair": ("The completion of fair", 8.5)}


def test_an_accepted_worse_completion_stays_the_worse_one() -> None:
    """The person says that it serves; it is no completion that SFT takes."""
    decided = (say(ROWS, "worst", "accept"),)
    assert pairs(LANCE, ROWS, *decided) == pairs(LANCE, ROWS)
    assert "worst" not in sft(LANCE, ROWS, *decided)


def test_a_persons_text_is_never_the_rejected_side_unless_the_person_scores_it() -> None:
    edited = say(ROWS, "worst", "edit", edited="A person's own text")
    assert pairs(LANCE, ROWS, edited) == [("s", "worse", 9.0, 3.0), ("worst", "worse", 10.0, 3.0)]
    assert pairs(LANCE, ROWS, say(ROWS, "worst", "edit", edited="A person's own text", score=0)) == [
        ("s", "worst", 9.0, 0.0),
        ("worse", "worst", 3.0, 0.0),
    ]
    spin = Method("spin")
    rows = table(review("s", None, "seed", of="s"), review("own", None, "own_completion", of="s"))
    assert [pair[:2] for pair in pairs(spin, rows)] == [("s", "own")]
    assert pairs(spin, rows, say(rows, "own", "edit", edited="Written by a person")) == []
    assert pairs(spin, rows, say(rows, "own", "reject")) == []
    assert [pair[:2] for pair in pairs(spin, rows, say(rows, "own", "accept"))] == [("s", "own")]


def test_self_rewarding_by_hand() -> None:
    """Best against worst of one prompt: a person's score moves a completion to another side."""
    method = Method("self_rewarding")
    rows = table(review("a", 5.0, of="p"), review("b", 3.0, of="p"), review("c", 1.0, of="p"))
    assert [pair[:2] for pair in pairs(method, rows)] == [("a", "c")]
    assert [pair[:2] for pair in pairs(method, rows, say(rows, "a", "reject"))] == [("b", "c")]
    assert pairs(method, rows, say(rows, "a", "score", score=0)) == [("b", "a", 3.0, 0.0)]
    built = method.decide(rows, say(rows, "c", "edit", edited="The best of all"))
    table_ = build_decided_pairs(method.recipe, method.inputs, rows, built, NO_PAIRS)
    # 5 and 5: of the two best the smaller id is chosen, and the edited text is on no rejected side.
    assert table_.select("chosen", "rejected").row(0) == ("The completion of a", "The completion of b")
    # All of one prompt rejected but one: no pair is left.
    assert pairs(method, rows, say(rows, "a", "reject"), say(rows, "b", "reject")) == []


@pytest.mark.parametrize(
    ("method", "low", "high"),
    [
        (Method("i_sheep"), 5.0, 9.0),
        (Method("kun"), 0.0, 1.0),
        (Method("kun", signal="pair_score"), 2.0, 5.0),
    ],
    ids=["i_sheep", "kun by verdict", "kun by score"],
)
def test_recipes_that_accept_by_a_score(method: Method, low: float, high: float) -> None:
    kind = "completion" if method.recipe.name == "i_sheep" else "labeled_text"
    rows = table(
        review("taken", high, kind), review("left", low, kind), review("out", high, kind, drop_reason="keyword")
    )
    assert set(sft(method, rows)) - {"out"} == {"taken"}
    found = sft(method, rows, say(rows, "left", "accept"), say(rows, "taken", "reject"))
    assert found["left"] == ("The completion of left", low)
    assert "taken" not in found
    assert sft(method, rows, say(rows, "left", "edit", edited="Another text"))["left"][0] == "Another text"
    assert method.scale is not None
    rescored = say(rows, "taken", "score", score=method.scale[0])
    assert "taken" not in sft(method, rows, rescored)


def test_a_recipe_without_scores_takes_what_is_not_rejected() -> None:
    method = Method("llm2llm")
    rows = table(review("one", None, "lesson"), review("two", None, "lesson"))
    assert set(sft(method, rows)) == {"one", "two"}
    found = sft(method, rows, say(rows, "one", "reject"), say(rows, "two", "edit", edited="Another lesson"))
    assert found == {"two": ("Another lesson", None)}
    assert method.scale is None


def test_the_last_decision_counts_and_the_earlier_ones_are_kept() -> None:
    first = say(ROWS, "good", "accept", who="Ann")
    last = say(ROWS, "good", "reject", who="Bo", minute=5, note="wrong sum")
    for order in ((first, last), (last, first)):
        decided = LANCE.decide(ROWS, *order).row(0, named=True)
        assert (decided["decision"], decided["decided_by"], decided["note"]) == ("reject", "Bo", "wrong sum")
        assert decided["earlier"] == ["accepted by Ann at 2026-01-01T00:00:00.000000Z"]
        assert sft(LANCE, ROWS, *order) == {}


def test_a_text_is_known_again_wherever_it_stands() -> None:
    """Also in another round, as a seed, and as the text that a person wrote."""
    edited = say(ROWS, "fair", "edit", edited="A better completion")
    again = table(review("new_id", 4.0, "seed", prompt="The prompt of fair", completion="A better completion"))
    decided = LANCE.decide(again, edited).row(0, named=True)
    assert (decided["row_id"], decided["decision"], decided["model_takes"]) == ("new_id", "edit", None)
    left = apply_decisions(again, LANCE.decide(again, edited), LANCE.scale)
    assert left.select("completion", "review_score").row(0) == ("A better completion", 10.0)
    # Once the edit is taken back, its text is a stranger.
    taken_back = say(ROWS, "fair", "reject", minute=9)
    assert Ledger([edited, taken_back]).find("The prompt of fair", "A better completion") is None


def test_the_original_and_the_models_score_stay() -> None:
    decided = LANCE.decide(ROWS, say(ROWS, "fair", "edit", edited="A better completion", score=7))
    assert decided.select("completion", "score", "model_score").row(0) == ("A better completion", 7.0, 6.0)
    assert ROWS.filter(row_id="fair")["completion"][0] == "The completion of fair"


def test_applied_rows_keep_schema_and_order() -> None:
    decided = LANCE.decide(ROWS, say(ROWS, "worse", "reject"), say(ROWS, "fair", "score", score=1))
    applied = apply_decisions(ROWS, decided, LANCE.scale)
    assert applied.schema == REVIEWED_SET
    assert applied["row_id"].to_list() == ["s", "worst", "good", "fair", "unread"]
    untouched = applied.filter(~pl.col("row_id").is_in(["fair"]))
    assert untouched.equals(ROWS.filter(~pl.col("row_id").is_in(["fair", "worse"])))


def test_agreement_by_hand() -> None:
    """The review takes good alone. Of four rows that both judge people take good and fair: 3 of 4 agree."""
    rows = pl.concat([ROWS, table(review("poor", 2.0), review("bad", 1.0))])
    said = {"good": "accept", "fair": "accept", "poor": "reject", "bad": "edit", "unread": "accept", "worst": "accept"}
    decisions = [
        say(rows, row, action, **({"edited": "A text"} if action == "edit" else {})) for row, action in said.items()
    ]
    decided = LANCE.decide(rows, *decisions)
    verdicts = {
        row: (model, person) for row, model, person in decided.select("row_id", "model_takes", "person_takes").rows()
    }
    assert verdicts == {
        **{"good": (True, True), "fair": (False, True), "poor": (False, False), "bad": (False, False)},
        # Nothing was read of the one, and the other was asked to be worse: no review says whether to train on it.
        **{"unread": (None, None), "worst": (None, None)},
    }
    both = [pair for pair in verdicts.values() if pair != (None, None)]
    found = measure_agreement([pair[0] for pair in both], [pair[1] for pair in both])
    # By chance 1/4 * 2/4 + 3/4 * 2/4 = 1/2, so that kappa is (3/4 - 1/2) / (1/2).
    assert (found.rate, found.kappa) == (0.75, 0.5)


def test_kappa_at_its_ends() -> None:
    assert measure_agreement([], []).rate is None
    assert measure_agreement([True, True], [True, True]).kappa is None
    assert measure_agreement([True, False], [False, True]).kappa == -1
    assert measure_agreement([True, False], [True, False]).kappa == 1
    with pytest.raises(ValueError, match="both must judge the same rows, got 1 and 0 verdicts"):
        measure_agreement([True], [])


def test_a_score_of_a_person_is_a_verdict_by_the_recipes_rule() -> None:
    decided = LANCE.decide(ROWS, say(ROWS, "good", "score", score=7), say(ROWS, "fair", "score", score=9))
    assert decided.select("row_id", "model_takes", "person_takes").rows() == [
        ("good", True, False),
        ("fair", False, True),
    ]
