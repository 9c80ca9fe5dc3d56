"""What is wrong with a person's file, said once for all of its rows: file, place, column, value and remedy."""

from dataclasses import dataclass, field

MOST_SHOWN = 5
"""Rows of a file that an error shows; the others are counted."""
MOST_FILES = 3
"""Files that an error shows; the others are counted."""


class SeedFileError(ValueError):
    """A file of seeds, texts or prompts that cannot be used as it is."""


class RowError(ValueError):
    """What is wrong with one row: column, value and remedy."""


def refuse_file(file: object, what: str) -> SeedFileError:
    """An error about a file as a whole."""
    return SeedFileError(f"{file}: {what}")


def show_value(value: object) -> str:
    """A value as an error shows it, at most 80 characters."""
    text = repr(value if not isinstance(value, str) else value[:200])
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True)
class Mistakes:
    """The rows that cannot be used, so that a person can mend all of them before the next try."""

    by_file: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Place and what is wrong there, by file."""

    def add(self, file: object, place: str, what: str) -> None:
        """Note a row by its place, such as `line 17`; reading goes on."""
        self.by_file.setdefault(str(file), []).append((place, what))

    def check(self) -> None:
        """Raise what was noted.

        Raises:
            SeedFileError: a row was noted.
        """
        if not self.by_file:
            return
        told = [_describe(file, rows) for file, rows in list(self.by_file.items())[:MOST_FILES]]
        if len(self.by_file) > MOST_FILES:
            told.append(f"and rows of {len(self.by_file) - MOST_FILES} more files")
        raise SeedFileError("\n".join(told))


def _describe(file: str, rows: list[tuple[str, str]]) -> str:
    if len(rows) == 1:
        place, what = rows[0]
        return f"{file}: {place}: {what}"
    rows = sorted(rows, key=lambda row: int(row[0].rpartition(" ")[2]))
    lines = [f"  {place}: {what}" for place, what in rows[:MOST_SHOWN]]
    if len(rows) > MOST_SHOWN:
        lines.append(f"  and {len(rows) - MOST_SHOWN} more, the last in {rows[-1][0]}")
    return "\n".join([f"{file}: {len(rows)} rows cannot be used:", *lines])
