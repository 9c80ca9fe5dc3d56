"""The plan of docs/scale.md: what the page says is what the plan says."""

from pathlib import Path

import pytest
import yaml

from lance_assets.forecast.build import Forecast, build_forecast
from lance_assets.rounds.experiments import plan_experiment
from lance_assets.settings.experiment import ExperimentSettings
from resources.training.launching import read_processes
from tests.forecast.test_forecast import by_name

NAME = "qwen2_72b_lance_64gpu"
NUM_SEEDS = 3_050_000


@pytest.fixture(scope="module")
def forecast(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    folder = project_root / "deploy" / "experiments" / NAME
    attributes = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]
    plan = plan_experiment(ExperimentSettings.model_validate(attributes), folder)
    assert read_processes(folder / "fsdp.yaml") == (64, True)
    home = tmp_path_factory.mktemp("home")
    return build_forecast(plan, machine="h100x64", num_seeds=NUM_SEEDS, home=home)


def test_the_page_has_the_plans_figures(project_root: Path, forecast: Forecast) -> None:
    page = (project_root / "docs" / "scale.md").read_text()
    rows = by_name(forecast.rounds["r0004"])
    for name, unit, row in (
        ("new prompts", "million", rows["new prompts"].rows),
        ("completions", "million", rows["completions"].rows),
        ("reviews", "million", rows["reviews"].rows),
        ("SFT on the sets of all rounds", "million", rows["SFT"].rows),
    ):
        assert row is not None
        assert f"| {name} | {row / 1e6:.1f} {unit}" in page
    for name in ("seed reviews", "new prompts", "completions", "degraded completions", "reviews", "DPO"):
        hours, memory = rows[name].hours, rows[name].gib
        assert hours is not None
        assert memory is not None
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        assert line.endswith(f"| {memory:.1f} | {hours:.1f} |")


def test_it_fits_but_for_the_disk_of_this_computer(forecast: Forecast) -> None:
    assert [problem for problem in forecast.problems if not problem.startswith("disk: ")] == []
    assert "72,706,203,648 parameters" in " ".join(forecast.notes)
