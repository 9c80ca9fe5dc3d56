"""A study on the scripted platform: its arms and their tables do not depend on who writes."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from lance_assets.assets import run as command_line
from lance_assets.assets.names import find_key
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.assets.self_evolution import describe_self_evolution
from lance_assets.pictures.study import list_arms, tabulate_rounds, tabulate_study
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.records import STUDY_ROWS
from lance_assets.rounds import study
from lance_assets.rounds.experiments import plan_experiment
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.study import (
    ARMS,
    BACKBONE,
    METHOD,
    STUDIES,
    find_arm_root,
    plan_arm,
    read_study,
    run_arm,
    run_start,
)
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.small_world import WORLD
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED_SETTINGS, SCRIPTED_TRAINING, ScriptedPlatform, without_drawing
from tests.assets.tiny_experiment import TRAINING, World, find_failures, plan_tiny, write_tiny_experiment

CONTROLS = ("random_scores", "seeds_only")


def keep_quiet(line: str) -> None:
    del line


@pytest.fixture(scope="module", autouse=True)
def scripted_platform() -> Iterator[None]:
    """A study opens a platform for each noun itself: here a scripted one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "Platform", ScriptedPlatform)
        yield


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = write_tiny_experiment(tmp_path_factory.mktemp("experiment") / "tiny")
    return plan_tiny(folder, **SCRIPTED_SETTINGS | {"training": SCRIPTED_TRAINING | {"token_budget": 2000}})


