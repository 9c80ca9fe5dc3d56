"""How many of this project's files one has to read to follow one thing.

    python -m benchmarks.house [--static] [--list FILE]

| figure | what is counted | at most |
| --- | --- | ---: |
| `import_depth` | modules in the longest chain of imports | 12 |
| `files_of_a_row` | files that run while one tiny round goes from its seeds to its checkpoint | 35 |
| `dagster_outside_assets` | files that import Dagster outside `lance_assets/assets` and `definitions.py` | 0 |
| `assets_without_dagster` | files of `lance_assets/assets` that do not import Dagster | 0 |
| `world_importers` | files that import the small world, outside the small world and the experiments | 0 |
| `circles` | groups of modules that import each other | 0 |
| `largest_room_files` | Python files that lie directly in the largest folder | 16 |
| `readme_lines` | lines of `README.md` | 110 |

The code that is counted is `lance_assets`, `resources` and `definitions.py`; tests and benchmarks are not.

* Imports are read from the syntax tree, so imports inside functions and under `TYPE_CHECKING` count too. Python also
  runs a package's `__init__.py` before each of its modules; that is not counted as an import. A circle counts in a
  chain with all of its modules.
* A file runs when at least one of its functions is called; what runs only because the module is imported does not
  count. The round is r0001 of `mini_lance` with 8 seeds and the packaged model. Its job runs in this process through
  Dagster, with the asset checks, after r0000 was made. `eval_report` is left out, because no row passes through it, and
  so is the trainer's own process.

`--static` skips the round, so that everything else is counted in a second. The last line is one JSON object, with
these beside the figures above:

* `lines_of_a_row`: the lines of the files of a row.
* `files_with_rows`: those files in which a function is given rows or returns some: a table, requests, or samples. The
  others guard, name, hash or show the round, and the row does not pass through them.
* `comment_line_rate`: the share of lines that hold a comment alone.
"""

import argparse
import ast
import json
import sys
import tempfile
import threading
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from inspect import CO_OPTIMIZED, CO_VARARGS, CO_VARKEYWORDS
from pathlib import Path
from types import FrameType
from typing import Any

PROJECT_ROOT = Path(__file__).parents[1]
PACKAGES = ("lance_assets", "resources")
WIRING = "definitions.py"
ASSETS = "lance_assets/assets/"
WORLD = "lance_assets/small_world/"
EXPERIMENTS = "lance_assets/experiments/"
GOALS = {
    "import_depth": 12,
    "files_of_a_row": 35,
    "dagster_outside_assets": 0,
    "assets_without_dagster": 0,
    "world_importers": 0,
    "circles": 0,
    "largest_room_files": 16,
    "readme_lines": 110,
}
"""The most that each figure may be."""

NOUNS = (
    *("start_checkpoint", "seed_set", "raw_generations", "cleaned_set", "reviewed_set", "sft_set"),
    *("preference_pairs", "diversity_report", "checkpoint"),
)
"""The assets that are made on a row's way; training waits for the diversity report."""

UNNAMED = {"<module>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
"""Code that is no function of its own: module-level code runs it whenever the file is imported."""


def find_files(root: Path) -> dict[str, str]:
    """The project's modules.

    Args:
        root: the folder that holds `lance_assets`, `resources` and `definitions.py`.

    Returns:
        The path of each module's file, relative to the root and with slashes, by the module's name.
    """
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    paths += [root / WIRING] if (root / WIRING).exists() else []
    named = {}
    for path in paths:
        parts = path.relative_to(root).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.relative_to(root).as_posix()
    return named


def read_imports(file: Path) -> set[tuple[str, str]]:
    """Everything that a file imports, wherever in the file it does so.

    Returns:
        `("a.b", "")` for `import a.b`, and `("a", "b")` for `from a import b`, where `b` may be a module too.
    """
    imports: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imports |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports |= {(node.module, alias.name) for alias in node.names}
    return imports


def read_graph(root: Path) -> dict[str, set[str]]:
    """The project's own modules that each of its modules imports.

    `from a import b` is an import of `a.b` where that is a module, and of `a` otherwise.
    """
    files = find_files(root)
    graph = {}
    for module, file in files.items():
        imports = read_imports(root / file)
        imported = {f"{name}.{part}" if f"{name}.{part}" in files else name for name, part in imports}
        graph[module] = (imported & files.keys()) - {module}
    return graph


def imports_package(file: Path, package: str) -> bool:
    """Whether a file imports a package, or anything inside it."""
    return any(f"{name}.{part}.".startswith(f"{package}.") for name, part in read_imports(file))


def find_groups(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of a graph by Tarjan's algorithm, each before those that import it."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in sorted(graph[module]):
            if imported not in order:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], order[imported])
        if lowest[module] == order[module]:
            place = stack.index(module)
            groups.append(sorted(stack[place:]))
            del stack[place:]

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return groups


