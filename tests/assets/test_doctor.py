"""`lance doctor` and `--redo-from`: what differs between instance and disk, what mends it, and that nothing is lost."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lance_assets.assets import run as command_line
from lance_assets.assets.past.doctor import examine
from lance_assets.cli import mending
from lance_assets.cli.app import app
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from tests.assets.conftest import OpenWorld
from tests.assets.test_sensors import tick
from tests.assets.tiny_experiment import World, find_stale

Call = Callable[..., tuple[int, list[str]]]
AGREE = re.compile(r"the Dagster instance and .*/data agree on tiny")


@pytest.fixture
def world(make_scripted_world: OpenWorld, scripted_rounds: Path) -> World:
    """A scripted world in which r0000 and r0001 stand."""
    return make_scripted_world(made_before=scripted_rounds)


@pytest.fixture
def call(world: World, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command in the world: its data, its instance, its experiment and its scripted platform."""
    monkeypatch.setenv("TINY_WORLD", str(world.root))
    monkeypatch.setenv("DAGSTER_HOME", str(world.root / "dagster"))
    # An instance without settings of its own.
    (world.root / "dagster" / "dagster.yaml").touch()
    monkeypatch.chdir(world.root)
    monkeypatch.setattr(command_line, "JOB_MODULE", "tests.assets.scripted_workspace")
    monkeypatch.setattr(command_line, "build_platform", lambda: world.platform)
    monkeypatch.setattr("lance_assets.assets.loading.build_definitions", lambda: world.definitions)
    monkeypatch.setattr("lance_assets.rounds.experiments.load_plans", lambda: {world.plan.name: world.plan})
    monkeypatch.setattr(mending, "load_plans", lambda: {world.plan.name: world.plan})
    monkeypatch.setattr(mending, "open_platform", lambda: Platform(str(world.platform.root)))

    def lance(*arguments: str) -> tuple[int, list[str]]:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit | ValueError):
            raise result.exception
        told = [str(result.exception)] if isinstance(result.exception, ValueError) else []
        return result.exit_code, result.stdout.splitlines() + told

    return lance


def test_where_nothing_differs_it_says_so(call: Call) -> None:
    code, lines = call("doctor", "tiny")
    assert code == 0
    assert len(lines) == 1
    assert AGREE.fullmatch(lines[0])


def test_a_deleted_partition_is_found_and_added_again(world: World, call: Call) -> None:
    kept = world.read_bytes("r0001")
    world.instance.delete_dynamic_partition("tiny_round", "r0001")
    assert "its partition was deleted: lance doctor tiny --fix" in str(tick(world).skip_message)
    code, lines = call("doctor", "tiny")
    assert code == 4
    assert lines[0].startswith("tiny r0001: it has tables in ")
    assert lines[0].endswith("and is no partition of the instance; lance doctor tiny --fix adds it")
    code, lines = call("doctor", "tiny", "--fix")
    assert code == 0
    assert AGREE.fullmatch(lines[-1])
    assert (world.read_bytes("r0001"), set(find_stale(world, "r0001").values())) == (kept, {"FRESH"})
    (request,) = tick(world).run_requests
    assert request.partition_key == "r0002", "the loop goes on"


def test_a_partition_without_a_finished_round_may_begin_anew(world: World) -> None:
    job = world.definitions.resolve_job_def("tiny_round")
    world.add("r0002")
    run = world.instance.create_run_for_job(job, tags={"dagster/partition": "r0002"})
    world.instance.report_run_failed(run)
    assert not tick(world).run_requests
    world.instance.delete_dynamic_partition("tiny_round", "r0002")
    (request,) = tick(world).run_requests
    # Under the first key the daemon would take the run for one that it has started.
    assert (request.partition_key, request.run_key) == ("r0002", "tiny/r0002/1")


