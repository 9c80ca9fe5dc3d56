"""The licence and source of a seed go with everything that comes of it, over rounds, and out with each exported row."""

import json
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.records import PREFERENCE_PAIRS, REVIEWED_SET, SEED_ORIGINS, SEED_SET, SFT_SET
from lance_assets.rounds.filtering.models import look_up
from lance_assets.rounds.filtering.origins import carry_origins, find_origins
from lance_assets.rounds.finished.export import export_data
from lance_assets.rounds.identity.parts import identify_seeds
from lance_assets.rounds.nouns import explain_identity, identify
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import SeedSettings
from resources.readers.mistakes import SeedFileError
from resources.readers.seed_files import SeedFile, open_seeds
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment

ROWS = [
    {"prompt": "Name a bird.", "completion": "A hen.", "license": "MIT", "from": "https://a.example"},
    {"prompt": "Name a fruit.", "completion": "A pear.", "license": "CC-BY-ND-4.0", "from": None},
    {"prompt": "Name a river.", "completion": "The Elbe.", "license": None, "from": "a book"},
]


def read(folder: Path, rows: list[dict[str, object]], **settings: object) -> SeedFile:
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_seeds(SeedSettings.model_validate({"path": "seeds.jsonl"} | settings), folder)


def test_each_row_has_what_its_column_or_the_file_says(tmp_path: Path) -> None:
    found = read(tmp_path, ROWS, license="cc0-1.0", license_field="license", source_field="from")
    assert found.origins.select("licenses", "sources").rows() == [
        (["MIT"], ["https://a.example"]),
        (["CC-BY-ND-4.0"], []),
        (["cc0-1.0"], ["a book"]),
    ]
    assert found.origins["row_id"].to_list() == found.table["row_id"].to_list()
    assert read(tmp_path, ROWS).origins.is_empty(), "nothing was said"


def test_rows_of_other_licences_are_left_out_and_counted(tmp_path: Path) -> None:
    found = read(tmp_path, ROWS, license_field="license", allowed_licenses=["mit"])
    assert found.table["prompt"].to_list() == ["Name a bird."]
    assert found.not_allowed == {"CC-BY-ND-4.0": 1, "not stated": 1}
    assert found.how.endswith("left out 2 whose licence is not allowed (1 CC-BY-ND-4.0, 1 not stated)")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"license_field": "license", "allowed_licenses": ["gpl-3.0"]},
            "none of 3 rows has a licence of seeds.allowed_lic",
        ),
        ({"license_field": "licence"}, "column 'licence' is missing, found .* set seeds.license_field to one"),
        ({"source_field": "number"}, "line 1: field 'number' must be a text or null, got 7"),
    ],
)
def test_what_cannot_be_used_is_told(settings: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(SeedFileError, match=told):
        read(tmp_path, [row | {"number": 7} for row in ROWS], **settings)


def test_allowing_without_stating_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="allowed_licenses needs license or license_field"):
        SeedSettings.model_validate({"path": "seeds.jsonl", "allowed_licenses": ["mit"]})


def open_rounds(tmp_path: Path, **changed: object) -> Round:
    """r0002 of three rounds: a seed of the file gave a row in r0001, which is a seed of r0002 and gave another row."""
    seeds = json.loads((write_tiny_experiment(tmp_path / "tiny") / "seeds.jsonl").read_text().splitlines()[0])
    assert seeds
    settings = plan_tiny(tmp_path / "tiny").settings.seeds.model_dump(exclude_none=True) | {"license": "mit"}
    plan = plan_tiny(tmp_path / "tiny", **({"seeds": settings} | changed))
    last = Round(plan, Platform(str(tmp_path / "data")), "r0002", lambda _: None)
    file_seed = {"row_id": "s", "prompt": "p", "completion": "c", "source": "seed"}
    made = {"row_id": "g1", "source": "generated", "source_round": "r0001", "source_id": "c1"}
    known = pl.DataFrame([("s", ["mit"], ["a book"]), ("t", ["gpl-3.0"], [])], SEED_ORIGINS, orient="row")
    for key, rows, reviewed in (
        ("r0000", [file_seed], []),
        ("r0001", [file_seed], [("c1", "s")]),
        ("r0002", [file_seed, made], [("s", "s"), ("c2", "g1")]),
    ):
        one = last.at(key)
        one.write("seed_set", pl.DataFrame(rows, schema=SEED_SET))
        one.write("seed_origins", carry_origins(one, pl.DataFrame(rows, schema=SEED_SET), known))
        table = [{"row_id": row, "seed_id": seed} for row, seed in reviewed]
        one.write("reviewed_set", pl.DataFrame(table, schema=REVIEWED_SET))
        one.write("raw_generations", one.empty("raw_generations"))
    return last


