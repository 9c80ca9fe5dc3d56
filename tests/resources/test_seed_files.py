"""Every way a seed file can be wrong has an error that says where and what to do."""

import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from lance_assets.records import SEED_SET, SFT_SET, derive_row_id
from resources.readers.row_files import SeedFileError
from resources.readers.seed_files import SeedFields, read_eft, read_eft_file, read_seed_file, read_seeds

FIELDS = SeedFields()
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_train.jsonl"


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def seed(prompt: object = "Add 1 and 2.", completion: object = "3", **more: object) -> dict[str, object]:
    return {"prompt": prompt, "completion": completion} | more


def test_read_lines(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "s.jsonl", seed(), "", seed("Réverse 1 2.", "2 1", note="ignored"), "  ")
    read = read_seed_file(path, fields=FIELDS)
    assert read.schema == SEED_SET
    assert read["prompt"].to_list() == ["Add 1 and 2.", "Réverse 1 2."]
    assert read["row_id"].to_list() == [derive_row_id("seed", prompt) for prompt in read["prompt"]]
    assert read["source"].unique().to_list() == ["seed"]
    assert read.select("answer", "source_round", "source_id", "review_score").null_count().row(0) == (2, 2, 2, 2)


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(seed()).encode())
    assert read_seed_file(path, fields=FIELDS).height == 1


def test_read_parquet_gives_what_lines_give(tmp_path: Path) -> None:
    rows = [seed("a b", "1", gold="x"), seed("c d", "2", gold=None)]
    fields = SeedFields(answer="gold")
    pl.DataFrame(rows).write_parquet(tmp_path / "s.parquet")
    lines = read_seed_file(write_lines(tmp_path / "s.jsonl", *rows), fields=fields)
    assert read_seed_file(tmp_path / "s.parquet", fields=fields).equals(lines)
    assert lines["answer"].to_list() == ["x", None]
    assert read_seed_file(tmp_path / "s.parquet", fields=fields, limit=1).height == 1


def test_limit_stops_before_what_is_wrong(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "s.jsonl", seed("a"), seed("b"), "{broken")
    assert read_seed_file(path, fields=FIELDS, limit=2)["prompt"].to_list() == ["a", "b"]
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        read_seed_file(path, fields=FIELDS, limit=0)


def test_gold_answer_from_the_end_of_the_completion(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "s.jsonl", {"question": "Q?", "answer": "48/2 = <<48/2=24>>24 clips. #### no\n#### 1,072 "}
    )
    fields = SeedFields(prompt="question", completion="answer", answer_after="####", strip_marks=True)
    table = read_seed_file(path, fields=fields)
    assert table["answer"].to_list() == ["1,072"]
    assert table["completion"].to_list() == ["48/2 = 24 clips. #### no\n#### 1,072 "]


@pytest.mark.parametrize("completion", ["no mark", "mark #### "])
def test_no_gold_answer_at_the_end(tmp_path: Path, completion: str) -> None:
    path = write_lines(tmp_path / "s.jsonl", seed(completion=completion))
    with pytest.raises(SeedFileError, match=r"line 1: field 'completion' has no answer after '####'.*unset"):
        read_seed_file(path, fields=SeedFields(answer_after="####"))


@pytest.mark.parametrize(("value", "answer"), [("7", "7"), (" 7\n", "7"), (7, "7"), (7.5, "7.5"), (None, None)])
def test_gold_answer_field(tmp_path: Path, value: object, answer: str | None) -> None:
    path = write_lines(tmp_path / "s.jsonl", seed(gold=value))
    assert read_seed_file(path, fields=SeedFields(answer="gold"))["answer"].to_list() == [answer]


LINES = [seed(f"prompt {n}") for n in range(20)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"prompt": "x", "comp', r"s\.jsonl: line 17 is not JSON .*write one JSON object on each line"),
        ("[" * 100_000, r"line 17 is not JSON"),
        ('["a", "b"]', r"line 17 must be a JSON object, got list \['a', 'b'\]"),
        ("null", r"line 17 must be a JSON object, got NoneType None"),
        ({"prompt": "x"}, r"line 17: field 'completion' is missing, found \['prompt'\]; add it"),
        (seed(5), r"line 17: field 'prompt' must be a string, got int 5; put it in quotes"),
        (seed(None), r"line 17: field 'prompt' must be a string, got NoneType None"),
        (seed(" \n"), r"line 17: field 'prompt' is empty, got ' \\n'; fill it or remove the row"),
        (seed("x", ""), r"line 17: field 'completion' is empty, got ''; fill"),
        (seed("\ud800"), r"line 17: field 'prompt' has half of a surrogate pair"),
        (seed("prompt 3"), r"line 17 has the prompt of line 4 again: 'prompt 3'; remove one"),
        (seed("prompt 3", "another"), r"line 17 has the prompt of line 4 again"),
        (seed("prompt 3 "), r"line 17 has the prompt of line 4 again"),
    ],
)
def test_a_bad_line(tmp_path: Path, bad: object, message: str) -> None:
    path = write_lines(tmp_path / "s.jsonl", *LINES[:16], bad, *LINES[17:])
    with pytest.raises(SeedFileError, match=message):
        read_seed_file(path, fields=FIELDS)


