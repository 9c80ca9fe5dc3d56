"""Programs with their tests in a sandbox: right and wrong ones, and hostile ones, of which none may pass."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks._hostile_programs import CHEATS, NEEDS_NAMESPACES, Hostile, find_left, list_hostile, list_running
from lance_assets.algorithms.verifying.programs import Case, ProgramTests, list_tested
from resources.verifying import sandbox as module
from resources.verifying.sandbox import Bounds, Sandbox, SandboxError

QUICK = [
    *("fork bomb", "socket", "reads a secret", "writes by a link", "kills everything", "equal to everything"),
    *("leaves before the asserts", "leaves in a test", "says that it passed", "reads the tests"),
    *("serves names of Python's", "outlives its sandbox", "thread bomb", "changes a device", "has everything"),
    *("changes a device that is open", "a class that has everything", "a class for a module", "imports a package"),
]
"""Hostile programs that the default tests try; the others wait for a bound, or are much alike."""


def open_or_skip(opened: Sandbox, cannot: str) -> Iterator[Sandbox]:
    """Give a sandbox that works; the test is skipped where this machine has none such."""
    try:
        opened.probe()
    except SandboxError as error:
        opened.close()
        pytest.skip(f"this machine {cannot}: {error}")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    yield from open_or_skip(Sandbox(bounds=Bounds(seconds=10, memory_mib=256)), "keeps no program in")


@pytest.fixture(scope="module")
def short(sandbox: Sandbox) -> Iterator[Sandbox]:
    """With little time, for programs that take all of it."""
    opened = Sandbox(bounds=Bounds(seconds=1, memory_mib=256))
    yield opened
    opened.close()


RIGHT = {
    "plain data": (
        "import math\ndef f(x):\n    return {x: [math.sqrt(x), (None, 'a')]}",
        "assert f(4) == {4: [2.0, (None, 'a')]}",
    ),
    "an argument that is changed": ("def f(x):\n    x.sort()", "given = [3, 1]\nf(given)\nassert given == [1, 3]"),
    "an object": (
        "class Stack:\n    def __init__(self): self.held = []\n    def push(self, x): self.held.append(x)\n"
        "    def pop(self): return self.held.pop()\n    def __len__(self): return len(self.held)",
        "stack = Stack()\nstack.push(3)\nassert len(stack) == 1\nassert stack.pop() == 3\n"
        "try:\n    stack.pop()\n    assert False\nexcept IndexError:\n    pass",
    ),
    "a generator": ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]"),
    "a check of human-eval": (
        "def f(x):\n    return x + 0.5",
        "def check(candidate):\n    assert abs(candidate(1) - 1.5) < 1e-9\ncheck(f)",
    ),
    "a name of Python's": ("def sum(a, b):\n    return a + b", "assert sum(10, 15) == 25"),
    "a function with a module's name": (
        "def bisect(a, x):\n    return sum(one <= x for one in a)",
        "assert bisect([1, 3], 2) == 1\nassert bisect([], 2) == 0",
    ),
    "a function with a module's name that is passed on": (
        "def select(a):\n    return a[0]",
        "def check(candidate):\n    assert candidate([1]) == 1\ncheck(select)",
    ),
    "a class with a module's name": (
        "class queue:\n    def __init__(self): self.held = []\n    def put(self, x): self.held.append(x)",
        "q = queue()\nq.put(2)\nassert q.held == [2]",
    ),
    "a value with a module's name": ("string = 'ab'", "assert string == 'ab'"),
    "an object with a module's name": (
        "class Token:\n    def read(self): return 3\ntoken = Token()",
        "assert token.read() == 3",
    ),
    "a module that the tests use": (
        "import copy, math as other\ndef f(x):\n    return x / 3",
        "assert copy.copy(f(3)) == 1.0",
    ),
    "a function of a module of the same name": (
        "from copy import copy\ndef f(x):\n    return [x]",
        "assert copy(f(1)) == [1]",
    ),
    "a class of a module of the same name": (
        "from datetime import datetime\ndef f(x):\n    return datetime(x, 1, 1)",
        "assert f(2020).year == datetime.strptime('2020', '%Y').year",
    ),
    "a generator without an end": (
        "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "from itertools import islice\ng = f()\nassert [next(g), next(g)] == [0, 1]\nassert 50 in g\n"
        "assert next(g) == 51\nassert list(islice(g, 3)) == [52, 53, 54]\nassert list(zip(f(), 'ab'))[1] == (1, 'b')",
    ),
    "a generator that fails after some items": (
        "def f():\n    yield 1\n    yield 2\n    raise KeyError('no')",
        "g = f()\nassert next(g) == 1\nassert next(g) == 2\n"
        "try:\n    next(g)\n    assert False\nexcept KeyError:\n    pass\nassert list(g) == []",
    ),
    "many items": ("def f(n):\n    return (i for i in range(n))", "assert sum(f(100_000)) == 4999950000"),
    "items of a view": ("def f():\n    return {1: 2}.values()", "assert 2 in f()\nassert 1 not in f()"),
    "an object that has no items": (
        "class Interval:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
        "    def __contains__(self, x): return self.a <= x <= self.b",
        "assert 2 in Interval(1, 3)\nheld = Interval(1, 3)\nassert 4 not in held",
    ),
    "some threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f(n):\n"
        "    with ThreadPoolExecutor(4) as pool:\n        return list(pool.map(str, range(n)))",
        "assert f(40)[39] == '39'",
    ),
    "files of its own": (
        "import os, shutil, tempfile\ndef f():\n    with tempfile.TemporaryDirectory() as name:\n"
        "        path = os.path.join(name, 'a')\n        open(path, 'w').write('x')\n"
        "        os.rename(path, path + 'b')\n        return open(path + 'b').read(), len(os.listdir(name))",
        "assert f() == ('x', 1)",
    ),
    "modules that have libraries of the system": (
        "import bz2, ctypes, decimal, hashlib, lzma, random, sqlite3, ssl, zlib\ndef f():\n"
        "    open(os.devnull, 'w').write('x')\n    return len(hashlib.sha256(b'').digest())\nimport os",
        "assert f() == 32",
    ),
    "a large number": ("def f(n):\n    return 7 ** n", "assert f(9000) == 7 ** 9000"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_program_passes(sandbox: Sandbox, name: str) -> None:
    program, asserts = RIGHT[name]
    verdict = sandbox.check(program, ProgramTests(asserts=asserts), interface=list_tested(asserts))
    assert verdict.is_right, verdict.reason


def test_a_wrong_program_is_told_which_assert_failed_and_what_was_given(sandbox: Sandbox) -> None:
    verdict = sandbox.check("def f(x):\n    return x", ProgramTests(asserts="assert f(4) == 4\nassert f(5) == 6"))
    assert (verdict.share, verdict.reason) == (0.0, "assert f(5) == 6 failed; f(5) gave 5")


def test_a_script_is_run_with_each_case(sandbox: Sandbox) -> None:
    program = "print(sum(map(int, input().split())))"
    assert sandbox.check(program, ProgramTests(cases=(Case("1 2", "3"), Case("4 5\n", "9\n")))).is_right
    wrong = sandbox.check(program, ProgramTests(cases=(Case("1 2", "3"), Case("4 5", "8"))))
    assert wrong.reason == "case 2 of 2: of '4 5' it wrote '9', and '8' was expected"
    failed = sandbox.check("raise ValueError('no')", ProgramTests(cases=(Case("", "3"),)))
    assert failed.reason == "case 1 of 1: it ended with code 1: ValueError: no"


def test_a_script_is_run_without_namespaces(barred: Sandbox) -> None:
    cases = (Case("1 2", "3"), Case("4 5", "9"))
    assert barred.check("print(sum(map(int, input().split())))", ProgramTests(cases=cases)).is_right


def test_tests_that_try_nothing_are_no_verdict(sandbox: Sandbox) -> None:
    verdict = sandbox.check("def f(x): return x", ProgramTests(asserts="def check(c):\n    assert c(1) == 1"))
    assert (verdict.share, verdict.unverified) == (None, "no_tests")


def try_hostile(sandbox: Sandbox, hostile: Hostile, outside: Path) -> None:
    beside = {one: one.stat().st_mode for one in outside.parent.iterdir()}
    verdict = sandbox.check(hostile.program, hostile.build_tests())
    left = find_left(sandbox.folder)
    assert not verdict.is_right, f"{hostile.name}: {verdict.reason}"
    assert not left, hostile.name
    assert {one: one.stat().st_mode for one in outside.parent.iterdir()} == beside, hostile.name
    assert all(one.read_text() == "a key" for one in beside), hostile.name


def list_all(folder: Path) -> dict[str, Hostile]:
    secret = folder / "secret"
    secret.write_text("a key")
    return {one.name: one for one in list_hostile(secret, folder / "outside")}


@pytest.mark.parametrize("name", QUICK)
def test_a_hostile_program_is_kept_in_and_does_not_pass(
    short: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("A_SECRET", "a key")
    try_hostile(short, list_all(tmp_path)[name], tmp_path / "outside")


@pytest.mark.slow
def test_every_hostile_program_is_kept_in_and_does_not_pass(
    short: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "a key")
    hostile = list_all(tmp_path)
    assert len(hostile) >= 40
    for one in hostile.values():
        try_hostile(short, one, tmp_path / "outside")


def test_cheats_pass_where_the_program_is_right(sandbox: Sandbox) -> None:
    """So the tests of the cheats are tests that a program can pass."""
    assert len(CHEATS) > 10
    assert sandbox.check(
        "def double(x):\n    return 2 * x", ProgramTests(asserts="assert double(2) == 4\nassert double(5) == 10")
    ).is_right


def test_without_namespaces_no_program_is_run_and_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine that refuses unshare, as containers do."""
    change_jail(monkeypatch, tmp_path, "require(libc.unshare(kinds)", "ctypes.set_errno(1); require(-1")
    refused = Sandbox(bounds=Bounds(seconds=5))
    try:
        with pytest.raises(SandboxError, match=r"unshare: Operation not permitted.*verifier\.isolation: limits"):
            refused.probe()
    finally:
        refused.close()


