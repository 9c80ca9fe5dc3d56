import gzip
import json
import logging
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.records import derive_row_id
from resources.readers.mistakes import SeedFileError
from resources.readers.text_files import UNLABELLED_TEXTS, read_text_file, read_texts


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_read_lines(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "t.jsonl",
        {"text": "天空是蓝色的。", "source_tag": "web", "other": 1},
        "",
        {"text": "  Whales are mammals.\n"},
        {"text": "Rain falls.", "source_tag": 7},
    )
    read = read_text_file(path)
    assert read.table.schema == UNLABELLED_TEXTS
    assert read.table.select("text", "source_tag").rows() == [
        ("天空是蓝色的。", "web"),
        ("  Whales are mammals.\n", None),
        ("Rain falls.", "7"),
    ]
    assert read.table["row_id"][1] == derive_row_id("text", "Whales are mammals.")
    assert read.num_duplicates == 0


def test_parquet_and_plain_text_give_what_lines_give(tmp_path: Path) -> None:
    texts = ["天空是蓝色的。\n海也是。", "Whales are mammals."]
    lines = read_texts(write_lines(tmp_path / "t.jsonl", *({"body": text} for text in texts)), field="body")
    pl.DataFrame({"n": [1, 2], "body": texts}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.txt").write_text("\n\n".join(texts), encoding="utf-8")
    assert read_texts(tmp_path / "t.parquet", field="body").equals(lines)
    assert read_texts(tmp_path / "t.txt").equals(lines)


def test_other_tags(tmp_path: Path) -> None:
    rows = [{"output": "a", "dataType": "wudao"}, {"output": "b", "dataType": None}]
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    for path in (write_lines(tmp_path / "t.jsonl", *rows), tmp_path / "t.parquet"):
        read = read_text_file(path, field="output", tag_field="dataType")
        assert read.table["source_tag"].to_list() == ["wudao", None]


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        (b"one", ["one"]),
        (b"one\ntwo\n\nthree\n", ["one\ntwo", "three"]),
        (b"\n \n one\n\t\n\n\ntwo\n\n", [" one", "two"]),
        (b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n", ["one\r\ntwo", "three"]),
    ],
)
def test_paragraphs(tmp_path: Path, written: bytes, texts: list[str]) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(written)
    assert read_texts(path)["text"].to_list() == texts


PARAGRAPHS = st.lists(st.text("ab是 ", min_size=1).filter(str.strip), min_size=1, max_size=5)


@given(PARAGRAPHS, st.integers(1, 6))
def test_every_text_is_there_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], limit: int
) -> None:
    path = tmp_path_factory.mktemp("texts") / "t.txt"
    path.write_text("\n\n".join(texts), encoding="utf-8")
    read = read_text_file(path, limit=limit)
    taken = [text.strip() for text in texts[:limit]]
    assert [text.strip() for text in read.table["text"]] == list(dict.fromkeys(taken))
    assert read.table.height + read.num_duplicates == len(taken)
    assert read.table["row_id"].is_unique().all()


