"""What a Dagster user expects of a table: its value, place, size, columns and their lineage, its code, true kinds."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lance_assets import records
from lance_assets.assets import building
from lance_assets.assets.names import find_key
from lance_assets.assets.tables import LINEAGE, describe_columns, find_maker
from lance_assets.recipes.contract import list_recipes
from lance_assets.rounds.nouns import NOUNS, list_schemas
from lance_assets.rounds.plan import Plan
from resources.engines.contract import EngineError, EngineUnavailableError
from resources.machine.handover import LeakedProcessError
from resources.training.trainer import TrainingError
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import ScriptedEngine, ScriptedPlatform
from tests.assets.tiny_experiment import World, find_failures, plan_tiny, write_tiny_experiment

SERVER = {"kind": "openai", "openai": {"base_url": "http://127.0.0.1:9/v1"}}


def test_dagster_loads_the_tables(make_scripted_world: OpenWorld, scripted_rounds: Path) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    for noun in world.nouns:
        value = world.definitions.load_asset_value(
            find_key(world.plan, noun), partition_key="r0001", instance=world.instance
        )
        assert isinstance(value, pl.DataFrame)
        assert_frame_equal(value, world.round("r0001").read(noun))
    with world.definitions.get_asset_value_loader(instance=world.instance) as loader:
        both = loader.load_asset_value(
            find_key(world.plan, "sft_set"), partition_key_range=dg.PartitionKeyRange("r0000", "r0001")
        )
        assert {key: table.height for key, table in both.items()} == {
            key: world.round(key).read("sft_set").height for key in ("r0000", "r0001")
        }
        with pytest.raises(ValueError, match="tiny/sft_set has a table a round; name one"):
            loader.load_asset_value(find_key(world.plan, "sft_set"))


def test_each_materialization_says_where_its_table_lies(make_scripted_world: OpenWorld, scripted_rounds: Path) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    assert world.materialize("r0001", *world.nouns[:-2]).success
    for noun in world.nouns[:-2]:
        shown = world.metadata(noun, "r0001")
        table = pl.read_parquet(shown["dagster/uri"])
        assert_frame_equal(table, world.round("r0001").read(noun))
        assert shown["dagster/row_count"] == table.height
    lineage = world.metadata("sft_set", "r0001")["dagster/column_lineage"].deps_by_column
    assert lineage["prompt"] == [
        dg.TableColumnDep(find_key(world.plan, name), "prompt") for name in ("reviewed_set", "seed_set")
    ]


def test_every_column_is_described() -> None:
    """Those of a table that a noun keeps beside its own too."""
    schemas = list_schemas() | {name: table for name, table in vars(records).items() if isinstance(table, pl.Schema)}
    undescribed = {
        f"{name}.{column}"
        for name, schema in schemas.items()
        for column in schema
        if len(describe_columns(schema).get(column, "").split()) < 2
    }
    assert undescribed == set()


def test_the_definition_of_a_table_shows_its_columns_and_its_code(tmp_path: Path) -> None:
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"))
    for asset in building.build_assets(plan):
        (spec,) = asset.specs
        noun = NOUNS[spec.key.path[-1]]
        columns = spec.metadata["dagster/column_schema"].columns
        assert [(column.name, column.type) for column in columns] == [(n, str(t)) for n, t in noun.schema.items()]
        assert all(column.description for column in columns)
        maker, settings = spec.metadata["dagster/code_references"].code_references
        line = Path(maker.file_path).read_text().splitlines()[maker.line_number - 1]
        assert line.startswith(f"def make_{noun.name}(")
        assert settings.file_path == str(tmp_path / "tiny" / "defs.yaml")


def test_makers_are_found_without_being_imported() -> None:
    with pytest.raises(ValueError, match=r"lance_assets\.rounds\.making\.training has no function make_nothing"):
        find_maker(NOUNS["checkpoint"].made_by, "nothing")


def test_columns_come_from_columns_of_inputs() -> None:
    """Each source is a column of an asset that there is an edge from."""
    for name, columns in LINEAGE.items():
        assert set(columns) <= set(NOUNS[name].schema)
        for source in {source for sources in columns.values() for source in sources}:
            noun, column = source.split(".")
            assert noun in NOUNS[name].inputs, f"{name} has no edge from {source}"
            assert column in NOUNS[noun].schema, source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_experiment(tmp_path_factory.mktemp("kinds") / "tiny")


def show_kinds(plan: Plan) -> dict[str, set[str]]:
    return {noun.name: noun.kinds(plan) for noun in NOUNS.values() if noun.exists(plan)}


def test_kinds_follow_the_engine_that_answers(folder: Path) -> None:
    own = show_kinds(plan_tiny(folder))
    assert own["reviewed_set"] == own["eval_report"] == {"transformers", "parquet"}
    reviewed = show_kinds(plan_tiny(folder, roles={"reviewer": {"engine": SERVER}}))
    # The reviewer answers all of reviewed_set, and of raw_generations the reviews of the seeds.
    assert reviewed["reviewed_set"] == {"openai", "parquet"}
    assert reviewed["raw_generations"] == {"openai", "transformers", "parquet"}
    assert reviewed["preference_pairs"] == {"polars", "parquet"}
    judged = plan_tiny(folder, roles={"reviewer": {"engine": SERVER}}, num_judged_pairs=2)
    assert show_kinds(judged)["preference_pairs"] == {"openai", "parquet"}
    # SPIN asks nothing about its rows.
    spin = show_kinds(plan_tiny(folder, recipe="spin"))
    assert spin["reviewed_set"] == {"polars", "parquet"}
    harness = {"lm_eval": {"tasks": ["gsm8k"], "num_fewshot": 5}}
    assert show_kinds(plan_tiny(folder, evaluation=harness))["eval_report"] == {"transformers", "parquet"}
    on_vllm = plan_tiny(folder, evaluation=harness, engine={"kind": "vllm"})
    assert show_kinds(on_vllm)["eval_report"] == {"vllm", "parquet"}
    assert all(len(kinds) <= 3 for kinds in reviewed.values())


def test_every_stage_is_asked_in_an_asset_that_asks() -> None:
    for recipe in list_recipes():
        for stage in recipe.stages:
            assert stage.asked_in in ("raw_generations", "reviewed_set", "preference_pairs"), stage


class FailingPlatform(ScriptedPlatform):
    """Its engine fails a number of times before it works."""

    fails: int = 1
    with_words: str = ""

    def open_engine(self, *arguments: object, **more: object) -> ScriptedEngine:
        """A scripted engine, or the failure."""
        tried = self.root / "tried.txt"
        num_tried = len(tried.read_text()) if tried.exists() else 0
        tried.write_text("x" * (num_tried + 1))
        if num_tried < self.fails:
            raise ERRORS[self.with_words]
        return super().open_engine(*arguments, **more)  # type: ignore[arg-type]


ERRORS: dict[str, Exception] = {
    str(error): error
    for error in (
        EngineUnavailableError("the server at http://127.0.0.1:9/v1 cannot be reached"),
        LeakedProcessError("process 12 still holds the memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        EngineError("the key is refused"),
        TrainingError("the training process ran out of memory (exit 1)"),
        ValueError("the file has no prompt"),
        RuntimeError("index out of range"),
    )
}
PASSING, LASTING = list(ERRORS)[:3], list(ERRORS)[3:]


def generate(world: World) -> tuple[dg.ExecuteInProcessResult, int]:
    """A round's generations, and how often the step was tried again."""
    assert world.materialize("r0001", "start_checkpoint", "seed_set").success
    result = world.materialize("r0001", "raw_generations")
    return result, len([event for event in result.all_events if event.is_step_up_for_retry])


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> dg.RetryPolicy:
    """As many tries as there are, with pauses that a test can wait for."""
    quick = dg.RetryPolicy(max_retries=building.RETRIES.max_retries, delay=0.01)
    monkeypatch.setattr(building, "RETRIES", quick)
    return quick


@pytest.mark.parametrize("words", PASSING)
def test_what_may_pass_is_tried_again(make_scripted_world: OpenWorld, pauses: dg.RetryPolicy, words: str) -> None:
    machines = {"fails": 2, "with_words": words}
    world = make_scripted_world(platform_class=FailingPlatform, machines=machines)
    result, num_retries = generate(world)
    assert result.success, find_failures(result)
    assert num_retries == 2


@pytest.mark.parametrize("words", LASTING)
def test_what_a_person_must_mend_is_not(make_scripted_world: OpenWorld, words: str) -> None:
    result, num_retries = generate(
        make_scripted_world(platform_class=FailingPlatform, machines={"fails": 1, "with_words": words})
    )
    assert not result.success
    assert num_retries == 0
    assert words in str(find_failures(result))


def test_what_does_not_pass_is_told_at_last(make_scripted_world: OpenWorld, pauses: dg.RetryPolicy) -> None:
    machines = {"fails": 99, "with_words": PASSING[0]}
    result, num_retries = generate(make_scripted_world(platform_class=FailingPlatform, machines=machines))
    assert num_retries == pauses.max_retries == 3
    assert find_failures(result) == {"tiny__raw_generations": f"tiny r0001 raw_generations: {PASSING[0]}"}
