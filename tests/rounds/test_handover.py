"""From which round on has a changed past to be made again?"""

from pathlib import Path

import pytest

from lance_assets.rounds.past.handover import Change, find_first_to_redo
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        (["r0003", "r0001", None], "r0002"),
        (["r0004"], "r0005"),
        ([None], "r0005"),
    ],
)
def test_it_begins_after_the_first_round_that_changed(tmp_path: Path, changed: list[str | None], first: str) -> None:
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"))
    this_round = Round(plan, Platform(str(tmp_path)), "r0005", lambda _: None)
    assert find_first_to_redo(this_round, [Change(key, f"{key} sft_set") for key in changed]) == first
