"""What `retention` removes and keeps: never what something still needs, and what is gone says how it is made again."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from lance_assets.algorithms.measures.progress import RoundOutcome, format_round
from lance_assets.home import list_folders
from lance_assets.records import CHECKPOINT, EVAL_REPORT, START_CHECKPOINT
from lance_assets.rounds.past import handover, retention
from lance_assets.rounds.past.retention import describe_retention, enforce_retention, list_removed
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.retention import KeptRounds, RetentionSettings
from resources.stores.checkpoints import MissingCheckpointError, Removal, RemovedCheckpointError
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment
from tests.resources.power_cut import cut_everywhere

NUM_ROUNDS = 6
Keep = Callable[..., Round]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_experiment(tmp_path_factory.mktemp("plan") / "tiny")


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return plan_tiny(folder)


def make_weights(place: Path, key: str) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text('{"model_type": "qwen2"}')
    (place / "tokenizer.json").write_text(json.dumps({"of": key}))
    save_file({"weight": np.ones((8, 8), dtype=np.float32)}, place / "model.safetensors")
    return place


def make_round(platform: Platform, key: str, *, parent: str | None, finished: bool = True) -> None:
    """A round as it is on the disk; its weights are known by its name."""
    tables = platform.tables
    start = {"parent_round": parent, "content_hash": parent or "base", "handover_hash": "", "left_out": []}
    tables.write(
        "tiny", key, "start_checkpoint", pl.DataFrame([start], schema=START_CHECKPOINT), schema=START_CHECKPOINT
    )
    if finished:
        made = pl.DataFrame([dict.fromkeys(CHECKPOINT.names()) | {"content_hash": key}], schema=CHECKPOINT)
        tables.write("tiny", key, "checkpoint", made, schema=CHECKPOINT)
        tables.write("tiny", key, "eval_report", pl.DataFrame(schema=EVAL_REPORT), schema=EVAL_REPORT)
        platform.checkpoints.publish(make_weights(platform.root / "new" / key, key), "tiny", key)


@pytest.fixture
def keep(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keep:
    """Six finished rounds of which r0002 is the best, under a rule; the last of them."""
    platform = Platform(data_root=str(tmp_path))
    for number in range(NUM_ROUNDS):
        make_round(platform, format_round(number), parent=format_round(number - 1) if number else None)

    def prepare(
        *, scores: tuple[float, ...] = (0.1, 0.2, 0.9, 0.3, 0.4, 0.5), regressed: tuple[int, ...] = (), **rules: object
    ) -> Round:
        outcomes = [
            RoundOutcome(format_round(number), score, number in regressed, 0, 0.0)
            for number, score in enumerate(scores)
        ]

        def read(_: object, keys: list[str]) -> list[RoundOutcome]:
            return [outcome for outcome in outcomes if outcome.round_key in keys]

        monkeypatch.setattr(retention, "read_outcomes", read)
        monkeypatch.setattr(handover, "read_outcomes", read)
        settings = plan.settings.model_copy(update={"retention": RetentionSettings.model_validate(rules)})
        last = format_round(len(scores) - 1)
        return Round(Plan(plan.name, plan.folder, settings), platform, last, lambda _: None)

    return prepare


def list_kept(this_round: Round) -> list[int]:
    """The numbers of the rounds that have weights."""
    found = this_round.platform.checkpoints.folder("tiny", "r0000").parent.iterdir()
    return sorted(int(path.name[1:]) for path in found)


def test_by_default_nothing_is_removed(keep: Keep) -> None:
    this_round = keep()
    assert enforce_retention(this_round) == []
    assert list_kept(this_round) == [0, 1, 2, 3, 4, 5]
    assert describe_retention(this_round, []) == {}


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"last": 2}, [2, 4, 5]),
        ({"last": 1}, [2, 5]),
        ({"last": 1, "every": 3}, [0, 2, 3, 5]),
        ({"last": 3, "rounds": ["r0001"]}, [1, 2, 3, 4, 5]),
        ({"last": 99}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_last_the_best_and_milestones_are_kept(keep: Keep, rule: dict, kept: list[int]) -> None:
    this_round = keep(checkpoints=rule)
    removed = enforce_retention(this_round)
    assert list_kept(this_round) == kept
    assert [each.round_key for each in removed] == [format_round(n) for n in range(NUM_ROUNDS) if n not in kept]
    assert all(each.num_bytes > 256 for each in removed)
    assert enforce_retention(this_round) == [], "enforced once more, as after a resume"
    facts = describe_retention(this_round, removed)
    assert facts["retention/kept_checkpoints"] == ", ".join(format_round(n) for n in kept)
    assert ("retention/removed" in facts) == bool(removed)


def test_the_best_stays_for_a_rollback_although_the_rule_does_not_keep_it(keep: Keep) -> None:
    this_round = keep(checkpoints={"last": 1, "best": False})
    enforce_retention(this_round)
    assert list_kept(this_round) == [2, 5]


def test_the_start_of_the_next_round_stays_where_the_last_one_was_rejected(keep: Keep) -> None:
    """r0005 fell: the next round starts from r0002, and r0005 itself was finished just now."""
    this_round = keep(checkpoints={"last": 1, "best": False}, regressed=(3, 4, 5))
    enforce_retention(this_round)
    assert list_kept(this_round) == [2, 5]


def test_weights_that_an_unfinished_round_started_from_stay(keep: Keep) -> None:
    this_round = keep(checkpoints={"last": 1})
    make_round(this_round.platform, "r0006", parent="r0003", finished=False)
    enforce_retention(this_round)
    assert list_kept(this_round) == [2, 3, 5]


def test_weights_that_a_redo_is_about_to_start_from_stay(keep: Keep) -> None:
    """r0003 was made again and became another: r0004, made from the one before, is made again next."""
    this_round = keep(checkpoints={"last": 1})
    other = pl.DataFrame([dict.fromkeys(CHECKPOINT.names()) | {"content_hash": "another"}], schema=CHECKPOINT)
    this_round.platform.tables.write("tiny", "r0003", "checkpoint", other, schema=CHECKPOINT)
    enforce_retention(this_round)
    assert list_kept(this_round) == [2, 3, 5]
    assert list_kept(this_round.at("r0003")) == [2, 3, 5]


def test_weights_that_another_experiment_names_stay_even_if_its_file_is_broken(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "experiments" / "other"
    other.mkdir(parents=True)
    (other / "defs.yaml").write_text(f"attributes: [\n  model: {tmp_path}/checkpoints/tiny/r0001\n")
    monkeypatch.setenv("LANCE_EXPERIMENTS", str(tmp_path / "experiments"))
    assert list_folders() == [tmp_path / "experiments"]
    this_round = keep(checkpoints={"last": 1})
    enforce_retention(this_round)
    assert list_kept(this_round) == [1, 2, 5]


def test_a_removed_checkpoint_that_is_asked_for_says_how_to_make_it_again(keep: Keep) -> None:
    this_round = keep(checkpoints={"last": 1})
    enforce_retention(this_round)
    with pytest.raises(RemovedCheckpointError, match=r"was removed by its retention \(last 1, best\)") as told:
        this_round.model_path("r0004")
    # r0003 is gone too, and r0002 is there.
    assert "materialize tiny/checkpoint for r0003, then r0004 again" in str(told.value)
    assert "retention.checkpoints.rounds" in str(told.value)
    assert [line.partition(":")[0] for line in list_removed(this_round.experiment, this_round.platform)] == [
        f"tiny {key}" for key in ("r0000", "r0001", "r0003", "r0004")
    ]
    checkpoints = this_round.platform.checkpoints
    checkpoints.publish(make_weights(this_round.platform.root / "again", "r0003"), "tiny", "r0003")
    assert this_round.model_path("r0003").is_dir()
    assert checkpoints.read_removal("tiny", "r0003") is None


def test_a_checkpoint_that_never_was_is_not_called_removed(keep: Keep) -> None:
    with pytest.raises(MissingCheckpointError, match="materialize tiny/checkpoint for r0007 first") as told:
        keep().model_path("r0007")
    assert not isinstance(told.value, RemovedCheckpointError)


def test_a_cut_while_a_checkpoint_is_removed_leaves_it_whole_or_gone(plan: Plan, tmp_path: Path) -> None:
    def prepare(root: Path) -> None:
        make_round(Platform(data_root=str(root)), "r0001", parent="r0000")

    def act(root: Path) -> None:
        Platform(data_root=str(root)).checkpoints.remove("tiny", "r0001", Removal("last 1", 1, "r0000"))

    def check(root: Path) -> None:
        checkpoints = Platform(data_root=str(root)).checkpoints
        try:
            assert checkpoints.find("tiny", "r0001").is_dir()
        except RemovedCheckpointError:
            assert checkpoints.read_removal("tiny", "r0001") == Removal("last 1", 1, "r0000")
        act(root)
        assert list(checkpoints.folder("tiny", "r0001").parent.iterdir()) == []

    cut_everywhere(tmp_path, prepare=prepare, act=act, check=check)


def test_states_of_a_trainer_go_and_the_model_stays_the_same(keep: Keep) -> None:
    this_round = keep(optimizer_states={"last": 1, "best": False})
    checkpoints = this_round.platform.checkpoints
    for key in ("r0001", "r0005"):
        (checkpoints.folder("tiny", key) / "optimizer.pt").write_bytes(b"x" * 5000)
        (checkpoints.folder("tiny", key) / "rng_state_0.pth").write_bytes(b"x")
    before = checkpoints.hash_checkpoint(checkpoints.find("tiny", "r0001"))
    (removed,) = enforce_retention(this_round)
    assert (removed.round_key, removed.what, removed.num_bytes) == ("r0001", "optimizer states", 5001)
    assert checkpoints.hash_checkpoint(checkpoints.find("tiny", "r0001")) == before
    assert (checkpoints.folder("tiny", "r0005") / "optimizer.pt").is_file()


def test_parts_of_finished_steps_go_and_those_of_a_step_that_is_made_again_stay(keep: Keep) -> None:
    this_round = keep(parts={"last": 1, "best": False})
    old, again, unmade = (
        this_round.at("r0001").stage_folder("checkpoint"),
        this_round.at("r0003").stage_folder("checkpoint"),
        this_round.at("r0001").stage_folder("reviewed_set"),
    )
    for place in (old, again, unmade):
        place.mkdir(parents=True)
        (place / "part").write_bytes(b"x" * 300)
    newest = this_round.platform.tables.path("tiny", "r0001", "checkpoint").stat().st_mtime
    for path in (old / "part", old):
        _set_time(path, newest - 100)
    for path in (again / "part", again):
        _set_time(path, newest + 100)
    (removed,) = enforce_retention(this_round)
    assert (removed.round_key, removed.what, removed.num_bytes) == ("r0001", "parts", 300)
    assert not old.exists()
    assert (again / "part").is_file(), "what a redo that was broken off has finished"
    assert (unmade / "part").is_file(), "its table does not exist yet"


def _set_time(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


@pytest.mark.parametrize("rule", [{"every": 3}, {"rounds": ["r0001"]}, {"last": 0}, {"last": 1, "rounds": ["r1"]}])
def test_a_rule_that_says_nothing_or_names_no_round_is_refused(rule: dict) -> None:
    with pytest.raises(ValidationError):
        KeptRounds.model_validate(rule)


def test_rounds_that_were_removed_by_hand_are_no_error(keep: Keep) -> None:
    this_round = keep(checkpoints={"last": 1})
    shutil.rmtree(this_round.platform.checkpoints.folder("tiny", "r0001"))
    assert [each.round_key for each in enforce_retention(this_round)] == ["r0000", "r0003", "r0004"]
