"""A process that verifies one row at a time, and that may be killed at any of them.

    python -m resources.verifying.row_worker

Its first line of standard input is a job: `kind` ("math_verify" or "function"), `memory_mib`, and for a function `name`
and `folder`. Every further line is a row: `prompt`, `completion`, `answer`. For each it writes a line: `share` and
`reason`, or `error`. While a row is verified its standard input is empty and its standard output is its standard error,
for C code and programs that it starts too: nothing that a function reads or prints stands between rows and answers.

math-verify works by sympy, which may take for ever on an answer such as 9**9**9**9. Its own time limit is an alarm,
which cannot interrupt a long multiplication in C, so it is switched off, and the process is killed from outside.
"""

import importlib.util
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

MAX_CHARACTERS = 500
"""Of a reason or an error that is told."""
Checked = tuple[float, str]
Check = Callable[[str, str, str | None], Checked]


def build_math_check() -> Check:
    """Whether the answer that math-verify reads is equal to gold."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    kinds = (LatexExtractionConfig(), ExprExtractionConfig())

    def read(text: str) -> list[Any]:
        return list(parse(text, extraction_config=kinds, parsing_timeout=None))

    # sympy imports most of itself when it first compares, which would count as a row's time.
    verify(read("$(x+1)^2$"), read("$x^2+2x+1$"), timeout_seconds=None)

    def check(prompt: str, completion: str, answer: str | None) -> Checked:
        gold = read(answer or "") or read(f"${answer}$")
        if not gold:
            raise ValueError(f"math-verify cannot read the gold answer {answer!r}; use reader: own")
        found = read(completion)
        if not found:
            return 0.0, f"no answer could be read, and gold is {answer}"
        is_right = verify(gold, found, timeout_seconds=None)
        return float(is_right), f"read {found[-1]}, and gold is {answer}"

    return check


def find_function(name: str, folder: Path) -> Callable[..., Any]:
    """The function that an experiment names: `package.module:NAME`, or `my_check.py:NAME`."""
    where, _, attribute = name.rpartition(":")
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location("verifier_of_the_experiment", folder / Path(where).expanduser())
        assert spec is not None, "a file that ends in .py has a loader"
        assert spec.loader is not None, "a file that ends in .py has a loader"
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    found: Callable[..., Any] = getattr(module, attribute)
    return found


def read_result(result: Any) -> Checked:
    """A function's result as a share and a reason.

    Raises:
        TypeError, ValueError: it is neither a bool, a share, nor one with a text.
    """
    reason = ""
    if isinstance(result, tuple) and len(result) == 2:
        result, reason = result
    if isinstance(result, bool):
        return float(result), str(reason) or ("it holds" if result else "it does not hold")
    if not isinstance(result, int | float):
        raise TypeError(f"a verifier returns a bool, a share of 0 to 1, or one with a text; it returned {result!r}")
    if not 0 <= result <= 1:
        raise ValueError(f"a share lies in 0 to 1; it returned {result}")
    return float(result), str(reason) or f"{result:.2f} of it holds"


def build_function_check(name: str, folder: Path) -> Check:
    """What a person's function says."""
    function = find_function(name, folder)

    def check(prompt: str, completion: str, answer: str | None) -> Checked:
        return read_result(function(prompt, completion, answer))

    return check


def describe_error(error: BaseException) -> dict[str, object]:
    """An error as it is told."""
    return {"error": f"{type(error).__name__}: {error}"[:MAX_CHARACTERS]}


def take_streams() -> tuple[TextIO, TextIO]:
    """What rows are read from and answers are written to; descriptors that a program which is started does not have."""
    asked, told = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return asked, told


def main() -> None:
    """Serve rows until the input ends."""
    asked, told = take_streams()
    job = json.loads(asked.readline())
    limit = job["memory_mib"] << 20
    is_own = job["kind"] == "function"
    try:
        check = build_function_check(job["name"], Path(job["folder"])) if is_own else build_math_check()
    # Whatever a person's module raises is told, and not a traceback.
    except Exception as error:
        print(json.dumps(describe_error(error)), file=told, flush=True)
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps({"ready": True}), file=told, flush=True)
    for line in asked:
        row = json.loads(line)
        try:
            share, reason = check(row["prompt"], row["completion"], row["answer"])
            said: dict[str, object] = {"share": share, "reason": reason[:MAX_CHARACTERS]}
        # A row's error is the row's, whatever it is: the next row is another one.
        except BaseException as error:
            said = describe_error(error)
        print(json.dumps(said), file=told, flush=True)


if __name__ == "__main__":
    main()
