import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import dagster as dg
import pytest

from lance_assets.assets.experiment import Experiment
from lance_assets.assets.loading import BrokenExperimentsError, define_experiments, load_experiments
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.home import list_folders
from lance_assets.rounds.experiments import find_plan, load_plans
from lance_assets.rounds.plan import Plan
from lance_assets.settings.file import find_line
from lance_assets.step_processes import MODELS, PRELOADED

EXPERIMENT = "lance_assets.assets.experiment.Experiment"
FINE = """\
type: lance_assets.assets.experiment.Experiment

attributes:
  recipe: lance
  model: small # path: not here
  seeds:
    path: seeds.jsonl
  parameters: {branch_threshold: 7, max_seeds: 24}
  training:
    sft: {learning_rate: 1.0e-4, batch_size: 8}
  evaluation:
    world: {name: lance_assets.small_world:WORLD, per_stratum: 2}
"""
ABOVE_BATCH_SIZE = "{learning_rate: 1.0e-4, batch_size"


def place(folder: Path, name: str, text: str | bytes = FINE) -> Path:
    """An experiment of that name with its seed file."""
    file = folder / name / "defs.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    (file.parent / "seeds.jsonl").write_text('{"prompt": "Sort 3 1 2.", "completion": "1 2 3"}\n')
    return file


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder of experiments with a fine one."""
    place(tmp_path, "fine")
    return tmp_path


WRONG = {
    "wrong_field": (
        "  parameters",
        "  parameter",
        [
            ":8: attributes.parameter: no such field (got {'branch_threshold': 7",
            "did you mean 'parameters'? The fields here",
        ],
    ),
    "nested_field": (
        ABOVE_BATCH_SIZE,
        "{batch_sizes",
        [":10: attributes.training.sft.batch_sizes: no such", "'batch_size'?"],
    ),
    "parameter": (
        "max_seeds",
        "max_seed",
        [":8: attributes.parameters.max_seed: no such field (got 24); did you mean 'max_seeds'? The fields here are "],
    ),
    "wrong_type": ("24", "many", [":8: attributes.parameters.max_seeds: got 'many'; input should be a valid integer"]),
    "out_of_range": (
        "7, ",
        "70, ",
        [":8: attributes.parameters.branch_threshold: got 70; ", "less than or equal to 10"],
    ),
    "unknown_recipe": (
        "lance\n  m",
        "lanse\n  m",
        [":4: attributes.recipe: got 'lanse'; there is no recipe 'lanse'; choose"],
    ),
    "missing_field": (
        "  model: small # path: not here\n",
        "",
        [":3: attributes.model: a required field is missing; add"],
    ),
    "missing_file": (
        "path: seeds",
        "path: nowhere/seeds",
        [":7: attributes.seeds.path: got 'nowhere/seeds.jsonl', but there is no ", "correct the path"],
    ),
    "missing_judge_file": (
        "world: {name: lance_assets.small_world:WORLD, per_stratum: 2}",
        "judge: {path: nowhere.jsonl, model: small}",
        [":12: attributes.evaluation.judge.path: got 'nowhere.jsonl', but there is no ", "correct the path"],
    ),
    "judge_field": (
        "world: {name: lance_assets.small_world:WORLD, per_stratum: 2}",
        "judge: {path: seeds.jsonl, model: small, opponents: backbone}",
        [":12: attributes.evaluation.judge.opponents: no such field", "did you mean 'opponent'?"],
    ),
    "judge_value": (
        "world: {name: lance_assets.small_world:WORLD, per_stratum: 2}",
        "judge: {path: seeds.jsonl, model: small, by: vote}",
        [":12: attributes.evaluation.judge.by: got 'vote'; input should be 'verdict' or 'score'"],
    ),
    "filter_name": (
        "  parameters",
        "  filters: [{name: wrods}]\n  parameters",
        [":8: attributes.filters.0: there is no filter 'wrods'; name one of answer, chatter, "],
    ),
    "filter_setting": (
        "  parameters",
        "  filters:\n  - {name: words}\n  - {name: words, max_word: 3}\n  parameters",
        [":10: attributes.filters.1.max_word: no such field (got 3); did you mean 'max_words'? The fields here are "],
    ),
    "filter_value": (
        "  parameters",
        "  filters: [{name: words, of: answer}]\n  parameters",
        [":8: attributes.filters.0.of: got 'answer'; input should be 'prompt' or 'completion' (Which text of a row"],
    ),
    "not_set": (
        "small #",
        "${NOT_SET_ANYWHERE} #",
        [":5: attributes.model: got '${NOT_", "is not set; set it, or write"],
    ),
    "owner": ("  recipe", "  owners: [me]\n  recipe", [":4: attributes.owners.0: got 'me'; ", "team:name"]),
    "no_metric": (
        "    world: {name: lance_assets.small_world:WORLD, per_stratum: 2}",
        "    protected_field: p",
        [":3: attributes: evaluation needs world"],
    ),
    "broken_yaml": (
        "path: seeds.jsonl",
        "path: {seeds",
        [":8: not YAML at column 13: ", "correct the line or one above it"],
    ),
    "tab": ("  recipe", "\trecipe", [":4: not YAML at column 1: found character"]),
    "other_type": (
        "t.Experiment",
        "t.Experimnt",
        [
            ":1: type: got 'lance_assets.assets.experiment.Experimnt'; the type of an experiment is ",
            "lance_assets.Experiment or .Experiment or ",
        ],
    ),
    "no_type": ("type: lance_assets.assets.experiment.Experiment", "", [":1: type: a required field is missing; add"]),
    "misspelt_attributes": ("attributes:", "atributes:", [":3: atributes: no such field; did you mean 'attributes'? "]),
    "UpperCase": ("", "", [": an experiment's folder is named in lower case letters, digits and _, got 'UpperCase'"]),
    "with-dash": ("", "", [": an experiment's folder is named in lower case letters, digits and _, got 'with-dash'"]),
}
"""By the experiment's name: what stands in the fine file, what instead, and what the error says."""


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_experiment_is_left_out_and_says_why(shelf: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    old, new, said = WRONG[name]
    assert old in FINE
    file = place(shelf, name, FINE.replace(old, new, 1) if old else FINE)
    loaded = define_experiments(load_plans([shelf]))
    defs, text = loaded[name]
    assert isinstance(text, str)
    assert text.startswith(str(file.parent))
    assert "\n" not in text
    assert "pydantic" not in text
    for words in said:
        assert words in text
    assert text in caplog.text
    (spec,) = defs.resolve_all_asset_specs()
    assert spec.key == dg.AssetKey([name, "broken_experiment"])
    assert spec.metadata["error"] == dg.MetadataValue.text(text)
    assert text in (spec.description or "")
    plan = loaded["fine"][1]
    assert isinstance(plan, Plan)
    assert plan.name == "fine"
    machines = dg.Definitions(resources={"platform": PlatformResource(data_root=str(shelf))})
    both = dg.Definitions.merge(load_experiments([shelf]), machines)
    keys = {key.path[0] for key in both.resolve_all_asset_keys()}
    assert keys == {"fine", name, "leaderboard"}


def test_a_parameter_of_another_recipe_is_told_with_those_of_its_own(shelf: Path) -> None:
    """DiverseEvol samples nothing."""
    text = FINE.replace("recipe: lance", "recipe: diverse_evol")
    file = place(shelf, "pool", text.replace("{branch_threshold: 7, max_seeds: 24}", "{temperature: 0.7}"))
    told = load_plans([shelf])["pool"]
    assert told == (
        f"{file}:8: attributes.parameters.temperature: no such field (got 0.7); The fields here are "
        "starts_from, trains_on, losses, sft_on_seeds, num_first, num_picks, method, states_of"
    )


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"- 1\n", FINE.encode() + b"---\n" + FINE.encode()])
def test_a_file_that_is_no_experiment_at_all(shelf: Path, text: bytes) -> None:
    file = place(shelf, "broken", text)
    loaded = load_plans([shelf])
    assert isinstance(loaded["fine"], Plan)
    assert str(loaded["broken"]).startswith(str(file))


