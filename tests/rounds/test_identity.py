"""What was a noun made with, and what differs between two rounds."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from lance_assets.cli.identities import show_differences, show_identity
from lance_assets.rounds.identity.installed import (
    NOT_HERE,
    NOT_INSTALLED,
    find_version,
    identify_embedder,
    identify_model,
    read_versions,
)
from lance_assets.rounds.identity.kept import (
    ABSENT,
    Difference,
    NoIdentityError,
    compare_identities,
    read_identity,
    record_identity,
)
from lance_assets.rounds.identity.own_code import NOT_FOLLOWED, PACKAGES, VALUE_CLASSES, hash_own_code, name_root
from lance_assets.rounds.identity.parts import identify_engine
from lance_assets.rounds.identity.source import SourceTree, find_packages
from lance_assets.rounds.nouns import NOUNS, compute_fingerprint, explain_identity, identify, list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.settings.engines import EngineSettings
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.small_world import SMALL_MODEL
from resources.models.finding import find_model_here
from resources.stores import remembered
from resources.stores.remembered import find_cache_folder
from resources.stores.tables import TableStore

SMALL = "lance_assets.small_world:SMALL_MODEL"
ATTRIBUTES: dict = {
    "recipe": "lance",
    "model": SMALL,
    "seeds": {"path": "seeds.jsonl"},
    "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def plan_with(folder: Path, **changes: object) -> Plan:
    (folder / "seeds.jsonl").write_text("{}")
    return Plan("mini", folder, ExperimentSettings.model_validate(ATTRIBUTES | changes))


def copy_model(folder: Path) -> Path:
    shutil.copytree(SMALL_MODEL, folder)
    for file in folder.iterdir():
        os.utime(file, (1_000_000, 1_000_000))
    return folder


def test_an_identity_is_kept_beside_the_tables_and_read(tmp_path: Path) -> None:
    tables, identity = TableStore(tmp_path), explain_identity(plan_with(tmp_path), "seed_set")
    path = record_identity(tables, "mini", "r0001", "seed_set", identity)
    assert path == tmp_path / "identity" / "mini" / "r0001" / "seed_set.json"
    assert read_identity(tables, "mini", "r0001", "seed_set") == json.loads(json.dumps(identity))
    assert path.read_text().startswith('{\n  "code": {\n    "definitions": {')
    definitions = identity["code"]["definitions"]
    assert "overlaps_evaluation" in definitions["lance_assets.algorithms.similarity.decontamination"]
    assert identity["code"]["hash"] == identify(plan_with(tmp_path), "seed_set")["code"]


def test_an_old_round_says_that_it_has_no_identity(tmp_path: Path) -> None:
    tables = TableStore(tmp_path)
    with pytest.raises(NoIdentityError, match=r"seed_set of mini r0001 has not been made"):
        read_identity(tables, "mini", "r0001", "seed_set")
    tables.write("mini", "r0001", "seed_set", pl.DataFrame({"a": [1]}), schema=pl.Schema({"a": pl.Int64}))
    with pytest.raises(NoIdentityError, match=r"was made before identities were kept; materialize it again"):
        read_identity(tables, "mini", "r0001", "seed_set")


def test_two_identities_are_compared_by_path(tmp_path: Path) -> None:
    before = explain_identity(plan_with(tmp_path), "seed_set")
    after = explain_identity(plan_with(tmp_path, rng_seed=3), "seed_set")
    assert compare_identities(before, before) == []
    assert compare_identities(before, after) == [Difference("settings.rng_seed", 0, 3)]
    assert compare_identities({"a": {"b": 1}}, {"a": {"c": None}}) == [
        Difference("a.b", 1, ABSENT),
        Difference("a.c", ABSENT, None),
    ]


@pytest.mark.parametrize("recipe", ["lance", "diverse_evol", "i_sheep", "llm2llm", "self_rewarding", "spin"])
def test_every_noun_has_an_identity_as_json(tmp_path: Path, recipe: str) -> None:
    plan = plan_with(tmp_path, recipe=recipe)
    for noun in list_nouns(plan):
        identity = explain_identity(plan, noun.name)
        assert json.loads(json.dumps(identity))["code"]["hash"] == identity["code"]["hash"]


def test_a_recipes_steps_are_the_code_of_the_nouns_that_run_them(tmp_path: Path) -> None:
    lance, spin = (plan_with(tmp_path, recipe=recipe) for recipe in ("lance", "spin"))
    for noun in ("cleaned_set", "raw_generations", "reviewed_set"):
        assert identify(lance, noun)["code"] != identify(spin, noun)["code"]
    for noun in ("start_checkpoint", "checkpoint", "eval_report"):
        assert identify(lance, noun)["code"] == identify(spin, noun)["code"]


def test_the_engine_that_runs_is_code_and_library(tmp_path: Path) -> None:
    vllm = {"kind": "vllm", "vllm": {"python": sys.executable}}
    plans = [plan_with(tmp_path), plan_with(tmp_path, engine=vllm)]
    codes = [explain_identity(plan, "raw_generations")["code"]["definitions"] for plan in plans]
    assert "resources.engines.transformers.decoding" in codes[0]
    assert "resources.engines.vllm.worker" in codes[1]
    assert "resources.engines.transformers.decoding" not in codes[1]
    assert identify(plans[0], "cleaned_set")["code"] == identify(plans[1], "cleaned_set")["code"]


def test_what_an_experiment_never_runs_is_no_code_of_it(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}')
    judge = {"path": "prompts.jsonl", "model": SMALL, "opponent": "backbone"}
    judged = plan_with(tmp_path, evaluation=ATTRIBUTES["evaluation"] | {"judge": judge})
    found = [explain_identity(plan, "eval_report")["code"]["definitions"] for plan in (plan_with(tmp_path), judged)]
    reading = "lance_assets.algorithms.reviews.score_statements"
    assert [reading in definitions for definitions in found] == [False, True]


def make_environment(folder: Path, **libraries: str) -> str:
    """A virtual environment's folders, with the metadata of some libraries; returns its interpreter."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for name, version in libraries.items():
        info = folder / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(python)


