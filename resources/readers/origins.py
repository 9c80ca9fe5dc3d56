"""Licence and source of each row of a file of seeds, as columns or the experiment's file state them."""

from collections.abc import Sequence
from dataclasses import dataclass

from lance_assets.licence_names import is_allowed
from resources.readers.mistakes import Mistakes, show_value
from resources.readers.row_files import Row
from resources.readers.row_kinds import Origins


@dataclass(frozen=True)
class Origin:
    """What is known of one row."""

    license: str | None
    """As it is written."""
    source: str | None
    """As it is written."""

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known."""
        return self.license is None and self.source is None

    def list_licenses(self) -> list[str]:
        """The licence, where it is known."""
        return [] if self.license is None else [self.license]

    def list_sources(self) -> list[str]:
        """The source, where it is known."""
        return [] if self.source is None else [self.source]

    def is_allowed(self, origins: Origins) -> bool:
        """Whether the row may be used."""
        return origins.allowed is None or is_allowed(self.list_licenses(), origins.allowed, takes_unknown=False)


def take_origins(rows: Sequence[Row], origins: Origins, mistakes: Mistakes) -> list[Origin]:
    """Licence and source of each row; a row whose column says nothing has what is said of all.

    Args:
        rows: of the file.
        origins: what the experiment says.
        mistakes: takes rows whose value is no text, and a column that no row has.
    """
    found = [Origin(origins.license, origins.source)] * len(rows)
    for part, column in (("license", origins.license_field), ("source", origins.source_field)):
        if column is None:
            continue
        if rows and not any(column in row.values for row in rows):
            has = sorted({name for row in rows for name in row.values})
            mistakes.add(
                rows[0].file, rows[0].place, f"column {column!r} is missing, found {has}; set seeds.{part}_field to one"
            )
            continue
        for place, row in enumerate(rows):
            value = row.values.get(column)
            if value is None or value != value or value == "":
                continue
            if not isinstance(value, str):
                mistakes.add(row.file, row.place, f"field {column!r} must be a text or null, got {show_value(value)}")
                continue
            own = {"license": found[place].license, "source": found[place].source} | {part: value.strip()}
            found[place] = Origin(**own)
    return found
