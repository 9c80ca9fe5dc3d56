"""The harness's list of its own tasks is the same from memory as from its files."""

import sys
from pathlib import Path

import pytest

from resources.evaluation.lean_harness import without_modules

TASK = "dataset_path: json\ntest_split: test\ndoc_to_text: q\ndoc_to_target: a\n"


@pytest.mark.slow
def test_what_is_remembered_of_tasks_is_what_the_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks._index import TaskIndex

    from resources.evaluation import task_index

    installed, own = tmp_path / "installed", tmp_path / "own"
    for folder in (installed, own):
        folder.mkdir()
    (installed / "b.yaml").write_text(f"task: b\ntag: [letters, few]\n{TASK}")
    (installed / "a.yaml").write_text(f"include: b.yaml\ntask: a\ntag: letters\n{TASK}")
    (installed / "both.yaml").write_text("group: both\ntask: [a, b]\n")
    (installed / "broken.yaml").write_text("no: task\n")
    (own / "a.yaml").write_text(f"task: a\n{TASK}")
    monkeypatch.setattr(task_index, "OWN", installed)
    monkeypatch.setattr(task_index, "name_installed", lambda: f"{tmp_path} version 1")
    wanted = TaskIndex.build([installed, own])
    reads = []

    def build(paths: list[Path], *, resolve_includes: bool = True) -> dict:
        reads.extend(paths)
        return TaskIndex.build(paths, resolve_includes=resolve_includes)

    monkeypatch.setattr(task_index, "_build", build)
    for _ in range(2):
        found = task_index.build_index([installed, own])
        assert list(found) == list(wanted)
        for name, entry in wanted.items():
            assert (found[name].kind, found[name].yaml_path) == (entry.kind, entry.yaml_path)
            assert found[name].tags == entry.tags
    assert reads == [installed, own, own], "the installed files are read once, a person's own each time"
    monkeypatch.setattr(task_index, "name_installed", lambda: f"{tmp_path} version 2")
    (installed / "c.yaml").write_text(f"task: c\n{TASK}")
    assert "c" in task_index.build_index([installed]), "another installation is read again"
    monkeypatch.setattr(task_index, "name_installed", lambda: None)
    (installed / "d.yaml").write_text(f"task: d\n{TASK}")
    assert "d" in task_index.build_index([installed]), "what nothing identifies is read each time"


def test_a_module_is_absent_for_a_while() -> None:
    """One that is imported already stays; afterwards both can be imported."""
    import json.decoder

    name = "xml.dom.pulldom"
    sys.modules.pop(name, None)
    with without_modules((name, "json.decoder")):
        with pytest.raises(ImportError):
            __import__(name)
        assert sys.modules["json.decoder"] is json.decoder
    assert __import__(name)