def test_every_mistake_of_a_file_is_told_at_once(shelf: Path) -> None:
    place(shelf, "wrong", FINE.replace("small #", "3 #").replace("24", "0").replace("8}", "-8}"))
    lines = str(load_plans([shelf])["wrong"]).splitlines()
    assert [line.split(": ")[1].removeprefix("attributes.") for line in lines] == [
        "parameters.max_seeds",
        "model",
        "training.sft.batch_size",
    ]


def test_validation_fails_where_the_ui_leaves_out(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(shelf, "wrong", FINE.replace("24", "0"))
    place(shelf, "lost", FINE.replace("seeds.jsonl", "lost.jsonl"))
    load_experiments([shelf])
    monkeypatch.setenv("DAGSTER_IS_DEFS_VALIDATION_CLI", "1")
    with pytest.raises(BrokenExperimentsError, match=r"lost/defs.yaml:7: .*\n.*wrong/defs.yaml:8: .*max_seeds: got 0;"):
        load_experiments([shelf])


def test_shipped_experiments_load() -> None:
    loaded = load_plans()
    assert {"mini_lance", "gsm8k_lance"} <= set(loaded)
    assert [plan for plan in loaded.values() if isinstance(plan, str)] == []


def test_experiments_lie_in_the_folders_of_the_variable(
    shelf: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    place(other, "second")
    monkeypatch.setenv("LANCE_EXPERIMENTS", f"{shelf}{os.pathsep}{other}")
    assert list(load_plans()) == ["fine", "second"]
    assert find_plan("second").folder == other / "second"
    machines = dg.Definitions(resources={"platform": PlatformResource(data_root=str(shelf))})
    keys = {key.path[0] for key in dg.Definitions.merge(load_experiments(), machines).resolve_all_asset_keys()}
    assert keys == {"fine", "second", "leaderboard"}
    monkeypatch.setenv("LANCE_EXPERIMENTS", f"shipped{os.pathsep}{shelf}")
    assert {"mini_lance", "fine"} <= set(load_plans())


def test_two_experiments_of_one_name_are_both_left_out(
    shelf: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would share their data."""
    other = tmp_path_factory.mktemp("other")
    second = place(other, "fine")
    monkeypatch.setenv("LANCE_EXPERIMENTS", f"{shelf}{os.pathsep}{other}")
    said = load_plans()["fine"]
    assert said == f"{shelf / 'fine' / 'defs.yaml'}: {second} has the same name 'fine'; rename one of the two folders"


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_EXPERIMENTS", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"LANCE_EXPERIMENTS names .*nowhere, which is not a folder; create it, or"):
        list_folders()


@pytest.mark.parametrize(
    ("name", "said"),
    [("nobody", r"no experiment 'nobody' in .*; there are: fine, wrong"), ("wrong", r"'wrong' is broken: .*:8: ")],
)
def test_an_experiment_that_cannot_be_found(shelf: Path, name: str, said: str) -> None:
    place(shelf, "wrong", FINE.replace("24", "0"))
    with pytest.raises(ValueError, match=said):
        find_plan(name, load_plans([shelf]))


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("recipe", 4),
        ("seeds.path", 7),
        ("parameters.max_seeds", 8),
        ("training.sft.batch_size", 10),
        ("training.dpo.batch_size", None),
        ("recipe.name", None),
        ("path", None),
    ],
)
def test_the_line_of_a_field(shelf: Path, field: str, line: int | None) -> None:
    assert find_line(shelf / "fine" / "defs.yaml", field) == line


def run_dg(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(project), "COLUMNS": "400"}
    command = [str(Path(sys.executable).with_name("dg")), *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    """A copy of this project with a fine experiment and three broken ones."""
    project = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__", "experiments", "model", ".*")
    for name in ("lance_assets", "resources"):
        shutil.copytree(project_root / name, project / name, ignore=ignored)
    for name in ("pyproject.toml", "definitions.py"):
        shutil.copy(project_root / name, project / name)
    experiments = project / "lance_assets" / "experiments"
    place(experiments, "fine")
    place(experiments, "out_of_range", FINE.replace("7, ", "70, "))
    place(experiments, "misspelt", FINE.replace("training:", "trainings:"))
    place(experiments, "lost", FINE.replace("path: seeds", "path: nowhere/seeds"))
    (experiments / "__init__.py").touch()
    for name in ("fine", "out_of_range", "misspelt", "lost"):
        file = experiments / name / "defs.yaml"
        file.write_text(file.read_text().replace(EXPERIMENT, ".Experiment"))
        shutil.copy(project_root / "lance_assets" / "experiments" / "mini_lance" / "__init__.py", file.parent)
    return project


@pytest.mark.slow
def test_dg_check_yaml_names_file_line_field_value_and_what_is_allowed(project: Path) -> None:
    """Of every file: Dagster's command checks one file of each type, which is why each experiment has its own."""
    checked = run_dg(project, "check", "yaml")
    assert checked.returncode == 1
    assert "out_of_range/defs.yaml:8 - " in checked.stdout
    assert "Experiment attributes.parameters.branch_threshold 70 is greater than the maximum of 10" in checked.stdout
    assert "misspelt/defs.yaml:9 - " in checked.stdout
    assert "'trainings' is not one of ['recipe', 'parameters', 'model'," in checked.stdout
    assert "fine/defs.yaml" not in checked.stdout


def test_every_shipped_experiment_has_a_type_of_its_own(project_root: Path) -> None:
    for file in (project_root / "lance_assets" / "experiments").glob("*/defs.yaml"):
        assert file.read_text().startswith("type: .Experiment\n"), f"{file}: dg check yaml would check one of several"
        own = import_module(f"lance_assets.experiments.{file.parent.name}")
        assert own.__file__, f"{file.parent} has no __init__.py, which defines the type of its file"
        assert own.Experiment is Experiment


@pytest.mark.slow
def test_dg_check_defs_tells_of_every_broken_experiment(project: Path) -> None:
    checked = run_dg(project, "check", "defs", "--no-check-yaml")
    assert checked.returncode == 1
    said = checked.stdout + checked.stderr
    assert "lost/defs.yaml:7: attributes.seeds.path: got 'nowhere/seeds.jsonl', but there is no" in said
    assert "out_of_range/defs.yaml:8: attributes.parameters.branch_threshold: got 70; input should be less" in said


@pytest.mark.slow
def test_what_the_fork_server_imports_starts_no_thread_and_asks_no_device(project_root: Path) -> None:
    """A thread does not survive a fork, and CUDA that was asked before a fork cannot be used after it."""
    code = """if True:
        import importlib, os, sys, threading
        for name in sys.argv[2:]:
            importlib.import_module(name)
        before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
        absent = [name not in sys.modules for name in ("torch", "lancedb")]
        import torch
        asked = []
        for name in ("is_available", "device_count", "_lazy_init"):
            setattr(torch.cuda, name, lambda *given, name=name, **named: asked.append(name) or 0)
        for name in sys.argv[1].split(","):
            importlib.import_module(name)
        after = len(os.listdir("/proc/self/task")) if before else 0
        print(threading.active_count(), absent, "lancedb" in sys.modules, asked, after - before)
    """
    command = [sys.executable, "-c", code, ",".join(MODELS), *PRELOADED]
    environment = os.environ | {"PYTHONPATH": str(project_root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 [True, True] False [] 0"
    assert "lance_namespace" in PRELOADED
