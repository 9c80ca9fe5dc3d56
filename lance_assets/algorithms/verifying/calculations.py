"""Whether an equation of numbers holds, up to the digits that it is written with.

Source: Yuan et al., "Scaling Relationship on Learning Mathematical Reasoning" (RFT, arXiv 2308.01825), which evaluates
the calculations of a solution by Python. Differences:

1.  A number with decimals on the right, or one that is a whole side, stands for all that rounds to it: 3.33 for 3.325
    to 3.335. So does a whole number of percent. Another whole number is exact, but where the other side divides, has
    decimals or percent: then it may be off by half, and by no more than a hundredth of the result.
2.  20% is 20/100. Three more readings are people's, and an equation holds that holds by one of them: 100 - 20% = 80
    takes a share of what stands before, 100% - 20% = 80 counts percent, and so does 10/50 * 100 = 20%. Counting needs
    a side that multiplies and divides nothing where it has the sign, and divides by way of 100 where it has none.
"""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

Span = tuple[Fraction, Fraction]
"""The least and the greatest that a written number may stand for."""
Reading = Literal["share", "added", "counted"]
"""What 20% is: 20/100; that share of what it is added to or taken from; or 20."""

WHOLE_TOLERANCE = Fraction(1, 100)
"""Of the result: by how much a whole number may be rounded."""
HALF = Fraction(1, 2)
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(%?)")
_NUMBER = re.compile(r"-?\d*\.?\d+%?")
_OPERATIONS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def holds(equation: str) -> bool | None:
    """Whether an equation holds, up to rounding; None where it is no plain arithmetic.

    Args:
        equation: as `list_equations` writes it, without blanks: two sides of numbers, + - * / and brackets.

    >>> holds("3+4=7"), holds("10/3=3.33"), holds("2*7=15"), holds("1/0=1")
    (True, True, False, None)
    >>> holds("50*20%=10"), holds("100-20%=80"), holds("19.99*5=100.5")
    (True, True, False)
    """
    left, _, right = equation.partition("=")
    try:
        return any(_agree(left, right, reading) for reading in _list_readings(left, right))
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


def _list_readings(*sides: str) -> list[Reading]:
    """The ways in which the percent of an equation can be meant; one where it has none."""
    if not any("%" in side for side in sides):
        return ["share"]
    may_count = all(
        "/" not in side and "*" not in side if "%" in side else "/" not in side or "100" in side for side in sides
    )
    return ["share", "added", "counted"] if may_count else ["share", "added"]


def _agree(left: str, right: str, reading: Reading) -> bool:
    """Whether two sides may stand for one number."""
    low, high = _measure(left, reading, is_rounded=_NUMBER.fullmatch(left) is not None)
    least, most = _measure(right, reading, is_rounded=True)
    margin = max(_find_margin(left, right, least), _find_margin(right, left, low))
    return low <= most + margin and least <= high + margin


def _find_margin(inexact: str, whole: str, result: Fraction) -> Fraction:
    """By how much a side that is a whole number may be rounded, where the other one is inexact."""
    if not re.fullmatch(r"-?\d+", whole) or not re.search(r"[/.%]", inexact):
        return Fraction(0)
    return min(HALF, WHOLE_TOLERANCE * max(Fraction(1), abs(result)))


def _measure(side: str, reading: Reading, *, is_rounded: bool) -> Span:
    source = _WRITTEN.sub(lambda found: f"percent({found[1]})" if found[2] else found[1], side)

    def write_out(node: ast.expr) -> Span:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            before, after = write_out(node.left), write_out(node.right)
            is_added = isinstance(node.op, ast.Add | ast.Sub) and _is_percent(node.right) and not _is_percent(node.left)
            if reading == "added" and is_added:
                after = _combine(operator.mul, before, after)
            return _combine(_OPERATIONS[type(node.op)], before, after)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            low, high = write_out(node.operand)
            return -high, -low
        return read_number(node)

    def read_number(node: ast.expr) -> Span:
        percent = _read_percent(node)
        number = node if percent is None else percent
        if not isinstance(number, ast.Constant) or not isinstance(number.value, int | float):
            raise ValueError("no plain arithmetic")
        # As written: a float forgets the noughts at its end, which say how it was rounded.
        written = source[number.col_offset : number.end_col_offset]
        decimals = len(written.partition(".")[2])
        may_differ = is_rounded and (decimals > 0 or percent is not None)
        value, half = Fraction(written), HALF / 10**decimals if may_differ else Fraction(0)
        unit = 1 if percent is None or reading == "counted" else 100
        return (value - half) / unit, (value + half) / unit

    return write_out(ast.parse(source, mode="eval").body)


def _read_percent(node: ast.expr) -> ast.expr | None:
    """The number that stands before a percent sign; None where there is none."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or len(node.args) != 1:
        return None
    return node.args[0] if node.func.id == "percent" else None


def _is_percent(node: ast.expr) -> bool:
    return _read_percent(node) is not None


def _combine(operation: Callable[[Fraction, Fraction], Fraction], one: Span, other: Span) -> Span:
    if operation is operator.truediv and other[0] <= 0 <= other[1]:
        raise ZeroDivisionError
    found = [operation(a, b) for a in one for b in other]
    return min(found), max(found)
