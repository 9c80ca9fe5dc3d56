"""The plan of docs/scale.md: what the page says is what the plan says."""

import re
from pathlib import Path

import pytest
import yaml

from lance_assets.assets.deploying.requests import check_requests, tag_step
from lance_assets.assets.deploying.slurm import SLURM_TAG, build_arguments
from lance_assets.forecast.build import Forecast, build_forecast
from lance_assets.rounds.experiments import plan_experiment
from lance_assets.rounds.making.training import choose_launcher
from lance_assets.rounds.nouns import NOUNS, list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings
from resources.training.launching import Processes, describe_machine, read_processes
from tests.forecast.test_forecast import by_name

NAME = "qwen2_72b_lance_64gpu"
NUM_SEEDS = 3_050_000


def load_preset(project_root: Path) -> Plan:
    """The experiment that the page plans."""
    folder = project_root / "deploy" / "experiments" / NAME
    attributes = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]
    return plan_experiment(ExperimentSettings.model_validate(attributes), folder)


@pytest.fixture(scope="module")
def forecast(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    plan = load_preset(project_root)
    assert read_processes(plan.folder / "fsdp.yaml") == Processes(num_processes=64, num_machines=8, is_sharded=True)
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


ROUNDS = ("r0000", "r0001", "r0002", "r0003", "r0004")


def add_up(forecast: Forecast, name: str) -> list[float]:
    """A figure of all stages by round, what is unknown left out, and of all rounds."""
    known = [[getattr(row, name) or 0.0 for row in forecast.rounds[key]] for key in ROUNDS]
    return [*map(sum, known), sum(map(sum, known))]


def test_the_pages_hours_by_round_are_the_plans(project_root: Path, forecast: Forecast) -> None:
    page = (project_root / "docs" / "scale.md").read_text()
    hours, disk = add_up(forecast, "hours"), [gib / 1024 for gib in add_up(forecast, "disk_gib")]
    at_most = add_up(forecast, "hours_at_most")
    for name, figures, form in (
        ("hours, at least", hours, "{:,.0f}"),
        ("hours at most, where every sample is as long as it may be", at_most, "{:,.0f}"),
        ("disk at most, TiB", disk, "{:.1f}"),
    ):
        assert f"| {name} | {' | '.join(map(form.format, figures))} |" in page, name
    assert f"{hours[-1]:,.0f} hours of 64 GPUs are {round(hours[-1] * 64, -2):,.0f} GPU hours" in page
    assert f"**SFT grows by {hours[4] - hours[3]:.0f} hours a round**" in page
    asked = ("seed reviews", "new prompts", "completions", "degraded completions", "reviews", "judged pairs")
    rows = by_name(forecast.rounds["r0004"])
    assert f"the same in each round: {sum(rows[name].hours or 0 for name in asked):.0f} hours" in page


def test_the_pages_memory_is_what_was_measured(project_root: Path) -> None:
    """By the bytes of each row between two sizes that docs/performance.md has."""
    docs = project_root / "docs"
    page, measured = (docs / "scale.md").read_text(), (docs / "performance.md").read_text()
    (line,) = [line for line in measured.splitlines() if line.startswith("| `peak_gib`")]
    few, many = map(float, line.strip("|").split("|")[1:])
    assert f"{few:g} GiB with 5,000 rows and {many:g} GiB with 100,000" in page
    row = (many - few) * 2**30 / (100_000 - 5_000)
    assert f"{row / 1e3:.0f} kB a row" in page
    assert f"38.7 million completions take {round(38.7e6 * row / 1e9, -1):.0f} GB" in page
    assert f"3.9 million completions take {int(3.9e6 * row / 1e9)} GB" in page
    assert 64e9 / row == pytest.approx(3e6, rel=0.1)


def test_the_preset_is_as_the_page_says(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vectors are spread as the page writes it, and its training is one job of eight machines of eight GPUs."""
    plan = load_preset(project_root)
    (told,) = re.findall(r"`embedder: (\{.*?\})`", (project_root / "docs" / "scale.md").read_text())
    embedder = plan.settings.embedder
    assert embedder == type(embedder).model_validate(yaml.safe_load(told))
    monkeypatch.setenv("LANCE_DEPLOYMENT", "slurm")
    check_requests(plan, list_nouns(plan))
    asked = {noun: build_arguments(tag_step(plan, NOUNS[noun])[SLURM_TAG]) for noun in ("checkpoint", "cleaned_set")}
    assert {"--nodes=8", "--ntasks-per-node=1", "--gres=gpu:8"} <= set(asked["checkpoint"])
    assert asked["cleaned_set"][0] == "--ntasks=1"
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "32")
    launcher = choose_launcher(plan.settings.training, plan.folder)
    assert launcher is not None
    assert launcher[:2] == ("srun", "--cpus-per-task=32")
    told_machine = describe_machine(Path(launcher[-1]), {"SLURM_NODEID": "7", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"})
    assert told_machine == ["--machine_rank", "7", "--main_process_ip", "10.0.0.1"]


def test_it_fits_but_for_the_disk_of_this_computer(forecast: Forecast) -> None:
    assert [problem for problem in forecast.problems if not problem.startswith("disk: ")] == []
    assert "72,706,203,648 parameters" in " ".join(forecast.notes)
