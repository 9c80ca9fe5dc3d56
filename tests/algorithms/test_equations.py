"""The equations of worked solutions, and whether they hold: every figure worked by hand."""

import time

import pytest

from lance_assets.algorithms.verifying.calculations import holds
from lance_assets.algorithms.verifying.equations import identify_reasoning, list_equations, list_reasons


def reason(*completions: str) -> list[str | None]:
    rows = [("q", text) for text in completions]
    return [*list_reasons(rows, prompt=lambda row: row[0], completion=lambda row: row[1])]


@pytest.mark.parametrize(
    ("text", "equations"),
    [
        ("Natalia sold 48/2 = $24 clips, and 1,000 x 2 = 2000; a - b = c.", ["48/2=24", "1000*2=2000"]),
        ("So 9 - 10 = -1, -1 + 5 = 4.", ["9-10=-1", "-1+5=4"]),
        # A chain is an equation for each of its signs, on one line or on several.
        ("3 * 4 + 2 = 12 + 2 = 14", ["3*4+2=12+2", "12+2=14"]),
        ("x = 60 / 4 = 15 = 30 / 2", ["60/4=15", "15=30/2"]),
        ("3 * 4 + 2\n = 12 + 2\n = 14\n- 5 + 2 = 7", ["3*4+2=12+2", "12+2=14", "5+2=7"]),
        ("7 = 7 = 7 and Day 2 = 3 + 4 = 7", ["7=7", "3+4=7"]),
        # What stands around an equation is no part of it.
        ("(48 / 2 = 24), **3 + 4 = 7**, *5 - 1* = 4, <<6/2=3>>3", ["48/2=24", "3+4=7", "5-1=4", "6/2=3"]),
        ("1. 5 + 3 = 8.\n2) 5 - 3 = 2", ["5+3=8", "5-3=2"]),
        ("\\(3 \\times 4 = 12\\) and $\\$1{,}000 \\div 4 = 250$", ["3*4=12", "1000/4=250"]),
        ("2(3 + 4) = 14 and (1 + 1)(2 + 1) = 6", ["2*(3+4)=14", "(1+1)*(2+1)=6"]),
        ("50 × 20 percent = 10 and 9 − 4 = 5", ["50*20%=10", "9-4=5"]),
        ("a total of 48 + 24 = 72 clips, 7 of them", ["48+24=72"]),
        ("4 == 4 and 2 + 2 == 4", ["2+2=4"]),
    ],
)
def test_equations_are_read_as_they_are_written(text: str, equations: list[str]) -> None:
    assert list_equations(text) == equations


@pytest.mark.parametrize(
    "text",
    [
        # The calculation begins before the numbers.
        *["10 apples - 3 * 2 = 4", "10 apples -3 * 2 = 4", "2x + 3 * 2 = 10", "half of 8 + 2 = 6", "x*4 + 2 = 14"],
        *["(3 boxes)*4 + 2 = 14", "10 minus 2 * 3 = 4", "sqrt(16) + 2 = 6", "20% of 50 + 5 = 15", "√16 + 2 = 6"],
        # It goes on behind them.
        *["3 + 4 = 7 + x", "12 / 4 = 3 * x", "2 + 4 = 3x", "2 + 4 = 3 y", "3 * 1000 = 3 thousand", "40 = 50% of 80"],
        *["4 + 4 = 2 times 4", "9 + 7 = 4²", "2 + 4 = 2(x + 1)"],
        # The numbers can be read in two ways, or are not compared.
        *["3,5 + 1 = 4,5", "500 * 2 = 1 000", "1 1/2 + 2 = 3.5", "3 + 4 >= 8", "3 + 4 != 8", "17 % 5 = 2"],
    ],
)
def test_a_part_of_a_calculation_is_no_equation(text: str) -> None:
    """As it was read from its numbers alone, each of these would be one that does not hold."""
    assert list_equations(text) == []
    assert reason(text) == [None]


