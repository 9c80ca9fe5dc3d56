"""A round of a whole experiment goes out: exported, tracked, and with the licences of its seeds."""

import json
from pathlib import Path

import polars as pl
import pytest

from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import build_tiny_settings, find_failures, open_world

TRACKER = "tests.resources.scripted_tracker:write_run"


@pytest.mark.slow
def test_rounds_are_exported_and_tracked_with_the_licences_of_their_seeds(tmp_path: Path) -> None:
    seeds = build_tiny_settings().seeds.model_dump(exclude_none=True) | {"license": "mit", "source": "a book"}
    section = {
        "seeds": seeds,
        "export": {"to": str(tmp_path / "out")},
        "tracking": {"to": [TRACKER]},
        "filters": [
            {"name": "license", "allowed": ["mit"]},
            {"name": "refusal"},
            {"name": "script", "allowed": ["Latin"]},
        ],
    }
    with open_world(tmp_path / "world", **(SCRIPTED | section)) as world, without_drawing():
        for key in ("r0000", "r0001"):
            result = world.run(key)
            assert result.success, find_failures(result)
        shown = {noun: world.metadata(noun, "r0001") for noun in ("export", "eval_report", "seed_set")}
        origins, sft = (world.round("r0001").read(noun) for noun in ("seed_origins", "sft_set"))
        seeds_of_round = world.round("r0001").read("seed_set")
        root, name = world.round("r0001").platform.root, world.plan.name
    assert set(origins["row_id"]) == set(seeds_of_round["row_id"])
    assert origins["licenses"].to_list() == [["mit"]] * len(origins)
    folder = tmp_path / "out" / name / "r0001"
    exported = pl.read_parquet(folder / "sft.parquet")
    assert len(exported) == len(sft) > 0
    of_seeds = exported.filter(pl.col("source") != "eft")
    assert of_seeds["licenses"].to_list() == [["mit"]] * len(of_seeds)
    assert of_seeds["sources"].to_list() == [["a book"]] * len(of_seeds)
    assert str(folder) in str(shown["export"]["path"])
    lines = (root / "tracking" / TRACKER.replace(":", ".") / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"].rpartition("-")[0] for line in lines] == [f"{name}-r0000", f"{name}-r0001"]
    assert json.loads(lines[1])["values"]["count/sft_set"] == len(sft)
    assert "runs.jsonl" in str(shown["eval_report"][f"tracked/{TRACKER}"])
