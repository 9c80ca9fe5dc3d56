"""What of a completion is a program, and what the tests of a prompt are.

A program is the last fenced block of Python in a completion; without a fence the whole completion, where Python reads
it. Tests are either Python with `assert` statements, or a JSON list of cases with `input` and `output`, which a program
reads and writes as standard input and output.
"""

import ast
import builtins
import json
import re
from dataclasses import dataclass

from lance_assets.algorithms.reviews.thoughts import strip_thinking

MAX_CHARS = 200_000
"""Characters up to which a program or its tests are read."""
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.M | re.S)
_PYTHON = frozenset({"", "python", "python3", "py"})


@dataclass(frozen=True)
class Case:
    """One run of a program as a script."""

    given: str
    """What it reads."""
    expected: str
    """What it has to write; blanks at the ends of lines and of the text do not count."""

    def is_kept_by(self, written: str) -> bool:
        """Whether what a program wrote is what was expected."""
        return _tidy(written) == _tidy(self.expected)


@dataclass(frozen=True)
class ProgramTests:
    """How a program is tested: by asserts, or by cases."""

    asserts: str = ""
    """Python with assert statements; empty where there are cases."""
    cases: tuple[Case, ...] = ()
    """Runs as a script."""


def _tidy(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().split("\n")]


def extract_program(completion: str) -> str | None:
    r"""The program of a completion; None where there is none.

    >>> extract_program("Sure:\n```python\nx = 1\n```\nDone.")
    'x = 1\n'
    >>> extract_program("I would add the two numbers."), extract_program("x = 1")
    (None, 'x = 1')
    """
    said = strip_thinking(completion)
    if len(said) > MAX_CHARS:
        return None
    blocks = [code for language, code in _FENCE.findall(said) if language.lower() in _PYTHON]
    if blocks:
        return blocks[-1]
    try:
        tree = ast.parse(said)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    # A single name or text is Python too, and no program.
    return said if any(not isinstance(part, ast.Expr) for part in tree.body) else None


def read_tests(text: str) -> ProgramTests:
    r"""The tests of a prompt.

    Args:
        text: what the seed has: asserts, a JSON list of asserts, or a JSON list of {"input", "output"}.

    Raises:
        ValueError: it is neither; the message says what was found.

    >>> read_tests('[{"input": "1 2", "output": "3"}]').cases[0].is_kept_by("3\n")
    True
    >>> read_tests("assert add(1, 2) == 3").asserts
    'assert add(1, 2) == 3'
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"tests of {len(text)} characters are more than {MAX_CHARS}; give fewer")
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ValueError(f"the tests are no JSON list: {error}") from error
        if found and all(isinstance(one, str) for one in found):
            return read_tests("\n".join(found))
        if not found or not all(isinstance(one, dict) and {"input", "output"} <= set(one) for one in found):
            raise ValueError("a JSON list of tests has cases with input and output, or asserts as texts")
        return ProgramTests(cases=tuple(Case(str(one["input"]), str(one["output"])) for one in found))
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the tests are no Python: {type(error).__name__}: {error}") from error
    if not any(isinstance(part, ast.Assert) for part in ast.walk(tree)):
        raise ValueError("the tests have no assert statement")
    return ProgramTests(asserts=text)


def list_tested(asserts: str) -> list[str]:
    """Builtins of Python that tests mean as the program's own: those of tests that name nothing else.

    A program may be asked for a `sum`. In tests that name any function which Python does not have, a name such as `abs`
    is Python's, so that a program cannot put its own in its place.

    >>> list_tested("assert sum(1, 2) == 3"), list_tested("assert abs(root(4) - 2) < 1e-9")
    (['sum'], [])
    """
    names = [part for part in ast.walk(ast.parse(asserts)) if isinstance(part, ast.Name)]
    read = {part.id for part in names if isinstance(part.ctx, ast.Load)}
    read -= {part.id for part in names if not isinstance(part.ctx, ast.Load)}
    return sorted(read) if read and all(hasattr(builtins, name) for name in read) else []
