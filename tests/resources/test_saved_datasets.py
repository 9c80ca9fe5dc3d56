"""Data sets of the library `datasets`: saved folders with their splits, and those of the hub where there is none."""

from pathlib import Path

import datasets
import pytest

from resources.readers.mistakes import SeedFileError
from resources.readers.row_kinds import SeedFields
from resources.readers.seed_files import open_seed_file
from resources.readers.sources import find_source

TRAIN = [{"question": "Name a bird.", "answer": "A hen."}, {"question": "Name a fish.", "answer": "A carp."}]
TEST = [{"question": "Name a tree.", "answer": "An oak."}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment's folder with a data set of two splits, one of a named split, and one without a name."""
    parts = {name: datasets.Dataset.from_list(rows) for name, rows in (("train", TRAIN), ("test", TEST))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    parts["train"].save_to_disk(str(tmp_path / "nameless"))
    datasets.Dataset.from_list(TEST, split=datasets.Split("test")).save_to_disk(str(tmp_path / "one"))
    return tmp_path


def read(folder: Path, path: str, **where: str) -> list[str]:
    source = find_source(path, folder, **where)
    return open_seed_file(source, fields=SeedFields()).table["prompt"].to_list()


def test_a_saved_folder_is_read_by_its_split(folder: Path) -> None:
    assert read(folder, "both", split="train") == ["Name a bird.", "Name a fish."]
    assert read(folder, "both", split="test") == read(folder, "one") == read(folder, "one", split="test")
    assert read(folder, "nameless") == ["Name a bird.", "Name a fish."]


@pytest.mark.parametrize(
    ("path", "where", "message"),
    [
        ("both", {}, "both: holds the splits train, test; set split to one of them"),
        ("both", {"split": "dev"}, "holds the splits train, test; there is no 'dev'"),
        ("one", {"split": "train"}, "holds the split test, and split is 'train'; correct split or leave it out"),
        ("nameless", {"split": "train"}, "holds a part without a name, and split is 'train'"),
        ("one", {"revision": "v2"}, "is on this machine, and revision 'v2' can only be chosen of a data set of the"),
        ("one", {"subset": "main", "revision": "v2"}, "subset 'main' and revision 'v2' .* leave subset and revision"),
        ("absent", {"revision": "v2"}, "no such file; .* a data set of the hub also needs a split"),
    ],
)  # fmt: skip
def test_what_a_saved_folder_has_not_is_told(folder: Path, path: str, where: dict[str, str], message: str) -> None:
    with pytest.raises(SeedFileError, match=message):
        read(folder, path, **where)


def test_a_hub_that_cannot_be_reached_is_told_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = "hf download owner/name --repo-type dataset --revision v2 --local-dir FOLDER.*set path to FOLDER"
    with pytest.raises(SeedFileError, match=rf"owner/name: cannot be loaded from the hub .*{told}"):
        read(tmp_path, "owner/name", split="train", revision="v2")
    with pytest.raises(SeedFileError, match="is a data set of the hub; set split to the part to read"):
        read(tmp_path, "hf://datasets/owner/name")
