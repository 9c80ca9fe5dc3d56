import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.answer_matching import (
    MAX_CHARS,
    extract_final_answer,
    match_answers,
    normalise_answer,
    parse_number,
)
from lance_assets.recipes.steps.teaching import read_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 + 3 = 5\n#### 5", "5"),
        ("#### 5\nI hope this helps.", "5"),
        ("#### 4? No, once more.\n2 + 3 = 5\n####   -5  \r\n", "-5"),
        ("so #### $5 in all", "$5 in all"),
        ("##### 5", "5"),
        ("####5", "5"),
        ("## Steps\n2 + 3 = 5", None),
        ("#### 5\n####", None),
        ("####\n5", "5"),
        ("So ####:\n\n 5", "5"),
        ("####\n\n**5**\nDone.", "**5**"),
        ("####: 5", "5"),
        ("**####** = 5", "5"),
        ("#### 5 ####", "5"),
        ("", None),
    ],
)
def test_the_last_mark_counts(text: str, answer: str | None) -> None:
    assert extract_final_answer(text) == answer


def test_other_marks() -> None:
    assert extract_final_answer("DNA: 3\nA: 18", "\nA:") == "18"
    assert extract_final_answer("The answer is 18.", "The answer is") == "18."
    with pytest.raises(ValueError, match="mark must not be empty"):
        extract_final_answer("#### 5", "")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", "7"),
        ("7.", "7"),
        ("7.0", "7"),
        ("7.0.", "7"),
        ("007", "7"),
        (".5", "1/2"),
        ("+7", "7"),
        ("-7", "-7"),
        ("− 7", "-7"),
        ("–7", "-7"),
        ("minus 7", "-7"),
        ("Negative 7", "-7"),
        ("1,234,567.50", "2469135/2"),
        ("1/2", "1/2"),
        ("-3 / 4 cup", "-3/4"),
        ("1.5/3", "1/2"),
        ("1 1/2", "3/2"),
        ("-1 1/2 hours", "-3/2"),
        ("2½", "5/2"),
        ("⅓", "1/3"),
        ("$18", "18"),
        ("-$18", "-18"),
        ("$-18", "-18"),
        ("US$ 18", "18"),
        ("USD 18", "18"),
        ("€1,000", "1000"),
        ("18 dollars", "18"),
        ("18 dollars.", "18"),
        ("18%", "18"),
        ("18 %", "18"),
        ("18 percent", "18"),
        ("50¢", "50"),
        ("18元", "18"),
        ("60km/h", "60"),
        ("5 sq. ft. (approx.)", "5"),
        ("5-foot boards", "5"),
        ("Kylie's 5", None),
        ("5 of Kylie's", "5"),
        ("8 p.m.", "8"),
        ("2 million", "2000000"),
        ("$1.5 million dollars", "1500000"),
        ("3 hundred thousand", "300000"),
        ("**18**", "18"),
        ("**18** eggs", "18"),
        ("$18$", "18"),
        (r"\$18", "18"),
        ("`18`", "18"),
        ("１８％", "18"),
        ("1 3/2", None),
        ("1/0", None),
        ("1 1/0", None),
        ("1-1/2", None),
        ("1/2/3", None),
        ("1,23", None),
        ("1,2345", None),
        ("1234,567", None),
        ("1.2.3", None),
        ("-$-5", None),
        ("--5", None),
        ("5 - 3", None),
        ("5-6", None),
        ("5 or six", None),
        ("5 and a half", None),
        ("5 to noon", None),
        ("3 of 5", None),
        ("3 1 2", None),
        ("3 feet 4 inches", None),
        ("3:30", None),
        ("5 x", None),
        ("5x", None),
        ("5 squared", None),
        ("5 times as many", None),
        ("5 plus tax", None),
        ("5k", "5000"),
        ("10+John's age", None),
        ("5**2", None),
        ("5^2", None),
        ("1e5", "100000"),
        ("x = 5", None),
        ("seven", None),
        ("$", None),
        ("-", None),
        (".", None),
        ("", None),
        ("9" * MAX_CHARS + "9", None),
    ],
)
def test_numbers(text: str, number: str | None) -> None:
    assert parse_number(text) == (None if number is None else Fraction(number))