@pytest.fixture(scope="module")
def data_root(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LANCE and two controls after one round, seed 0, as a study of the experiment."""
    root = tmp_path_factory.mktemp("data")
    folder = root / STUDIES / plan.name
    with without_drawing():
        run_start(plan, folder, 0, log=keep_quiet)
        for arm in (METHOD, *CONTROLS):
            run_arm(plan, folder, arm, 0, num_rounds=1, log=keep_quiet)
    return root


@pytest.fixture
def rows(plan: Plan, data_root: Path) -> pl.DataFrame:
    return read_study(plan, data_root / STUDIES / plan.name)


@pytest.mark.slow
def test_there_is_one_row_for_each_arm_and_round(rows: pl.DataFrame) -> None:
    assert rows.schema == STUDY_ROWS
    expected = [(BACKBONE, "r0000")] + [(arm, key) for arm in (METHOD, *CONTROLS) for key in ("r0000", "r0001")]
    assert rows.select("arm", "round").rows() == expected
    assert rows["num_items"].unique().to_list() == [48]
    for row in rows.to_dicts():
        for metric in ("greedy", "sampled"):
            assert row[metric] == pytest.approx(sum(row[f"{metric}_items"]) / 48)
            assert sum(row[f"{metric}_by_stratum"]) / 12 == pytest.approx(row[metric])


def test_arms_start_from_one_round_and_differ_by_their_switches(rows: pl.DataFrame) -> None:
    starts = rows.filter(pl.col("round") == "r0000", pl.col("arm") != BACKBONE)
    assert starts.drop("arm").unique().height == 1
    last = {row["arm"]: row for row in rows.filter(pl.col("round") == "r0001").to_dicts()}
    assert last["seeds_only"]["num_new_sft"] == 0
    assert last[METHOD]["num_new_sft"] > 0
    assert 0 <= last[METHOD]["new_sft_right_rate"] <= 1


def test_arms_share_what_they_sample_before_they_part(plan: Plan, data_root: Path) -> None:
    """Same names, same sampling seeds: with pairs or without, the first round generates the same."""
    folder = data_root / STUDIES / plan.name
    with without_drawing():
        run_arm(plan, folder, "no_pairs", 0, num_rounds=1, log=keep_quiet)
    tables = [
        PlatformResource(data_root=str(find_arm_root(folder, arm, 0))).tables.path(plan.name, "r0001", "reviewed_set")
        for arm in (METHOD, "no_pairs")
    ]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    (folder / "seed0" / "no_pairs").rename(folder / "gone")  # the other tests count the arms


def test_a_study_goes_on_from_the_last_finished_round(plan: Plan, data_root: Path) -> None:
    folder = data_root / STUDIES / plan.name
    tables = find_arm_root(folder, METHOD, 0) / "tables" / plan.name / "r0001"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tables.iterdir()}
    run_arm(plan, folder, METHOD, 0, num_rounds=1, log=keep_quiet)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tables.iterdir()} == before
    # killed in the middle of the round: it is made again, and gives the same
    for name in ("eval_report", "eval_items", "checkpoint", "sft_set"):
        (tables / f"{name}.parquet").unlink()
    with without_drawing():
        run_arm(plan, folder, METHOD, 0, num_rounds=1, log=keep_quiet)
    assert {path.name: path.read_bytes() for path in tables.iterdir()} == {n: b for n, (b, _) in before.items()}


def test_arms_are_switches_of_the_recipe(plan: Plan) -> None:
    ours = plan_arm(plan, METHOD, 0).settings
    for arm, switches in ARMS.items():
        settings = plan_arm(plan, arm, 3).settings
        assert set(switches) <= set(LanceSettings.model_fields)
        assert settings.rng_seed == 3
        assert settings.parameters == ours.parameters.model_copy(update=switches)
        assert settings.training == ours.training
        assert settings.evaluation == ours.evaluation


def test_an_experiment_with_a_verifier_has_arms_too(plan: Plan) -> None:
    settings = plan.settings.model_dump(exclude_unset=True) | {"verifier": {"kind": "answer", "weight": 0.5}}
    verified = plan_experiment(ExperimentSettings.model_validate(settings), plan.folder)
    for arm, switches in ARMS.items():
        found = plan_arm(verified, arm, 3).settings
        assert found.verifier == (verified.settings.verifier if arm in (METHOD, "no_pairs") else None)
        assert found.parameters == verified.settings.parameters.model_copy(update=switches)


def test_a_study_needs_a_known_arm_and_a_token_budget(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"an arm is one of lance, .*; got 'nobody'"):
        plan_arm(plan, "nobody", 0)
    with pytest.raises(ValueError, match=r"defs.yaml: a study needs training.token_budget"):
        plan_arm(plan_tiny(write_tiny_experiment(tmp_path / "tiny"), training=TRAINING), METHOD, 0)


def test_a_study_is_never_mixed_with_one_of_other_settings(plan: Plan, data_root: Path) -> None:
    settings = plan.settings.model_dump()
    settings["training"]["token_budget"] = 2001
    other = Plan(plan.name, plan.folder, ExperimentSettings.model_validate(settings))
    folder = data_root / STUDIES / plan.name
    for run in (
        lambda: run_start(other, folder, 0, log=keep_quiet),
        lambda: run_arm(other, folder, METHOD, 0, num_rounds=1, log=keep_quiet),
    ):
        with pytest.raises(ValueError, match=r"made with other settings, .* of tiny .*; remove it, or name another"):
            run()


def test_tables_tell_every_arm(rows: pl.DataFrame) -> None:
    assert list_arms(rows) == dict.fromkeys((METHOD, *CONTROLS), "r0001")
    lines = tabulate_rounds(rows, metric="greedy", method=METHOD).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {n}" for n in ("raw backbone", METHOD, *CONTROLS)]
    assert "lance less this" in lines[0]
    whole = tabulate_study(rows, WORLD, method=METHOD)
    assert "sampled accuracy" in whole
    assert "by rung" in whole
    assert "new SFT rows" in whole


@pytest.mark.slow
def test_the_asset_shows_the_experiments_rounds_and_the_study(plan: Plan, data_root: Path) -> None:
    """The experiment's own rounds lie beside its study; here they are a copy of LANCE's arm."""
    arm = find_arm_root(data_root / STUDIES / plan.name, METHOD, 0)
    for name in ("tables", "costs", "checkpoints"):
        if not (data_root / name).exists():
            (data_root / name).symlink_to(arm / name)
    shown = describe_self_evolution(plan, PlatformResource(data_root=str(data_root)))
    assert shown.metadata is not None
    assert shown.metadata["num_rounds"] == 2
    assert shown.metadata["num_study_seeds"] == 1
    for name in ("rounds", "study"):
        assert METHOD in str(shown.metadata[name].value)
    for name in ("over_rounds", "study_over_rounds"):
        assert str(shown.metadata[name].value).startswith("![plot](data:image/png;base64,")
    assert describe_self_evolution(plan, PlatformResource(data_root=str(data_root))).data_version == shown.data_version


def test_the_asset_is_materialized_from_all_rounds(make_world: OpenWorld, scripted_rounds: Path) -> None:
    result = materialize_overview(make_world(made_before=scripted_rounds))
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    assert metadata["num_rounds"].value == 2
    assert "none yet" in str(metadata["study"].value)


def test_without_rounds_the_asset_says_what_to_do(make_world: OpenWorld) -> None:
    world = make_world()
    result = materialize_overview(world)
    assert not result.success
    (told,) = find_failures(result).values()
    assert told == "tiny self_evolution: tiny has no finished r0000; materialize it first"


def materialize_overview(world: World):
    job = world.definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=world.instance, raise_on_error=False, asset_selection=[find_key(world.plan, "self_evolution")]
    )


def test_the_command_line_shows_all_rounds(make_world: OpenWorld, scripted_rounds: Path) -> None:
    world = make_world(made_before=scripted_rounds)
    command_line.show_all_rounds(world.instance, world.plan, world.definitions, world.platform.claims)
    record = world.instance.get_latest_materialization_event(find_key(world.plan, "self_evolution"))
    assert record is not None
    assert record.asset_materialization.metadata["num_rounds"].value == 2