def test_vllms_version_is_that_of_its_own_environment(tmp_path: Path) -> None:
    found = []
    for number in ("1", "2"):
        python = make_environment(tmp_path / number, vllm=f"0.{number}.0")
        engine = EngineSettings.model_validate({"kind": "vllm", "vllm": {"python": python}})
        found.append(identify_engine(engine)["libraries"])
    assert found == [{"vllm": "0.1.0"}, {"vllm": "0.2.0"}]
    assert find_version("vllm", str(tmp_path / "nowhere" / "python")) == NOT_INSTALLED
    assert find_version("no-such-library", make_environment(tmp_path / "3")) == NOT_INSTALLED
    assert find_version("polars", "python") == read_versions(("polars",))["polars"]


def test_a_server_has_no_library_here() -> None:
    server = {"kind": "openai", "openai": {"base_url": "http://localhost/v1", "model": "big"}}
    identity = identify_engine(EngineSettings.model_validate(server))
    assert identity["served"] == "big"
    assert "libraries" not in identity


def test_a_model_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    here, there = copy_model(tmp_path / "here"), copy_model(tmp_path / "there")
    identity = identify_model(str(here), folder=tmp_path, revision=None)
    assert identity == identify_model("there", folder=tmp_path, revision="v2")
    assert identity == identify_model(SMALL, folder=tmp_path, revision=None)
    (there / "generation_config.json").write_text("{}")
    assert identify_model("there", folder=tmp_path, revision=None) != identity


def test_a_hash_is_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, hashed = copy_model(tmp_path / "model"), []

    def count(path: Path) -> str:
        hashed.append(path)
        return f"{len(hashed)}"

    monkeypatch.setattr("lance_assets.rounds.identity.installed.hash_checkpoint", count)
    for _ in range(2):
        assert identify_model("model", folder=tmp_path, revision=None) == {"content": "1"}
    os.utime(model / "config.json", (2_000_000, 2_000_000))
    assert identify_model("model", folder=tmp_path, revision=None) == {"content": "2"}
    os.utime(model / "config.json")  # changed just now: a second change could look the same
    for number in ("3", "4"):
        assert identify_model("model", folder=tmp_path, revision=None) == {"content": number}


def test_a_hub_model_that_is_not_here_is_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub_home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    wanted = {"name": "someone/model", "revision": "v1", "note": NOT_HERE}
    assert identify_model("someone/model", folder=tmp_path, revision="v1") == wanted
    assert identify_embedder("someone/embedder")["note"] == NOT_HERE
    assert find_model_here("../absent", base=tmp_path, revision=None) is None


