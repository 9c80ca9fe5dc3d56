"""A launch sets for one round what a person wants to try: it holds in every step of that round and in no other."""

import contextlib
import json

import dagster as dg
import pytest

from lance_assets.assets import run
from lance_assets.assets.names import find_key
from lance_assets.cli.identities import show_differences
from lance_assets.cli.reading import show_round
from lance_assets.pictures.leaderboard import tabulate_all_rounds
from lance_assets.rounds.finished.leaderboard import read_leaderboard
from lance_assets.rounds.finished.summary import describe_rounds
from lance_assets.rounds.identity.kept import read_identity
from lance_assets.rounds.nouns import compute_code_versions
from lance_assets.rounds.overrides import Launch
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round
from tests.assets.conftest import OpenWorld
from tests.assets.test_webserver import REPOSITORY, Ui, find_materialization, read_failure, read_stale, ui  # noqa: F401
from tests.assets.tiny_experiment import NOUNS, World, find_failures, plan_tiny

THRESHOLD = {"parameters.sft_threshold": 5.0}


def read_settings(world: World, key: str, noun: str) -> dict:
    """The settings that a noun of a round was made with."""
    return read_identity(world.platform.tables, "tiny", key, noun)["settings"]


def count_new_rows(world: World, key: str) -> int:
    """SFT rows that a round brought."""
    return len(world.round(key).read_new_sft_rows())


def configure(**config: object) -> dict:
    """What the launchpad sends."""
    return {"ops": {"tiny__start_checkpoint": {"config": config}}}


@pytest.mark.slow
def test_a_person_tries_settings_in_one_round(ui: Ui) -> None:  # noqa: F811
    world = ui.world
    ui.add_round("r0001")

    # what Dagster can see is refused before a run exists
    for config, named in (
        ({"parameters": {"sft_threshold": "high"}}, "Invalid scalar at path root:ops:tiny__start_checkpoint:config:"),
        ({"evaluation": {"world": {"per_stratum": 9}}}, 'unexpected config entry "evaluation"'),
        ({"rng_seed": 1}, 'unexpected config entry "rng_seed"'),
        ({"parameters": {"losses": "spo"}}, "losses"),
    ):
        refused = ui.launch("r0001", configure(**config))
        assert refused["__typename"] == "RunConfigValidationInvalid"
        assert named in refused["errors"][0]["message"]

    # a range is refused before anything is made
    launched = ui.launch("r0001", configure(parameters={"sft_threshold": 11.0}))
    failed = ui.wait(launched["run"]["runId"])
    assert failed.is_failure
    assert read_failure(ui, failed.run_id) == {
        "tiny__start_checkpoint": "tiny r0001 start_checkpoint: parameters.sft_threshold: got 11.0; input should be "
        "less than or equal to 10; it may be >= 0, <= 10 (Completions scoring above it enter the SFT set.)"
    }
    assert not (world.platform.root / "tables" / "tiny" / "r0001").exists()

    # a round of its own
    config = configure(parameters={"sft_threshold": 5.0}, training={"sft": {"learning_rate": 1e-3}})
    assert ui.wait(ui.launch("r0001", config)["run"]["runId"]).is_success
    tried, num_tried = world.read_bytes("r0001"), count_new_rows(world, "r0001")
    assert read_settings(world, "r0001", "sft_set")["sft_threshold"] == 5.0
    assert read_settings(world, "r0001", "checkpoint")["sft"]["learning_rate"] == 1e-3
    assert read_settings(world, "r0001", "start_checkpoint")["overrides"] == {
        "parameters.sft_threshold": 5.0,
        "training.sft.learning_rate": 1e-3,
    }
    said = {noun: world.metadata(noun, "r0001").get("overrides") for noun in NOUNS}
    both = (
        "parameters.sft_threshold 5.0 in place of 0.0, for this round only; "
        "training.sft.learning_rate 0.001 in place of 0.0001, for this round only"
    )
    assert {noun: text for noun, text in said.items() if text} == {
        "start_checkpoint": both,
        "sft_set": "sft_threshold 5.0 in place of 0.0",
        "checkpoint": "sft.learning_rate 0.001 in place of 0.0001",
        "eval_report": both,
    }
    assert {states[1] for states in read_stale(ui).values()} == {"FRESH"}
    began = find_materialization(ui, "start_checkpoint", "r0001").asset_materialization
    assert began is not None
    assert began.tags is not None

    # the round redone as the file has it: what does not read the settings is the same to the byte
    (redone,) = ui.backfill("r0001")
    assert redone.is_success
    as_file = world.read_bytes("r0001")
    same = ("seed_set", "raw_generations", "cleaned_set", "reviewed_set")
    assert all(tried[f"{noun}.parquet"] == as_file[f"{noun}.parquet"] for noun in same)
    assert tried["start_checkpoint.parquet"] == as_file["start_checkpoint.parquet"]
    assert tried["model.safetensors"] != as_file["model.safetensors"]
    assert num_tried < count_new_rows(world, "r0001")
    assert set(tried) - set(as_file) == {"overrides.json"}
    assert world.tags("start_checkpoint", "r0001")["dagster/data_version"] != began.tags["dagster/data_version"]
    assert not any("overrides" in world.metadata(noun, "r0001") for noun in NOUNS)


