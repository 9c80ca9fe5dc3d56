"""What runs in the jail of the tests: it asks the jail of the program for every value, and says what the tests gave.

The names of the program are stand-ins here. A call sends plain data and returns plain data, which the test's own code
compares; an object that stays in the program's jail equals no plain data, whatever its `__eq__` says. The program sees
of the tests what they call it with, and nothing of what they expect: `4 in f(2)` is found among the items of `f(2)`.
Only an object that a test makes by a class's name, such as `Stack()`, is asked itself whether it has something.
"""

import ast
import builtins
import json
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

MAX_LINE = 8_000_000
MAX_ITEMS, MAX_TAKEN = 200_000, 4096
LISTS = (("l", list), ("t", tuple), ("S", set), ("F", frozenset))
ENDED = "the program ended: it exited, crashed, or was killed at a bound of time or memory"

job: dict[str, Any] = globals().get("given", {})
line: "Line"
told: list[str] = []
"""The last call and what it gave, in words."""
by_program: list[Exception] = []
"""The last exception that is the program's, and not of the tests themselves."""
taken: dict[int, "Taken"] = {}
"""What is known of the program's iterators, by their numbers."""


class ProgramError(Exception):
    """The program raised what is no builtin exception, or ended."""


def encode(value: Any) -> list[Any]:
    """Plain data or a stand-in as JSON, as the program's jail reads it."""
    if isinstance(value, StandIn):
        return ["h", object.__getattribute__(value, "_number_")]
    if value is None:
        return ["n"]
    if isinstance(value, bool):
        return ["b", value]
    if isinstance(value, int):
        return ["i", hex(value)]
    if isinstance(value, float):
        return ["f", float.hex(value)]
    if isinstance(value, complex):
        return ["c", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, str):
        return ["s", value]
    if isinstance(value, bytes | bytearray):
        return ["y", bytes(value).decode("latin-1")]
    for letter, kind in LISTS:
        if isinstance(value, kind):
            return [letter, [encode(one) for one in value]]
    if isinstance(value, dict):
        return ["d", [[encode(key), encode(one)] for key, one in value.items()]]
    raise TypeError(f"a test can give a program plain data, got {type(value).__name__}")


def decode(coded: Any) -> Any:
    """The value of what the program's jail sent."""
    letter, *parts = coded
    if letter in "lSFt":
        items = [decode(one) for one in parts[0]]
        return next(kind for one, kind in LISTS if one == letter)(items)
    if letter == "d":
        return {decode(key): decode(one) for key, one in parts[0]}
    simple: dict[str, Callable[[], Any]] = {
        "n": lambda: None,
        "b": lambda: bool(parts[0]),
        "i": lambda: int(parts[0], 16),
        "f": lambda: float.fromhex(parts[0]),
        "c": lambda: complex(float.fromhex(parts[0]), float.fromhex(parts[1])),
        "s": lambda: str(parts[0]),
        "y": lambda: parts[0].encode("latin-1"),
        "h": lambda: StandIn(int(parts[0]), str(parts[1])),
    }
    return simple[letter]()


class Line:
    """The line to the program's jail."""

    def __init__(self) -> None:
        """Open both ends."""
        self.told_by = os.fdopen(job["reads"], "r", errors="replace")
        self.asks = os.fdopen(job["writes"], "w")

    def read(self) -> dict[str, Any]:
        """The next message of the program's jail."""
        line = self.told_by.readline(MAX_LINE)
        if not line.endswith("\n"):
            raise ProgramError(ENDED if len(line) < MAX_LINE else "the program gave too much")
        try:
            said = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ProgramError("the program broke the line") from error
        except MemoryError as error:
            raise ProgramError("the program gave too much") from error
        if not isinstance(said, dict):
            raise ProgramError("the program broke the line")
        return said

    def ask(self, **asked: Any) -> tuple[Any, list[Any]]:
        """Ask the program's jail, and return the value with what was changed."""
        try:
            self.asks.write(json.dumps(asked) + "\n")
            self.asks.flush()
        except OSError as error:
            raise ProgramError(ENDED) from error
        said = self.read()
        if "error" in said:
            raise_as_builtin(said["error"])
        try:
            return decode(said["value"]), said.get("changed") or []
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
            raise ProgramError("the program broke the line") from error
        except MemoryError as error:
            raise ProgramError("the program gave too much") from error


