"""Run a folder of cases: small inputs that went wrong somewhere, each with what is right.

    python -m benchmarks.public_cases [--cases DIR]

A line of a `.jsonl` file is a case where it has `input` and `expected`; its `call` names the function, or the
expression. A module that was renamed is found by its last name. `arguments` are passed on; `fr` is the finish reason.
A list in `expected` holds alternatives, and "unscored" or "unread" stands for any reason.

A file without calls is a case as a whole. It is read by the project's functions where `FILES` names how; every other
one is run by the test that is named after it, as `test_case_seeds_array` of `seeds/array.json`. A case that nothing
runs fails, and is named so. Without `--cases` the cases of `tests/cases` are run.
"""

import argparse
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import lance_assets
from lance_assets.algorithms.filters.contract import Candidate
from lance_assets.algorithms.filters.rules import Words
from lance_assets.algorithms.reviews.answer_matching import match_answers
from lance_assets.algorithms.reviews.pairwise import Unread
from lance_assets.algorithms.reviews.review_parsing import Unscored
from lance_assets.recipes.steps.teaching import read_answer
from lance_assets.records import Sample
from lance_assets.rounds.guard import read_protected_prompts
from resources.readers.mistakes import SeedFileError
from resources.readers.row_kinds import SeedFields
from resources.readers.seed_files import open_seed_file
from resources.readers.sources import Source

ROOT = Path(__file__).parents[1]
OWN_CASES = ROOT / "tests" / "cases"
_GSM8K_TASK = ROOT / "lance_assets" / "experiments" / "gsm8k_lance" / "tasks" / "gsm8k_local.yaml"
_SHORT_NAMES = {"fr": "finish_reason"}
_NAMED_TEST = re.compile(r"^def (test_case_\w+)\(", re.M)


class Outcome(NamedTuple):
    """How one case ended."""

    name: str
    """File without its ending, and the line where it has several: `verdict:3`."""
    is_right: bool
    note: str
    """What was got where it is wrong, or how it was run."""


def list_modules() -> dict[str, str]:
    """By the last name of each module of the project its whole name."""
    found = pkgutil.walk_packages(lance_assets.__path__, "lance_assets.")
    return {module.name.rpartition(".")[2]: module.name for module in found if not module.ispkg}


def find_function(call: str) -> Callable[..., Any]:
    """The function that a dotted name means today.

    Raises:
        LookupError: no module of that last name has it.
    """
    place, _, name = call.rpartition(".")
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError:
        known = list_modules()
        last = place.rpartition(".")[2]
        if last not in known:
            raise LookupError(f"no module of this project is named {last!r}, as {call!r} wants") from None
        module = importlib.import_module(known[last])
    if not hasattr(module, name):
        raise LookupError(f"{module.__name__} has no {name!r}, as {call!r} wants")
    return getattr(module, name)


def match_read_answer(gold: str, completion: str, mark: str) -> bool:
    """Whether the answer behind the mark of a completion is the gold one, as LLM2LLM asks."""
    return match_answers(gold, read_answer(completion, mark))


EXPRESSIONS: dict[str, Callable[..., Any]] = {"match_answers(gold, read_answer(completion, mark))": match_read_answer}
"""Calls that are no name."""


def call_case(case: dict) -> object:
    """What the project gives for a case with a call."""
    arguments = {_SHORT_NAMES.get(name, name): value for name, value in case["arguments"].items()}
    if case["call"] in EXPRESSIONS:
        return EXPRESSIONS[case["call"]](*case["input"], **arguments)
    function = find_function(case["call"])
    first = next(iter(inspect.signature(function).parameters.values()))
    given = case["input"]
    if first.annotation in (Sample, "Sample"):
        given = Sample("case", given, arguments.pop("finish_reason", "stop"), 1, 1)
    return function(given, **arguments)


