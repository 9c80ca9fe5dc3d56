from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.measures.progress import (
    Decision,
    RoundOutcome,
    choose_parent_round,
    decide_next_round,
    find_best_outcome,
    find_best_round,
    format_round,
    list_rejected_rounds,
    parse_round,
)


def outcomes(*scores: float, regressed: tuple[int, ...] = (), num_tokens: int = 100, seconds: float = 1800.0):
    return [
        RoundOutcome(format_round(number), score, number in regressed, num_tokens, seconds)
        for number, score in enumerate(scores)
    ]


def decide(finished: list[RoundOutcome], **rules) -> Decision:
    given_rules = {
        "max_rounds": 4,
        "patience": None,
        "max_tokens": None,
        "max_hours": None,
        "on_regression": "rollback",
    }
    return decide_next_round(finished, **(given_rules | rules))


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_keys_sort_as_numbers(first: int, second: int) -> None:
    assert parse_round(format_round(first)) == first
    assert (format_round(first) < format_round(second)) == (first < second)


@pytest.mark.parametrize("number", [-1, 10_000])
def test_a_number_without_a_key(number: int) -> None:
    with pytest.raises(ValueError, match=rf"in \[0, 9999\], got {number}"):
        format_round(number)


@pytest.mark.parametrize("key", ["r1", "r00001", "0001", "R0001", "r0001\n", "r٠٠٠١", ""])
def test_a_key_without_a_number(key: str) -> None:
    with pytest.raises(ValueError, match="such as r0001; got"):
        parse_round(key)


@given(st.dictionaries(st.integers(0, 50).map(format_round), st.sampled_from([0.1, 0.5, 0.9])))
def test_best_is_the_first_of_the_highest(scores: dict[str, float]) -> None:
    best = find_best_round(scores)
    assert (best is None) == (not scores)
    if best is not None:
        assert all(score < scores[best] or (score == scores[best] and key >= best) for key, score in scores.items())


def test_the_next_round_starts_from_the_one_before() -> None:
    finished = outcomes(0.5, 0.7, 0.6)
    assert choose_parent_round(finished, before="r0003", on_regression="rollback") == "r0002"
    assert choose_parent_round(finished, before="r0001", on_regression="rollback") == "r0000"


def test_after_a_regression_the_best_accepted_round() -> None:
    """r0001 is the best; r0004, on backfill of r0002, sees only what was before it."""
    finished = outcomes(0.5, 0.7, 0.6, 0.3, regressed=(3,))
    assert choose_parent_round(finished, before="r0004", on_regression="rollback") == "r0001"
    assert choose_parent_round(finished, before="r0004", on_regression="continue") == "r0003"
    assert choose_parent_round(finished, before="r0002", on_regression="rollback") == "r0001"
    assert choose_parent_round(outcomes(0.5, regressed=(0,)), before="r0001", on_regression="rollback") == "r0000"


def test_a_round_before_must_be_finished() -> None:
    with pytest.raises(ValueError, match="r0003 starts from r0002, which has no finished eval_report; materialize"):
        choose_parent_round(outcomes(0.5, 0.7), before="r0003", on_regression="rollback")


def test_the_loop_goes_on() -> None:
    assert decide([]) == Decision("r0000", "no round has finished yet")
    assert decide(outcomes(0.5)) == Decision("r0001", "r0000 finished with score 0.500")
    assert decide(outcomes(0.5, 0.6, 0.4)).next_round == "r0003"


@pytest.mark.parametrize(
    ("finished", "rules", "reason"),
    [
        (outcomes(0.5), {"max_rounds": 0}, "r0000 is the last of max_rounds=0"),
        (outcomes(0.5, 0.6), {"max_rounds": 1}, "r0001 is the last of max_rounds=1"),
        (
            outcomes(0.5, 0.3, regressed=(1,)),
            {"on_regression": "stop"},
            "r0001 regressed against r0000 beyond the noise band",
        ),
        (outcomes(0.5, 0.6, 0.6, 0.5), {"patience": 2}, "no gain over r0001 for patience=2 rounds"),
        (outcomes(0.5, 0.6), {"max_tokens": 200}, "200 tokens sampled, the budget is max_tokens=200"),
        (outcomes(0.5, 0.6), {"max_hours": 1.0}, "1.00 hours spent, the budget is max_hours=1.0"),
    ],
)
def test_every_rule_ends_the_loop_and_says_so(finished: list[RoundOutcome], rules: dict, reason: str) -> None:
    assert decide(finished, **rules) == Decision(None, reason)


