"""Broken input by the thousand: each is taken, or refused with words that name the place; none is a traceback.

A sample of every kind runs by default, and all of them under the marker `slow`.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lance_assets.algorithms.reviews.review_parsing import UNSCORED_REASONS, ReadScore, Unscored, read_score
from lance_assets.rounds.experiments import load_plans, read_plan
from lance_assets.rounds.plan import Plan
from lance_assets.settings.file import MAX_TOLD
from lance_assets.small_world import SMALL_MODEL
from resources.models.foreign_code import ForeignCodeError
from resources.readers.mistakes import SeedFileError
from resources.readers.row_kinds import SeedFields
from resources.readers.seed_files import read_seed_file
from resources.stores.checkpoints import (
    NoChatTemplateError,
    NotACheckpointError,
    hash_checkpoint,
    require_chat_template,
    validate_model_folder,
)
from tests import broken_inputs
from tests.broken_inputs import EXPERIMENT, ROW, VALUES

TEXTS, PLACES = list(broken_inputs.break_texts()), list(broken_inputs.break_values())
SEEDS, MODELS = list(broken_inputs.break_seeds()), list(broken_inputs.break_models())
REVIEWS = list(broken_inputs.break_reviews())
WHOLE_TEXTS = {"text-bom", "text-crlf"}
"""Whole files in another encoding of the same text."""


def test_there_are_enough() -> None:
    assert len(TEXTS) + len(PLACES) > 3000
    assert min(len(SEEDS), len(MODELS), len(REVIEWS)) > 250


def choose(cases: Sequence[Any], every: int) -> list[Any]:
    """Some of the cases, from all over."""
    return list(cases[every // 2 :: every])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment's folder with everything but its file."""
    place = tmp_path / "mine"
    (place / "tasks").mkdir(parents=True)
    for name in ("seeds.jsonl", "eft.jsonl"):
        (place / name).write_text(json.dumps(ROW) + "\n")
    (place / "tasks" / "mine.yaml").write_text("task: mine\n")
    return place


def check_experiment(folder: Path, name: str, data: bytes) -> bool:
    """Whether a file is taken; a mistake has its place first, a length that can be read, and a word on what to do."""
    file = folder / "defs.yaml"
    file.write_bytes(data)
    told = ""
    try:
        read_plan(file)
    except ValueError as error:
        told = str(error)
    for line in told.splitlines():
        assert len(line) <= MAX_TOLD + 300, name
    if told:
        assert re.match(rf"{re.escape(str(folder))}[^\n]*:\d+: ", told), (name, told)
    return not told


def test_a_whole_experiment_is_taken(folder: Path) -> None:
    assert check_experiment(folder, "whole", broken_inputs.write_yaml(EXPERIMENT))


def test_broken_experiment_files_are_refused_with_their_place(folder: Path) -> None:
    for name, data in [*choose(TEXTS, 8), *choose(PLACES, 200)]:
        check_experiment(folder, name, data)


@pytest.mark.slow
def test_all_broken_experiment_files_are_refused_with_their_place(folder: Path) -> None:
    taken = {name for name, data in [*TEXTS, *PLACES] if check_experiment(folder, name, data)}
    assert {name for name in taken if name.startswith("text-")} <= WHOLE_TEXTS
    # A file that is cut after a whole section may be whole.
    assert len([name for name in taken if name.startswith(("cut-", "tab-"))]) <= 4
    assert len(taken) < len(PLACES) / 4


def test_a_field_that_stands_twice_is_not_lost_in_silence(folder: Path) -> None:
    file = folder / "defs.yaml"
    file.write_bytes(broken_inputs.write_yaml(EXPERIMENT) + b"  rng_seed: 7\n")
    number = file.read_text().splitlines().index("  rng_seed: 0") + 1
    last = len(file.read_text().splitlines())
    with pytest.raises(ValueError, match=rf"defs\.yaml:{last}: rng_seed: stands in line {number} already.*remove one"):
        read_plan(file)


@pytest.mark.parametrize("path", ["/", "~nobody_has_this_name/seeds", "x" * 5000, "/proc/1/root/none"])
def test_a_path_that_cannot_be_looked_for_is_named(folder: Path, path: str) -> None:
    changed = broken_inputs.replace_at(EXPERIMENT, ("attributes", "seeds", "path"), path)
    (folder / "defs.yaml").write_bytes(broken_inputs.write_yaml(changed))
    with pytest.raises(
        ValueError, match=r"defs\.yaml:\d+: attributes\.seeds\.path: got .*; put the file there or corr"
    ):
        read_plan(folder / "defs.yaml")


def test_a_recipe_of_ones_own_that_cannot_be_imported_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    (folder / "broken_package").mkdir()
    (folder / "broken_package" / "one.py").write_text("def (\n")
    (folder / "broken_package" / "other.py").write_text("import no_such_module_anywhere\n")
    for name, said in {
        "one": "SyntaxError",
        "other": "no_such_module_anywhere",
        "../etc": "no name of a module",
    }.items():
        recipe = f"broken_package.{name}" if name.isalpha() else name
        changed = broken_inputs.replace_at(EXPERIMENT, ("attributes", "recipe"), recipe)
        (folder / "defs.yaml").write_bytes(broken_inputs.write_yaml(changed))
        with pytest.raises(ValueError, match=rf"defs\.yaml:\d+: attributes\.recipe: .*{said}"):
            read_plan(folder / "defs.yaml")


YAML = st.recursive(
    st.sampled_from(list(VALUES.values())) | st.text(max_size=12) | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=YAML, place=st.sampled_from(list(broken_inputs.list_places(EXPERIMENT))))
