"""The equations of a worked solution: what rejection sampling calls one way of reasoning, and whether they hold.

Source: Yuan et al., "Scaling Relationship on Learning Mathematical Reasoning" (RFT, arXiv 2308.01825): two solutions
reason alike where the lists of their equations are equal, and a solution with a calculation that is wrong is left out.
"""

import ast
import operator
import re
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from typing import TypeVar

R = TypeVar("R")

_EQUATION = re.compile(
    r"(?<![\w.])([-(]?[$]?\d[\d,.]*(?:\s*[-+*/×x÷()]\s*[(]*[$]?\d[\d,.]*[)%]*)+)\s*=\s*(-?[$]?\d[\d,.]*)"
)
_OPERATIONS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_NOT_PLAIN = str.maketrans({"×": "*", "x": "*", "÷": "/", "$": None, ",": None, "%": None, " ": None})
TOLERANCE = Fraction(1, 100)
"""By how much a result may be rounded."""


def list_equations(text: str) -> list[str]:
    """The equations of numbers in a text, in order, without blanks, currencies and thousands commas.

    >>> list_equations("She has 3 + 4 = 7 apples, so $2 x 7 = $14. The answer is 14.")
    ['3+4=7', '2*7=14']
    """
    return [
        f"{left.translate(_NOT_PLAIN)}={right.translate(_NOT_PLAIN)}".rstrip(".").replace(".=", "=")
        for left, right in _EQUATION.findall(text)
    ]


def _evaluate(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    raise ValueError("no plain arithmetic")


def holds(equation: str) -> bool | None:
    """Whether an equation holds, up to rounding; None where it is no plain arithmetic.

    >>> holds("3+4=7"), holds("10/3=3.33"), holds("2*7=15"), holds("1/0=1")
    (True, True, False, None)
    """
    left, _, right = equation.partition("=")
    try:
        found, said = (_evaluate(ast.parse(side, mode="eval").body) for side in (left, right))
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError):
        return None
    if "/" not in left and "." not in equation:
        return found == said
    return abs(found - said) <= TOLERANCE * max(Fraction(1), abs(found))


def identify_reasoning(completion: str) -> Hashable:
    """What two completions share that reason alike: their equations; without any, their words.

    >>> identify_reasoning("First 3 + 4 = 7.") == identify_reasoning("We add: 3+4=7, done.")
    True
    """
    found = list_equations(completion)
    return tuple(found) if found else " ".join(completion.lower().split())


def choose_distinct(rows: Sequence[R], *, prompt: Callable[[R], str], completion: Callable[[R], str]) -> list[R]:
    """The first row of each way of reasoning of each prompt, in order, without those that calculate wrong.

    >>> rows = [("q", "2 + 2 = 4"), ("q", "2+2=4!"), ("q", "1 + 3 = 4"), ("q", "1 + 2 = 4")]
    >>> choose_distinct(rows, prompt=lambda row: row[0], completion=lambda row: row[1])
    [('q', '2 + 2 = 4'), ('q', '1 + 3 = 4')]
    """
    seen: set[tuple[str, Hashable]] = set()
    chosen = []
    for row in rows:
        key = (prompt(row), identify_reasoning(completion(row)))
        if key in seen or any(holds(one) is False for one in list_equations(completion(row))):
            continue
        seen.add(key)
        chosen.append(row)
    return chosen