@pytest.mark.parametrize("value", [True, [7], {"a": 1}, ""])
def test_a_bad_gold_answer(tmp_path: Path, value: object) -> None:
    path = write_lines(tmp_path / "s.jsonl", seed(gold=value))
    with pytest.raises(SeedFileError, match="line 1: field 'gold'"):
        read_seed_file(path, fields=SeedFields(answer="gold"))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    first = json.dumps(seed()).encode() + b"\n"
    path.write_bytes(first + b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(SeedFileError, match=rf"line 2 is not UTF-8: byte 0xe9 at offset {len(first) + 15}; save"):
        read_seed_file(path, fields=FIELDS)
    path.write_bytes(json.dumps(seed()).encode("utf-16"))
    with pytest.raises(SeedFileError, match="line 1 is not UTF-8"):
        read_seed_file(path, fields=FIELDS)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    write_lines(tmp_path / "blank.jsonl", "", " ")
    write_lines(tmp_path / "empty.jsonl")
    pl.DataFrame(schema={"prompt": pl.String, "completion": pl.String}).write_parquet(tmp_path / "empty.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    pl.DataFrame({"prompt": ["a"]}).write_parquet(tmp_path / "field.parquet")
    pl.DataFrame({"prompt": ["a", "b"], "completion": ["1", None]}).write_parquet(tmp_path / "null.parquet")
    for name, message in {
        "none.jsonl": "no such file",
        "folder.jsonl": "is a folder",
        "seeds.json": r"must end in \.jsonl .* got '\.json'",
        "blank.jsonl": "the file is empty",
        "empty.jsonl": "the file is empty",
        "empty.parquet": "the file is empty",
        "junk.parquet": "not a readable Parquet file",
        "field.parquet": "row 1: field 'completion' is missing",
        "null.parquet": "row 2: field 'completion' must be a string, got NoneType",
    }.items():
        with pytest.raises(SeedFileError, match=message) as caught:
            read_seed_file(tmp_path / name, fields=FIELDS)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["s.jsonl", "s.parquet"])
def test_larger_than_memory_allows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = [seed(f"prompt {n} " + "x" * 100, f"completion {n}") for n in range(100)]
    write_lines(path, *rows) if name == "s.jsonl" else pl.DataFrame(rows).write_parquet(path)
    with pytest.raises(SeedFileError, match=r"\d{4,} bytes are more than the 2000 bytes of memory.*limit"):
        read_seed_file(path, fields=FIELDS, max_bytes=2000)
    assert read_seed_file(path, fields=FIELDS, limit=5, max_bytes=2000).height == 5
    with pytest.raises(SeedFileError, match="2000 bytes of memory"):
        read_seed_file(path, fields=FIELDS, limit=50, max_bytes=2000)


def test_two_gold_answers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        read_seed_file(tmp_path / "s.jsonl", fields=SeedFields(answer="gold", answer_after="####"))


def test_read_eft_file(tmp_path: Path) -> None:
    table = read_eft_file(write_lines(tmp_path / "e.jsonl", seed("p", "score: 5"), seed("p", "score: 6")))
    assert table.schema == SFT_SET
    assert table.select("source", "source_round").unique().rows() == [("eft", "r0000")]
    assert table["row_id"].n_unique() == 2
    with pytest.raises(SeedFileError, match="line 2 is line 1 again"):
        read_eft_file(write_lines(tmp_path / "e.jsonl", seed(), seed()))


def test_an_experiments_seeds(tmp_path: Path) -> None:
    write_lines(tmp_path / "s.jsonl", {"q": "Q 1?", "a": "<<1+1=2>>2 #### 2"}, {"q": "Q 2?", "a": "#### 3"})
    source = SimpleNamespace(
        path="s.jsonl",
        prompt_field="q",
        completion_field="a",
        answer_field=None,
        answer_after="####",
        strip_calculator_marks=True,
        limit=1,
        eft_path=None,
    )
    assert read_seeds(source, tmp_path).select("prompt", "completion", "answer").rows() == [("Q 1?", "2 #### 2", "2")]
    assert read_eft(source, tmp_path).schema == SFT_SET
    assert read_eft(source, tmp_path).is_empty()
    source.eft_path = str(write_lines(tmp_path / "e.jsonl", seed()))
    assert read_eft(source, tmp_path / "elsewhere")["source"].to_list() == ["eft"]


@pytest.mark.skipif(not GSM8K.exists(), reason="needs ../shared/data/gsm8k_train.jsonl")
def test_gsm8k() -> None:
    fields = SeedFields(prompt="question", completion="answer", answer_after="####", strip_marks=True)
    table = read_seed_file(GSM8K, fields=fields)
    assert table.height == 7473
    assert table["answer"][:2].to_list() == ["72", "10"]
    assert table["answer"].str.contains(r"^-?[\d,.]+$").all()
    assert not table["completion"].str.contains("<<", literal=True).any()