@pytest.mark.slow
def test_an_instance_that_knows_nothing_learns_all(world: World, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = world.root / "another_instance"
    empty.mkdir()
    (empty / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(empty))
    code, lines = call("run", "tiny")
    assert code != 0
    assert "r0000 is finished in " in lines[-1]
    assert "lance doctor tiny --fix tells it" in lines[-1], "data is not made again unasked"
    code, lines = call("doctor", "tiny", "--fix")
    assert code == 0, lines
    with command_line.open_instance() as instance:
        taught = World(world.root, world.plan, world.platform, instance, world.definitions)
        for key in ("r0000", "r0001"):
            assert taught.versions(key) == world.versions(key)
            assert set(find_stale(taught, key).values()) == {"FRESH"}
            assert taught.metadata("sft_set", key)["dagster/row_count"] == len(world.round(key).read("sft_set"))
        (request,) = tick(taught).run_requests
        assert request.partition_key == "r0002"


def test_case_dagster_wipe(world: World, call: Call) -> None:
    """Data that is gone while the instance stays stops the loop, with a way on that loses nothing."""
    away = world.root / "away"
    shutil.move(world.platform.root / "tables" / "tiny" / "r0001", away)
    told = str(tick(world).skip_message)
    assert "r0001 was made before and its tables are gone from " in told
    assert "lance run tiny" in told
    code, lines = call("doctor", "tiny", "--fix")
    assert code == 4, "what is gone cannot be mended"
    assert lines[0].startswith("tiny r0001: the instance remembers start_checkpoint, ")
    assert "bring the data back (is LANCE_HOME right?), or: lance run tiny --redo-from r0001" in lines[0]
    shutil.move(away, world.platform.root / "tables" / "tiny" / "r0001")
    assert call("doctor", "tiny")[0] == 0


def test_a_table_and_weights_that_are_others_are_found(world: World, call: Call) -> None:
    table = world.round("r0000").read("reviewed_set")
    sft = world.round("r0000").read("sft_set")
    assert table.is_empty()
    world.round("r0000").write("sft_set", sft.head(len(sft) - 1))
    (world.round("r0001").model_path("r0001") / "config.json").write_text("{}")
    code, lines = call("doctor", "tiny")
    assert code == 4
    assert lines[0].startswith("tiny r0000: sft_set is another than the instance remembers; ")
    assert "tiny r0001: the folder of its checkpoint" in lines[1]
    assert "does not hold what was recorded" in lines[1]
    assert "r0000 sft_set changed since this round began" in lines[2]
    assert lines[-1] == "3 differences"
    code, lines = call("doctor", "tiny", "--fix")
    assert (code, len(lines)) == (4, 4), "the table is known now, and what was made of the old one is not made again"
    assert find_stale(world, "r0001")["start_checkpoint"] == "STALE"


@pytest.mark.slow
def test_data_of_a_renamed_experiment_goes_on_under_its_name(
    world: World, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, num_texts = world.read_bytes("r0001"), len(world.platform.history.read_round("tiny", "r0001")[0])
    renamed = Plan("renamed", world.plan.folder, world.plan.settings)
    plans = {"renamed": renamed}
    monkeypatch.setattr(mending, "load_plans", lambda: plans)
    code, lines = call("doctor")
    assert code == 4
    assert (
        "tables/tiny holds r0000, r0001, and no experiment has that name; if it was renamed: lance doctor" in lines[0]
    )
    code, lines = call("doctor", "--rename", "tiny", "renamed")
    assert code == 0, lines
    assert "moved: tables/tiny -> tables/renamed" in lines
    assert examine(world.instance, plans, world.platform) == []
    assert len(world.platform.history.read_round("renamed", "r0001")[0]) == num_texts > 0
    moved = world.platform.root / "tables" / "renamed" / "r0001" / "sft_set.parquet"
    assert moved.read_bytes() == kept["sft_set.parquet"]
    code, lines = call("doctor", "--rename", "tiny", "renamed")
    assert code != 0
    assert "has no rounds of 'tiny'" in lines[-1]


@pytest.mark.slow
def test_the_example_of_the_page_redoes_rounds_in_order(world: World, call: Call, project_root: Path) -> None:
    """The commands of the page's example are run, and every line that it shows is printed, in its order."""
    page = (project_root / "docs" / "operations.md").read_text(encoding="utf-8").replace("mini_lance", "tiny")
    # The second example needs a run that is lost.
    block = re.findall(r"```console\n(.*?)```", page, re.DOTALL)[0]
    sft = world.round("r0000").read("sft_set")
    world.round("r0000").write("sft_set", sft.head(len(sft) - 1))
    printed: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ lance "):
            printed = call(*line.removeprefix("$ lance ").split())[1]
        elif line != "...":
            place = next((n for n, said in enumerate(printed) if _is_like(line, said)), None)
            assert place is not None, (line, printed)
            printed = printed[place + 1 :]
    for key in ("r0000", "r0001"):
        assert set(find_stale(world, key).values()) == {"FRESH"}


def _is_like(line: str, said: str) -> bool:
    return re.fullmatch(re.escape(line).replace(r"\.\.\.", ".*"), said) is not None