@pytest.fixture(scope="module")
def barred(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Without namespaces, by Landlock."""
    opened = Sandbox(bounds=Bounds(seconds=1, memory_mib=256), isolation="landlock")
    yield from open_or_skip(opened, "bars no files")


@pytest.mark.parametrize(
    "name",
    [
        *("writes outside", "reads a secret", "deletes a secret", "removes a tree", "writes by a link"),
        *("opens a secret to all", "reads the parent's memory", "signals by a file's owner", "limits another process"),
        *("socket", "fork bomb", "kills everything", "outlives its sandbox", "thread bomb", "imports a package"),
    ],
)
def test_without_namespaces_landlock_keeps_a_program_from_files(barred: Sandbox, tmp_path: Path, name: str) -> None:
    try_hostile(barred, list_all(tmp_path)[name], tmp_path / "outside")


@pytest.mark.slow
def test_every_hostile_program_is_kept_in_without_namespaces(barred: Sandbox, tmp_path: Path) -> None:
    for name, one in list_all(tmp_path).items():
        if name not in NEEDS_NAMESPACES:
            try_hostile(barred, one, tmp_path / "outside")


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_program_passes_without_namespaces(barred: Sandbox, name: str) -> None:
    program, asserts = RIGHT[name]
    verdict = barred.check(program, ProgramTests(asserts=asserts), interface=list_tested(asserts))
    assert verdict.is_right, verdict.reason


def change_jail(monkeypatch: pytest.MonkeyPatch, folder: Path, old: str, new: str) -> None:
    """Another machine than this one: the jail's own script with a part changed."""
    source = (module.HERE / "jail.py").read_text()
    assert old in source
    for name in ("program_role.py", "tests_role.py"):
        (folder / name).write_text((module.HERE / name).read_text())
    (folder / "jail.py").write_text(source.replace(old, new))
    monkeypatch.setattr(module, "HERE", folder)


def test_without_landlock_none_is_run_where_it_was_asked_for_and_with_limits_the_rest_still_holds(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jail").mkdir()
    change_jail(monkeypatch, tmp_path / "jail", "version < LANDLOCK_OLDEST", "version < 999")
    bounds = Bounds(seconds=1)
    refused, weak = Sandbox(bounds=bounds, isolation="landlock"), Sandbox(bounds=bounds, isolation="limits")
    (tmp_path / "kept").mkdir()
    try:
        with pytest.raises(SandboxError, match=r"this kernel has no Landlock.*read, change and delete your files"):
            refused.probe()
        weak.probe()
        for name in ("socket", "fork bomb", "kills everything", "leaves in a test", "opens a secret to all"):
            try_hostile(weak, list_all(tmp_path / "kept")[name], tmp_path / "kept" / "outside")
        reads = f"def f():\n    return open({str(tmp_path / 'kept' / 'secret')!r}).read()"
        assert weak.check(reads, ProgramTests(asserts="assert f() == 'a key'")).is_right, "as the message says"
    finally:
        refused.close()
        weak.close()


@pytest.mark.parametrize(
    "tests",
    [
        "while True:\n    pass\nassert f(1) == 1",
        "held = 'x' * (1 << 30)\nassert f(1) == 1",
        "import ctypes\nctypes.string_at(0)\nassert f(1) == 1",
        "import os\nos._exit(0)\nassert f(1) == 1",
        "import a_package_that_is_not_here\nassert f(1) == 1",
    ],
)
def test_a_program_is_not_wrong_where_its_tests_end_by_themselves(short: Sandbox, tests: str) -> None:
    verdict = short.check("def f(x):\n    return x", ProgramTests(asserts=tests))
    assert (verdict.share, verdict.unverified) == (None, "tests_ended"), verdict.reason


@pytest.mark.parametrize(
    "program",
    [
        "def f(x):\n    while True:\n        pass",
        "def f(x):\n    return 'x' * (1 << 30)",
        "def f(x):\n    raise MemoryError",
        "def f(x):\n    import a_package_that_is_not_here",
        "import ctypes\ndef f(x):\n    ctypes.string_at(0)",
    ],
)
def test_a_program_is_wrong_where_it_ends_itself(short: Sandbox, program: str) -> None:
    assert short.check(program, ProgramTests(asserts="assert f(1) == 1")).share == 0.0


WAITING = """
import sys, threading
from pathlib import Path
from lance_assets.algorithms.verifying.programs import ProgramTests
from resources.verifying.sandbox import Bounds, Sandbox
sandbox = Sandbox(bounds=Bounds(seconds=20))
print(sandbox.folder, flush=True)
sandbox.check("import time\\ntime.sleep(60)", ProgramTests(asserts="assert True"))
"""


@pytest.mark.parametrize("running", [1, 2, 3, 4])
def test_a_sandbox_ends_with_the_process_that_opened_it(sandbox: Sandbox, tmp_path: Path, running: int) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(module.HERE.parents[1])}
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, env=environment) as opener:
        assert opener.stdout is not None
        folder = Path(opener.stdout.readline().decode().strip())
        deadline = time.monotonic() + 30
        while len(list_running(folder)) < running:
            assert time.monotonic() < deadline, "of four: a launcher and a program, and the same of the tests"
        opener.kill()
    assert find_left(folder) == []
