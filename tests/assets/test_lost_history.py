"""A history that lost what rounds stored is noticed before anything is compared with it, and is rebuilt the same."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from lance_assets.assets.past.doctor import examine
from lance_assets.records import CLEANED_SET, START_CHECKPOINT
from lance_assets.rounds.alike.kept_texts import LostHistoryError, require_history, tabulate_vectors
from lance_assets.rounds.making.cleaning import drop_near_duplicates
from lance_assets.rounds.past.damage import Finding
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round
from resources.stores.lance_tables import HistoryError
from tests.assets.scripted_platform import SCRIPTED_SETTINGS, ScriptedPlatform
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment

ROUNDS = ("r0000", "r0001", "r0002")
Damage = Callable[["World"], object]


def store(world: "World", key: str, *names: str) -> None:
    """Clean a round of texts and store it, as the asset does."""
    fields = [
        {"row_id": f"{key}-{name}", "kind": "degraded_completion", "prompt": f"Prompt {name}?", "completion": name}
        for name in names
    ]
    this_round = world.round(key)
    done = drop_near_duplicates(this_round, pl.DataFrame(fields, schema=CLEANED_SET))
    model_hash = this_round.embedder.model_hash
    this_round.platform.history.replace_round("tiny", key, done.kept, done.vectors, model_hash=model_hash)
    this_round.write("kept_vectors", tabulate_vectors(done.kept, done.vectors, model_hash=model_hash))
    this_round.write("cleaned_set", done.cleaned)


@dataclass(frozen=True)
class World:
    """Rounds of texts, without a run of Dagster."""

    plan: Plan
    platform: ScriptedPlatform
    instance: dg.DagsterInstance

    def round(self, key: str) -> Round:
        """One of them."""
        return Round(self.plan, self.platform, key, lambda _: None)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_tiny(write_tiny_experiment(tmp_path_factory.mktemp("plan") / "tiny"), **SCRIPTED_SETTINGS)


@pytest.fixture(scope="module")
def stored(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of three rounds of texts; r0003 is about to be cleaned."""
    root = tmp_path_factory.mktemp("stored")
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(plan, ScriptedPlatform(data_root=str(root)), instance)
        start = {"parent_round": "r0000", "content_hash": "weights", "handover_hash": "handover", "left_out": []}
        for key in ("r0001", "r0002", "r0003"):
            world.round(key).write("start_checkpoint", pl.DataFrame([start], schema=START_CHECKPOINT))
        store(world, "r0000")
        store(world, "r0001", "seven red apples", "nine green pears")
        store(world, "r0002", "a train leaves at noon", "the bridge is closed", "no fish today")
    return root


@pytest.fixture
def world(plan: Plan, stored: Path, tmp_path: Path) -> Iterator[World]:
    """The test's own copy of the rounds."""
    shutil.copytree(stored, tmp_path / "data")
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(plan, ScriptedPlatform(data_root=str(tmp_path / "data")), instance)


def read_all(world: World) -> dict[str, tuple[pl.DataFrame, bytes]]:
    found = {key: world.platform.history.read_round("tiny", key) for key in ROUNDS}
    return {key: (rows, vectors.tobytes()) for key, (rows, vectors) in found.items()}


def find_table(world: World) -> Path:
    return world.platform.history.uri / "history.lance"


def drop_newest_manifest(world: World) -> None:
    # Lance counts the names of versions down, so that the newest is the first.
    min((find_table(world) / "_versions").glob("*.manifest")).unlink()


def break_newest_manifest(world: World) -> None:
    newest = min((find_table(world) / "_versions").glob("*.manifest"))
    newest.write_bytes(newest.read_bytes()[:40])


def drop_one_round(world: World) -> None:
    world.platform.history._open().delete("round = 'r0001'")


def turn_one_vector(world: World) -> None:
    rows, vectors = world.platform.history.read_round("tiny", "r0001")
    vectors = vectors[:, ::-1]
    texts = rows.select("row_id", "text")
    world.platform.history.replace_round("tiny", "r0001", texts, vectors, model_hash=rows["model_hash"][0])


def change_one_text(world: World) -> None:
    rows, vectors = world.platform.history.read_round("tiny", "r0001")
    texts = rows.select("row_id", text=pl.lit("another"))
    world.platform.history.replace_round("tiny", "r0001", texts, vectors, model_hash=rows["model_hash"][0])


