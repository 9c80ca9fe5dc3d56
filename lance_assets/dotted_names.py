"""Find what a name such as `package.module:NAME` in an experiment's file means."""

import importlib
import re
import traceback

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

IMPORT_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError),
)
"""What a person's module may raise while Python imports it; their message then says where the mistake is."""


def is_dotted_name(name: str) -> bool:
    """Whether a name has the form `package.module:NAME`.

    >>> is_dotted_name("my_package.tasks:WORLD"), is_dotted_name("Qwen/Qwen2-7B"), is_dotted_name("tasks.py:WORLD")
    (True, False, True)
    """
    return _DOTTED.fullmatch(name) is not None


def find_dotted(name: str) -> object:
    """Import the module of `package.module:NAME` and return the object.

    Args:
        name: see `is_dotted_name`.

    Raises:
        ValueError: the name has another form, the module cannot be imported, or it has no such object.
    """
    if not is_dotted_name(name):
        raise ValueError(f"{name!r} is not a dotted name; write package.module:NAME")
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except IMPORT_ERRORS as error:
        raise ValueError(
            f"{name!r}: the module {module_name} cannot be imported: {describe_import_error(error)}; "
            "install its package, or correct the name"
        ) from None
    if not hasattr(module, attribute):
        raise ValueError(f"{name!r}: the module {module_name} has no {attribute}; correct the name after the colon")
    found: object = getattr(module, attribute)
    return found


def describe_import_error(error: BaseException) -> str:
    """The error's type and text, with the file and line that raised it."""
    where = "" if isinstance(error, SyntaxError | ModuleNotFoundError) else _find_place(error)
    return f"{type(error).__name__}: {error}{where}"


def _find_place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