def find_longest_chain(graph: Mapping[str, set[str]]) -> list[str]:
    """The longest chain of imports, from the module that imports to the one that imports nothing.

    A circle counts with all of its modules.
    """
    groups = find_groups(graph)
    group_of = {module: place for place, group in enumerate(groups) for module in group}

    @cache
    def follow(place: int) -> tuple[str, ...]:
        imported = {group_of[name] for module in groups[place] for name in graph[module]} - {place}
        return (*groups[place], *find_longest(sorted(imported)))

    def find_longest(places: Iterable[int]) -> tuple[str, ...]:
        chains = [follow(place) for place in places]
        return max(chains, key=len) if chains else ()

    return list(find_longest(range(len(groups))))


def find_circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    return [group for group in find_groups(graph) if len(group) > 1]


def find_dagster_files(root: Path) -> list[str]:
    """Files that import Dagster or one of its libraries."""
    return [
        file
        for file in find_files(root).values()
        if any(name.split(".")[0].split("_")[0] == "dagster" for name, _ in read_imports(root / file))
    ]


def find_dagster_outside_assets(root: Path) -> list[str]:
    """Files that import Dagster outside `lance_assets/assets` and `definitions.py`."""
    return [file for file in find_dagster_files(root) if not file.startswith(ASSETS) and file != WIRING]


def find_assets_without_dagster(root: Path) -> list[str]:
    """Files of `lance_assets/assets` that do not import Dagster; an `__init__.py` without code may."""
    with_dagster = set(find_dagster_files(root))
    return [
        file
        for file in find_files(root).values()
        if file.startswith(ASSETS) and file not in with_dagster and has_code(root / file)
    ]


def has_code(file: Path) -> bool:
    """Whether a file has a statement other than its docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(file.read_text(encoding="utf-8")).body)


def find_world_importers(root: Path) -> list[str]:
    """Files that import the small world, outside the small world itself and the experiments."""
    world = WORLD.rstrip("/").replace("/", ".")
    return [
        file
        for file in find_files(root).values()
        if not file.startswith((WORLD, EXPERIMENTS)) and imports_package(root / file, world)
    ]


def count_rooms(root: Path) -> dict[str, int]:
    """The number of Python files that lie directly in each folder, the largest folder first."""
    rooms: dict[str, int] = {}
    for file in find_files(root).values():
        room = file.rpartition("/")[0]
        rooms[room] = rooms.get(room, 0) + 1
    return dict(sorted(rooms.items(), key=lambda item: (-item[1], item[0])))


def count_lines(file: Path) -> int:
    """The number of lines of a file, blank ones too."""
    return len(file.read_text(encoding="utf-8").splitlines())


def count_comment_lines(file: Path) -> int:
    """The number of lines that hold a comment and no code."""
    with tokenize.open(file) as text:
        return sum(
            token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
            for token in tokenize.generate_tokens(text.readline)
        )


def compute_comment_line_rate(root: Path) -> float:
    """The share of the project's lines that hold a comment and no code, in [0, 1]; 0 for no lines."""
    files = [root / file for file in find_files(root).values()]
    num_lines = sum(count_lines(file) for file in files)
    return sum(count_comment_lines(file) for file in files) / num_lines if num_lines else 0.0


def holds_rows(value: Any) -> bool:
    """Whether a value is a table, a request or a sample, or a list, tuple or dict whose first item is one."""
    import polars as pl

    from lance_assets.records import Request, Sample

    if isinstance(value, dict):
        value = list(value.values())
    # Exactly these: records of libraries that are tuples may forbid to be indexed.
    if type(value) in (list, tuple) and value:
        value = value[0]
    return isinstance(value, pl.DataFrame | pl.LazyFrame | Request | Sample)


def read_arguments(frame: FrameType) -> list[Any]:
    """What a function was called with, as its frame holds it when the call begins."""
    code = frame.f_code
    num_named = code.co_argcount + code.co_kwonlyargcount
    num_packed = bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)
    return [frame.f_locals[name] for name in code.co_varnames[: num_named + num_packed] if name in frame.f_locals]