LOSSES: dict[str, tuple[Damage, str]] = {
    "the LanceDB folder is gone": (
        lambda world: shutil.rmtree(world.platform.history.uri),
        "0 of the 2 texts of r0001",
    ),
    "the table is gone": (lambda world: shutil.rmtree(find_table(world)), "0 of the 3 texts of r0002"),
    "the newest manifest is gone": (drop_newest_manifest, "texts of r0002"),
    "the newest manifest is half written": (break_newest_manifest, "cannot read the rounds"),
    "every manifest is gone": (lambda world: shutil.rmtree(find_table(world) / "_versions"), "cannot read the rounds"),
    "the data files are gone": (lambda world: shutil.rmtree(find_table(world) / "data"), "cannot read the rounds"),
    "the vectors of one round are gone": (drop_one_round, "0 of the 2 texts of r0001"),
    "the vectors of one round are others": (turn_one_vector, "its vectors of r0001 are not those that r0001 stored"),
    "the texts of one round are others": (change_one_text, "2 texts of r0001, and others than r0001 kept"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_compared_with_a_history_of_which(world: World, loss: str) -> None:
    """And the doctor says so, and writes the same vectors again from the tables."""
    kept = read_all(world)
    assert [len(rows) for rows, _ in kept.values()] == [0, 2, 3]
    damage, told = LOSSES[loss]
    damage(world)
    with pytest.raises(HistoryError, match=told) as error:
        store(world, "r0003", "a prompt of the next round")
    assert "lance doctor" in str(error.value)
    (finding,) = find_of_history(world)
    assert finding.fix is not None
    finding.fix()
    assert find_of_history(world) == []
    for key, (rows, vectors) in read_all(world).items():
        assert rows.equals(kept[key][0])
        assert vectors == kept[key][1], "to the bit"
    store(world, "r0003", "a prompt of the next round")


def find_of_history(world: World) -> list[Finding]:
    found = examine(world.instance, {"tiny": world.plan}, world.platform, "tiny")
    return [finding for finding in found if "the history" in finding.what]


def test_a_round_that_is_left_out_may_be_lost(world: World) -> None:
    drop_one_round(world)
    require_history(world.round("r0003"), ["r0000", "r0002"])
    with pytest.raises(LostHistoryError, match="r0003 is not compared with it"):
        require_history(world.round("r0003"), ["r0001", "r0002"])


def test_the_history_of_an_older_version_is_compared_by_its_texts_and_embedded_again(world: World) -> None:
    """It kept no vectors beside its tables."""
    kept = read_all(world)
    for key in ROUNDS:
        world.platform.tables.path("tiny", key, "kept_vectors").unlink(missing_ok=True)
    turn_one_vector(world)
    require_history(world.round("r0003"), ROUNDS)
    change_one_text(world)
    (finding,) = find_of_history(world)
    assert finding.fix is not None
    finding.fix()
    assert find_of_history(world) == []
    rows, vectors = world.platform.history.read_round("tiny", "r0001")
    assert rows.equals(kept["r0001"][0])
    np.testing.assert_allclose(vectors.ravel(), np.frombuffer(kept["r0001"][1], dtype=np.float32), atol=1e-6)


def test_a_damaged_table_is_found_by_the_doctor_with_the_asset_to_make_again(world: World) -> None:
    path = world.platform.tables.path("tiny", "r0001", "kept_vectors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = examine(world.instance, {"tiny": world.plan}, world.platform, "tiny")
    (damaged,) = [finding for finding in found if str(path) in finding.what]
    assert damaged.where == "tiny r0001"
    assert "materialize tiny/cleaned_set for r0001 again" in damaged.remedy
    with pytest.raises(ValueError, match="materialize tiny/cleaned_set for r0001 again"):
        store(world, "r0003", "a prompt of the next round")


def test_tables_of_an_older_version_are_recorded_by_the_doctor(world: World) -> None:
    shutil.rmtree(world.platform.root / "hashes")
    found = examine(world.instance, {"tiny": world.plan}, world.platform, "tiny")
    unrecorded = [finding for finding in found if "no hash was recorded" in finding.what]
    assert [finding.where for finding in unrecorded] == [f"tiny {key}" for key in (*ROUNDS, "r0003")]
    for finding in unrecorded:
        assert finding.fix is not None
        finding.fix()
    found = examine(world.instance, {"tiny": world.plan}, world.platform, "tiny")
    assert not [finding for finding in found if "no hash was recorded" in finding.what]


# A power cut takes what was not flushed: all of a file, its end, or its content alone.
LEFT: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "cut in half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}
WRITTEN = ("data", "_deletions", "_transactions", "_versions")
"""The folders of a table in the order in which LanceDB writes into them; a manifest names the rest and comes last."""


def list_files(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("left", "is_new"),
    [
        ("missing", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("cut in half", True), ("cut in half", False), ("empty", True))
        ),
    ],
)
def test_a_power_cut_inside_a_write_of_lancedb_leaves_the_rounds_before_or_is_told_and_rebuilt(
    world: World, tmp_path: Path, left: str, is_new: bool
) -> None:
    """Each file that the write of a round adds is damaged in turn: alone, and with the later ones missing.

    The round is a new one, or one that was there and is made again.
    """
    table = find_table(world)
    if not is_new:
        store(world, "r0003", "a prompt of before", "another one of before")
    shutil.copytree(table, tmp_path / "before")
    store(world, "r0003", "a prompt of the next round")
    wanted = world.platform.history.digest_rounds("tiny")
    assert {key: digest.num_rows for key, digest in wanted.items()} == {"r0001": 2, "r0002": 3, "r0003": 1}
    before, after = list_files(tmp_path / "before"), list_files(table)
    added = sorted(after.keys() - before.keys(), key=lambda file: WRITTEN.index(file.parts[0]))
    assert {file.parts[0] for file in added} >= {"data", "_transactions", "_versions"}
    told = []
    for place, file in enumerate(added):
        for later in ([], added[place + 1 :]) if left == "cut in half" else (added[place + 1 :],):
            shutil.rmtree(table)
            shutil.copytree(tmp_path / "before", table)
            damaged = LEFT[left](after[file])
            for name in (*added[:place], *later):
                (table / name).write_bytes(after[name])
            if damaged is not None:
                (table / file).write_bytes(damaged)
            if make_again(world):
                told.append(file.parts[0])
            assert world.platform.history.digest_rounds("tiny") == wanted, (file, later)
    # Without a manifest that names it, nothing of the write counts.
    assert ("_versions" in told) == (left != "missing")


def make_again(world: World) -> bool:
    """Make r0003 as the step does that is started again; whether it was told of a damaged history, and that mended."""
    told = ""
    try:
        store(world, "r0003", "a prompt of the next round")
    except HistoryError as error:
        told = str(error)
    assert not told or "lance doctor" in told
    findings = find_of_history(world) if told else []
    for finding in findings:
        assert finding.fix is not None
        finding.fix()
    if findings:
        store(world, "r0003", "a prompt of the next round")
    return bool(told)