def test_long_numbers_are_exact() -> None:
    assert parse_number("9" * MAX_CHARS) == 10**MAX_CHARS - 1
    assert not match_answers("10000000000000000001", "10000000000000000002")
    assert not match_answers("1/3", "0.3333333333333333")


AMOUNTS = st.integers(-(10**9), 10**9)


@given(AMOUNTS, st.integers(0, 4))
def test_a_decimal_number_in_every_writing(units: int, num_decimals: int) -> None:
    number = Fraction(units, 10**num_decimals)
    size = f"{abs(units) // 10**num_decimals:,}"
    if num_decimals:
        size += f".{abs(units) % 10**num_decimals:0{num_decimals}}"
    sign = "-" if units < 0 else ""
    plain = size.replace(",", "")
    writings = [f"{sign}{size}", f"{sign}{plain}", f"{sign}${size}", f"${sign}{plain}", f"{sign}{size} eggs."]
    writings += [f"{sign.replace('-', '−')}{plain}%", f"**{sign}{size}**", f"{sign}{plain}/1", f" {sign}{size} "]
    assert {parse_number(writing) for writing in writings} == {number}
    assert all(match_answers(writings[0], writing) for writing in writings)
    assert not any(match_answers(str(units + 10**num_decimals), writing) for writing in writings if num_decimals == 0)


@given(AMOUNTS, st.integers(1, 10**6))
def test_a_fraction_and_a_mixed_number(part: int, parts: int) -> None:
    number = Fraction(part, parts)
    assert parse_number(f"{part}/{parts}") == number
    whole, rest = divmod(abs(part), parts)
    assert parse_number(f"{'-' if part < 0 else ''}{whole} {rest}/{parts}") == number
    assert match_answers(str(number), str(-number)) is (number == 0)


@given(st.text(max_size=30), st.text(alphabet="0123456789,./-$% x\n*½", max_size=30))
def test_any_text_is_read_without_failing(text: str, digits: str) -> None:
    for answer in (text, digits, text + digits):
        number = parse_number(answer)
        assert number is None or any(letter.isnumeric() for letter in answer)
        if answer.strip():
            assert match_answers(answer, answer)
            assert match_answers(answer, f"  {answer}\n")


def test_texts_are_compared_without_case_and_with_single_spaces() -> None:
    assert match_answers("Play Music", " play \n music")
    assert match_answers("3 1 2", "3  1 2")
    assert not match_answers("3 1 2", "3 2 1")
    assert not match_answers("PlayMusic", "play music")
    assert not match_answers("5", "five")
    assert not match_answers("5", "")
    assert not match_answers("5", None)
    with pytest.raises(ValueError, match="a gold answer must have text, got ' '"):
        match_answers(" ", "5")


def match_as_the_authors(gold: str, text: str) -> bool:
    """The authors' rule, from its description: the first run of "#" in the completion, digits and dots as floats."""
    found = re.search(r"#+ (.*)", text)
    answers = [gold, found[1] if found else "WRONG"]
    try:
        numbers = [float(re.sub(r"[^0-9.]", "", answer)) for answer in answers]
    except ValueError:
        return len({answer.replace(",", "").lower() for answer in answers}) == 1
    return numbers[0] == numbers[1]


@pytest.mark.parametrize(
    ("gold", "text", "is_correct"),
    [
        ("72", "48 + 24 = 72\n#### 72", True),
        ("72", "48 + 25 = 73\n#### 73", False),
        ("72", "It is 72.", False),
        ("1,200", "#### $1200", True),
        ("1200", "#### 1,200.00", True),
        ("10", "#### 10 dollars", True),
        ("10.5", "#### 10.50", True),
        ("50", "#### 50%", True),
        ("Yes", "#### yes", True),
        ("Yes", "#### no", False),
        ("-5", "#### -5", True),
        ("-5", "#### 6", False),
    ],
)
def test_the_authors_rule_where_it_is_right(gold: str, text: str, is_correct: bool) -> None:
    assert match_as_the_authors(gold, text) is is_correct
    assert match_answers(gold, extract_final_answer(text)) is is_correct


