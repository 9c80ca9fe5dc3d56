"""What runs in the jail of a program that is tested: it serves calls to the program's names, or runs it as a script.

The tests run in another jail (`tests_role.py`), in a process that no line of the program ever runs in. All that goes
between the two is plain data as JSON, so that a program can change nothing about how its results are compared: no
`__eq__`, no patched builtin, no exit, no text on the standard output. An object that is no plain data stays here, and
the tests are given its number.
"""

import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 60
MAX_ITEMS = 200_000
KINDS = ("list", "dict", "set")
LISTS = (("l", list), ("t", tuple), ("S", set), ("F", frozenset))

job: dict[str, Any] = globals().get("given", {})
objects: list[Any] = []
late: dict[int, Exception] = {}
"""What an iterator raised after items that had to be given first, by its number."""


class RefusedError(Exception):
    """A value that cannot be passed on."""


def encode(value: Any, depth: int = 0) -> list[Any]:
    """A value as JSON: plain data as it is, with a letter for its type, and anything else by its number."""
    if depth > MAX_DEPTH:
        raise RefusedError("the value is nested too deep")
    if value is None:
        return ["n"]
    if isinstance(value, bool):
        return ["b", bool(value)]
    if isinstance(value, int):
        return ["i", hex(int.__int__(value))]
    if isinstance(value, float):
        return ["f", float.hex(float(value))]
    if isinstance(value, complex):
        return ["c", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, str):
        return ["s", str.__str__(value)]
    if isinstance(value, bytes | bytearray):
        return ["y", bytes(value).decode("latin-1")]
    if isinstance(value, list | tuple | set | frozenset):
        letter = next(one for one, kind in LISTS if isinstance(value, kind))
        items = list(value)
        if len(items) > MAX_ITEMS:
            raise RefusedError(f"the value has {len(items)} items")
        return [letter, [encode(one, depth + 1) for one in items]]
    if isinstance(value, dict):
        return ["d", [[encode(key, depth + 1), encode(one, depth + 1)] for key, one in dict.items(value)]]
    objects.append(value)
    return ["h", len(objects) - 1, type(value).__name__]


def decode(coded: list[Any]) -> Any:
    """The value of what the tests sent."""
    letter, *parts = coded
    if letter in "lSFt":
        items = [decode(one) for one in parts[0]]
        return next(kind for one, kind in LISTS if one == letter)(items)
    if letter == "d":
        return {decode(key): decode(one) for key, one in parts[0]}
    simple: dict[str, Callable[[], Any]] = {
        "n": lambda: None,
        "b": lambda: parts[0],
        "i": lambda: int(parts[0], 16),
        "f": lambda: float.fromhex(parts[0]),
        "c": lambda: complex(float.fromhex(parts[0]), float.fromhex(parts[1])),
        "s": lambda: parts[0],
        "y": lambda: parts[0].encode("latin-1"),
        "h": lambda: objects[parts[0]],
    }
    return simple[letter]()


def describe(error: BaseException) -> list[Any]:
    """An exception as JSON: the names of its types and its text."""
    return [[kind.__name__ for kind in type(error).__mro__], str(error)[:500]]


def serve(asked: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """What one request of the tests gives."""
    kind = asked["do"]
    if kind == "get":
        return {"value": encode(names[asked["name"]])}
    own = objects[asked["of"]]
    given = [decode(one) for one in asked["given"]]
    if kind == "call":
        named = {name: decode(one) for name, one in asked["named"].items()}
        result = encode(own(*given, **named))
        # A function may change what it was given, as sort does.
        changed = [encode(one) if type(one).__name__ in KINDS else None for one in given]
        return {"value": result, "changed": changed}
    if kind == "attribute":
        return {"value": encode(getattr(own, asked["name"]))}
    if kind == "iter":
        found = iter(own)
        if found is own:
            return {"value": ["h", asked["of"], type(own).__name__]}
        objects.append(found)
        return {"value": ["h", len(objects) - 1, type(found).__name__]}
    if kind == "take":
        return {"value": encode(take(asked["of"], given[0]))}
    does: dict[str, Callable[[], Any]] = {
        "len": lambda: len(own),
        "item": lambda: own[given[0]],
        "has": lambda: given[0] in own,
        "text": lambda: str(own),
        "show": lambda: repr(own),
        "is_true": lambda: bool(own),
        "same": lambda: bool(own == given[0]),
        "less": lambda: bool(own < given[0]),
    }
    return {"value": encode(does[kind]())}


def take(number: int, most: int) -> list[Any]:
    """The next items of an iterator, up to some; none where it has ended."""
    if number in late:
        raise late.pop(number)
    items: list[Any] = []
    try:
        while len(items) < most:
            items.append(next(objects[number]))
    except StopIteration:
        return items
    except Exception as error:
        if not items:
            raise
        late[number] = error
    return items


def load(program: str) -> dict[str, Any]:
    """Run a program as a module, and return its names."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    exec(compile(program, "program.py", "exec"), vars(module))
    return vars(module)


def serve_all() -> None:
    """Load the program and serve the tests until they end."""
    asked_by, told_to = os.fdopen(job["reads"], "r"), os.fdopen(job["writes"], "w")

    def tell(said: dict[str, Any]) -> None:
        told_to.write(json.dumps(said) + "\n")
        told_to.flush()

    try:
        names = load(job["program"])
        known = {name: encode(one) for name, one in list(names.items()) if not name.startswith("__")}
    except BaseException as error:
        tell({"failed": describe(error)})
        return
    tell({"names": known})
    for line in asked_by:
        try:
            said = serve(json.loads(line), names)
        except BaseException as error:
            said = {"error": describe(error)}
        tell(said)


def run_script() -> None:
    """Run the program as a script that reads the given text."""
    with open("/box/given" if job["has_root"] else "given", "w+") as file:
        file.write(job["given"])
    os.dup2(os.open("/box/given" if job["has_root"] else "given", os.O_RDONLY), 0)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.stdin = os.fdopen(0, "r")
    try:
        exec(compile(job["program"], "program.py", "exec"), vars(module))
    except SystemExit:
        raise
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {str(error)[:300]}\n".encode())
        sys.stdout.flush()
        os._exit(1)
    sys.stdout.flush()


if __name__ == "__jailed__":
    run_script() if job["as_script"] else serve_all()
