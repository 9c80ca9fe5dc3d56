"""The asset `export`: off by default, the files of `lance export` for a round, and a check that they are there."""

from pathlib import Path

import polars as pl
import pytest

from lance_assets.records import REVIEWED_SET
from lance_assets.rounds.finished.export import export_data
from lance_assets.rounds.finished.exporting import export_is_whole, find_folder, make_export, report_export
from lance_assets.rounds.nouns import NOUNS, compute_code_versions, list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment
from tests.rounds.test_export import write_sets

SFT, PAIRS = [("Name a bird.", "A hen."), ("Name a fruit.", "A pear.")], [("Name a bird.", "A hen.", "A cow.")]


def open_round(tmp_path: Path, **export: object) -> tuple[Round, tuple[Plan, Platform]]:
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"), export={"to": str(tmp_path / "out")} | export)
    platform = Platform(str(tmp_path / "data"))
    return Round(plan, platform, "r0002", lambda _: None), (plan, platform)


def test_it_exists_where_the_experiment_asks_for_it(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    without, here, there = (
        plan_tiny(folder, **more) for more in ({}, {"export": {"to": "a"}}, {"export": {"to": "b"}})
    )
    assert NOUNS["export"] not in list_nouns(without)
    assert NOUNS["export"] in list_nouns(here)
    versions = compute_code_versions(here)
    assert versions == compute_code_versions(there), "where it is written changes nothing"
    assert compute_code_versions(without) == {noun: versions[noun] for noun in versions if noun != "export"}
    fewer = compute_code_versions(plan_tiny(folder, export={"to": "a", "formats": ["jsonl"]}))
    assert [noun for noun in versions if versions[noun] != fewer[noun]] == ["export"]


def test_it_writes_what_the_command_writes(tmp_path: Path) -> None:
    this_round, world = open_round(tmp_path)
    write_sets(world, SFT, PAIRS)
    made = make_export(this_round)
    folder = tmp_path / "out" / this_round.plan.name / "r0002"
    assert find_folder(this_round) == folder.resolve()
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == export_data(*world, "r0002")
    assert made.table["file"].to_list() == sorted(files)
    this_round.write("export", made.table)
    assert export_is_whole(this_round).passed
    assert report_export(this_round)["num_files"] == len(files)
    (folder / "sft.jsonl").write_text("another\n")
    (folder / "sft.parquet").unlink()
    judged = export_is_whole(this_round)
    assert not judged.passed
    assert "sft.jsonl was changed; sft.parquet is gone; materialize export of r0002 again" in str(judged.description)


def test_a_format_that_is_no_longer_wanted_goes_and_what_no_export_wrote_stays(tmp_path: Path) -> None:
    this_round, world = open_round(tmp_path)
    write_sets(world, SFT, PAIRS)
    make_export(this_round)
    fewer, _ = open_round(tmp_path, formats=["jsonl"])
    make_export(fewer)
    folder = find_folder(fewer)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "sft.jsonl",
        "preference_pairs.jsonl",
        "README.md",
    }
    assert "data_files: sft.jsonl" in (folder / "README.md").read_text()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt, which no export wrote"):
        make_export(fewer)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_round_without_a_row_writes_nothing(tmp_path: Path) -> None:
    this_round, world = open_round(tmp_path)
    write_sets(world, [], [])
    assert make_export(this_round).table.is_empty()
    assert not find_folder(this_round).exists()


def test_the_card_covers_what_a_person_must_know(tmp_path: Path) -> None:
    """Method, models, rounds, counts, filters, reviews, licences and known limits, each from the round itself."""
    filters = [{"name": "words", "max_words": 60}, {"name": "refusal"}]
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"), filters=filters, rng_seed=3)
    platform = Platform(str(tmp_path / "data"))
    write_sets((plan, platform), SFT, PAIRS)
    card = export_data(plan, platform, "r0002")["README.md"].decode()
    for told in (
        f"by the method `{plan.settings.recipe}`",
        "The rounds' model started as",
        "| r0002 | gone | gone | gone | 2 | 1 |",
        "SFT rows by source",
        "- `words` (max_words: 60)\n- `refusal`",
        "No model reviewed any row.",
        "Whoever exported this stated no licence.",
        "No licence of the seeds was stated, and none was looked at.",
        "## Known limits",
    ):
        assert told in card, told
    reviewed = [
        {"row_id": name, "review_score": score, "reviews": ["Good."]}
        for name, score in (("a", 2.0), ("b", 9.0), ("c", None))
    ]
    Round(plan, platform, "r0002", lambda _: None).write("reviewed_set", pl.DataFrame(reviewed, schema=REVIEWED_SET))
    card = export_data(plan, platform, "r0002")["README.md"].decode()
    assert "- r0002: 3 reviews of 3 rows; median 5.5, from 2.0 to 9.0; 1 without a score" in card
