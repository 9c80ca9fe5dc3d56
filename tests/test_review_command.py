"""`lance review`: what it prints, takes and refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lance_assets.cli.app import app
from lance_assets.records import REVIEWED_SET
from lance_assets.rounds.deciding.asked import note_waiting
from lance_assets.rounds.deciding.decisions import read_ledger
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment
from tests.rounds.decided_rows import review, table

ROWS = table(review("good", 9.0), review("fair", 6.0), review("poor", 2.0), review("s", 9.0, "seed"))

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(data_root=str(tmp_path / "data"))


@pytest.fixture
def call(tmp_path: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command on a round that waits; what it ends with, prints, and says of a mistake."""
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"), human_review="all")
    platform.tables.write("tiny", "r0001", "reviewed_set", ROWS, schema=REVIEWED_SET)
    note_waiting(Round(plan, platform, "r0001", lambda _: None))
    monkeypatch.setattr("lance_assets.rounds.experiments.find_plan", lambda _: plan)
    monkeypatch.setattr("lance_assets.cli.reading.open_platform", lambda: platform)

    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, ["review", "tiny", *arguments])
        mistake = result.exception if isinstance(result.exception, Exception) else None
        return result.exit_code, result.output, "" if mistake is None else str(mistake)

    return run


def list_decided(platform: Platform) -> list[tuple[str, str, float | None]]:
    return sorted((one.completion, one.action, one.score) for one in read_ledger(platform.root, "tiny").decisions)


def test_what_waits_is_printed_whole(call: Call) -> None:
    code, shown, _ = call()
    assert code == 0
    for row in ROWS.filter(kind="completion").to_dicts():
        assert row["row_id"] in shown
        assert row["completion"] in shown
    assert "3" in shown


def test_single_decisions_and_the_rest(call: Call, platform: Platform) -> None:
    texts = dict(ROWS.select("row_id", "completion").iter_rows())
    code, shown, _ = call("--reject", "poor", "--note", "wrong sum", "--who", "Ann", "--score", "fair=7.5")
    assert code == 0
    assert "2 new decisions are kept" in shown
    assert "1 of 3 rows wait" in shown
    assert call("--accept", "rest", "--who", "Bo")[0] == 0
    assert list_decided(platform) == sorted(
        [(texts["poor"], "reject", None), (texts["fair"], "score", 7.5), (texts["good"], "accept", None)]
    )
    assert "all 3 rows are decided, and the round goes on" in call()[1]


@pytest.mark.parametrize("form", ["jsonl", "label-studio"])
def test_rows_go_out_into_a_file_and_back(call: Call, platform: Platform, tmp_path: Path, form: str) -> None:
    file = tmp_path / "rows.json"
    code, shown, _ = call("--out", str(file), "--format", form)
    assert code == 0
    assert f"--back {file}" in shown
    if form == "jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line | {"decision": "reject", "who": "Ann"}) + "\n" for line in lines))
    else:
        assert file.with_suffix(".xml").read_text().lstrip().startswith("<View>")
        choice = {"type": "choices", "from_name": "decision", "to_name": "prompt", "value": {"choices": ["reject"]}}
        annotation = {"result": [choice], "completed_by": {"email": "ann@example.org"}}
        tasks = json.loads(file.read_text())
        file.write_text(
            json.dumps([task | {"id": place, "annotations": [annotation]} for place, task in enumerate(tasks)])
        )
    code, shown, told = call("--back", str(file))
    assert (code, told) == (0, "")
    assert "3 new decisions are kept" in shown
    assert {action for _, action, _ in list_decided(platform)} == {"reject"}
    # A file that is taken twice changes nothing.
    assert "0 new decisions are kept" in call("--back", str(file))[1]
    assert len(list_decided(platform)) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--accept", "nobody"), "nobody"),
        (("--score", "fair"), "--score takes ROW=SCORE, got 'fair'"),
        (("--score", "fair=high"), "--score takes ROW=SCORE, got 'fair=high'"),
        (("--edit", "fair"), "--edit ROW and --completion TEXT go together"),
        (("--accept", "fair", "--out", "rows.jsonl"), "exclude each other"),
        (("--out", "rows.jsonl", "--format", "csv"), "--format is one of jsonl, label-studio, got 'csv'"),
    ],
)
def test_a_mistake_is_told_and_keeps_nothing(
    call: Call, platform: Platform, arguments: tuple[str, ...], told: str
) -> None:
    code, _, mistake = call(*arguments)
    assert code != 0
    assert told in mistake
    assert list_decided(platform) == []


def test_an_experiment_that_asks_nobody(
    tmp_path: Path, call: Call, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_tiny(write_tiny_experiment(tmp_path / "other"))
    monkeypatch.setattr("lance_assets.rounds.experiments.find_plan", lambda _: plan)
    code, _, told = call()
    assert code != 0
    assert "asks nobody: human_review is none" in told
    assert "sample 20" in told
