"""The models that filters ask: how a judge is asked and read, and that both are in the identity of cleaned_set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from lance_assets.algorithms.filters.safety import HarmJudge
from lance_assets.records import Ask, Request, Sample, SamplingSettings
from lance_assets.rounds.filtering.models import look_up
from lance_assets.rounds.identity.parts import Identity, identify_cleaning
from lance_assets.rounds.round import Round
from tests.assets.tiny_experiment import build_tiny_settings, plan_tiny, write_tiny_experiment


class ScriptedRound(SimpleNamespace):
    """A round whose model says what the test wrote, and notes what it was asked."""

    def __init__(self, said: Sequence[str]) -> None:
        super().__init__(plan=SimpleNamespace(settings=SimpleNamespace(rng_seed=0, filters=())), asked=[])
        self.said = said

    def start_path(self) -> Path:
        return Path("start")

    @contextmanager
    def asking(self, noun: str, path: Path, *, role: str) -> Iterator[Ask]:
        def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
            self.asked.append((noun, role, stage, [one.messages[0]["content"] for one in requests], sampling))
            return [Sample(one.row_id, text, "stop", 1, 1) for one, text in zip(requests, self.said, strict=True)]

        yield ask


def test_a_judges_answers_are_read_and_one_without_a_score_is_none() -> None:
    this_round = ScriptedRound(["It is fine.\nscore: 0", "It insults.\nscore: 8/10", "I cannot say.", "score: 11"])
    score = look_up(cast(Round, this_round))["score"]
    assert score("judge", [(str(place), f"Q{place}") for place in range(4)], 64) == [0.0, 8.0, None, None]
    ((noun, role, stage, questions, sampling),) = this_round.asked
    assert (noun, role, stage, questions) == ("cleaned_set", "judge", "harm", ["Q0", "Q1", "Q2", "Q3"])
    assert (sampling.temperature, sampling.max_new_tokens) == (0.0, 64)


def test_what_is_asked_holds_the_texts_as_they_are() -> None:
    row: Any = SimpleNamespace(kind="completion", prompt="What is {text}?", completion="A {prompt}.")
    assert "Question: What is {text}?\n\nAnswer: A {prompt}." in HarmJudge().word(row)
    with pytest.raises(ValidationError, match="a rubric shows what was written"):
        HarmJudge(rubric="Is it bad?")


def test_asking_needs_somebody_to_ask() -> None:
    with pytest.raises(ValidationError, match=r"harm_judge asks the judge, and evaluation\.judge is none"):
        build_tiny_settings(filters=[{"name": "harm_judge", "asks": "judge"}])


def test_the_classifiers_content_decides_the_cleaned_set(tmp_path: Path) -> None:
    folder, model = write_tiny_experiment(tmp_path / "tiny"), tmp_path / "classifier"
    model.mkdir()

    def identify(content: str) -> Identity:
        (model / "config.json").write_text(content)
        (model / "model.safetensors").write_text(content)
        line = {"name": "harm_classifier", "model": str(model), "labels": ["toxic"]}
        return identify_cleaning(plan_tiny(folder, filters=[line]))

    assert identify("{}")["classifiers"] != identify('{"a": 1}')["classifiers"]


def test_the_engine_that_is_asked_decides_the_cleaned_set_where_one_is(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    assert "asked" in identify_cleaning(plan_tiny(folder, filters=[{"name": "harm_judge"}]))
    assert "asked" not in identify_cleaning(plan_tiny(folder, filters=[{"name": "refusal"}]))