def test_rules_that_are_not_met_yet() -> None:
    assert decide(outcomes(0.5, 0.6, 0.6), patience=2).next_round == "r0003"
    assert decide(outcomes(0.5, 0.6), max_tokens=201, max_hours=1.01).next_round == "r0002"
    assert decide(outcomes(0.5, 0.3, regressed=(1,)), on_regression="rollback").next_round == "r0002"


@given(st.lists(st.floats(0, 1), max_size=8), st.integers(0, 6), st.none() | st.integers(1, 3))
def test_the_next_round_is_the_one_after_and_never_above_the_last(
    scores: list[float], max_rounds: int, patience: int | None
) -> None:
    decision = decide(outcomes(*scores), max_rounds=max_rounds, patience=patience)
    assert decision.reason
    if decision.next_round is not None:
        assert parse_round(decision.next_round) == len(scores) <= max_rounds


def perplexities(*scores: float, regressed: tuple[int, ...] = ()) -> list[RoundOutcome]:
    return [replace(one, higher_is_better=False) for one in outcomes(*scores, regressed=regressed)]


def test_where_lower_is_better_the_lowest_is_the_best() -> None:
    finished = perplexities(20.0, 12.3, 40.0, regressed=(2,))
    assert find_best_outcome(finished) == "r0001"
    assert choose_parent_round(finished, before="r0003", on_regression="rollback") == "r0001"
    assert decide(finished, on_regression="stop").reason == "r0002 regressed against r0001 beyond the noise band"
    assert decide(perplexities(20.0, 12.3, 12.2), patience=1).next_round == "r0003"
    assert decide(perplexities(20.0, 12.3, 12.4), patience=1).reason == "no gain over r0001 for patience=1 rounds"


def breaking(finished: list[RoundOutcome], *numbers: int) -> list[RoundOutcome]:
    """The same rounds, some of which break a floor."""
    return [
        replace(one, broken_floors=("gsm8k acc is 0.1, below the floor 0.5",)) if number in numbers else one
        for number, one in enumerate(finished)
    ]


@pytest.mark.parametrize("rule", ["rollback", "continue"])
def test_nothing_is_built_on_a_round_that_breaks_a_floor(rule: str) -> None:
    """r0002 has the best headline; r0001 is the best of the others."""
    finished = breaking(outcomes(0.5, 0.7, 0.9), 2)
    assert list_rejected_rounds(finished, on_regression=rule) == ["r0002"]
    assert choose_parent_round(finished, before="r0003", on_regression=rule) == "r0001"
    assert decide(finished, on_regression=rule).next_round == "r0003"
    assert find_best_outcome(finished) == "r0001"
    assert decide(finished, on_regression="stop").reason == (
        "r0002 breaks a floor: gsm8k acc is 0.1, below the floor 0.5"
    )


def test_without_a_round_that_keeps_its_floors_the_loop_ends() -> None:
    finished = breaking(outcomes(0.5, 0.7), 0, 1)
    assert decide(finished).reason == "every round breaks a floor: gsm8k acc is 0.1, below the floor 0.5"
    with pytest.raises(ValueError, match=r"r0002 has nothing to start from: .* r0001 because gsm8k acc is 0.1, below"):
        choose_parent_round(finished, before="r0002", on_regression="rollback")


def test_only_a_rollback_rejects_a_regression() -> None:
    finished = outcomes(0.5, 0.3, regressed=(1,))
    assert list_rejected_rounds(finished, on_regression="rollback") == ["r0001"]
    assert list_rejected_rounds(finished, on_regression="continue") == []
