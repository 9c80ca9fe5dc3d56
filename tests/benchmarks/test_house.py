"""How the house is counted, on a tree so small that each figure can be worked out by hand."""

import threading
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import polars as pl
import pytest

from benchmarks.house import (
    GOALS,
    compute_comment_line_rate,
    count_lines,
    count_rooms,
    find_assets_without_dagster,
    find_circles,
    find_dagster_outside_assets,
    find_files,
    find_longest_chain,
    find_world_importers,
    format_table,
    read_graph,
    watch_files,
)

TREE = {
    "lance_assets/__init__.py": '"""Words."""\n',
    "lance_assets/records.py": "A = 1\n",
    "lance_assets/assets/__init__.py": '"""Words alone need no Dagster."""\n',
    "lance_assets/assets/drawn.py": "import dagster as dg\n\nfrom lance_assets.rounds import plan\n",
    "lance_assets/assets/plain.py": "from lance_assets import records\n",
    "lance_assets/rounds/__init__.py": "",
    "lance_assets/rounds/plan.py": "def load():\n    from lance_assets.rounds.lazy import b\n    return b\n",
    "lance_assets/rounds/lazy.py": (
        "from typing import TYPE_CHECKING\n\nfrom lance_assets.records import A\n\n"
        "if TYPE_CHECKING:\n    from lance_assets.rounds.other import C\n\nb = A\n"
    ),
    "lance_assets/rounds/other.py": "import lance_assets.rounds.lazy\nfrom dagster_shared import check\n",
    "lance_assets/small_world/__init__.py": "",
    "lance_assets/small_world/tasks.py": "from lance_assets.small_world import other\n",
    "lance_assets/experiments/mini.py": "from lance_assets.small_world.tasks import other\n",
    "resources/toys.py": "# Why.\nfrom lance_assets import small_world  # this is code too\n\nA = '# no comment'\n",
    "definitions.py": "import dagster\n\nfrom lance_assets.assets.drawn import dg\n",
    "tests/test_nothing.py": "import dagster\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of a few lines."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_modules_have_the_names_that_imports_use(tree: Path) -> None:
    files = find_files(tree)
    assert files["lance_assets.rounds"] == "lance_assets/rounds/__init__.py"
    assert files["definitions"] == "definitions.py"
    assert len(files) == len(TREE) - 1, "tests are not counted"


def test_imports_in_functions_and_for_types_count(tree: Path) -> None:
    graph = read_graph(tree)
    assert graph["lance_assets.assets.drawn"] == {"lance_assets.rounds.plan"}
    assert graph["lance_assets.rounds.plan"] == {"lance_assets.rounds.lazy"}
    assert graph["lance_assets.rounds.lazy"] == {"lance_assets.records", "lance_assets.rounds.other"}
    assert graph["resources.toys"] == {"lance_assets.small_world"}


def test_the_longest_chain_passes_through_the_circle_with_all_its_modules(tree: Path) -> None:
    graph = read_graph(tree)
    assert find_circles(graph) == [["lance_assets.rounds.lazy", "lance_assets.rounds.other"]]
    assert find_longest_chain(graph) == [
        "definitions",
        "lance_assets.assets.drawn",
        "lance_assets.rounds.plan",
        "lance_assets.rounds.lazy",
        "lance_assets.rounds.other",
        "lance_assets.records",
    ]


def test_a_project_without_imports_has_a_chain_of_one() -> None:
    assert find_longest_chain({"a": set(), "b": set()}) == ["a"]
    assert find_longest_chain({}) == []
    assert find_circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_dagster_has_its_place(tree: Path) -> None:
    assert find_dagster_outside_assets(tree) == ["lance_assets/rounds/other.py"]
    assert find_assets_without_dagster(tree) == ["lance_assets/assets/plain.py"]


def test_only_the_experiments_may_name_the_small_world(tree: Path) -> None:
    assert find_world_importers(tree) == ["resources/toys.py"]


def test_rooms_are_counted_by_the_files_that_lie_directly_in_them(tree: Path) -> None:
    rooms = count_rooms(tree)
    assert next(iter(rooms.items())) == ("lance_assets/rounds", 4)
    assert rooms["lance_assets"] == 2
    assert count_lines(tree / "resources/toys.py") == 4


def test_a_comment_line_has_no_code_beside_it(tree: Path) -> None:
    num_lines = sum(count_lines(tree / name) for name in TREE if not name.startswith("tests"))
    assert compute_comment_line_rate(tree) == pytest.approx(1 / num_lines)


def test_a_file_runs_when_one_of_its_functions_is_called(tmp_path: Path) -> None:
    texts = {
        "called": "def run():\n    return 1\n",
        "given_rows": "def run(name, *tables):\n    return 1\n",
        "returns_rows": "import polars as pl\n\n\ndef run():\n    return {'seed_set': pl.DataFrame({'a': [1]})}\n",
        "in_a_thread": "def run():\n    return 1\n",
        "imported_only": "names = [n for n in (1, 2)]\n\n\nclass Record:\n    size = 1\n\n\ndef run():\n    return 1\n",
    }
    (tmp_path / "lance_assets").mkdir()
    modules = {}
    with_files = {name: tmp_path / "lance_assets" / f"{name}.py" for name in texts}
    for name, text in texts.items():
        with_files[name].write_text(text)
    with watch_files(tmp_path) as (called, with_rows):
        for name, file in with_files.items():
            spec = spec_from_file_location(name, file)
            assert spec is not None
            assert spec.loader is not None
            modules[name] = module_from_spec(spec)
            spec.loader.exec_module(modules[name])
        modules["called"].run()
        modules["given_rows"].run("seed_set", pl.DataFrame({"a": [1]}))
        modules["returns_rows"].run()
        modules["given_rows"].run("seed_set", pl.DataFrame({"a": [1]}))
        modules["returns_rows"].run()
        thread = threading.Thread(target=modules["in_a_thread"].run)
        thread.start()
        thread.join()
    modules["imported_only"].run()
    rows = {"lance_assets/given_rows.py", "lance_assets/returns_rows.py"}
    assert called == {"lance_assets/called.py", "lance_assets/in_a_thread.py"} | rows
    assert with_rows == rows


def test_the_table_says_what_is_too_many() -> None:
    lines = format_table({"circles": 0, "import_depth": GOALS["import_depth"] + 1}).split("\n")
    assert lines[1].split() == ["circles", "0", "0"]
    assert lines[2].split() == ["import_depth", "13", "12", "too", "many"]
