"""Which code location a round of the command is given."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
)

from lance_assets.assets.location import find_repository
from lance_assets.assets.names import REFRESH_SENSOR

OTHERS = """\
load_from:
  - python_module: {module_name: somebody_elses, location_name: elsewhere}
  - python_module: {module_name: lance_assets.assets.code_location, location_name: our_loops}
"""


@pytest.fixture
def instance(tmp_path: Path) -> dg.DagsterInstance:
    (tmp_path / "dagster").mkdir()
    return dg.DagsterInstance.local_temp(str(tmp_path / "dagster"))


def note_tick(instance: dg.DagsterInstance, location: str, sensor: str, when: float) -> None:
    """A daemon ticked a sensor of a code location."""
    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
    data = SensorInstigatorData(last_tick_start_timestamp=when)
    state = InstigatorState(
        origin.get_instigator_origin(sensor), InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE, data
    )
    instance.add_instigator_state(state)


def find_name(instance: dg.DagsterInstance, folder: Path) -> str:
    return find_repository(instance, folder).code_location_origin.location_name


def test_it_is_the_one_that_the_ui_shows(instance: dg.DagsterInstance, tmp_path: Path, project_root: Path) -> None:
    # Where the project is installed as a package, the UI is started on its module.
    assert find_name(instance, tmp_path) == "lance_assets.assets.code_location"
    assert find_name(instance, project_root) == "lance"
    (tmp_path / "workspace.yaml").write_text(OTHERS)
    assert find_name(instance, tmp_path) == "our_loops"
    # What a daemon really ticked decides, the last one where there are several.
    note_tick(instance, "old", REFRESH_SENSOR, 1.0)
    note_tick(instance, "new", REFRESH_SENSOR, 3.0)
    note_tick(instance, "elsewhere", "their_sensor", 5.0)
    assert find_name(instance, tmp_path) == find_name(instance, project_root) == "new"