@pytest.fixture
def world(make_scripted_world: OpenWorld) -> World:
    """A scripted world in which r0000 stands."""
    return make_scripted_world()


@pytest.mark.slow
def test_the_next_round_begins_with_the_file(world: World) -> None:
    assert world.run("r0001", Launch(THRESHOLD | {"checks.min_pairs": 1})).success
    assert world.run("r0002").success
    assert read_settings(world, "r0002", "sft_set")["sft_threshold"] == 0.0
    assert "overrides" not in read_settings(world, "r0002", "start_checkpoint")
    assert world.metadata("start_checkpoint", "r0001")["differs_from_previous"] == (
        "r0000: sft_threshold 5.0 in place of 0.0; checks.min_pairs 1 in place of the file's value"
    )
    assert world.metadata("start_checkpoint", "r0002")["differs_from_previous"] == (
        "r0001: sft_threshold 0.0 in place of 5.0; checks.min_pairs the file's value in place of 1"
    )
    assert "overrides" not in world.metadata("eval_report", "r0002")
    lines: list[str] = []
    show_differences(world.platform, "tiny", "r0002", "r0001", say=lines.append)
    assert "  settings.sft_threshold: 5.0 -> 0.0" in lines
    assert "  settings.overrides.checks.min_pairs: 1 -> (absent)" in lines
    assert "cleaned_set: made alike" in lines

    # where rounds are listed, the round is named with what it ran with
    words = (
        "checks.min_pairs 1 in place of 0, for this round only; "
        "parameters.sft_threshold 5.0 in place of 0.0, for this round only"
    )
    rows, left_out = read_leaderboard([world.plan], world.platform)
    assert not left_out
    assert dict(rows.sort("round").select("round", "overrides").iter_rows()) == {
        "r0000": None,
        "r0001": words,
        "r0002": None,
    }
    assert f"| r0001 ({words}) |" in tabulate_all_rounds(rows)
    assert f"r0001 ran with {words}" in describe_rounds(world.plan, world.platform, ["r0000", "r0001", "r0002"])
    shown: list[str] = []
    show_round(world.platform, "tiny", "r0001", say=shown.append)
    assert "  in place of the file's settings: checks.min_pairs 1, parameters.sft_threshold 5.0" in shown


