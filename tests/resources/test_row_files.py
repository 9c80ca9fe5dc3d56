"""Any rows that are written in any format read back equal, and a file that cannot be read says why and what to do."""

import bz2
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_assets.data_paths import find_split, list_files, name_dataset
from resources.readers.mistakes import SeedFileError
from resources.readers.row_kinds import SeedFields
from resources.readers.seed_files import open_seed_file, read_seed_file
from resources.readers.sources import Source, find_source

Rows = list[dict[str, Any]]
FIELDS = SeedFields()
SEEDS = [{"prompt": f"Add {n} and 1.", "completion": str(n + 1)} for n in range(4)]


def write_stream(rows: Rows) -> bytes:
    table, sink = pl.DataFrame(rows).to_arrow(), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def write_binary(write: str) -> Callable[[Rows], bytes]:
    """Bytes by one of the writers of polars."""

    def encode(rows: Rows) -> bytes:
        import io

        buffer = io.BytesIO()
        getattr(pl.DataFrame(rows), write)(buffer)
        return buffer.getvalue()

    return encode


def write_csv(separator: str) -> Callable[[Rows], bytes]:
    return lambda rows: pl.DataFrame(rows).write_csv(separator=separator, quote_style="always").encode()


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    "s.jsonl": lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
    "s.ndjson": lambda rows: "\r\n".join(json.dumps(row) for row in rows).encode(),
    "s.json": lambda rows: json.dumps(rows).encode(),
    "lines.json": lambda rows: "\n".join(json.dumps(row) for row in rows).encode(),
    "indented.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "data.json": lambda rows: json.dumps({"version": "1", "data": rows}).encode(),
    "columns.json": lambda rows: json.dumps({name: [row[name] for row in rows] for name in rows[0]}).encode(),
    "array.jsonl": lambda rows: json.dumps(rows).encode(),
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf" + "\n".join(json.dumps(row) for row in rows).encode(),
    "bom.json": lambda rows: b"\xef\xbb\xbf" + json.dumps(rows).encode(),
    "s.csv": write_csv(","),
    "semicolons.csv": write_csv(";"),
    "bom.csv": lambda rows: b"\xef\xbb\xbf" + write_csv(",")(rows),
    "s.tsv": write_csv("\t"),
    "s.parquet": write_binary("write_parquet"),
    "s.arrow": write_binary("write_ipc"),
    "s.feather": write_binary("write_ipc"),
    "stream.arrow": write_stream,
    "no_ending": lambda rows: "\n".join(json.dumps(row) for row in rows).encode(),
    "parquet_no_ending": write_binary("write_parquet"),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    ".bz2": bz2.compress,
}

TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4, unique_by=lambda pair: pair[0].strip())


@pytest.mark.parametrize("packing", sorted(PACKED))
@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=15)
@given(PAIRS)
def test_any_rows_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, name: str, packing: str, wanted: list[tuple[str, str]]
) -> None:
    """Line breaks, quotes, separators and marks of every kind inside the texts are kept."""
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in wanted]
    path = tmp_path_factory.mktemp("formats") / f"{name}{packing}"
    path.write_bytes(PACKED[packing](FORMATS[name](rows)))
    assert read_seed_file(path, fields=FIELDS).select("prompt", "completion").rows() == wanted


@pytest.mark.parametrize("packing", [".gz", ".zst", ".bz2"])
@pytest.mark.parametrize("name", ["s.jsonl", "s.csv", "s.parquet"])
def test_compression_is_known_by_its_bytes(tmp_path: Path, name: str, packing: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKED[packing](FORMATS[name](SEEDS)))
    assert read_seed_file(path, fields=FIELDS).height == 4
    path.write_bytes(PACKED[packing](FORMATS[name](SEEDS))[:-12])
    if packing == ".gz":
        with pytest.raises(SeedFileError, match=r"cannot be read \(.*\); copy or download it again|is not a readable"):
            read_seed_file(path, fields=FIELDS)


@pytest.mark.parametrize("name", ["s.jsonl", "s.json", "s.csv", "s.parquet", "s.arrow", "stream.arrow"])
def test_limit(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name](SEEDS))
    assert read_seed_file(tmp_path / name, fields=FIELDS, limit=3).height == 3