def is_expected(got: object, expected: object) -> bool:
    """Whether a result is right: as it is written, as one of several, or as any reason for none."""
    if isinstance(expected, list) and not isinstance(got, list | tuple):
        return any(is_expected(got, one) for one in expected)
    if isinstance(got, Unscored | Unread):
        word = "unscored" if isinstance(got, Unscored) else "unread"
        return expected in (word, f"{word}:{got.reason}")
    return (type(got) is type(expected) and got == expected) or (isinstance(got, float) and got == expected)


def check_prompt_length(case: dict) -> bool:
    """Whether a prompt is kept, or dropped, by the number of words that the case names."""
    kept, _, bound = case["expected"].partition(" by min_prompt_words ")
    prompt = Candidate("case", "new_prompt", "seed", "seed", case["prompt"], None)
    return (Words(of="prompt", min_words=int(bound)).find_reason(prompt) is None) == (kept == "kept")


def check_local_filter(case: dict) -> bool:
    """Whether the filter of the experiment's own GSM8K task reads a completion as its gold answer."""
    text = re.sub(r"!function \S+", "null", _GSM8K_TASK.read_text())
    chain = yaml.safe_load(text)["filter_list"][0]["filter"]
    numbers = re.findall(chain[0]["regex_pattern"], case["completion"])
    read = numbers[chain[0]["group_select"]] if numbers else ""
    return (read.replace(",", "") == case["gold"].replace(",", "")) == case["expected"]


LINES: dict[str, Callable[[dict], bool]] = {"thai": check_prompt_length, "gsm8k_local_filter": check_local_filter}
"""Lines without a call, by the name of their file."""


def try_seeds(
    path: Path, *, prompt: str | None = None, completion: str | None = None, answer: str | None = None
) -> list[tuple[str, str, str | None]] | str:
    """Prompt, completion and answer of each row, or the message that refuses the file; None: columns are recognised."""
    try:
        read = open_seed_file(Source(path), fields=SeedFields(prompt=prompt, completion=completion, answer=answer))
    except SeedFileError as error:
        return str(error)
    return read.table.select("prompt", "completion", "answer").rows()


def check_alpaca_input(path: Path) -> bool:
    """Inputs are joined, or refused by their name."""
    rows = try_seeds(path, prompt="instruction", completion="output")
    return "'input'" in rows if isinstance(rows, str) else "Good morning" in rows[0][0]


def check_alpaca_same(path: Path) -> bool:
    """One instruction with two inputs makes two tasks."""
    rows = try_seeds(path)
    return not isinstance(rows, str) and len({prompt for prompt, _, _ in rows}) == 2


def check_array(path: Path) -> bool:
    """A JSON array is read."""
    return try_seeds(path) == [("Name a red fruit.", "An apple.", None)]


def check_messages(path: Path) -> bool:
    """A chat is read, or refused with a remedy that helps."""
    rows = try_seeds(path, prompt="messages", completion="messages")
    return "put it in quotes" not in rows if isinstance(rows, str) else "What is 2 + 2?" in rows[0][0]


def check_other_names(path: Path) -> bool:
    """Other column names are recognised, or named."""
    rows = try_seeds(path, prompt="prompt", completion="completion")
    return "instruction" in rows and "empty" not in rows if isinstance(rows, str) else bool(rows)


def check_nan_answer(path: Path) -> bool:
    """NaN is no gold answer."""
    rows = try_seeds(path, answer="answer")
    return ":1" in rows or "line 1" in rows if isinstance(rows, str) else rows[0][2] is None


def check_compressed(path: Path) -> bool:
    """A compressed file is read, or called so."""
    rows = try_seeds(path)
    return re.search("compressed|gzip", rows) is not None if isinstance(rows, str) else bool(rows)


def check_null(path: Path) -> bool:
    """An empty field has a remedy of its own."""
    rows = try_seeds(path)
    return isinstance(rows, str) and "put it in quotes" not in rows


def check_long_integer(path: Path) -> bool:
    """A number that Python does not read is no bare error."""
    rows = try_seeds(path)
    return path.name in rows if isinstance(rows, str) else bool(rows)


