"""A hash of code changes with what the code does, in what reaches it, and with nothing else."""

import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest

from lance_assets.rounds.identity.code import CodeHasher
from lance_assets.rounds.identity.own_code import ENGINES, NOT_FOLLOWED, VALUE_CLASSES
from lance_assets.rounds.identity.source import MissingSourceError, SourceTree, find_packages
from lance_assets.rounds.nouns import NOUNS

REPOSITORY = Path(__file__).resolve().parents[2]

MODULES = {
    "shop/__init__.py": "",
    "shop/rules.py": '''
        """Rules."""
        THRESHOLD = 0.7
        UNUSED = 3

        def is_like(left: str, right: str, *, bar: float = THRESHOLD) -> bool:
            """Whether two texts are alike."""
            # by their words
            return _count(left) / max(_count(right), 1) > bar

        def _count(text: str) -> int:
            return len(text.split())

        def unreached(text):
            return THRESHOLD
    ''',
    "shop/store.py": '''
        from dataclasses import dataclass, field

        class Base:
            def shared(self):
                return 1

        @dataclass
        class Store(Base):
            """Holds rows."""
            root: str
            rows: list = field(default_factory=list)

            def __len__(self):
                return len(self.rows)

            def read(self, name: str) -> list:
                return self.rows

            def write(self, name: str, rows: list) -> None:
                self.rows = list(rows)

            def forget(self):
                self.rows = []
    ''',
    "shop/make.py": """
        import shop.loops
        from shop import rules
        from shop.rules import is_like as alike
        from shop.store import Store

        def make_clean(store: Store):
            rows = store.read("raw")
            return [row for row in rows if not rules.is_like(row, "a b")]

        def make_other(store: Store):
            store.write("other", [1])
            return len(store)

        def make_open():
            return Store("here").read("raw")

        def make_late(text):
            from shop.rules import _count as count

            def inner(other=rules.THRESHOLD):
                return count(other)

            return inner(text)

        def make_loop(number):
            return shop.loops.odd(number)
    """,
    "shop/loops.py": """
        def odd(number):
            return number != 0 and even(number - 1)

        def even(number):
            return number == 0 or odd(number - 1)
    """,
}
MAKES = ("clean", "other", "open", "late", "loop")


def write(folder: Path, modules: dict[str, str]) -> Path:
    for name, text in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return folder


def hash_makes(folder: Path) -> dict[str, str]:
    hasher = CodeHasher(SourceTree({"shop": folder / "shop"}))
    return {make: hasher.hash_code([f"shop.make:make_{make}"]).digest for make in MAKES}


