"""Every way a seed file can be wrong has an error that says where and what to do."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from lance_assets.records import SEED_SET, SFT_SET, derive_row_id
from lance_assets.settings.experiment import SeedSettings
from resources.readers.mistakes import SeedFileError
from resources.readers.row_kinds import SeedFields
from resources.readers.seed_files import open_seed_file, read_eft, read_eft_file, read_seed_file, read_seeds
from resources.readers.sources import Source

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
    with pytest.raises(SeedFileError, match=r"line 1: the completion has no answer after '####'.*unset"):
        read_seed_file(path, fields=SeedFields(answer_after="####"))


@pytest.mark.parametrize(("value", "answer"), [("7", "7"), (" 7\n", "7"), (7, "7"), (7.5, "7.5"), (None, None)])
def test_gold_answer_field(tmp_path: Path, value: object, answer: str | None) -> None:
    path = write_lines(tmp_path / "s.jsonl", seed(gold=value))
    assert read_seed_file(path, fields=SeedFields(answer="gold"))["answer"].to_list() == [answer]


LINES = [seed(f"prompt {n}") for n in range(20)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"prompt": "x", "comp', r"s\.jsonl: line 17: is not JSON .*write one JSON object on each line"),
        ("[" * 100_000, r"line 17: is not JSON"),
        ('["a", "b"]', r"line 17: must be a JSON object, got list \['a', 'b'\]"),
        ("null", r"line 17: must be a JSON object, got NoneType None"),
        ({"prompt": "x"}, r"line 17: field 'completion' is missing, found \['prompt'\]; add it"),
        ({}, r"line 17: field 'prompt' is missing, found \[\]; add it"),
        (seed(5), r"line 17: field 'prompt' must be a string, got int 5; put it in quotes"),
        (seed(None), r"line 17: field 'prompt' is empty, got null; fill it or remove the row"),
        (seed("x", float("nan")), r"line 17: field 'completion' is empty, got NaN; fill"),
        (seed("x", ["y"]), r"line 17: field 'completion' must be a string, got list \['y'\]; write it as a text"),
        ('{"prompt": "x", "completion": "y", "id": ' + "9" * 5000 + "}", "line 17: holds an integer that is too long"),
        ('{"prompt": "x", "completion": "y", "prompt": "z"}', "line 17: names the field 'prompt' twice; keep one"),
        (seed(" \n"), r"line 17: field 'prompt' is empty, got ' \\n'; fill it or remove the row"),
        (seed("x", ""), r"line 17: field 'completion' is empty, got ''; fill"),
        (seed("\ud800"), r"line 17: field 'prompt' has half of a surrogate pair"),
    ],
)
def test_a_bad_line(tmp_path: Path, bad: object, message: str) -> None:
    path = write_lines(tmp_path / "s.jsonl", *LINES[:16], bad, *LINES[17:])
    with pytest.raises(SeedFileError, match=message):
        read_seed_file(path, fields=FIELDS)


def test_all_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    bad = [seed(5), "{broken", seed("x", ""), "7", seed("\ud800"), *(seed("", str(n)) for n in range(7))]
    path = write_lines(tmp_path / "s.jsonl", *LINES, *bad)
    with pytest.raises(SeedFileError) as caught:
        read_seed_file(path, fields=FIELDS)
    first, *lines = str(caught.value).split("\n")
    assert first == f"{path}: 12 rows cannot be used:"
    assert lines[0].startswith("  line 21: field 'prompt' must be a string, got int 5")
    assert [line.split(":")[0].strip() for line in lines[:5]] == [f"line {n}" for n in (21, 22, 23, 24, 25)]
    assert lines[5:] == ["  and 7 more, the last in line 32"]


def test_repeated_prompts_are_counted_and_listed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "s.jsonl", seed("a", "1"), seed("b"), seed("a ", "1"), seed("a", "2"), seed("c"))
    read = open_seed_file(Source(path), fields=FIELDS)
    assert read.table.select("prompt", "completion").rows() == [("a", "1"), ("b", "3"), ("c", "3")]
    assert read.repeated.rows() == [
        ("s.jsonl line 3", "s.jsonl line 1", True, "a "),
        ("s.jsonl line 4", "s.jsonl line 1", False, "a"),
    ]
    assert read.how == (
        "read 5 rows as prompt and completion from s.jsonl; left out 2 whose prompt comes earlier (1 with the same "
        "completion): s.jsonl line 3 repeats s.jsonl line 1, s.jsonl line 4 repeats s.jsonl line 1"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["s.jsonl", "s.json", "s.parquet", "s.arrow"])
def test_a_gold_answer_that_is_no_number(tmp_path: Path, name: str, value: float) -> None:
    """JSON of Python has such numbers, and pandas writes NaN for what is missing."""
    rows = [seed("a", gold=1.5), seed("b", gold=value)]
    match name:
        case "s.jsonl":
            write_lines(tmp_path / name, *rows)
        case "s.json":
            (tmp_path / name).write_text(json.dumps(rows))
        case "s.parquet":
            pl.DataFrame(rows).write_parquet(tmp_path / name)
        case _:
            pl.DataFrame(rows).write_ipc(tmp_path / name)
    place = "line 2" if name == "s.jsonl" else "row 2"
    with pytest.raises(SeedFileError, match=f"{place}: field 'gold' must be a number, got {value}.*or null where"):
        read_seed_file(tmp_path / name, fields=SeedFields(answer="gold"))


@pytest.mark.parametrize("value", [True, [7], {"a": 1}, ""])
def test_a_bad_gold_answer(tmp_path: Path, value: object) -> None:
    path = write_lines(tmp_path / "s.jsonl", seed(gold=value))
    with pytest.raises(SeedFileError, match="line 1: field 'gold'"):
        read_seed_file(path, fields=SeedFields(answer="gold"))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    first = json.dumps(seed()).encode() + b"\n"
    path.write_bytes(first + b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(SeedFileError, match=rf"line 2: is not UTF-8: byte 0xe9 at offset {len(first) + 15}; save"):
        read_seed_file(path, fields=FIELDS)
    with pytest.raises(SeedFileError, match=r"line 2: is not UTF-8.*WINDOWS-1252"):
        read_seed_file(path, fields=FIELDS)
    path.write_bytes(json.dumps(seed()).encode("utf-16"))
    with pytest.raises(SeedFileError, match="is UTF-16, as its first bytes say; save the file as UTF-8"):
        read_seed_file(path, fields=FIELDS)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    write_lines(tmp_path / "blank.jsonl", "", " ")
    write_lines(tmp_path / "empty.jsonl")
    pl.DataFrame(schema={"prompt": pl.String, "completion": pl.String}).write_parquet(tmp_path / "empty.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    (tmp_path / "odd.doc").write_bytes(b"prompt")
    pl.DataFrame({"prompt": ["a"]}).write_parquet(tmp_path / "field.parquet")
    pl.DataFrame({"prompt": ["a", "b"], "completion": ["1", None]}).write_parquet(tmp_path / "null.parquet")
    for name, message in {
        "none.jsonl": "no such file",
        "folder.jsonl": "is a folder without a file that ends in .jsonl",
        "seeds.doc": "no such file",
        "odd.doc": r"must end in \.jsonl, .*, got '\.doc'",
        "blank.jsonl": "the file is empty",
        "empty.jsonl": "the file is empty",
        "empty.parquet": "the file is empty",
        "junk.parquet": "not a readable .parquet file, its first bytes are b'junk'",
        "field.parquet": r"no column is known to hold the completion, found \['prompt'\]; set seeds.completion_field",
        "null.parquet": "row 2: field 'completion' is empty, got null",
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


def test_tests_and_rules_may_be_lists_and_objects(tmp_path: Path) -> None:
    """As MBPP's list of asserts, and IFEval's rules."""
    tests, rules = ["assert f(1) == 2", "assert f('é') == 1"], {"instruction_id_list": ["a"], "kwargs": [{"n": None}]}
    path = write_lines(tmp_path / "s.jsonl", seed("a", gold=tests), seed("b", gold=rules), seed("c", gold="7"))
    kept = read_seed_file(path, fields=SeedFields(answer="gold", answer_json=True))["answer"].to_list()
    assert [json.loads(kept[0]), json.loads(kept[1]), kept[2]] == [tests, rules, "7"]
    with pytest.raises(SeedFileError, match=r"line 1: field 'gold' must be a string.*or set answer_json"):
        read_seed_file(path, fields=SeedFields(answer="gold"))


def test_two_gold_answers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        read_seed_file(tmp_path / "s.jsonl", fields=SeedFields(answer="gold", answer_after="####"))


def test_read_eft_file(tmp_path: Path) -> None:
    table = read_eft_file(write_lines(tmp_path / "e.jsonl", seed("p", "score: 5"), seed("p", "score: 6")))
    assert table.schema == SFT_SET
    assert table.select("source", "source_round").unique().rows() == [("eft", "r0000")]
    assert table["row_id"].n_unique() == 2
    assert read_eft_file(write_lines(tmp_path / "e.jsonl", seed(), seed("q"), seed())).height == 2


def test_an_experiments_seeds(tmp_path: Path) -> None:
    write_lines(tmp_path / "s.jsonl", {"q": "Q 1?", "a": "<<1+1=2>>2 #### 2"}, {"q": "Q 2?", "a": "#### 3"})
    named = {"path": "s.jsonl", "prompt_field": "q", "completion_field": "a", "limit": 1}
    source = SeedSettings.model_validate(named | {"answer_after": "####", "strip_calculator_marks": True})
    assert read_seeds(source, tmp_path).select("prompt", "completion", "answer").rows() == [("Q 1?", "2 #### 2", "2")]
    assert read_eft(source, tmp_path).schema == SFT_SET
    assert read_eft(source, tmp_path).is_empty()
    source = source.model_copy(update={"eft_path": str(write_lines(tmp_path / "e.jsonl", seed()))})
    assert read_eft(source, tmp_path / "elsewhere")["source"].to_list() == ["eft"]


CASES = Path(__file__).parents[3] / "shared" / "cases" / "seeds"
NAMED = {"prompt": "instruction", "completion": "output"}


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared/cases/seeds")
@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("alpaca_input.jsonl", {}, "read 2 rows as Alpaca from alpaca_input.jsonl"),
        ("alpaca_input.jsonl", NAMED, "line 1: column 'input' belongs to the task"),
        ("alpaca_same_instruction.jsonl", {}, "read 2 rows as Alpaca from alpaca_same_instruction.jsonl"),
        ("alpaca_same_instruction.jsonl", NAMED, "column 'input' .* would be left out of 2 of 2 rows"),
        ("array.json", {}, "read 1 row as prompt and completion .columns prompt and response. from array.json"),
        ("messages.jsonl", {}, "read 1 row as OpenAI messages from messages.jsonl"),
        ("messages.jsonl", dict.fromkeys(("prompt", "completion"), "messages"), "set seeds.format: messages"),
        ("other_names.parquet", {}, "read 1 row as Alpaca from other_names.parquet"),
        (
            "other_names.parquet",
            {"prompt": "prompt", "completion": "completion"},
            r"column 'prompt' is missing, found \['instruction', 'output'\]",
        ),
        ("nan_answer.jsonl", {"answer": "answer"}, "line 1: field 'answer' must be a number, got nan"),
        ("gzip_named_jsonl.jsonl", {}, "read 1 row as prompt and completion from gzip_named_jsonl.jsonl"),
        ("null_completion.jsonl", {}, "line 1: field 'completion' is empty, got null; fill it or remove the row"),
        ("long_integer.jsonl", {}, "line 1: holds an integer that is too long"),
        ("protected_empty.jsonl", {}, "the file is empty"),
    ],
)
def test_public_files(name: str, fields: dict[str, str], told: str) -> None:
    if told.startswith("read"):
        assert re.fullmatch(told, open_seed_file(Source(CASES / name), fields=SeedFields(**fields)).how)
        return
    with pytest.raises(SeedFileError, match=rf"{name}: .*{told}" if "empty" not in name else told):
        open_seed_file(Source(CASES / name), fields=SeedFields(**fields))


@pytest.mark.skipif(not GSM8K.exists(), reason="needs ../shared/data/gsm8k_train.jsonl")
def test_gsm8k() -> None:
    fields = SeedFields(prompt="question", completion="answer", answer_after="####", strip_marks=True)
    table = read_seed_file(GSM8K, fields=fields)
    assert table.height == 7473
    assert table["answer"][:2].to_list() == ["72", "10"]
    assert table["answer"].str.contains(r"^-?[\d,.]+$").all()
    assert not table["completion"].str.contains("<<", literal=True).any()