def test_licences_are_carried_over_rounds(tmp_path: Path) -> None:
    last = open_rounds(tmp_path)
    assert last.read("seed_origins").rows() == [("s", ["mit"], ["a book"]), ("g1", ["mit"], ["a book"])]
    found = find_origins(
        last, [("r0001", "c1"), ("r0002", "c2"), ("r0000", "s"), ("r0002", "s"), (None, None), ("r0001", "x")]
    )
    assert [origin.licenses for origin in found] == [("mit",)] * 4 + [()] * 2


def test_a_filter_is_given_the_licences_of_the_rounds_seeds(tmp_path: Path) -> None:
    last = open_rounds(tmp_path, filters=[{"name": "license", "allowed": ["mit"]}])
    assert look_up(last)["licences"] == {"s": ("mit",), "g1": ("mit",)}
    assert "licences" not in look_up(open_rounds(tmp_path / "without"))


def test_every_exported_row_says_where_it_is_from(tmp_path: Path) -> None:
    last = open_rounds(tmp_path)
    sft = {"prompt": "p", "completion": "c", "source": "generated", "source_round": "r0002"}
    rows = [sft | {"row_id": "1", "source_id": "c2"}, sft | {"row_id": "2", "source": "eft", "source_id": None}]
    last.write("sft_set", pl.DataFrame(rows, schema=SFT_SET))
    pair = {"row_id": "3", "prompt": "p", "chosen": "a", "rejected": "b", "chosen_id": "c1", "source_round": "r0001"}
    last.write("preference_pairs", pl.DataFrame([pair], schema=PREFERENCE_PAIRS))
    files = export_data(last.experiment, last.platform, "r0002")
    found = [json.loads(line) for name in ("sft", "preference_pairs") for line in files[f"{name}.jsonl"].splitlines()]
    assert [(row["licenses"], row["sources"]) for row in found] == [
        (["mit"], ["a book"]),
        ([], []),
        (["mit"], ["a book"]),
    ]
    card = files["README.md"].decode()
    assert "- mit: 2\n- not stated: 1" in card
    assert "- a book: 2" in card


def test_another_licence_makes_again_what_reads_it(tmp_path: Path) -> None:
    """Licences change no row of the seeds, so what was made from the same rows must not be taken for the same."""
    folder = write_tiny_experiment(tmp_path / "tiny")
    seeds = plan_tiny(folder).settings.seeds.model_dump(exclude_none=True)

    def identify_both(licence: str) -> list[object]:
        settings = {"seeds": seeds | {"license": licence}, "filters": [{"name": "license", "allowed": ["mit"]}]}
        plan = plan_tiny(folder, export={"to": "out"}, **settings)
        return [identify(plan, noun)["settings"] for noun in ("cleaned_set", "export", "raw_generations")]

    first, second = identify_both("mit"), identify_both("gpl-3.0")
    assert [one == other for one, other in zip(first, second, strict=True)] == [False, False, True]


def test_an_experiment_without_such_filters_asks_no_model_in_cleaning(tmp_path: Path) -> None:
    """Otherwise a change of an engine's code would make its cleaned sets unsynced."""
    folder = write_tiny_experiment(tmp_path / "tiny")

    def count(*filters: str) -> list[int]:
        plan = plan_tiny(folder, filters=[{"name": name} for name in filters])
        named = explain_identity(plan, "cleaned_set")["code"]["definitions"]
        return [sum(part in name for name in named) for part in ("text_classifier", "rounds.asking")]

    assert count() == count("refusal") == [0, 0]
    assert count("harm_judge")[1] > 0


def test_what_is_not_said_is_in_no_identity(tmp_path: Path) -> None:
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"))
    assert not {"license", "license_field", "source", "source_field", "allowed_licenses"} & set(
        identify_seeds(plan)["seeds"]
    )