def find_changed(tmp_path: Path, file: str, old: str, new: str) -> set[str]:
    """Which makes have another hash once a text in a file is replaced."""
    before = hash_makes(write(tmp_path, MODULES))
    path = tmp_path / "shop" / file
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
    path.write_text(text.replace(old, new))
    after = hash_makes(tmp_path)
    return {make for make in MAKES if before[make] != after[make]}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("rules.py", '"""Whether two texts are alike."""', '"""Other words."""'),
        ("rules.py", '    """Whether two texts are alike."""\n', ""),
        ("rules.py", '"""Rules."""\n', ""),
        ("rules.py", "# by their words", "# by something else"),
        ("rules.py", "bar: float = THRESHOLD", "bar = THRESHOLD"),
        ("rules.py", "_count(text: str) -> int", "_count(text)"),
        ("rules.py", "return len(text.split())", "return (\n        len(text.split())\n    )"),
        ("rules.py", "def unreached(text):\n    return THRESHOLD", "def unreached(text):\n    return 5"),
        ("rules.py", "UNUSED = 3", "UNUSED = 4"),
        ("rules.py", "_count(text: str)", "_count(text: 'shop.store.Store')"),
        ("store.py", "    def forget(self):\n        self.rows = []", "    def forget(self):\n        self.rows = [1]"),
        ("store.py", '    """Holds rows."""\n', ""),
        ("make.py", "import shop.loops\n", "import os\nimport shop.loops\n"),
    ],
)
def test_what_changes_nothing(tmp_path: Path, file: str, old: str, new: str) -> None:
    assert find_changed(tmp_path, file, old, new) == set()


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("rules.py", "THRESHOLD = 0.7", "THRESHOLD = 0.8", {"clean", "late"}),
        ("rules.py", "> bar", ">= bar", {"clean"}),
        ("rules.py", "bar: float = THRESHOLD", "bar: float = 0.5", {"clean"}),
        ("rules.py", "max(_count(right), 1)", "min(_count(right), 1)", {"clean"}),
        ("rules.py", "text.split()", 'text.split(",")', {"clean", "late"}),
        ("store.py", "return self.rows", "return self.rows[1:]", {"clean", "open"}),
        ("store.py", "self.rows = list(rows)", "self.rows = rows", {"other"}),
        ("store.py", "return len(self.rows)", "return 5", {"clean", "other", "open"}),
        ("store.py", "default_factory=list", "default_factory=tuple", {"clean", "other", "open"}),
        ("store.py", "@dataclass\n", "@dataclass(frozen=True)\n", {"open"}),
        ("loops.py", "number == 0", "number == 1", {"loop"}),
        ("make.py", "import _count as count", "import unreached as count", {"late"}),
        ("make.py", "other=rules.THRESHOLD", "other=rules.UNUSED", {"late"}),
        ("make.py", "from shop import rules", "from shop import loops as rules", {"clean", "late"}),
        ("make.py", "shop.loops.odd", "shop.loops.even", {"loop"}),
    ],
)
def test_what_changes_its_users_alone(tmp_path: Path, file: str, old: str, new: str, changed: set[str]) -> None:
    assert find_changed(tmp_path, file, old, new) == changed


def hash_root(folder: Path, root: str) -> str:
    return CodeHasher(SourceTree({"shop": folder / "shop"})).hash_code([root]).digest


def hash_module(tmp_path: Path, text: str, root: str = "shop.one:make", **more: str) -> str:
    """The hash of a root of a module with a text."""
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    modules = {"shop/__init__.py": "", "shop/one.py": text}
    return hash_root(write(folder, modules | {f"shop/{name}.py": each for name, each in more.items()}), root)


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ("def make(log):\n    log('old')", "def make(log):\n    log('new')", True),
        ("def make(r):\n    r.log(f'{r} old')", "def make(r):\n    r.log('new')", True),
        ("def make():\n    raise ValueError('old')", "def make():\n    raise ValueError(f'new {1}')", True),
        ("def make():\n    raise ValueError('old')", "def make():\n    raise KeyError('old')", False),
        ("def make():\n    raise ValueError(1)", "def make():\n    raise ValueError(2)", False),
        ("def make(a):\n    assert a, 'old'", "def make(a):\n    assert a, 'new'", True),
        ("def make():\n    x: int = 3\n    return x", "def make():\n    x = 3\n    return x", True),
        ("def make():\n    return Field(1, description='a')", "def make():\n    return Field(1)", True),
        ("def make():\n    return Field(1, ge=1)", "def make():\n    return Field(1, ge=2)", False),
        ("def make(a):\n    return cast('A', a)", "def make(a):\n    return cast('B', a)", True),
        (
            "import numpy as np\ndef make():\n    return np.mean",
            "import numpy\ndef make():\n    return numpy.mean",
            True,
        ),
        (
            "from re import sub\ndef make():\n    return sub",
            "from re import search as sub\ndef make():\n    return sub",
            False,
        ),
        ("X = 1\ndef make(X):\n    return X", "X = 2\ndef make(X):\n    return X", True),
        ("X = 1\ndef make():\n    return [X for X in [1]]", "X = 2\ndef make():\n    return [X for X in [1]]", True),
        ("X = 1\ndef make():\n    return [X for y in [1]]", "X = 2\ndef make():\n    return [X for y in [1]]", False),
        ("X = 1\ndef make():\n    X = 3\n    return X", "X = 2\ndef make():\n    X = 3\n    return X", True),
        ("X = {}\nX['a'] = 1\ndef make():\n    return X", "X = {}\nX['a'] = 2\ndef make():\n    return X", False),
        ("X = {}\ndef make():\n    X['a'] = 1", "X = {1: 2}\ndef make():\n    X['a'] = 1", False),
        (
            "@f\ndef make():\n    pass\ndef f(x):\n    return x",
            "@f\ndef make():\n    pass\ndef f(x):\n    return 1",
            False,
        ),
        ("f = lambda: 1\ndef make():\n    return f()", "f = lambda: 2\ndef make():\n    return f()", False),
        (
            "def make():\n    return getattr(A, 'go')\nclass A:\n    def go(self): return 1",
            "def make():\n    return getattr(A, 'go')\nclass A:\n    def go(self): return 2",
            False,
        ),
        (
            "try:\n    import fast\nexcept ImportError:\n    fast = 1\ndef make():\n    return fast",
            "try:\n    import fast\nexcept ImportError:\n    fast = 2\ndef make():\n    return fast",
            False,
        ),
        (
            "import os\nos.environ['A'] = '1'\ndef make():\n    pass",
            "import os\nos.environ['A'] = '2'\ndef make():\n    pass",
            False,
        ),
        (
            "def make():\n    return f() + g()\ndef f(): return 1\ndef g(): return 2",
            "def make():\n    return f() + g()\ndef f(): return 2\ndef g(): return 1",
            False,
        ),
    ],
)
def test_small_changes(tmp_path: Path, before: str, after: str, is_same: bool) -> None:
    assert (hash_module(tmp_path, before) == hash_module(tmp_path, after)) is is_same