@pytest.mark.parametrize(
    ("equation", "is_true"),
    [
        # Whole numbers are exact, and rounded by a hundredth at most where the other side is inexact.
        *[("48+24=72", True), ("48+24=73", False), ("1000/3=333", True), ("10/3=3", False), ("7/2=4", False)],
        *[("19.99*5=100", True), ("12+2=14", True), ("100*3=301", False)],
        # Half a unit of the last digit: 10/3 lies in 3.325 to 3.335, and 2/3 above 0.665.
        *[("10/3=3.33", True), ("10/3=3.32", False), ("2/3=0.7", True), ("2/3=0.67", True), ("2/3=0.66", False)],
        # 19.99 * 5 is 99.95, and 3.3 * 3 is 9.9; a nought that is written counts.
        *[("19.99*5=100.5", False), ("19.99*5=99.95", True), ("3.3*3=9.9", True), ("3.3*3=10.0", False)],
        *[("1.25+1=2.3", True), ("1.25+1=2.30", False)],
        # 100/3 * 2 = 66.67 lies in 33.325 * 2 to 33.335 * 2; the chain goes on with what is written.
        *[("100/3*2=33.33*2", True), ("33.33*2=66.66", True), ("3.33=10/3", True), ("3.3=10/4", False)],
        # Percent: 50 * 0.2 = 10, 0.2 * 50 = 10, 10/50 = 0.2, 1 - 0.2 = 0.8 and 1 + 0.05 = 1.05.
        *[("50*20%=10", True), ("50*20%=11", False), ("50*20%=1000", False), ("10/50=20%", True)],
        *[("10/50=0.2%", False), ("1-20%=0.8", True), ("1/3=33%", True), ("1/3=34%", False), ("1/6=17%", True)],
        # 80 is 100 less a fifth of it, 80 is 100 percent less 20, and 10/50 * 100 counts percent.
        *[("100-20%=80", True), ("100-20%=70", False), ("100%-20%=80", True), ("100%-20%=80%", True)],
        *[("50+10%=55", True), ("(10/50)*100=20%", True), ("(10/50)*100=30%", False), ("20%+30%=60%", False)],
        # No plain arithmetic.
        *[("1/0=1", None), ("2**3=8", None), ("2^3=8", None), ("7//2=3", None), ("3(4)=12", None), ("1+=2", None)],
        *[("1/(2-2)=3", None), ("(" * 300 + "1" + ")" * 300 + "=1", None)],
    ],
)
def test_an_equation_holds_up_to_the_digits_that_are_written(equation: str, is_true: bool | None) -> None:
    assert holds(equation) is is_true


def test_a_row_that_is_left_out_has_its_reason() -> None:
    """A wrong row stands for no way of reasoning: a right one after it may have the same equations but for that."""
    completions = ["2 * 3 = 6. It is 6.", "So 2*3=6.", "3 + 3 = 6", "3 + 3 = 7", "six", "Six", "50 * 12% = 6", "6 = 6"]
    assert reason(*completions) == [
        *[None, "same_reasoning", None, "wrong_equation", None, "same_reasoning", None],
        None,
    ]
    assert reason("3 + 3 = 7", "3 + 3 = 7") == ["wrong_equation", "wrong_equation"]
    two = list_reasons([("p", "1+1=2"), ("q", "1+1=2")], prompt=lambda row: row[0], completion=lambda row: row[1])
    assert two == [None, None], "prompts are apart"
    assert list_reasons([], prompt=str, completion=str) == []
    assert identify_reasoning("no equation") == "no equation"


@pytest.mark.parametrize("part", ["1+", "(", " ", "\n", "9", "1=", "x1 ", "1,", "=", "%", "1%", "**", "\\(", "1 ("])
def test_a_long_made_up_text_takes_no_time(part: str) -> None:
    started = time.process_time()
    text = part * (20_000 // len(part))
    found = list_equations(text) + list_equations(f"{text}1 + 1 = 2")
    assert all(holds(one) in (True, False, None) for one in found)
    assert time.process_time() - started < 5