def raise_as_builtin(described: Any) -> None:
    """Raise the builtin exception that the program raised, or the nearest one."""
    try:
        names, text = [str(one) for one in described[0]], str(described[1])
    except (TypeError, IndexError, KeyError) as error:
        raise ProgramError("the program broke the line") from error
    for name in names:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind is not Exception:
            try:
                raised = kind(text)
            except TypeError:
                continue
            by_program[:] = [raised]
            raise raised
    raise ProgramError(f"{names[0] if names else 'Exception'}: {text}")


def show(value: object, most: int) -> str:
    """A value in words; a number of thousands of digits has none."""
    try:
        return repr(value)[:most]
    except Exception as error:
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"


def remember(name: str, given: Sequence[object], gave: str) -> None:
    """Keep the last call in words."""
    told[:] = [f"{name}({', '.join(show(one, 60) for one in given)})"[:160], gave]


class Taken:
    """What is known of an iterator of the program."""

    def __init__(self) -> None:
        """Nothing was asked for yet."""
        self.waiting: list[Any] = []
        """Items that were not used yet; the next one is the last."""
        self.size = 1
        """How many are asked for next."""
        self.num_items = 0
        """How many were given."""


class StandIn:
    """An object of the program, which stays in its jail."""

    __slots__ = ("_is_asked_", "_kind_", "_name_", "_number_")

    _number_: int
    _name_: str
    _is_asked_: bool

    def __init__(self, number: int, kind: str, name: str = "it") -> None:
        """Take its number."""
        object.__setattr__(self, "_number_", number)
        object.__setattr__(self, "_kind_", kind)
        object.__setattr__(self, "_name_", name)
        object.__setattr__(self, "_is_asked_", False)

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call it there."""
        sent, kept = [encode(one) for one in given], {name: encode(one) for name, one in named.items()}
        name = object.__getattribute__(self, "_name_")
        remember(name, given, "no result")
        value, changed = line.ask(do="call", of=self._number_, given=sent, named=kept)
        for own, new in zip(given, changed, strict=False):
            if new is None:
                continue
            after = decode(new)
            if isinstance(own, list) and isinstance(after, list):
                own[:] = after
            elif isinstance(own, dict | set) and isinstance(after, type(own)):
                own.clear()
                own.update(after)
        if isinstance(value, StandIn) and name.rpartition(".")[2].lstrip("_")[:1].isupper():
            object.__setattr__(value, "_is_asked_", True)
        remember(name, given, show(value, 160))
        return value

    def __getattr__(self, name: str) -> Any:
        """Its attribute, from there."""
        if name.startswith("__"):
            raise AttributeError(name)
        value, _ = line.ask(do="attribute", of=self._number_, name=name, given=[])
        if isinstance(value, StandIn):
            object.__setattr__(value, "_name_", f"{object.__getattribute__(self, '_name_')}.{name}")
        return value

    def _do_(self, kind: str, *given: Any) -> Any:
        return line.ask(do=kind, of=self._number_, given=[encode(one) for one in given])[0]

    def __iter__(self) -> Any:
        """Its iterator, which stays there too."""
        return self._do_("iter")

    def __next__(self) -> Any:
        """Its next item; ever more of those that follow are asked for together."""
        known = taken.setdefault(object.__getattribute__(self, "_number_"), Taken())
        if not known.waiting:
            items = self._do_("take", known.size)
            if not isinstance(items, list):
                raise ProgramError("the program broke the line")
            known.num_items += len(items)
            if known.num_items > MAX_ITEMS:
                raise ProgramError("the program gave too many items")
            known.waiting, known.size = items[::-1], min(2 * known.size, MAX_TAKEN)
        if not known.waiting:
            raise StopIteration
        return known.waiting.pop()

    def __len__(self) -> int:
        """Its length."""
        return self._do_("len")

    def __getitem__(self, key: Any) -> Any:
        """One of its items."""
        return self._do_("item", key)

    def __contains__(self, value: Any) -> bool:
        """Whether one of its items is equal; what a test made by a class's name is asked itself."""
        if object.__getattribute__(self, "_is_asked_"):
            return self._do_("has", value) is True
        return any(one is value or one == value for one in self)

    def __str__(self) -> str:
        """Its text."""
        return str(self._do_("text"))

    def __repr__(self) -> str:
        """Its own text for people."""
        return str(self._do_("show"))

    def __bool__(self) -> bool:
        """Whether it says that it is true."""
        return self._do_("is_true") is True

    def __eq__(self, other: object) -> bool:
        """Only two objects of the program may be equal: plain data is never what stayed there."""
        return isinstance(other, StandIn) and self._do_("same", other) is True

    def __lt__(self, other: object) -> bool:
        """Only with another object of the program."""
        return self._do_("less", other) is True if isinstance(other, StandIn) else NotImplemented

    def __hash__(self) -> int:
        """By its number."""
        return hash(object.__getattribute__(self, "_number_"))


