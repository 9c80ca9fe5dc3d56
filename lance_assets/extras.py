"""Libraries that only some experiments need: found where they are installed, and named with the command where not."""

import importlib
from importlib.util import find_spec
from types import ModuleType

INSTALL = "pip install -c constraints.txt -e '.[{extra}]'"
"""The command that installs an optional extra, in the project's folder."""


def require_extra(module: str, *, extra: str, needed_by: str) -> None:
    """Check that an optional library is installed, without importing it.

    Args:
        module: the library's module.
        extra: the extra of this project that brings it.
        needed_by: which setting needs it, for the message.

    Raises:
        ValueError: it is not; the message has the command that installs it.
    """
    if find_spec(module) is None:
        raise ValueError(
            f"{needed_by} needs the library {module}, which is not installed; run {INSTALL.format(extra=extra)}, or "
            "remove the setting"
        )


def import_extra(module: str, *, extra: str, needed_by: str) -> ModuleType:
    """An optional library, imported when it is first needed.

    Raises:
        ValueError: it is not installed.
    """
    require_extra(module.partition(".")[0], extra=extra, needed_by=needed_by)
    return importlib.import_module(module)