def test_the_embedder_and_every_role_are_in_the_identity(tmp_path: Path) -> None:
    copy_model(tmp_path / "second")
    (tmp_path / "second" / "generation_config.json").write_text("{}")
    plan = plan_with(tmp_path)
    other = plan_with(tmp_path, roles={"reviewer": {"model": "second"}})
    assert len(identify(plan, "cleaned_set")["settings"]["embedder"]["content"]) == 64
    first = compute_fingerprint(other, "reviewed_set")
    assert first != compute_fingerprint(plan, "reviewed_set")
    (tmp_path / "second" / "generation_config.json").write_text('{"changed": true}')
    again = plan_with(tmp_path, roles={"reviewer": {"model": "second"}})
    assert compute_fingerprint(again, "reviewed_set") != first
    assert compute_fingerprint(other, "reviewed_set") == first, "a plan keeps the identity it had when it was asked"


def test_a_broken_cache_is_computed_again(tmp_path: Path) -> None:
    roots = [f"{NOUNS['start_checkpoint'].made_by}:make_start_checkpoint"]
    found = hash_own_code(roots)
    (file,) = (find_cache_folder() / "code_hashes").iterdir()
    assert json.loads(file.read_text()) == found
    file.write_text('"')
    assert hash_own_code(roots) == found
    assert json.loads(file.read_text()) == found


def test_the_cache_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_FILES", 4)
    for number in range(9):
        assert remembered.remember("numbers", f"{number}", lambda: "value") == "value"
    assert len(list((find_cache_folder() / "numbers").iterdir())) <= 4


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    assert remembered.remember("numbers", "1", lambda: "value") == "value"


def test_what_is_not_followed_exists() -> None:
    tree = SourceTree(find_packages(PACKAGES))
    for name in (*NOT_FOLLOWED, *VALUE_CLASSES):
        module, _, inside = name.partition(":")
        assert tree.find(name) if inside else tree.find_module(module), name
    for name in VALUE_CLASSES:
        # By the name of the module that defines it: an import of it would be another name.
        assert tree.find(name).full_name == name


def test_code_without_a_name_is_that_of_what_holds_it() -> None:
    assert name_root(name_root, otherwise="a:B") == "lance_assets.rounds.identity.own_code:name_root"
    assert name_root(TableStore.read, otherwise="a:B") == "resources.stores.tables:TableStore.read"
    for code in (lambda: None, partial(name_root, otherwise="x")):
        assert name_root(code, otherwise="a:B") == "a:B"


def test_the_command_prints_an_identity_and_what_differs(tmp_path: Path) -> None:
    platform, lines = Platform(data_root=str(tmp_path)), []
    table = pl.DataFrame(schema=NOUNS["seed_set"].schema)
    for key, rng_seed in (("r0001", 0), ("r0002", 3), ("r0003", None)):
        platform.tables.write("mini", key, "seed_set", table, schema=table.schema)
        if rng_seed is not None:
            identity = explain_identity(plan_with(tmp_path, rng_seed=rng_seed), "seed_set")
            record_identity(platform.tables, "mini", key, "seed_set", identity)
    show_identity(platform, "mini", "r0001", say=lines.append)
    assert any(line.split() == ["settings.rng_seed", "0"] for line in lines)
    lines.clear()
    show_differences(platform, "mini", "r0002", "r0001", say=lines.append)
    assert lines == ["seed_set:", "  settings.rng_seed: 0 -> 3"]
    lines.clear()
    show_differences(platform, "mini", "r0001", "r0001", say=lines.append)
    assert lines == ["seed_set: made alike"]
    lines.clear()
    show_identity(platform, "mini", "r0003", say=lines.append)
    assert "made before identities were kept" in lines[-1]
    with pytest.raises(ValueError, match=r"mini r0009 has no tables"):
        show_identity(platform, "mini", "r0009", say=lines.append)


def test_the_library_that_constrains_is_part_of_what_it_constrains(tmp_path: Path) -> None:
    libraries = [
        identify_engine(plan_with(tmp_path, engine={"structured_output": wish}).settings.engine)["libraries"]
        for wish in ("off", "auto", "required")
    ]
    assert ["llguidance" in found for found in libraries] == [False, True, True]