def test_a_method_is_found_through_a_field_of_an_annotated_class(tmp_path: Path) -> None:
    text = """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from shop.two import Round

        def make(this_round: "Round | None"):
            return this_round.store.find(3)
    """
    two = "class Store:\n    def find(self, k):\n        return {}\nclass Round:\n    store: 'Store'\n"
    assert hash_module(tmp_path, text, two=two.format("k")) != hash_module(tmp_path, text, two=two.format("k + 1"))


def test_another_process_is_given_its_program_by_name(tmp_path: Path) -> None:
    text = "import sys\ndef make():\n    return [sys.executable, '-m', 'shop.two']"
    two = "def main():\n    return {}\nif __name__ == '__main__':\n    main()\n"
    assert hash_module(tmp_path, text, two=two.format(1)) != hash_module(tmp_path, text, two=two.format(2))


def test_a_module_that_is_handed_on_counts_by_what_is_named(tmp_path: Path) -> None:
    text = "from shop import two\ndef make():\n    return use(two)\ndef use(module):\n    return module.go()"
    two = "def go():\n    return {}\ndef stay():\n    return {}\n"
    hashes = [hash_module(tmp_path, text, two=two.format(*numbers)) for numbers in ((1, 1), (1, 2), (2, 1))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_moving_a_definition_changes_nothing(tmp_path: Path) -> None:
    rule = "def rule(x):\n    return x > LIMIT\nLIMIT = 3\n"
    here = hash_module(tmp_path, f"{rule}\ndef make():\n    return rule(1)")
    there = hash_module(tmp_path, "from shop.two import rule as bar\ndef make():\n    return bar(1)", two=rule)
    assert here == there


def test_settings_come_as_values(tmp_path: Path) -> None:
    def hash_with(default: int, factor: int) -> str:
        folder = tmp_path / f"{default}_{factor}"
        text = f"""
            class Settings:
                bar: int = {default}
                @property
                def twice(self):
                    return self.bar * {factor}

            class Own(Settings):
                more: int = {default}

            def make(settings: Own):
                return settings.twice
        """
        tree = SourceTree({"shop": write(folder, {"shop/__init__.py": "", "shop/one.py": text}) / "shop"})
        return CodeHasher(tree, value_classes=("shop.one:Settings",)).hash_code(["shop.one:make"]).digest

    assert hash_with(1, 2) == hash_with(3, 2) != hash_with(1, 4)


def test_what_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, MODULES)
    tree = SourceTree({"shop": tmp_path / "shop"})
    reached = CodeHasher(tree, not_followed=("shop.rules:_count", "shop.store")).hash_code(["shop.make:make_clean"])
    assert set(reached.definitions) == {"shop.make:make_clean", "shop.rules:is_like", "shop.rules:THRESHOLD"}