@pytest.mark.parametrize(
    ("gold", "text", "is_correct"),
    [
        ("5", "#### -5", False),
        ("12", "#### 1/2", False),
        ("0.5", "#### 1/2", True),
        ("112", "#### 1 1/2", False),
        ("5", "#### 4\nNo, once more.\n#### 5", True),
        ("5", "#### 5\nNo, once more.\n#### 4", False),
        ("5", "# Steps\n2 + 3\n#### 5", True),
        ("7", "#### 7.0.", True),
        ("10000000000000000001", "#### 10000000000000000002", False),
        ("wrong", "I do not know.", False),
        ("35", "#### 3 of 5", False),
        ("2000000", "#### 2 million", True),
    ],
)
def test_the_named_differences(gold: str, text: str, is_correct: bool) -> None:
    assert match_as_the_authors(gold, text) is not is_correct
    assert match_answers(gold, extract_final_answer(text)) is is_correct


def test_every_gold_answer_of_gsm8k_in_every_writing(real_data: Path) -> None:
    golds = []
    for name in ("gsm8k_train.jsonl", "gsm8k_test.jsonl"):
        completions = [json.loads(line)["answer"] for line in (real_data / name).read_text("utf-8").splitlines()]
        golds += [extract_final_answer(completion) for completion in completions]
    assert len(golds) == 7_473 + 1_319
    assert sum(gold is not None and gold.startswith("-") for gold in golds) == 5
    for gold in dict.fromkeys(golds):
        assert gold is not None
        number = parse_number(gold)
        assert number is not None
        assert number == int(gold.replace(",", ""))
        value = int(number)
        size = f"{abs(value):,}"
        right = [gold, f"{value}.", f"{value}.0.", f"{value:,}.00", f"{2 * value}/2", f"{value} eggs", f"{value}%"]
        right += [f"{'−' if value < 0 else ''}${size}", f"**{value:,}**"]
        assert all(match_answers(gold, predicted) for predicted in right), gold
        wrong = [str(value + 1), f"{value}.5", f"{10 * value + 1}", f"{value} or {value + 1}"]
        wrong += [str(-value)] * (value != 0)
        assert not any(match_answers(gold, predicted) for predicted in wrong), gold


GOLDS = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(1e-12, 1e-4).map("{:.2e}".format),
    st.fractions(-1000, 1000).map(str),
    st.from_regex(
        r"\(?[A-Ea-e][).]?|[$€]?[0-9]{1,4}(\.[0-9]{2})?[%.]?|[0-9]{1,3}( ?[kKM]| dozen| million|万)", fullmatch=True
    ),
    st.from_regex(r"[A-Za-zäß]{1,8}( [a-z]{1,6}){0,3}[.!?]{0,2}", fullmatch=True),
    st.from_regex(r"\\boxed\{[0-9]{1,4}\}|\$[0-9]{1,3}\{,\}[0-9]{3}\$|\\frac\{[1-9]\}\{[1-9]\}", fullmatch=True),
    st.lists(st.from_regex(r"[a-z0-9]{1,6}( [=/+] [0-9]{1,3})?\.?", fullmatch=True), min_size=2, max_size=3).map(
        "\n".join
    ),
    st.text(min_size=1, max_size=20).filter(lambda text: any(sign.isalnum() for sign in text.strip().split("\n")[0])),
)


@given(GOLDS, st.sampled_from(["####", "The answer is", "\nA:"]))
def test_a_seeds_own_completion_matches_its_gold_answer(gold: str, mark: str) -> None:
    if mark.strip() in gold:
        return
    for completion in (f"So it is.\n{mark.strip()} {gold}", f"So it is.\n{mark.strip()}: {gold}\n"):
        assert match_answers(gold, read_answer(completion, mark.strip()))


@given(GOLDS)
def test_equal_answers_have_one_normal_form(gold: str) -> None:
    first = gold.strip().split("\n")[0]
    assert normalise_answer(first) == normalise_answer(f" **{first}** ") or "*" in first or "_" in first


@pytest.mark.parametrize(
    "magnitude", ["k", "K", "M", "B", " thousand", " million", " bn", " dozen", "万", "億", "千", "만"]
)
def test_a_magnitude_is_no_unit(magnitude: str) -> None:
    for number in ("5", "12", "1.5"):
        assert not match_answers(number, f"{number}{magnitude}")
        assert match_answers(f"{number}{magnitude}", f"${number}{magnitude}")
        value = parse_number(f"{number}{magnitude}")
        assert value is not None
        assert value > Fraction(number)
