"""Tasks of the harness with examples and limits of their own."""

import pytest
from pydantic import ValidationError

from lance_assets.settings.evaluation import LmEvalSettings


def test_tasks_are_asked_in_as_many_runs_as_there_are_ways() -> None:
    settings = LmEvalSettings.model_validate(
        {
            "tasks": ["gsm8k", "mmlu", "arc", "wikitext"],
            "num_fewshot": 4,
            "by_task": {"mmlu": {"num_fewshot": 5, "limit": 20}, "wikitext": {"num_fewshot": 0}, "arc": {}},
        }
    )
    parts = settings.split()
    assert [(part.tasks, part.num_fewshot, part.limit) for part in parts] == [
        (["gsm8k", "arc"], 4, None),
        (["mmlu"], 5, 20),
        (["wikitext"], 0, None),
    ]
    assert all(part.split() == [part] for part in parts)
    assert {part.batch_size for part in parts} == {settings.batch_size}


def test_without_changes_there_is_one_run() -> None:
    settings = LmEvalSettings.model_validate({"tasks": ["a", "b"], "limit": 3})
    assert settings.split() == [settings]


def test_a_task_that_is_not_evaluated() -> None:
    with pytest.raises(ValidationError, match="by_task names mmlu; name a task of tasks: gsm8k, arc"):
        LmEvalSettings.model_validate({"tasks": ["gsm8k", "arc"], "by_task": {"mmlu": {"limit": 3}}})
