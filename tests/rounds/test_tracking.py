"""A finished round in numbers, from its tables; and a tracker that fails is a warning in the report, and no error."""

from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets import extras
from lance_assets.records import CHECKPOINT, CLEANED_SET, EVAL_REPORT, REVIEWED_SET, SFT_SET
from lance_assets.rounds.finished.tracking import collect_round, track_round
from lance_assets.rounds.nouns import compute_code_versions
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.outward import TrackingSettings
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment
from tests.rounds.test_training_report import ROW

WRITES, FAILS = (f"tests.resources.scripted_tracker:{name}" for name in ("write_run", "fail"))


def write_round(tmp_path: Path, *trackers: str) -> tuple[Round, list[str]]:
    """r0001, as if it were finished, and what it logs."""
    said: list[str] = []
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"), tracking={"to": trackers})
    this_round = Round(plan, Platform(str(tmp_path / "data")), "r0001", said.append)
    trained = {"sft_losses": [2.0, 1.0], "dpo_losses": [], "num_tokens": 90, "num_truncated": 1}
    score = {"model": "checkpoint", "benchmark": "small_world", "task": "all", "metric": "greedy", "score": 0.5}
    sft = {"row_id": "a", "prompt": "p", "completion": "c", "source": "generated", "source_round": "r0001"}
    tables = {
        "checkpoint": pl.DataFrame([ROW | trained], schema=CHECKPOINT),
        "eval_report": pl.DataFrame([score | {"higher_is_better": True}], schema=EVAL_REPORT),
        "cleaned_set": pl.DataFrame(
            [{"row_id": str(place), "drop_reason": reason} for place, reason in enumerate([None, "loop", "keyword:x"])],
            schema=CLEANED_SET,
        ),
        "reviewed_set": pl.DataFrame(
            [{"row_id": "a", "review_score": 8.0}, {"row_id": "b", "review_score": None}], schema=REVIEWED_SET
        ),
        "sft_set": pl.DataFrame([sft, sft | {"row_id": "b", "source_round": "r0000"}], schema=SFT_SET),
    }
    for noun in ("preference_pairs", "seed_set", "raw_generations"):
        tables[noun] = this_round.empty(noun)
    for noun, table in tables.items():
        this_round.write(noun, table)
    return this_round, said


def test_losses_scores_counts_and_costs_are_read_from_the_round(tmp_path: Path) -> None:
    this_round, _ = write_round(tmp_path)
    this_round.record_cost("eval_report", 0.0)
    tracked = collect_round(this_round)
    assert tracked.series == {"loss/sft": [2.0, 1.0]}
    known = {
        **{
            "round": 1.0,
            "score/small_world/greedy": 0.5,
            "count/kept": 1.0,
            "dropped/loop": 1.0,
            "dropped/keyword/x": 1.0,
        },
        **{"count/sft_set": 2.0, "count/new_sft_set": 1.0, "review/mean_score": 8.0, "review/unscored_rate": 0.5},
        **{"train/tokens": 90.0, "train/truncated": 1.0},
    }
    assert {name: tracked.values[name] for name in known} == known
    assert tracked.values["cost/seconds"] > 0
    assert "cost/price" not in tracked.values, "no price is known"
    assert tracked.config["recipe"] == "lance"
    assert not any(str(tmp_path) in str(value) for value in tracked.config.values()), "a place is nobody's business"


def test_a_round_that_is_taken_up_is_tracked_once_and_a_failure_is_a_warning(tmp_path: Path) -> None:
    this_round, said = write_round(tmp_path, WRITES, FAILS)
    report = track_round(this_round)
    again = track_round(this_round)
    place, warning = report[f"tracked/{WRITES}"], report[f"tracked/{FAILS}"]
    assert str(place).endswith("runs.jsonl")
    assert str(warning).startswith(f"warning: this round is not in {FAILS}: ")
    assert "no server for lance" in str(warning)
    assert any(text.startswith("warning: tiny r0001 is not in") for text in said)
    assert again[f"tracked/{WRITES}"] == place
    folder = this_round.platform.root / "tracking" / WRITES.replace(":", ".")
    assert len((folder / "calls.txt").read_text().splitlines()) == 1


def test_tracking_is_in_no_identity(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    assert compute_code_versions(plan_tiny(folder)) == compute_code_versions(
        plan_tiny(folder, tracking={"to": [WRITES]})
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"to": ["comet"]}, "there is no tracker 'comet'; name one of trackio, wandb, mlflow"),
        ({"to": ["wandb"], "server": "https://wandb.my-lab.org"}, "online is false; set online: true"),
        ({"to": ["mlflow"], "online": True}, "tracking.online with mlflow needs server"),
        ({"to": ["mlflow"], "online": True, "server": "https://me:secret@lab.org"}, "must hold no key"),
    ],
)
def test_a_mistake_in_the_section_is_told(
    settings: dict[str, object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: object())
    with pytest.raises(ValidationError, match=told):
        TrackingSettings.model_validate(settings)


def test_a_missing_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        ValidationError, match=r"tracking.to: wandb needs the library wandb, .* run pip install .*\[wandb\]"
    ):
        TrackingSettings.model_validate({"to": ["wandb"]})
