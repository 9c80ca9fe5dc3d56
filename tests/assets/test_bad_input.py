"""What a person sees when a model, a table, a review or the disk is not as it should be."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from lance_assets.assets.past.lineage import observe_sources
from lance_assets.small_world import SMALL_MODEL
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import WatchedPlatform
from tests.assets.tiny_experiment import World, find_failures


def fail_alone(world: World, key: str, noun: str) -> str:
    """What one asset's failure says; it is a mistake to mend, so it is not tried again."""
    # As the sensor of the sources does: a step that finds another file than was last observed begins again.
    observe_sources(world.instance, world.plan)
    result = world.materialize(key, noun)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data is not None, find_failures(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    return find_failures(result)[f"tiny__{noun}"]


@pytest.mark.slow
def test_an_unknown_model(make_scripted_world: OpenWorld):
    told = fail_alone(make_scripted_world(model="./no_such_model"), "r0000", "start_checkpoint")
    assert told.startswith("tiny r0000 start_checkpoint: unknown model './no_such_model'")


def test_a_model_without_chat_template(make_scripted_world: OpenWorld, tmp_path: Path):
    folder = tmp_path / "base_model"
    shutil.copytree(SMALL_MODEL, folder, ignore=shutil.ignore_patterns("chat_template*"))
    told = fail_alone(make_scripted_world(model=str(folder)), "r0000", "start_checkpoint")
    assert f"{folder} has no chat template" in told
    assert "instruction-tuned variant" in told


def test_a_chat_template_without_an_end_of_turn(make_scripted_world: OpenWorld, tmp_path: Path):
    folder = shutil.copytree(SMALL_MODEL, tmp_path / "no_end")
    template = (folder / "chat_template.jinja").read_text().replace("<|im_end|>", "")
    (folder / "chat_template.jinja").write_text(template)
    told = fail_alone(make_scripted_world(model=str(folder)), "r0000", "start_checkpoint")
    assert "never learns to stop; put <|im_end|> behind the assistant's content" in told


def test_a_chat_is_shown_before_its_first_use(make_scripted_world: OpenWorld):
    world = make_scripted_world()
    assert world.materialize("r0000", "start_checkpoint").success
    told = world.metadata("start_checkpoint", "r0000")
    assert "trained and stopped at" in str(told["chat_end_of_turn"])
    assert "⟨It is 4.<|im_end|>" in str(told["chat_example"])
    assert "chat_harness" not in told, "no task of the harness is asked"


@pytest.mark.parametrize("apply_chat_template", [None, False])
def test_whether_the_harness_asks_alike_is_shown_before_the_first_use(
    make_scripted_world: OpenWorld, apply_chat_template: bool | None
):
    lm_eval = {"tasks": ["gsm8k"], "apply_chat_template": apply_chat_template}
    world = make_scripted_world(evaluation={"lm_eval": lm_eval})
    assert world.materialize("r0000", "start_checkpoint").success
    told = world.metadata("start_checkpoint", "r0000")
    assert ("chat_harness" in told) == (apply_chat_template is None)
    assert apply_chat_template is False or "asks with the same tokens" in str(told["chat_harness"])


def test_a_folder_that_is_not_a_checkpoint(make_scripted_world: OpenWorld, tmp_path: Path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read_me.txt").write_text("no model")
    told = fail_alone(make_scripted_world(model=str(tmp_path / "notes")), "r0000", "start_checkpoint")
    assert f"{tmp_path / 'notes'} is not a checkpoint: it has no config.json" in told


@pytest.mark.slow
def test_a_checkpoint_that_is_not_what_was_recorded(make_scripted_world: OpenWorld, scripted_rounds: Path):
    world = make_scripted_world(made_before=scripted_rounds)
    (world.round("r0000").model_path("r0000") / "generation_config.json").write_text("{}")
    told = fail_alone(world, "r0001", "start_checkpoint")
    assert "does not hold what was recorded; materialize checkpoint of r0000 again" in told


def test_a_round_that_is_not_one(make_scripted_world: OpenWorld):
    told = fail_alone(make_scripted_world(), "r1", "seed_set")
    assert told == "tiny r1 seed_set: a round's key is r and four digits, such as r0001; got 'r1'"


def test_a_corrupt_table(make_scripted_world: OpenWorld, scripted_rounds: Path):
    world = make_scripted_world(made_before=scripted_rounds)
    path = world.platform.tables.path("tiny", "r0001", "reviewed_set")
    path.write_bytes(path.read_bytes()[:-100])
    before = world.read_bytes("r0001")
    told = fail_alone(world, "r0001", "sft_set")
    assert f"{path} is not what was written" in told
    assert "materialize tiny/reviewed_set for r0001 again" in told
    assert world.read_bytes("r0001") == before


def test_a_corrupt_history(make_scripted_world: OpenWorld, scripted_rounds: Path):
    world = make_scripted_world(made_before=scripted_rounds)
    for manifest in (world.platform.root / "history.lancedb" / "history.lance" / "_versions").iterdir():
        manifest.write_bytes(b"not a manifest")
    before = world.read_bytes("r0001")
    told = fail_alone(world, "r0001", "cleaned_set")
    assert "the table is locked or corrupt: lance doctor --fix moves it aside and writes it again" in told
    assert world.read_bytes("r0001") == before


def test_a_history_moved_away_is_written_anew(make_scripted_world: OpenWorld, scripted_rounds: Path):
    world = make_scripted_world(made_before=scripted_rounds)
    shutil.rmtree(world.platform.root / "history.lancedb")
    assert world.materialize("r0001", "cleaned_set").success
    kept = world.round("r0001").read("cleaned_set").filter(pl.col("drop_reason").is_null())
    assert sorted(world.platform.history.read_round("tiny", "r0001")[0]["row_id"]) == sorted(kept["row_id"])


def test_a_review_without_a_score_is_kept_as_unscored(make_scripted_world: OpenWorld):
    world = make_scripted_world(
        machines={"says_in_review": "I like it."}, checks={"max_unscored_rate": 0.5}, force_ending=False
    )
    result = world.run("r0001")
    reviewed = world.round("r0001").read("reviewed_set")
    assert len(reviewed) == len(world.round("r0001").read("seed_set")) == 6
    assert reviewed["review_score"].null_count() == 6
    assert world.metadata("reviewed_set", "r0001")["branches/unscored"] == 6
    assert reviewed["reviews"].to_list() == [["I like it."]] * 6
    assert reviewed["unscored_reasons"].to_list() == [["no_score"]] * 6
    assert not result.success, "more rows without a score than the experiment allows stop the round"
    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "unscored_rate"]
    assert (check.passed, check.metadata["unscored_rate"].value, check.metadata["bar"].value) == (False, 1.0, 0.5)
    assert "100% of the reviews" in str(check.description)
    assert "Reasons: no_score 6. Such reviews are: 'I like it.'" in str(check.description)
    assert not world.platform.tables.exists("tiny", "r0001", "sft_set")


def test_a_completion_cut_at_the_token_limit_is_dropped(make_scripted_world: OpenWorld):
    world = make_scripted_world(machines={"cuts_completions": True})
    assert world.materialize("r0001", "start_checkpoint", "seed_set", "raw_generations", "cleaned_set").success
    completions = world.round("r0001").read("cleaned_set").filter(kind="completion")
    assert len(completions) > 0
    assert set(completions["drop_reason"]) == {"cut_off"}
    assert completions["completion"].null_count() == 0, "the text is kept"
    assert world.metadata("raw_generations", "r0001")["cost/num_cut_off"] == len(completions)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The data folder of the first world, on a disk of its own of 24 MiB."""
    folder = tmp_path / "world0" / "data"
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk(small_disk: Path, make_scripted_world: OpenWorld):
    world = make_scripted_world()
    assert world.run("r0001").success
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(24 * 2**20))
    before = world.read_bytes("r0001")
    rows, _ = world.platform.history.read_round("tiny", "r0001")
    for noun in ("raw_generations", "cleaned_set", "sft_set", "checkpoint"):
        told = fail_alone(world, "r0001", noun)
        assert re.search("the disk( of .*)? is full.*free some space", told), told
        assert world.read_bytes("r0001") == before, noun
    assert world.platform.history.read_round("tiny", "r0001")[0].equals(rows)
    assert not [path for path in small_disk.rglob("*.tmp") if path.is_file()]
    filler.unlink()
    assert world.run("r0001").success
    assert world.read_bytes("r0001") == before


KILLED = """
import sys
from pathlib import Path
from tests.assets.scripted_platform import WatchedPlatform
from tests.assets.tiny_experiment import open_world

with open_world(Path(sys.argv[1]), platform_class=WatchedPlatform, machines={"kill_after": 20}) as world:
    world.materialize("r0001", "raw_generations")
"""


@pytest.mark.slow
def test_a_killed_stage_asks_for_what_is_missing_and_gives_the_same_bytes(make_world: OpenWorld, two_rounds: Path):
    world = make_world(made_before=two_rounds, platform_class=WatchedPlatform)
    path = world.platform.tables.path("tiny", "r0001", "raw_generations")
    whole = path.read_bytes()
    path.unlink()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(world.root)], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()[-2000:]
    assert not path.exists()
    asked = world.platform.root / "asked.txt"
    before = asked.read_text().split()
    assert 20 <= len(before) < 40
    asked.unlink()

    result = world.materialize("r0001", "raw_generations")
    assert result.success, find_failures(result)
    assert path.read_bytes() == whole
    row_ids = world.round("r0001").read("raw_generations")["row_id"].to_list()
    again = set(before) & set(asked.read_text().split())
    assert set(before) | set(asked.read_text().split()) == set(row_ids)
    assert len(again) <= world.plan.settings.engine.batch_size, "only the group it was killed in is asked again"
    assert any("rows were finished before" in entry.user_message for entry in world.instance.all_logs(result.run_id))
    assert not (world.platform.root / "stages" / "tiny" / "r0001" / "raw_generations").exists()
