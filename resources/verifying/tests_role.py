"""What runs in the jail of the tests: it asks the jail of the program for every value, and says what the tests gave.

The names of the program are stand-ins here. A call sends plain data and returns plain data, which the test's own code
compares; an object that stays in the program's jail equals no plain data, whatever its `__eq__` says. The program
never sees the tests, nor what they expect.
"""

import ast
import builtins
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

MAX_LINE = 8_000_000
LISTS = (("l", list), ("t", tuple), ("S", set), ("F", frozenset))
ENDED = "the program ended: it exited, crashed, or was killed at a bound of time or memory"

job: dict[str, Any] = globals().get("given", {})
line: "Line"
told: list[str] = []
"""The last call and what it gave, in words."""


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


class StandIn:
    """An object of the program, which stays in its jail."""

    __slots__ = ("_kind_", "_name_", "_number_")

    _number_: int
    _name_: str

    def __init__(self, number: int, kind: str, name: str = "it") -> None:
        """Take its number."""
        object.__setattr__(self, "_number_", number)
        object.__setattr__(self, "_kind_", kind)
        object.__setattr__(self, "_name_", name)

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

    def __iter__(self) -> Iterator[Any]:
        """Its items, all of them at once."""
        return iter(self._do_("list"))

    def __len__(self) -> int:
        """Its length."""
        return self._do_("len")

    def __getitem__(self, key: Any) -> Any:
        """One of its items."""
        return self._do_("item", key)

    def __contains__(self, value: Any) -> bool:
        """Whether it says that it has something."""
        return self._do_("has", value) is True

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


def gather_names(known: dict[str, Any]) -> dict[str, Any]:
    """The program's names as the tests see them; names of Python's own mean Python's, not the program's."""
    names = {}
    for name, coded in known.items():
        # A program may send what it likes, and `__builtins__` would be Python's own names.
        if name.startswith("__"):
            continue
        if name in job["interface"] or not (hasattr(builtins, name) or name in sys.stdlib_module_names):
            value = decode(coded)
            if isinstance(value, StandIn):
                object.__setattr__(value, "_name_", name)
            names[name] = value
        elif name in sys.stdlib_module_names:
            try:
                names[name] = __import__(name)
            except ImportError:
                continue
    return names


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
    names = gather_names(said["names"]) | {
        "__name__": "tests",
        "__tries__": lambda first, last: tried.append((first, last)),
    }
    try:
        exec(compile(tree, "tests.py", "exec"), names)
    except BaseException as error:
        where = "\n".join(lines[tried[-1][0] - 1 : tried[-1][1]]).strip() if tried else "before the first assert"
        gave = f"; {told[0]} gave {told[1]}" if told else ""
        what = "" if isinstance(error, AssertionError) else f": {type(error).__name__}: {str(error)[:200]}"
        return {"passed": False, "reason": f"{where} failed{what}{gave}"}
    if not tried:
        return {"passed": None, "reason": "the tests tried no assert"}
    return {"passed": True, "reason": f"all {len(tried)} asserts hold"}


if __name__ == "__jailed__":
    line = Line()
    try:
        verdict = run_tests()
    except BaseException as error:
        verdict = {"passed": False, "reason": f"{type(error).__name__}: {str(error)[:200]}"}
    with os.fdopen(job["tells"], "w") as file:
        json.dump({"passed": verdict["passed"], "reason": verdict["reason"][:1000]}, file)