@pytest.mark.slow
def test_settings_are_kept_until_they_are_dropped(world: World) -> None:
    assert world.run("r0001", Launch(THRESHOLD, is_kept=True)).success
    said = world.metadata("start_checkpoint", "r0001")["overrides"]
    assert said == "parameters.sft_threshold 5.0 in place of 0.0, kept for later rounds"
    # what is kept stays beside what a round has of its own, which goes
    began = {}
    for name, launch in (
        ("own", Launch({"parameters.max_seeds": None})),
        ("file", None),
        ("dropped", Launch(drops_kept=True)),
        ("same", Launch({"parameters.sft_threshold": 0.0})),
    ):
        assert find_failures(world.materialize("r0002", "start_checkpoint", launch=launch)) == {}
        this_round = world.round("r0002")
        began[name] = (this_round.plan.overrides, world.tags("start_checkpoint", "r0002")["dagster/data_version"])
    assert {name: dict(overrides) for name, (overrides, _) in began.items()} == {
        "own": THRESHOLD | {"parameters.max_seeds": None},
        "file": THRESHOLD,
        "dropped": {},
        "same": {},
    }
    # what follows is unsynced exactly where the round's settings are others
    assert began["dropped"][1] == began["same"][1]
    assert len({version for _, version in began.values()}) == 3


@pytest.mark.slow
def test_a_check_keeps_the_bar_of_the_round(world: World) -> None:
    failed = find_failures(world.run("r0001", Launch({"checks.min_distinct_2": 1.0})))
    assert list(failed) == ["tiny__diversity_report_no_collapse"]
    assert not world.round("r0001").has("checkpoint", "r0001")
    # what is materialized by itself later works with the round's settings too
    assert list(find_failures(world.materialize("r0001", "diversity_report"))) == list(failed)
    assert find_failures(world.materialize("r0001", "start_checkpoint")) == {}
    assert find_failures(world.materialize("r0001", "diversity_report")) == {}


@pytest.mark.parametrize(
    ("launch", "told"),
    [
        (Launch({"parameters.num_judged_pairs": 4}), "with this preference_pairs would hold a model"),
        (Launch({"checks.min_pairs": -1}), "checks.min_pairs: got -1; input should be greater than or equal to 0"),
        (Launch({"parameters.temperature": None}), "set_to_none, and it cannot be none"),
        (Launch({"parameters.losses": "dpo"}), "parameters: losses: dpo: this recipe has no data for it"),
        (Launch({"evaluation.ngram": None}), "evaluation.ngram is the same in every round: it is what rounds are"),
    ],
)
def test_what_cannot_be_set_is_refused_before_anything_is_made(world: World, launch: Launch, told: str) -> None:
    (message,) = find_failures(world.materialize("r0001", "start_checkpoint", "seed_set", launch=launch)).values()
    assert message.startswith("tiny r0001 start_checkpoint: ")
    assert told in message
    assert not (world.platform.root / "tables" / "tiny" / "r0001").exists()


def test_a_file_that_changed_since_says_so_and_tables_can_still_be_read(world: World) -> None:
    assert (
        find_failures(
            world.materialize("r0001", "start_checkpoint", launch=Launch({"parameters.branch_threshold": 6.0}))
        )
        == {}
    )
    other = plan_tiny(world.root / "tiny", recipe="self_rewarding")
    begun = Round(other, world.platform, "r0001", lambda _: None)
    with pytest.raises(ValueError, match=r"no setting that a launch can set.*tiny r0001 began with this.*again"):
        _ = begun.plan
    assert len(begun.read("start_checkpoint")) == 1
    assert begun.describe_overrides()["overrides"].startswith(
        "parameters.branch_threshold 6.0 in place of what the file does not"
    )


def test_samples_of_other_settings_are_not_taken_up(world: World) -> None:
    """Of a step that was killed, what is finished is found by the fingerprint."""
    before = world.round("r0001")
    found = {noun: before.compute_fingerprint(noun) for noun in NOUNS}
    world.materialize("r0001", "start_checkpoint", launch=Launch({"parameters.max_new_tokens": 50}))
    begun = world.round("r0001")
    changed = {noun for noun in NOUNS if begun.compute_fingerprint(noun) != found[noun]}
    assert changed == {"start_checkpoint", "raw_generations", "reviewed_set"}
    # the versions that the UI compares are those of the file
    assert compute_code_versions(world.plan)["raw_generations"] == build_code_version(world, "raw_generations")


def build_code_version(world: World, noun: str) -> str | None:
    """The code version of an asset's definition."""
    return world.definitions.resolve_assets_def(find_key(world.plan, noun)).code_versions_by_key[
        find_key(world.plan, noun)
    ]


