"""A task file of the harness is data, until the experiment allows what it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.rounds.experiments import read_plan
from lance_assets.settings.task_files import find_task_code

FILE = """
type: lance_assets.Experiment
attributes:
  recipe: lance
  model: small
  prompt_profile: compact
  seeds: {path: seeds.jsonl}
  evaluation:
    lm_eval: {tasks: [mine], include_path: tasks}
"""
TASK = "task: mine\ndataset_path: json\noutput_type: generate_until\ndoc_to_text: '{{question}}'\n"
RUNS = {
    "custom_dataset: !function mine.load": "!function mine.load",
    "process_docs: !!python/name:os.system": "python/name:os.system",
    "metric_list:\n  - metric: exact_match\n    hf_evaluate: true": "hf_evaluate: true",
    "metric_list:\n  - metric: ../scripts/mine.py": "metric: ../scripts/mine.py",
    "filter_list:\n  - filter:\n      - {function: custom, filter_fn: !function mine.pick}": "!function mine.pick",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "tasks").mkdir(parents=True)
    (folder / "seeds.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    (folder / "tasks" / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    (folder / "defs.yaml").write_text(FILE)
    return folder / "defs.yaml"


@pytest.mark.parametrize("line", RUNS, ids=list(RUNS.values()))
def test_task_code_is_an_error_that_names_file_and_line_until_it_is_allowed(file: Path, line: str) -> None:
    task = file.parent / "tasks" / "mine.yaml"
    task.write_text(f"{TASK}{line}\n")
    with pytest.raises(ValueError, match="allow_task_code: true") as error:
        read_plan(file)
    told = str(error.value)
    number = next(number for number in range(5, 10) if f"{task}:{number}: " in told)
    assert RUNS[line].rpartition(":")[2].split()[-1] in task.read_text().splitlines()[number - 1]
    assert RUNS[line] in told
    file.write_text(FILE.replace("    lm_eval:", "    allow_task_code: true\n    lm_eval:"))
    read_plan(file)
    assert not (file.parents[1] / "ran").exists()


def test_what_a_task_includes_is_looked_into_and_the_harnesss_own_files_are_not(file: Path, tmp_path: Path) -> None:
    import importlib.util

    folder = file.parent / "tasks"
    elsewhere = tmp_path / "base.yml"
    elsewhere.write_text(f"{TASK}process_docs: !function mine.load\ninclude: {folder / 'mine.yaml'}\n")
    (folder / "mine.yaml").write_text(f"include: {elsewhere}\ntask: mine\n")
    (found,) = find_task_code(["mine"], folder)
    assert (found.file, found.line) == (elsewhere, 5)
    own = Path(str(importlib.util.find_spec("lm_eval").origin)).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    (folder / "mine.yaml").write_text(f"include: {own}\ntask: mine\n")
    assert find_task_code(["mine", "hellaswag"], folder) == []


def test_a_task_file_that_cannot_be_read_is_an_error_and_no_task_less(file: Path) -> None:
    (file.parent / "tasks" / "mine.yaml").write_text("task: [mine\n")
    with pytest.raises(ValueError, match=r"mine\.yaml:\d+: not YAML: .*; correct the line"):
        read_plan(file)


@given(st.text(st.sampled_from("task: !function a.b\n-{}[],&*'\"|>%@\t\x00\ud800"), max_size=60))
def test_any_text_is_looked_into(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("tasks") / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    for found in find_task_code([], file.parent):
        assert found.what
        assert found.line >= 1


HELD = "{{ cycler.__init__.__globals__.os.system('touch RAN') }}"
PROBE = """
import sys
from pathlib import Path
from resources.evaluation.harness_worker import TaskCodeError, confine
from lm_eval import utils
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.api.registry import get_metric
folder, allowed = Path(sys.argv[1]), sys.argv[2] == "allowed"
confine(allows_code=allowed)
print(utils.apply_template("{{a | regex_replace('b', 'c')}}", {"a": "abb"}))
try:
    print(utils.apply_template((folder / "held.txt").read_text(), {}))
except Exception as error:
    print("template:", type(error).__name__)
try:
    print(load_yaml(folder / "mine.yaml")["custom_dataset"]())
except TaskCodeError as error:
    print("function:", error)
get_metric(str(folder / "metric.py"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("allowed", ["allowed", "forbidden"])
def test_the_harness_runs_what_is_allowed_of_a_task(tmp_path: Path, project_root: Path, allowed: str) -> None:
    """In a process of its own, as the evaluation starts it. A template never runs code."""
    (tmp_path / "mine.yaml").write_text(f"{TASK}custom_dataset: !function mine.load\n")
    (tmp_path / "mine.py").write_text("def load():\n    return 'loaded'\n")
    (tmp_path / "metric.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w').close()\n")
    (tmp_path / "held.txt").write_text(HELD.replace("RAN", str(tmp_path / "RAN")))
    command = [sys.executable, "-c", PROBE, str(tmp_path), allowed]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:2] == ["acc", "template: SecurityError"]
    if allowed == "allowed":
        assert said[2] == "loaded"
    else:
        assert "would run Python, and evaluation.allow_task_code is false" in said[2]
        assert str(tmp_path) in said[2]
        assert not (tmp_path / "RAN").exists()