def test_any_value_in_any_place_is_taken_or_refused_with_its_place(
    folder: Path, value: object, place: tuple[str | int, ...]
) -> None:
    check_experiment(folder, str(place), broken_inputs.write_yaml(broken_inputs.replace_at(EXPERIMENT, place, value)))


def test_a_broken_experiment_leaves_the_others(folder: Path) -> None:
    whole = folder.parent / "whole"
    shutil.copytree(folder, whole)
    (whole / "defs.yaml").write_bytes(broken_inputs.write_yaml(EXPERIMENT))
    for _, data in choose([case for case in TEXTS if case[0].startswith("cut-")], 12):
        (folder / "defs.yaml").write_bytes(data)
        found = load_plans([folder.parent])
        assert isinstance(found["whole"], Plan)
        assert isinstance(found["mine"], str)
    (folder / "defs.yaml").unlink()
    (folder / "defs.yaml").mkdir()
    assert str(folder) in str(load_plans([folder.parent])["mine"])


def check_seeds(folder: Path, name: str, file: str, data: bytes) -> None:
    """A mistake names the file, and what to do; of what is taken, no row is missing."""
    path = folder / file
    path.write_bytes(data)
    fields = SeedFields(answer="answer") if name.startswith("answer") else SeedFields()
    told = ""
    try:
        table = read_seed_file(path, fields=fields)
    except SeedFileError as error:
        told = str(error)
    path.unlink()
    if told:
        assert told.startswith(str(path)), (name, told)
        assert re.search(r"; |, write ", told), (name, told)
    else:
        assert 1 <= table.height <= 2, name
        assert table["prompt"].str.strip_chars().str.len_chars().min() > 0


def test_broken_seed_files_are_refused_with_their_place(tmp_path: Path) -> None:
    for case in choose(SEEDS, 4):
        check_seeds(tmp_path, *case)


@pytest.mark.slow
def test_all_broken_seed_files_are_refused_with_their_place(tmp_path: Path) -> None:
    for case in SEEDS:
        check_seeds(tmp_path, *case)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=60), file=st.sampled_from(["s.jsonl", "s.json", "s.csv", "s.parquet", "s", "s.jsonl.gz"])
)
def test_any_bytes_are_taken_or_refused(tmp_path: Path, data: bytes, file: str) -> None:
    check_seeds(tmp_path, "bytes", file, data)


def write_model(folder: Path) -> Path:
    """Every file of a model's folder, all of them small."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    save_file({"weight": np.ones((4, 4), dtype=np.float32)}, folder / "model.safetensors")
    return folder


def check_model(folder: Path, name: str, break_it: Callable[[Path], object]) -> None:
    """Each question about the folder has an answer, or an error of ours that names the folder and what to do."""
    break_it(write_model(folder))
    for ask in (validate_model_folder, hash_checkpoint, require_chat_template):
        try:
            ask(folder)
        except (NotACheckpointError, NoChatTemplateError, ForeignCodeError) as error:
            told = str(error)
            assert str(folder) in told, name
            assert re.search(r"; |: use|none of", told), (name, told)


def test_broken_model_folders_are_refused_with_words(tmp_path: Path) -> None:
    for name, break_it in choose(MODELS, 6):
        check_model(tmp_path / "model", name, break_it)


@pytest.mark.slow
def test_all_broken_model_folders_are_refused_with_words(tmp_path: Path) -> None:
    for name, break_it in MODELS:
        check_model(tmp_path / "model", name, break_it)


@pytest.mark.slow
def test_broken_models_are_refused_by_the_engine_with_words(tmp_path: Path) -> None:
    """A whole model whose files are broken one by one: it still says something, or the error names the folder."""
    from lance_assets.records import Request, SamplingSettings
    from resources.engines.contract import ModelLoadError
    from resources.engines.transformers.engine import TransformersEngine
    from resources.models.chat_format import ChatFormatError
    from resources.models.model_shapes import UnknownShapeError, find_model

    asked = [Request(row_id="a", messages=({"role": "user", "content": "a"},), sampling_seed=0)]
    sampling, folder = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=1), tmp_path / "model"
    for name, break_it in choose(MODELS, 12):
        shutil.rmtree(folder, ignore_errors=True)
        break_it(shutil.copytree(SMALL_MODEL, folder))
        for ask in (
            lambda: list(TransformersEngine(folder).generate(asked, sampling)),
            lambda: find_model(str(folder)),
        ):
            try:
                ask()
            except (ModelLoadError, UnknownShapeError, ChatFormatError) as error:
                assert str(folder) in str(error) or "chat template" in str(error), name  # noqa: PT017


def check_review(name: str, text: str) -> None:
    """A score is within the scale, and a review without one says why and keeps its text."""
    for reason in ("stop", "length", "error"):
        read = read_score(text, finish_reason=reason)  # type: ignore[arg-type]
        if isinstance(read, ReadScore):
            assert 0 <= read.value <= 10, name
        else:
            assert isinstance(read, Unscored)
            assert read.reason in UNSCORED_REASONS, name
            assert read.raw_text == text, name


def test_broken_reviews_have_a_score_or_a_reason() -> None:
    for name, text in choose(REVIEWS, 6):
        check_review(name, text[:4000])


@pytest.mark.slow
def test_all_broken_reviews_have_a_score_or_a_reason() -> None:
    for name, text in REVIEWS:
        check_review(name, text)


@settings(max_examples=40)
@given(st.one_of(st.text(), st.lists(st.sampled_from([*broken_inputs.SCORES, *broken_inputs.GLUE])).map(" ".join)))
def test_any_review_has_a_score_or_a_reason(text: str) -> None:
    check_review("any", text)
