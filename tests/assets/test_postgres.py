"""Dagster's records lie in PostgreSQL where the environment names a server, and no file has the password."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from lance_assets import extras
from lance_assets.assets.deploying.instance import POSTGRES, prepare_instance
from lance_assets.assets.run import open_instance
from tests.assets.postgres_server import ENVIRONMENT, PASSWORD, open_postgres


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is named, and the library is there."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(extras, "find_spec", lambda module: object())


def test_without_a_server_the_file_is_as_it_was(tmp_path: Path) -> None:
    prepare_instance(tmp_path / "own", is_own=True)
    assert "storage" not in yaml.safe_load((tmp_path / "own" / "dagster.yaml").read_text())
    prepare_instance(tmp_path / "theirs", is_own=False)
    assert not (tmp_path / "theirs").exists()


@pytest.mark.usefixtures("named")
def test_a_server_is_named_by_variables_alone(tmp_path: Path) -> None:
    """Also in a file that a person has changed, which stays as it is otherwise, and only once."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false} # mine\n")
    for _ in range(2):
        prepare_instance(tmp_path, is_own=True)
    text = (tmp_path / "dagster.yaml").read_text()
    assert text.startswith("telemetry: {enabled: false} # mine\n")
    said = yaml.safe_load(text)["storage"]["postgres"]["postgres_db"]
    assert sorted(value["env"] for name, value in said.items() if name != "scheme") == sorted(POSTGRES)
    assert PASSWORD not in text
    assert text.count("storage:") == 1


@pytest.mark.usefixtures("named")
def test_what_is_missing_for_postgres_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dagster.yaml").write_text("storage: {sqlite: {base_dir: elsewhere}}\n")
    with pytest.raises(ValueError, match=r"dagster\.yaml keeps Dagster's records elsewhere; take"):
        prepare_instance(tmp_path, is_own=True)
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    told = r"DAGSTER_POSTGRES_HOST needs the library dagster_postgres, .* pip install .*\[postgres\]"
    with pytest.raises(ValueError, match=told):
        prepare_instance(tmp_path, is_own=True)
    monkeypatch.delenv("DAGSTER_POSTGRES_PASSWORD")
    with pytest.raises(ValueError, match="DAGSTER_POSTGRES_HOST is set, and DAGSTER_POSTGRES_PASSWORD not; set all of"):
        prepare_instance(tmp_path, is_own=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A PostgreSQL server of this test's own, with a password."""
    with open_postgres() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield


@dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name="kept_round"))
def kept() -> dg.MaterializeResult:
    """Something that a run makes."""
    return dg.MaterializeResult(data_version=dg.DataVersion("one"))


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_runs_events_and_schedules_are_kept_in_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process finds them; and nothing beside the data holds them or the password."""
    monkeypatch.setenv("LANCE_HOME", str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with open_instance() as instance:
        stores = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
        assert {type(store).__name__ for store in stores} == {
            *("PostgresRunStorage", "PostgresEventLogStorage", "PostgresScheduleStorage")
        }
        instance.add_dynamic_partitions("kept_round", ["r0000"])
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        assert dg.materialize([kept], instance=instance, partition_key="r0000").success
    with open_instance() as instance:
        (record,) = instance.fetch_materializations(
            dg.AssetRecordsFilter(kept.key, asset_partitions=["r0000"]), 9
        ).records
        assert instance.get_run_by_id(record.run_id).is_success
        assert instance.get_dynamic_partitions("kept_round") == ["r0000"]
        assert instance.event_log_storage.get_concurrency_info("gpu").slot_count == 1
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [
        file for file in files if file.suffix in (".db", ".sqlite") or PASSWORD in file.read_text(errors="replace")
    ]