def test_a_missing_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"shop/__init__.py": "", "shop/one.py": "from shop.gone import x\ndef make():\n    return x"})
    with pytest.raises(MissingSourceError, match=r"the source of shop\.gone is not there"):
        hash_root(tmp_path, "shop.one:make")
    (tmp_path / "shop" / "gone.so").touch()
    with pytest.raises(MissingSourceError, match=r"only .*gone\.so: install it with its source"):
        hash_root(tmp_path, "shop.one:make")
    with pytest.raises(ValueError, match=r"defines no absent"):
        hash_root(tmp_path, "shop.one:absent")
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("zipped_shop/__init__.py", "")
    monkeypatch.syspath_prepend(packed)
    with pytest.raises(MissingSourceError, match=r"zipped_shop is not in a folder .*packed\.zip"):
        find_packages({"zipped_shop"})
    for absent in ("no_such_package", "__main__"):
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
        with pytest.raises(MissingSourceError, match=rf"package {absent} is not in a folder \(nowhere\)"):
            find_packages({absent})


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new))


def hash_project(folder: Path) -> dict[str, str]:
    tree = SourceTree({name: folder / name for name in ("lance_assets", "resources")})
    hasher = CodeHasher(tree, NOT_FOLLOWED, VALUE_CLASSES)
    steps = {
        "cleaned_set": ["lance_assets.recipes.lance:list_filters", "lance_assets.recipes.contract:Recipe.clean"],
        "seed_set": ["lance_assets.recipes.lance:build_seed_set"],
    }
    return {noun: hasher.hash_code([f"{NOUNS[noun].made_by}:make_{noun}", *own]).digest for noun, own in steps.items()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("lance_assets", "resources"):
        shutil.copytree(
            REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__")
        )
    return tmp_path


def test_the_projects_own_rule_marks_what_follows_from_it(project: Path) -> None:
    before = hash_project(project)
    path = project / "lance_assets" / "algorithms" / "similarity" / "words.py"
    replace(path, "/ min(len(words)", "/ max(len(words)")
    after = hash_project(project)
    assert after["seed_set"] == before["seed_set"]
    assert after["cleaned_set"] != before["cleaned_set"]


@pytest.mark.slow
def test_the_projects_docstrings_mark_nothing(project: Path) -> None:
    before = hash_project(project)
    path = project / "lance_assets" / "algorithms" / "similarity" / "words.py"
    path.write_text("# a comment\n" + path.read_text())
    replace(path, "ROUGE-L of two texts.", "Other words.")
    assert hash_project(project) == before


def test_every_process_computes_the_same(tmp_path: Path) -> None:
    code = (
        "from tests.rounds.test_code_hash import hash_makes; from pathlib import Path; import sys;"
        "print(sorted(hash_makes(Path(sys.argv[1])).items()))"
    )
    write(tmp_path, MODULES)
    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{sorted(hash_makes(tmp_path).items())}\n"}


def test_it_is_fast_enough_to_be_done_at_each_start() -> None:
    started = time.process_time()
    hasher = CodeHasher(SourceTree({name: REPOSITORY / name for name in ("lance_assets", "resources")}), NOT_FOLLOWED)
    for noun in NOUNS.values():
        hasher.hash_code(
            [f"{noun.made_by}:make_{noun.name}", *(root for engine in ENGINES.values() for root in engine)]
        )
    assert time.process_time() - started < 5  # about 0.4 on one quiet core
