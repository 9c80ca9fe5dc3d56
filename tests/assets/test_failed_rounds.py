"""The last words of a command say why the round failed, and not only that it did."""

from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest

from lance_assets.assets import run as command_line
from lance_assets.assets.location import ENDED_OUTSIDE, explain_failure
from lance_assets.assets.run import FailedRoundError, InterruptedRoundError, run_or_fail
from lance_assets.records import JUDGE_ITEMS
from lance_assets.rounds.judging.report import check_read
from resources.evaluation.evaluator import EvaluationError


@dg.op
def told() -> None:
    """Fails in our words, as every asset does."""
    raise dg.Failure(description="tiny r0001 eval_report: the judge cannot be read") from ValueError("inside")


@dg.op
def raised() -> None:
    """Fails as a library does."""
    raise KeyError("column")


@dg.op(ins={"made": dg.In(dg.Nothing)})
def after() -> None:
    """Is never begun, and has no reason of its own."""


@dg.job
def failing() -> None:
    """Two steps fail, and one depends on one of them."""
    told()
    after(raised())


def test_each_failed_step_says_why_and_those_behind_it_say_nothing() -> None:
    result = failing.execute_in_process(raise_on_error=False)
    failures = [explain_failure(event) for event in result.all_events if event.is_step_failure]
    assert sorted(failures)[1] == "tiny r0001 eval_report: the judge cannot be read"
    assert "'column'" in sorted(failures)[0]
    assert len(failures) == 2


@pytest.mark.parametrize(("checks", "expected"), [([], "out of memory"), (["no_regression: worse"], "worse")])
def test_the_reason_is_the_last_line(monkeypatch: pytest.MonkeyPatch, checks: list[str], expected: str) -> None:
    """That of a blocking check where one stopped the round, and else that of the step."""
    monkeypatch.setattr(command_line, "run_round", lambda *args, **kwargs: ["checkpoint: out of memory"])
    monkeypatch.setattr(command_line, "read_failures", lambda *args: checks)
    with pytest.raises(FailedRoundError) as error:
        run_or_fail(None, SimpleNamespace(name="tiny"), SimpleNamespace(claims=None), "r0001")
    first, *rest = str(error.value).splitlines()
    assert first.startswith("tiny r0001 failed. Correct it and run the command again")
    assert len(rest) == 1
    assert rest[0].endswith(expected)


@pytest.mark.parametrize(
    ("told", "is_interrupted"),
    [
        # As Dagster words it for a step that runs while the command is sent SIGTERM.
        (["tiny__start_checkpoint: dagster._core.errors.DagsterExecutionInterruptedError"], True),
        ([ENDED_OUTSIDE], True),
        (["tiny__checkpoint: out of memory"], False),
    ],
)
def test_a_round_that_is_interrupted_is_told_from_one_that_fails(
    monkeypatch: pytest.MonkeyPatch, told: list[str], is_interrupted: bool
) -> None:
    monkeypatch.setattr(command_line, "run_round", lambda *args, **kwargs: told)
    monkeypatch.setattr(command_line, "read_failures", lambda *args: [])
    with pytest.raises(FailedRoundError) as error:
        run_or_fail(None, SimpleNamespace(name="tiny"), SimpleNamespace(claims=None), "r0001")
    assert isinstance(error.value, InterruptedRoundError) == is_interrupted


def test_a_judge_whose_endings_are_not_forced_is_told_to_force_them() -> None:
    row = {"model": "checkpoint", "outcome": "unread", "own_first_reason": "cut_off", "own_first_text": "A"}
    columns = {name: [row.get(name)] for name in JUDGE_ITEMS}
    items = pl.DataFrame(columns, schema=JUDGE_ITEMS)
    with pytest.raises(EvaluationError, match=r"set evaluation\.judge\.force_ending to true, take a model"):
        check_read(items, max_unread_rate=0.2, forces_endings=False)
    with pytest.raises(EvaluationError, match=r"is 0\.2; take a model"):
        check_read(items, max_unread_rate=0.2)
