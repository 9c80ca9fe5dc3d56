"""The measures of a round over all rounds, and the floors that stop the training."""

from pathlib import Path

import pytest

from lance_assets.records import DIVERSITY_REPORT
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED


@pytest.mark.slow
def test_every_round_has_its_row_and_the_picture_shows_all(make_world: OpenWorld, scripted_rounds: Path) -> None:
    world = make_world(made_before=scripted_rounds, **SCRIPTED)
    assert world.run("r0002").success
    rows = {key: world.round(key).read("diversity_report").row(0, named=True) for key in ("r0000", "r0001", "r0002")}
    assert rows["r0000"]["num_rows"] == 0
    assert rows["r0000"]["vendi_score"] is None
    assert rows["r0000"]["novelty"] is None
    assert rows["r0001"]["novelty"] is None
    assert 0 < rows["r0002"]["novelty"] < 2
    for key in ("r0001", "r0002"):
        kept = world.round(key).read("cleaned_set")["drop_reason"].null_count()
        assert rows[key]["num_rows"] == kept
        assert 1 <= rows[key]["vendi_score"] <= kept
        assert 0 <= rows[key]["seed_share"] <= 1
    shown = world.metadata("diversity_report", "r0002")
    assert str(shown["over_rounds"]).startswith("![plot](data:image/png;base64,")
    assert str(shown["rounds"]).count("\n") == 12
    assert list(rows["r0002"]) == DIVERSITY_REPORT.names()


@pytest.mark.slow
def test_a_broken_floor_stops_the_round_before_training(make_scripted_world: OpenWorld) -> None:
    world = make_scripted_world(checks={"min_vendi_rate": 1.0, "max_unscored_rate": 1.0, "min_pairs": 0})
    first = world.materialize("r0000", "diversity_report")
    assert [check.passed for check in first.get_asset_check_evaluations()] == [True], "nothing there can be measured"
    result = world.run("r0001")
    (check,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "no_collapse"]
    assert not check.passed
    (told,) = check.metadata["breached"].value
    assert "vendi_rate" in told
    assert "1.0" in told
    assert not result.asset_materializations_for_node("tiny__checkpoint")
