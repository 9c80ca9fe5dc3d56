"""What docs/deploy/eight-gpus.md tells a newcomer to write is an experiment, and fits the machine that it names."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lance_assets.assets.graph import build_experiment
from lance_assets.forecast.build import build_forecast, prepare
from lance_assets.forecast.throughput import read_throughput
from lance_assets.rounds.experiments import read_plan
from lance_assets.rounds.plan import Plan
from lance_assets.settings.writing.new_experiment import create_experiment
from tests.forecast.test_forecast import by_name

GIVEN = Path("lance_assets") / "experiments" / "qwen2_7b_lance_8gpu"


@pytest.fixture(scope="module")
def page(project_root: Path) -> str:
    return (project_root / "docs" / "deploy" / "eight-gpus.md").read_text(encoding="utf-8")


def read_block(page: str) -> dict[str, Any]:
    """The sections of the page's only YAML block."""
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    return yaml.safe_load(block)


def follow(page: str, project_root: Path, folder: Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """The experiment that its sections 2 and 3 make: what `lance new` writes, with the block's sections in it."""
    (recipe, profile) = re.findall(r"lance new my_lance --recipe (\w+) --profile (\w+)", page)[0]
    create_experiment(folder / "my_lance", recipe=recipe, profile=profile)
    file = folder / "my_lance" / "defs.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    attributes = content["attributes"] | read_block(page) | (changes or {})
    assert "Delete `parameters` and `seeds.eft_path`" in page
    del attributes["parameters"], attributes["seeds"]["eft_path"]
    file.write_text(yaml.safe_dump(content | {"attributes": attributes}, sort_keys=False), encoding="utf-8")
    assert f"copy it from {GIVEN}" in page
    shutil.copy(project_root / GIVEN / "fsdp.yaml", file.parent)
    return read_plan(file)


def test_the_page_is_an_experiment_that_fits_its_machine(page: str, project_root: Path, tmp_path: Path) -> None:
    plan = follow(page, project_root, tmp_path)
    (machine, num_seeds) = re.findall(r"lance plan my_lance --machine (\w+) --num-seeds (\d+)", page)[0]
    forecast = build_forecast(plan, machine=machine, home=tmp_path, num_seeds=int(num_seeds))
    assert [problem for problem in forecast.problems if not problem.startswith("disk: ")] == []
    # What the page's table of deployments is about is there: the definitions.
    assert build_experiment(plan).assets
    rows = by_name(forecast.rounds["r0001"])
    assert all(rows[name].hours for name in ("seed reviews", "new prompts", "reviews", "SFT", "DPO"))
    work = prepare(plan, read_throughput(), read_throughput().find_machine(machine), num_seeds=int(num_seeds))
    trained = work.trainer.describe(plan.settings.training.sft, is_preference=False)
    assert (trained.num_processes, trained.is_sharded) == (8, True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"engine": {"kind": "vllm", "vllm": {"tensor_parallel_size": 8}}}, "tensor_parallel_size 8 does not divide"),
        ({"training": {"sft": {"batch_size": 16, "max_length": 2048}}}, "shard over more GPUs"),
    ],
)
def test_the_page_tells_what_the_plan_says(
    page: str, project_root: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    """Two mistakes of its table, in the plan's own words."""
    forecast = build_forecast(follow(page, project_root, tmp_path, changes), machine="h100x8", home=tmp_path)
    assert any(told in problem for problem in forecast.problems)
    assert told in page
