"""Rows of a table that a model wrote: what is read, and what is refused with which reason."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.tabular.columns import (
    Column,
    Given,
    infer_columns,
    read_value,
    split_features,
    write_features,
    write_number,
)
from lance_assets.algorithms.tabular.written_rows import read_written, write_row

AGE = Column("age", "integer", low=0, high=120)
BMI = Column("bmi", "number", low=10, high=60)
ILL = Column("ill", "category", values=("No", "Yes"))
COLUMNS = (AGE, BMI, ILL)
GOOD = '{"age": 59, "bmi": 32.1, "ill": "Yes"}'


def reasons(text: str, *, row_format: str = "json", is_cut: bool = False) -> list[str | None]:
    return [row.reason for row in read_written(text, COLUMNS, row_format=row_format, is_cut=is_cut)]


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        ('{"age": "59", "bmi": "32.1", "ill": "yes"}', None),
        ('{"age": 59.0, "bmi": 32, "ill": "Yes"}', None),
        ('{"age": 59.5, "bmi": 32.1, "ill": "Yes"}', "wrong_type"),
        ('{"age": "59 years", "bmi": 32.1, "ill": "Yes"}', "wrong_type"),
        ('{"age": true, "bmi": 32.1, "ill": "Yes"}', "wrong_type"),
        ('{"age": [59], "bmi": 32.1, "ill": "Yes"}', "wrong_type"),
        ('{"age": NaN, "bmi": 32.1, "ill": "Yes"}', "wrong_type"),
        ('{"age": 1e999, "bmi": 32.1, "ill": "Yes"}', "wrong_type"),
        ('{"age": 121, "bmi": 32.1, "ill": "Yes"}', "out_of_range"),
        ('{"age": 59, "bmi": 9.99, "ill": "Yes"}', "out_of_range"),
        ('{"age": "integer", "bmi": 32.1, "ill": "Yes"}', "echoed_type"),
        ('{"age": 59, "bmi": 32.1, "ill": "categorical"}', "echoed_type"),
        ('{"age": 59, "bmi": 32.1, "ill": "perhaps"}', "unknown_category"),
        ('{"age": null, "bmi": 32.1, "ill": "Yes"}', "missing_value"),
        ('{"age": 59, "bmi": "", "ill": "Yes"}', "missing_value"),
        ('{"age": 59, "ill": "Yes"}', "missing_column"),
        ('{"age": 59, "bmi": 32.1, "ill": "Yes", "sex": 1}', "unknown_column"),
        ('{"age": 59, "age": 60, "bmi": 32.1, "ill": "Yes"}', "unreadable"),
        ("{'age': 59, 'bmi': 32.1, 'ill': 'Yes'}", "unreadable"),
        ('{"age": ' + "[" * 5000 + ', "bmi": 1, "ill": "Yes"}', "unreadable"),
        ('{"age": ' + "9" * 5000 + ', "bmi": 1, "ill": "Yes"}', "unreadable"),
        ('{"age": "' + "9" * 50_000 + '", "bmi": 1, "ill": "Yes"}', "unreadable"),
    ],
)
def test_an_object_is_read_or_refused_with_its_reason(piece: str, reason: str | None) -> None:
    assert reasons(piece) == [reason]


def test_one_bad_row_loses_no_other() -> None:
    """The released code reads all objects of a text at once, and one that is no JSON loses them all."""
    text = f"Here are the rows:\n1. {GOOD}\n2. {{age: 3}}\n3. {GOOD.replace('59', '60')}\nThat is all."
    assert reasons(text) == [None, "unreadable", None]


def test_a_row_that_says_yes_or_no_is_kept() -> None:
    """The released tutorial drops every row with the value "Yes" or "No", as words of the schema."""
    (row,) = read_written(GOOD, COLUMNS, row_format="json")
    assert row.values == {"age": 59.0, "bmi": 32.1, "ill": "Yes"}
    kinds = Column("kind", "category", values=("float", "string"))
    assert read_value(kinds, "float") == ("float", None)


def test_the_last_row_of_a_cut_text_is_cut_off() -> None:
    assert reasons(GOOD + '\n{"age": 4', is_cut=True) == [None, "cut_off"]
    assert reasons(GOOD + '\n{"age": 4') == [None, "unreadable"]
    # A line that was cut may look whole: 3.5 may have been going to be 3.57.
    assert reasons("59, 32.1, Yes\n60, 33.5, No", row_format="lines", is_cut=True) == [None, "cut_off"]


def test_lines_are_read_in_the_order_of_the_columns() -> None:
    text = "Rows:\nage, bmi, ill\n59, 32.1, yes\n59, 32.1\n59, 32.1, no, no\n59, x, no\n'oh, \"well"
    assert reasons(text, row_format="lines") == [
        None,
        "missing_column",
        "unknown_column",
        "wrong_type",
        "missing_column",
    ]
    assert reasons("no row at all", row_format="lines") == []
    assert reasons("no row at all") == []


NUMBERS = st.floats(10, 60, allow_nan=False).map(lambda one: round(one, 4))
ROWS = st.fixed_dictionaries(
    {"age": st.integers(0, 120).map(float), "bmi": NUMBERS, "ill": st.sampled_from(["No", "Yes"])}
)


@given(st.lists(ROWS, max_size=5), st.sampled_from(["json", "lines"]))
def test_what_is_written_is_read_back(rows: list[dict[str, float | str]], row_format: str) -> None:
    text = "\n".join(write_row(COLUMNS, row, row_format=row_format) for row in rows)
    assert [row.values for row in read_written(text, COLUMNS, row_format=row_format)] == rows
    for row in rows:
        read = split_features(write_features(COLUMNS, row))
        assert {column.name: read_value(column, read[column.name])[0] for column in COLUMNS} == row


def test_values_with_commas_and_quotes_are_read_back() -> None:
    place = Column("place", "category", values=('Paris, "old"', "Rome, east"))
    for value in place.values:
        for row_format in ("json", "lines"):
            text = write_row((AGE, place), {"age": 1.0, "place": value}, row_format=row_format)
            (row,) = read_written(text, (AGE, place), row_format=row_format)
            assert row.values == {"age": 1.0, "place": value}


@given(st.text(max_size=200), st.booleans(), st.sampled_from(["json", "lines"]))
def test_any_text_is_rows_or_none_and_every_row_has_values_or_a_reason(
    text: str, is_cut: bool, row_format: str
) -> None:
    for row in read_written(text, COLUMNS, row_format=row_format, is_cut=is_cut):
        assert (row.values is None) != (row.reason is None)
        assert row.text in text or row.text.strip() in text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_written_without_loss(value: float) -> None:
    assert float(write_number(value)) == value
    json.loads(write_number(value))


def test_columns_are_read_off_the_rows() -> None:
    rows = [{"age": "20", "bmi": "21.5", "sex": "f"}, {"age": "60", "bmi": "30", "sex": "m"}]
    age, bmi, sex = infer_columns(rows, given={"age": Given("in years", high=100)}, range_slack=0.5)
    assert (age.kind, age.low, age.high, age.description) == ("integer", 0.0, 100, "in years")
    assert (bmi.kind, bmi.low, bmi.high) == ("number", 17.25, 34.25)
    assert (sex.kind, sex.values) == ("category", ("f", "m"))
    free = infer_columns(rows, given={}, range_slack=None)[1]
    assert (free.low, free.high) == (-math.inf, math.inf)
    cold = infer_columns([{"t": "-5"}, {"t": "5"}], given={}, range_slack=1.0)[0]
    assert (cold.low, cold.high) == (-15, 15)


@pytest.mark.parametrize(
    ("rows", "said", "told"),
    [
        ([], {}, "a table needs a row to know its columns by, got none"),
        ([{"age": "1"}, {"bmi": "1"}], {}, "row 2 has the columns bmi, and row 1 has age"),
        ([{"age": "1"}], {"bmi": Given()}, "no row has the column bmi; the rows have age"),
        ([{"age": "1.5"}], {"age": Given(kind="integer")}, "column age: '1.5' is no integer"),
        ([{"age": "old"}], {"age": Given(kind="number")}, "column age: 'old' is no number"),
        ([{"age": "130"}], {"age": Given(high=120)}, "column age: 130 is not in 130 to 120"),
        ([{"sex": "x"}], {"sex": Given(values=("f", "m"))}, "column sex: 'x' is none of its values, f, m"),
    ],
)
def test_a_table_that_cannot_be_is_told(rows: list[dict[str, str]], said: dict[str, Given], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        infer_columns(rows, given=said, range_slack=0.5)