@contextmanager
def watch_files(root: Path) -> Iterator[tuple[set[str], set[str]]]:
    """Collect the project's files in which a function is called, in this thread and those that it starts.

    The profiler of each thread that is watched is replaced, and removed at the end.

    Args:
        root: the folder that holds `lance_assets`, `resources` and `definitions.py`.

    Yields:
        The paths of those files relative to the root, and of those among them in which a function is given rows or
        returns some; both sets fill while the block runs.
    """
    wanted = {str(root / file): file for file in find_files(root).values()}
    called: set[str] = set()
    with_rows: set[str] = set()

    def note(frame: FrameType, event: str, returned: object) -> None:
        code = frame.f_code
        file = wanted.get(code.co_filename)
        # Only functions have optimised locals: the bodies of modules and classes have not.
        if file is None or event not in ("call", "return") or not code.co_flags & CO_OPTIMIZED:
            return
        if code.co_name in UNNAMED:
            return
        called.add(file)
        if file not in with_rows:
            values = read_arguments(frame) if event == "call" else [returned]
            if any(holds_rows(value) for value in values):
                with_rows.add(file)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield called, with_rows
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def find_row_files() -> tuple[list[str], list[str]]:
    """Run a tiny r0001 of `mini_lance` from its seeds to its checkpoint, and find the files that run.

    It takes about four minutes on two CPU cores, because the profiler sees every call.

    Returns:
        The files that run, and those among them in which a function is given rows or returns some.
    """
    import dagster as dg

    from benchmarks.orchestration import build_job

    nouns = [dg.AssetKey(["mini_lance", noun]) for noun in NOUNS]
    quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        instance.add_dynamic_partitions("mini_lance_round", ["r0000", "r0001"])
        job = build_job(True, folder)
        job.execute_in_process(quiet, instance, "r0000")
        with watch_files(PROJECT_ROOT) as (called, with_rows):
            job.execute_in_process(quiet, instance, "r0001", asset_selection=nouns)
    return sorted(called), sorted(with_rows)


def format_table(figures: Mapping[str, int]) -> str:
    """One line for each figure: what it is, what it may be at most, and whether it is too large."""
    lines = [f"{'figure':24} {'now':>6} {'at most':>8}"]
    for name, figure in figures.items():
        lines.append(f"{name:24} {figure:6} {GOALS[name]:8}  {'' if figure <= GOALS[name] else 'too many'}".rstrip())
    return "\n".join(lines)


def format_found(found: Mapping[str, list[str]]) -> str:
    """Everything that was found, a line each under its heading."""
    return "\n".join(
        f"\n{title}:\n" + "\n".join(f"  {line}" for line in lines) for title, lines in found.items() if lines
    )


def main() -> None:
    """Count everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static", action="store_true", help="skip the round, and leave `files_of_a_row` out")
    parser.add_argument("--list", type=Path, metavar="FILE", help="file for the files of a row, with their lines")
    parser.add_argument("--quick", action="store_true", help="changes nothing: the round is tiny anyway")
    options = parser.parse_args()
    root = PROJECT_ROOT
    graph = read_graph(root)
    chain, circles, rooms = find_longest_chain(graph), find_circles(graph), count_rooms(root)
    row_files, with_rows = ([], []) if options.static else find_row_files()
    row_lines = {file: count_lines(root / file) for file in row_files}
    found = {
        "the longest chain of imports": chain,
        "circles": [" <-> ".join(circle) for circle in circles],
        "Dagster outside assets": find_dagster_outside_assets(root),
        "assets without Dagster": find_assets_without_dagster(root),
        "importers of the small world": find_world_importers(root),
        "the largest rooms": [f"{number:3} {room}" for room, number in list(rooms.items())[:3]],
        "files of a row, with their lines, and * where rows pass": [
            f"{number:5} {'*' if file in with_rows else ' '} {file}" for file, number in row_lines.items()
        ],
    }
    print(format_found(found) + "\n")
    figures = {
        "import_depth": len(chain),
        "files_of_a_row": len(row_files),
        "dagster_outside_assets": len(found["Dagster outside assets"]),
        "assets_without_dagster": len(found["assets without Dagster"]),
        "world_importers": len(found["importers of the small world"]),
        "circles": len(circles),
        "largest_room_files": next(iter(rooms.values())),
        "readme_lines": count_lines(root / "README.md"),
    }
    if options.static:
        del figures["files_of_a_row"]
    if options.list is not None:
        options.list.write_text("\n".join(f"{number} {file}" for file, number in row_lines.items()) + "\n")
    print(format_table(figures) + "\n")
    more: dict[str, float] = {"comment_line_rate": round(compute_comment_line_rate(root), 4)}
    if not options.static:
        more |= {"lines_of_a_row": sum(row_lines.values()), "files_with_rows": len(with_rows)}
    print(json.dumps(figures | more))


if __name__ == "__main__":
    main()