def check_protected_bom(path: Path) -> bool:
    """A byte order mark is no part of the first line."""
    return read_protected_prompts(path, "prompt") == ["What is 2 + 2?"]


def check_protected_empty(path: Path) -> bool:
    """A file that protects nothing is refused."""
    try:
        read_protected_prompts(path, "prompt")
    except ValueError:
        return True
    return False


FILES: dict[str, Callable[[Path], bool]] = {
    "seeds/alpaca_input": check_alpaca_input,
    "seeds/alpaca_same_instruction": check_alpaca_same,
    "seeds/array": check_array,
    "seeds/messages": check_messages,
    "seeds/other_names": check_other_names,
    "seeds/nan_answer": check_nan_answer,
    "seeds/gzip_named_jsonl": check_compressed,
    "seeds/null_completion": check_null,
    "seeds/long_integer": check_long_integer,
    "seeds/protected_bom": check_protected_bom,
    "seeds/protected_empty": check_protected_empty,
}
"""Files that are cases as a whole, by their name without its ending."""


def find_named_tests() -> dict[str, str]:
    """By `test_case_...` the test as pytest names it."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in _NAMED_TEST.findall(path.read_text(encoding="utf-8")):
            found[name] = f"{path.relative_to(ROOT)}::{name}"
    return found


def run_named_test(name: str, tests: dict[str, str]) -> Outcome:
    """Run the test that is named after a case."""
    wanted = "test_case_" + re.sub(r"\W", "_", name)
    if wanted not in tests:
        return Outcome(name, is_right=False, note=f"not run: there is no test {wanted}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests[wanted]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return Outcome(name, done.returncode == 0, f"by {tests[wanted]}")


def attempt(name: str, check: Callable[[], bool]) -> Outcome:
    """The outcome of a check; an error that is none of the project's own counts as wrong."""
    try:
        return Outcome(name, check(), "")
    except Exception as error:
        return Outcome(name, is_right=False, note=f"{type(error).__name__}: {str(error)[:200]}")


def run_line(name: str, stem: str, case: dict) -> Outcome:
    """Run one line of a file."""
    if "call" not in case:
        return attempt(name, lambda: LINES[stem](case))
    try:
        got = call_case(case)
    except Exception as error:
        return Outcome(name, is_right=False, note=f"{type(error).__name__}: {str(error)[:200]}")
    return Outcome(name, is_expected(got, case["expected"]), f"expected {case['expected']!r}, got {got!r}")


def run_cases(folder: Path) -> Iterator[Outcome]:
    """Run every case of a folder, in the order of the names of its files.

    Raises:
        ValueError: the folder is none, or holds no case.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    if not paths:
        raise ValueError(f"{folder} holds no case: name the folder of the cases by --cases")
    tests = find_named_tests()
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        check = FILES.get(name)
        if check is not None:
            yield attempt(name, lambda check=check, path=path: check(path))  # type: ignore[misc]
            continue
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else []
        cases = [json.loads(line) for line in lines if line.strip()]
        if cases and all("expected" in case and ("call" in case or path.stem in LINES) for case in cases):
            for number, case in enumerate(cases, start=1):
                yield run_line(name if len(cases) == 1 else f"{name}:{number}", path.stem, case)
        else:
            yield run_named_test(name, tests)


def main() -> None:
    """Run the cases, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, metavar="DIR", default=OWN_CASES, help="folder of cases")
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    outcomes = list(run_cases(parser.parse_args().cases))
    failing = [outcome for outcome in outcomes if not outcome.is_right]
    for outcome in failing:
        print(f"{outcome.name}: {outcome.note}")
    figures = {"num_cases": len(outcomes), "num_right": len(outcomes) - len(failing)}
    print(json.dumps(figures | {"failing": [outcome.name for outcome in failing]}))


if __name__ == "__main__":
    main()