def test_repeated_texts_collapse_to_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": text, "source_tag": tag} for text, tag in (("a", "1"), ("b", "2"), (" a\n", "3"), ("a", None))]
    path = write_lines(tmp_path / "t.jsonl", *rows)
    read = read_text_file(path)
    assert read.table.select("text", "source_tag").rows() == [("a", "1"), ("b", "2")]
    assert read.num_duplicates == 2
    with caplog.at_level(logging.INFO, logger="resources.readers.text_files"):
        assert read_texts(path).equals(read.table)
    assert caplog.messages == [f"{path}: left out 2 texts that come earlier in the file"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.txt"])
def test_limit(tmp_path: Path, name: str) -> None:
    texts = ["a", "a", "b", "c"]
    if name == "t.jsonl":
        write_lines(tmp_path / name, *({"text": text} for text in texts), "{broken")
    elif name == "t.parquet":
        pl.DataFrame({"text": texts}).write_parquet(tmp_path / name)
    else:
        (tmp_path / name).write_bytes("\n\n".join(texts).encode() + b"\n\n\xff")
    assert read_texts(tmp_path / name, limit=3)["text"].to_list() == ["a", "b"]
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        read_texts(tmp_path / name, limit=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"text": "x', r"t\.jsonl: line 3: is not JSON .*write one JSON object on each line"),
        ({"body": "x"}, r"line 3: field 'text' is missing, found \['body'\]; add it"),
        ({"text": 5}, r"line 3: field 'text' must be a string, got int 5"),
        ({"text": " "}, r"line 3: field 'text' is empty, got ' '; fill it or remove the row"),
        ({"text": "x", "source_tag": ["web"]}, r"line 3: field 'source_tag' must be a string, a number or null, got"),
        ({"text": "x", "source_tag": True}, r"line 3: field 'source_tag' must be a string, a number or null, got True"),
    ],
)
def test_a_bad_line(tmp_path: Path, bad: object, message: str) -> None:
    path = write_lines(tmp_path / "t.jsonl", {"text": "a"}, {"text": "b"}, bad)
    with pytest.raises(SeedFileError, match=message):
        read_texts(path)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes(b"one\n\ncaf\xe9\n")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    (tmp_path / "texts.doc").write_bytes(b"one")
    pl.DataFrame({"body": ["a"], "n": [1]}).write_parquet(tmp_path / "field.parquet")
    pl.DataFrame({"text": ["a", None]}).write_parquet(tmp_path / "null.parquet")
    write_lines(tmp_path / "empty.jsonl")
    for name, message in {
        "none.txt": "no such file; check the path",
        "none.parquet": "no such file; check the path",
        "folder.txt": "is a folder without a file that ends in .*.txt",
        "texts.doc": r"must end in \.jsonl, .*, \.txt, or .*, got '\.doc'",
        "empty.txt": "the file is empty; it needs at least one paragraph",
        "empty.jsonl": "the file is empty",
        "latin.txt": "line 3: is not UTF-8: byte 0xe9 at offset 8; save the file as UTF-8",
        "junk.parquet": "not a readable .parquet file",
        "field.parquet": r"column 'text' is missing, found \['body', 'n'\]; set field to one of them",
        "null.parquet": "row 2: field 'text' is empty, got null",
    }.items():
        with pytest.raises(SeedFileError, match=message) as caught:
            read_texts(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_larger_than_memory_allows(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("\n\n".join(f"{number} " + "x" * 96 for number in range(100)))
    with pytest.raises(SeedFileError, match=r"\d+ bytes are more than the 2000 bytes of memory.*limit"):
        read_text_file(path, max_bytes=2000)
    assert read_text_file(path, limit=5, max_bytes=2000).table.height == 5


def test_every_format_gives_what_lines_give(tmp_path: Path) -> None:
    """Also a folder, a pattern, compressed and as a saved data set of which one split is read."""
    texts = ["天空是蓝色的。\n海也是。", 'Whales, "mammals" they are.', "Rain falls."]
    table = pl.DataFrame({"text": texts})
    lines = read_texts(write_lines(tmp_path / "t.jsonl", *({"text": text} for text in texts)))
    table.write_csv(tmp_path / "t.csv")
    table.write_csv(tmp_path / "t.tsv", separator="\t")
    table.write_ipc(tmp_path / "t.arrow")
    (tmp_path / "t.json").write_text(json.dumps([{"text": text} for text in texts]))
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress("\n\n".join(texts).encode()))
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text)
    for name in ("t.csv", "t.tsv", "t.arrow", "t.json", "t.txt.gz", "folder", "folder/*.txt", "f*/[0-9].txt"):
        assert read_texts(tmp_path / name).equals(lines), name


def test_all_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", {"text": "a"}, {"text": ""}, "{", {"text": None}, {"body": "b"})
    with pytest.raises(
        SeedFileError, match=r"4 rows cannot be used:\n  line 2: .*\n  line 3: .*\n  line 4: .*\n  line 5: "
    ):
        read_texts(path)


def test_real_texts(real_data: Path) -> None:
    read = read_text_file(real_data / "t0_train_50k.parquet", field="prompt", tag_field="template", limit=5000)
    assert read.table.height + read.num_duplicates == 5000
    assert read.table["row_id"].is_unique().all()
    assert read.table["source_tag"].null_count() == 0
    questions = read_text_file(real_data / "gsm8k_train.jsonl", field="question")
    assert (questions.table.height, questions.num_duplicates) == (7473, 0)
