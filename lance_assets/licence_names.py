"""How names of licences are compared, and whether those of a row are allowed."""

from collections.abc import Iterable, Sequence


def write_licence(name: str) -> str:
    """A licence's name as it is compared: in small letters, blanks as hyphens.

    >>> write_licence(" Apache 2.0 ")
    'apache-2.0'
    """
    return "-".join(name.lower().split())


def is_allowed(licences: Iterable[str], allowed: Sequence[str], *, takes_unknown: bool) -> bool:
    """Whether every licence of a row is an allowed one; a row without any is one of unknown licence.

    >>> is_allowed(["mit", "cc-by-4.0"], ["mit"], takes_unknown=False), is_allowed([], ["mit"], takes_unknown=True)
    (False, True)
    """
    written, mine = {write_licence(name) for name in allowed}, {write_licence(name) for name in licences}
    return mine <= written if mine else takes_unknown
