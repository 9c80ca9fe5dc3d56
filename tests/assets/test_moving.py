"""An experiment that goes from one machine over a store to another: the next round is made there in the same bytes."""

import re
import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest

from lance_assets.assets.names import find_key
from lance_assets.assets.past.doctor import examine, mend
from lance_assets.assets.sensors import decide, explain_obstacle, list_to_make
from lance_assets.rounds.nouns import NOUNS
from resources.remote.copying import Copying, copy_experiment
from resources.remote.folder import DataFolder
from resources.remote.store import Store
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import find_failures, open_world


def test_another_machine_goes_on_from_the_store_in_the_same_bytes(
    tmp_path: Path, scripted_start: Path, scripted_rounds: Path
) -> None:
    store, new = Store(f"file://{tmp_path}/bucket"), tmp_path / "elsewhere"
    with open_world(scripted_rounds, in_memory=True, **SCRIPTED) as world:
        made = world.read_bytes("r0001")
    old = shutil.copytree(scripted_start / "data", tmp_path / "old")
    copy_experiment(Copying("tiny", DataFolder(old), store, is_thorough=True))
    shutil.rmtree(old)
    copy_experiment(Copying("tiny", store, DataFolder(new / "data")))
    with without_drawing(), open_world(new, in_memory=True, **SCRIPTED) as world:
        instance, plan, platform, said = world.instance, world.plan, world.platform, list[str]()
        mend(instance, {"tiny": plan}, platform, "tiny", say=said.append)
        # Rounds, weights and the history in LanceDB are what they were, and Dagster knows them.
        assert examine(instance, {"tiny": plan}, platform, "tiny") == []
        assert not [line for line in said if line.startswith("not mended")]
        assert explain_obstacle(instance, plan, platform, "r0000") is None
        assert decide(instance, plan, platform).next_round == "r0001"
        assert instance.get_dynamic_partitions("tiny_round") == ["r0000"]
        for noun in world.nouns:
            made_here = world.find_materialization(noun, "r0000")
            for check in NOUNS[noun].checks:
                (judged,) = instance.event_log_storage.get_asset_check_execution_history(
                    dg.AssetCheckKey(find_key(plan, noun), check.name), limit=1
                )
                assert judged.event is not None
                assert judged.event.timestamp >= made_here.timestamp
        # A round that is finished and known is not begun again.
        assert list_to_make(instance, plan, platform, "r0000") == list(world.nouns)
        result = world.run("r0001")
        assert result.success, find_failures(result)
        assert world.read_bytes("r0001") == made


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny"], "name a place: --to where it goes, or --from where it is"),
        (["Tiny", "--to", "memory://x"], "experiment must be small letters, digits and underscores"),
        (["tiny", "--from", "nowhere"], "nowhere has no folder data"),
        (["tiny", "--to", "memory://x?key=1"], "a store is an address like s3://bucket/lance, got 'memory://x"),
        (["tiny", "--from", "memory://empty"], "memory://empty has no round of 'tiny'"),
        (["tiny", "--from", "s3://bucket/x"], r"s3://bucket/x needs a library .*pip install -c constraints.txt -e"),
    ],
)
def test_a_mistaken_move_is_named(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_cli import call

    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where the extra is not installed
    code, _, mistake = call("move", *arguments)
    assert code == 2
    assert re.search(said, mistake), mistake