def make_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.jsonl", None, "is a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV"),
        ("s.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer .*git lfs pull"),
        ("s.csv", b"<!DOCTYPE html><html>", "is a web page and not the data"),
        ("s.csv", "prompt,completion\na,b\n".encode("utf-16"), "is UTF-16.*save the file as UTF-8"),
        ("s.jsonl", b"\xfd7zXZ\x00 ", "is compressed by xz"),
        ("s.csv", b"", "the file is empty; it needs at least one row"),
        ("s.csv", b"prompt,completion\n", "the file is empty"),
        ("s.json", b"[]", "the file is empty"),
        ("s.json", b"7", "is not JSON|must be a JSON object"),
        ("s.json", b'[{"prompt": "a", "completion": "b"},', "line 1 is not JSON at column 37"),
        ("s.json", b'[{"prompt": "a", "completion": "b"}, 7]', "row 2: must be a JSON object, got int 7"),
        ("s.json", b'[{"prompt": "caf\xe9"}]', "is not UTF-8: byte 0xe9 at offset 16; save"),
        ("s.json", b"[" * 100_000, "is not JSON"),
        ("s.json", b'[{"prompt": "a", "id": ' + b"9" * 5000 + b"}]", "holds an integer that is too long"),
        ("s.arrow", b"junk", "is not a readable .arrow file, its first bytes are b'junk'"),
        ("s.parquet", b"PAR1 junk", "is not a readable parquet file .*; write it again"),
        (
            "s.csv",
            b"prompt,completion\nAdd 1, 2 and 3.,6\nb,c\nd\n",
            r"2 rows cannot be used:\n  line 2: has 3 values for 2 columns \(prompt, completion\), the last is '6'; "
            r"put quotes round a text that holds ','\n  line 4: has 1 values",
        ),
        ("s.csv", b'prompt,completion\na,"b\nc,d\n', "line 2: the row that begins here .*close its quotes"),
        ("s.csv", b'prompt,completion\n"a" b,c\n', "line 2: the row that begins here cannot be read"),
        ("s.csv", b"prompt,prompt\na,b\n", r"line 1 names the columns \['prompt'\] more than once"),
        ("s.csv", b"What is 2 + 2?,4\nWhat is 2 + 3?,5\n", "no column .*; if these are no names, write a first"),
        ("s.csv", b"prompt,completion\na,\n\nb,1\n", "line 2: field 'completion' is empty, got null"),
        ("s.csv", b'prompt,completion\n"a\nb",c\nd,caf\xe9\n', "line 4: is not UTF-8: byte 0xe9 at offset 31"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    make_archive(path) if content is None else path.write_bytes(content)
    with pytest.raises(SeedFileError, match=message) as caught:
        read_seed_file(path, fields=FIELDS)
    assert str(caught.value).startswith(str(path))


def test_a_row_of_several_lines_has_the_number_of_its_first(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text('prompt,completion\n"a\nb\nc",x\n"d\ne",""\n')
    with pytest.raises(SeedFileError, match="line 5: field 'completion' is empty"):
        read_seed_file(tmp_path / "s.csv", fields=FIELDS)


def place(folder: Path, *names: str) -> Path:
    """Files that each hold one seed, named after the file."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ending = name.removesuffix(".gz").rpartition(".")[2]
        data = FORMATS[f"s.{ending}"]([{"prompt": name, "completion": "x"}])
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def read_names(path: Path, **source: Any) -> list[str]:
    return open_seed_file(Source(path, **source), fields=FIELDS).table["prompt"].to_list()


def test_folders_and_patterns(tmp_path: Path) -> None:
    hidden = (".hidden/e.jsonl", "_x/f.jsonl")
    folder = place(tmp_path / "d", "b.jsonl", "a.csv", "sub/c.parquet", "sub/d.json.gz", *hidden)
    (folder / "README.md").write_text("About these files.")
    assert read_names(folder) == ["a.csv", "b.jsonl", "sub/c.parquet", "sub/d.json.gz"]
    assert read_names(tmp_path / "d" / "*.jsonl") == ["b.jsonl"]
    assert read_names(tmp_path / "d" / "**" / "*.p*t") == ["sub/c.parquet"]
    assert read_names(tmp_path / "?" / "[ab].*") == ["a.csv", "b.jsonl"]
    limited = open_seed_file(Source(folder), fields=FIELDS, limit=3)
    assert limited.table["prompt"].to_list() == ["a.csv", "b.jsonl", "sub/c.parquet"]
    with pytest.raises(SeedFileError, match="no file matches; check the pattern"):
        read_names(tmp_path / "d" / "*.tsv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SeedFileError, match=r"is a folder without a file that ends in \.jsonl"):
        read_names(tmp_path / "empty")


def test_mistakes_of_several_files_name_each(tmp_path: Path) -> None:
    place(tmp_path, "a.jsonl", "b.csv", "c.jsonl")
    (tmp_path / "a.jsonl").write_text('{"prompt": "", "completion": "x"}\n')
    (tmp_path / "c.jsonl").write_text('{"prompt": "y"}\n{"completion": "x"}\n')
    with pytest.raises(SeedFileError) as caught:
        read_names(tmp_path)
    told = str(caught.value)
    assert f"{tmp_path / 'a.jsonl'}: line 1: field 'prompt' is empty" in told
    assert f"{tmp_path / 'c.jsonl'}: 2 rows cannot be used:\n  line 1: field 'completion' is missing" in told


def test_splits_of_a_folder_are_never_mixed(tmp_path: Path) -> None:
    names = ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000.parquet", "sub/dev/x.jsonl")
    folder = place(tmp_path / "d", *names)
    with pytest.raises(SeedFileError, match="holds the splits test, train, validation; set split to one of them"):
        read_names(folder)
    assert read_names(folder, split="train") == list(names[:2])
    assert read_names(folder, split="validation") == ["sub/dev/x.jsonl"]
    assert read_names(folder / "t*.parquet", split="test") == ["test-00000.parquet"]
    with pytest.raises(SeedFileError, match="no file belongs to the split 'extra', the names say test, train, valid"):
        read_names(folder, split="extra")
    assert read_names(place(tmp_path / "latest", "greatest.jsonl", "contest.csv")) == ["contest.csv", "greatest.jsonl"]
    assert read_names(place(tmp_path, "one.jsonl") / "one.jsonl", split="train") == ["one.jsonl"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("my_train_v2.jsonl", "train"),
        ("data/validation/0001.parquet", "validation"),
        ("val.json", "validation"),
        ("evaluation.json", "test"),
        ("trainer.csv", None),
        ("valley.csv", None),
        ("latest.csv", None),
    ],
)
def test_the_split_of_a_file(name: str, split: str | None) -> None:
    assert find_split(Path("/d") / name, Path("/d")) == split


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with data sets as `datasets` saves them."""
    from datasets import Dataset, DatasetDict

    parts = DatasetDict({"train": Dataset.from_list(SEEDS), "test": Dataset.from_list(SEEDS[:1])})
    parts.save_to_disk(tmp_path / "parts")
    parts["train"].select([2, 0]).save_to_disk(tmp_path / "one")
    return tmp_path


def test_saved_data_sets(saved: Path) -> None:
    assert read_names(saved / "one") == [SEEDS[2]["prompt"], SEEDS[0]["prompt"]]
    assert read_names(saved / "parts", split="test") == [SEEDS[0]["prompt"]]
    limited = open_seed_file(Source(saved / "parts", split="train"), fields=FIELDS, limit=2)
    assert limited.how == "read 2 rows as prompt and completion from parts"
    with pytest.raises(SeedFileError, match="holds the splits train, test; set split to one of them"):
        read_names(saved / "parts")
    with pytest.raises(SeedFileError, match="holds the splits train, test; there is no 'dev'"):
        read_names(saved / "parts", split="dev")
    with pytest.raises(SeedFileError, match=r"bytes are more than the 10 bytes of memory"):
        open_seed_file(Source(saved / "one"), fields=FIELDS, max_bytes=10)


def test_a_data_set_of_the_hub_that_cannot_be_reached_says_how_to_bring_it(tmp_path: Path) -> None:
    source = find_source("tatsu-lab/alpaca", tmp_path, split="train", revision="main")
    message = (
        "tatsu-lab/alpaca: cannot be loaded from the hub .*hf download tatsu-lab/alpaca --repo-type dataset --revision "
        "main --local-dir FOLDER"
    )
    with pytest.raises(SeedFileError, match=message):
        open_seed_file(source, fields=FIELDS)
    with pytest.raises(SeedFileError, match="is a data set of the hub; set split"):
        open_seed_file(find_source("hf://datasets/tatsu-lab/alpaca", tmp_path), fields=FIELDS)
    with pytest.raises(SeedFileError, match=r"no such file; .*a data set of the hub also needs a split"):
        open_seed_file(find_source("tatsu-lab/alpaca", tmp_path), fields=FIELDS)


def test_a_data_set_of_the_hub_is_read_by_its_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """`datasets` reads a folder as it reads the copy of a data set of the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = place(tmp_path / "d", "train-1.jsonl", "train-2.jsonl", "train-3.jsonl", "test-1.jsonl")
    assert read_names(tmp_path, dataset=str(folder), split="train[1:]") == ["train-2.jsonl", "train-3.jsonl"]
    assert read_names(tmp_path, dataset=str(folder), split="test") == ["test-1.jsonl"]
    for wrong in ({"split": "dev"}, {"split": "train", "subset": "other"}):
        with pytest.raises(SeedFileError, match=r"cannot be loaded from the hub \(.*; correct path, subset, split"):
            read_names(tmp_path, dataset=str(folder), **wrong)


@pytest.mark.parametrize(
    ("name", "split", "dataset"),
    [
        ("tatsu-lab/alpaca", "train", "tatsu-lab/alpaca"),
        ("imdb", "train[:10]", "imdb"),
        ("hf://datasets/openai/gsm8k", None, "openai/gsm8k"),
        ("tatsu-lab/alpaca", None, None),
        ("here/folder", "train", None),
        ("data/seeds.jsonl", "train", None),
        ("../seeds", "train", None),
        ("/data/seeds", "train", None),
        ("~/seeds", "train", None),
    ],
)
def test_what_is_a_data_set_of_the_hub(tmp_path: Path, name: str, split: str | None, dataset: str | None) -> None:
    (tmp_path / "here" / "folder").mkdir(parents=True)
    assert name_dataset(name, tmp_path, split=split) == dataset


def test_files_that_a_path_means(tmp_path: Path) -> None:
    file = place(tmp_path, "a [1].jsonl") / "a [1].jsonl"
    assert list_files(file) == [file], "a file whose name looks like a pattern is itself"
    assert list_files(tmp_path / "none.jsonl") == []
    assert list_files(tmp_path / "a*") == [file]