@pytest.mark.slow
def test_pages_show_the_settings_of_the_experiment(ui: Ui) -> None:  # noqa: F811
    nodes = ui.ask(
        """{ assetNodes { assetKey { path } metadataEntries {
             label ... on JsonMetadataEntry { jsonString } ... on PathMetadataEntry { path } } } }"""
    )["assetNodes"]
    shown = {
        node["assetKey"]["path"][1]: {entry["label"]: entry for entry in node["metadataEntries"]} for node in nodes
    }
    sft_set = json.loads(shown["sft_set"]["settings"]["jsonString"])
    assert sft_set["sft_threshold"] == 0.0
    assert "temperature" not in sft_set
    assert json.loads(shown["checkpoint"]["settings"]["jsonString"])["sft"]["learning_rate"] == 1e-4
    assert shown["checkpoint"]["defs_file"]["path"].endswith("tiny/defs.yaml")
    job = ui.ask(
        """query Job($selector: PipelineSelector!) { pipelineOrError(params: $selector) { ... on Pipeline {
             metadataEntries { label ... on MarkdownMetadataEntry { mdStr } } } } }""",
        selector={**REPOSITORY, "pipelineName": "tiny_round"},
    )["pipelineOrError"]
    (settings,) = (entry["mdStr"] for entry in job["metadataEntries"] if entry["label"] == "settings")
    assert "  sft_threshold: 0.0\n" in settings
    assert "  max_rounds: 2\n" in settings


@pytest.mark.slow
def test_the_launchpad_describes_each_setting(ui: Ui) -> None:  # noqa: F811
    types = ui.ask(
        """query Config($selector: PipelineSelector!) { runConfigSchemaOrError(selector: $selector) {
             ... on RunConfigSchema { allConfigTypes { ... on CompositeConfigType {
               description fields { name description isRequired } } } } } }""",
        selector={**REPOSITORY, "pipelineName": "tiny_round"},
    )["runConfigSchemaOrError"]["allConfigTypes"]
    fields = {field["name"]: field for each in types for field in each.get("fields", [])}
    assert fields["sft_threshold"]["description"] == (
        "Completions scoring above it enter the SFT set. It may be >= 0, <= 10. In the file: 0.0."
    )
    for name in ("temperature", "learning_rate", "min_pairs", "embedding_threshold", "keep_for_later_rounds"):
        assert fields[name]["isRequired"] is False
    assert not {"evaluation", "rng_seed", "recipe", "model"} & set(fields)


@pytest.mark.slow
def test_the_command_sets_the_first_round_that_it_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds run in this process, on the scripted platform; all else is the command's."""

    def run_here(
        instance: dg.DagsterInstance, plan: Plan, key: str, launch: Launch | None = None, **_: object
    ) -> list[str]:
        return [] if world.run(key, launch).success else ["it failed"]

    monkeypatch.setattr(run, "run_round", run_here)
    monkeypatch.setattr(run, "build_platform", lambda: world.platform)
    monkeypatch.setattr(run, "open_instance", lambda: contextlib.nullcontext(world.instance))
    monkeypatch.setattr(run, "show_all_rounds", lambda *_: None)
    said: list[str] = []

    def run_rounds(num_rounds: int, launch: Launch) -> None:
        run.run_rounds(world.plan, world.definitions, num_rounds=num_rounds, say=said.append, launch=launch)

    world.add("r0000")
    with pytest.raises(ValueError, match="sft_threshold: got 11"):
        run_rounds(2, Launch({"parameters.sft_threshold": 11}))
    run_rounds(2, Launch(THRESHOLD))
    assert {key: dict(world.round(key).overrides.values) for key in ("r0001", "r0002")} == {
        "r0001": THRESHOLD,
        "r0002": {},
    }
    assert "r0001 ran with parameters.sft_threshold 5.0 in place of 0.0, for this round only" in said[-2]
    with pytest.raises(ValueError, match=r"no round to begin with parameters\.sft_threshold"):
        run_rounds(2, Launch(THRESHOLD))
