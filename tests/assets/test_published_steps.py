"""With LANCE_STORE a step publishes what it made, and a machine with nothing goes on from there."""

from pathlib import Path

import pytest

from lance_assets.assets.past.doctor import examine, mend
from resources.remote.store import Store
from resources.remote.write_through import bring_experiment
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import find_failures, open_world


def test_a_machine_with_nothing_goes_on_from_what_steps_published(
    tmp_path: Path, scripted_start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANCE_STORE", f"file://{tmp_path}/bucket")
    store, new = Store(f"file://{tmp_path}/bucket"), tmp_path / "elsewhere"
    with (
        without_drawing(),
        open_world(tmp_path / "world", made_before=scripted_start, in_memory=True, **SCRIPTED) as first,
        open_world(new, in_memory=True, **SCRIPTED) as world,
    ):
        result = first.materialize("r0000", "seed_set")
        assert result.success, find_failures(result)
        newest = store.read_newest("tiny")
        assert newest is not None
        assert "tables/tiny/r0000/eval_report.parquet" in newest.files
        assert bring_experiment(world.platform.root, "tiny", say=lambda _: None)
        mend(world.instance, {"tiny": world.plan}, world.platform, "tiny", say=lambda _: None)
        # Weights that are in the store alone are not lost ones.
        weights = new / "data/checkpoints/tiny/r0000"
        assert not weights.exists()
        assert examine(world.instance, {"tiny": world.plan}, world.platform, "tiny") == []
        result = world.materialize("r0001", "start_checkpoint")
        assert result.success, find_failures(result)
        assert weights.is_dir()
        # The first machine's next step fetches what this one published.
        result = first.materialize("r0001", "seed_set")
        assert result.success, find_failures(result)
        assert first.round("r0001").read("start_checkpoint").equals(world.round("r0001").read("start_checkpoint"))
        newest = store.read_newest("tiny")
        assert newest is not None
        assert "tables/tiny/r0001/seed_set.parquet" in newest.files