class Counting(ast.NodeTransformer):
    """Puts a call before each assert, which says that it is tried."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        """The call, then the assert."""
        place: list[ast.expr] = [ast.Constant(node.lineno), ast.Constant(node.end_lineno)]
        call = ast.Expr(ast.Call(ast.Name("__tries__", ast.Load()), place, []))
        return [ast.copy_location(call, node), node]


def find_module(name: str, coded: list[Any], tree: ast.AST) -> ModuleType | None:
    """The module of Python's that a name of the program's means in the tests; None where it means the program's own.

    It is the module where the program imported one by that name, or where the tests use what the module has, such as
    `math.isclose`, and never call the name, as they would a function `bisect` that a program was asked for.
    """
    if name not in sys.stdlib_module_names:
        return None
    parts = list(ast.walk(tree))
    called = {part.func.id for part in parts if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)}
    used = {
        part.attr
        for part in parts
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == name
    }
    is_module = coded[0] == "h" and coded[2] == "module"
    if not is_module and (name in called or not used):
        return None
    try:
        module = __import__(name)
    except ImportError:
        return None
    return module if is_module or all(hasattr(module, one) for one in used) else None


def gather_names(known: dict[str, Any], tree: ast.AST) -> dict[str, Any]:
    """The program's names as the tests see them; builtins and modules mean Python's, where the tests mean those."""
    names: dict[str, Any] = {}
    for name, coded in known.items():
        # A program may send what it likes, and `__builtins__` would be Python's own names.
        if name.startswith("__") or (hasattr(builtins, name) and name not in job["interface"]):
            continue
        if (module := find_module(name, coded, tree)) is not None:
            names[name] = module
            continue
        value = decode(coded)
        if isinstance(value, StandIn):
            object.__setattr__(value, "_name_", name)
        names[name] = value
    return names


def lack_verdict(error: BaseException) -> str | None:
    """Why tests that raised this say nothing of the program; None where they do."""
    if any(error is one for one in by_program):
        return None
    if isinstance(error, MemoryError):
        return "the tests need more memory than a sandbox has; raise verifier.memory_mib"
    if isinstance(error, ModuleNotFoundError):
        return f"the tests import {error.name}, and a sandbox has Python's standard library alone"
    return None


def run_tests() -> dict[str, Any]:
    """Run the tests, and return the verdict."""
    said = line.read()
    if "failed" in said:
        names, text = said["failed"]
        return {"passed": False, "reason": f"the program fails when it is loaded: {names[0]}: {text[:200]}"}
    source = str(job["tests"])
    tried: list[tuple[int, int]] = []
    tree = ast.fix_missing_locations(Counting().visit(ast.parse(source)))
    lines = source.split("\n")
    names = gather_names(said["names"], tree) | {
        "__name__": "tests",
        "__tries__": lambda first, last: tried.append((first, last)),
    }
    try:
        exec(compile(tree, "tests.py", "exec"), names)
    except BaseException as error:
        if (why := lack_verdict(error)) is not None:
            return {"passed": None, "reason": why, "unverified": "tests_ended"}
        where = "\n".join(lines[tried[-1][0] - 1 : tried[-1][1]]).strip() if tried else "before the first assert"
        gave = f"; {told[0]} gave {told[1]}" if told else ""
        what = "" if isinstance(error, AssertionError) else f": {type(error).__name__}: {str(error)[:200]}"
        return {"passed": False, "reason": f"{where} failed{what}{gave}"}
    if not tried:
        return {"passed": None, "reason": "the tests tried no assert", "unverified": "no_tests"}
    return {"passed": True, "reason": f"all {len(tried)} asserts hold"}


if __name__ == "__jailed__":
    line = Line()
    try:
        verdict = run_tests()
    except BaseException as error:
        verdict = {"passed": False, "reason": f"{type(error).__name__}: {str(error)[:200]}"}
    with os.fdopen(job["tells"], "w") as file:
        told_last = {"passed": verdict["passed"], "reason": verdict["reason"][:1000]}
        json.dump(told_last | {"unverified": verdict.get("unverified")}, file)
