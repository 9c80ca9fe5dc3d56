"""export: the round's training sets as files for other tools, in the folder that the experiment names.

It exists where the experiment's file has a section `export`. The table holds a row for each file with its hash, so that
a file that is gone or was changed is noticed; the files are what `lance export` writes.
"""

import hashlib
from pathlib import Path

import polars as pl

from lance_assets.records import EXPORT
from lance_assets.rounds.finished.export import export_data
from lance_assets.rounds.report import Judged, Made, Report, Rows
from lance_assets.rounds.round import Round
from lance_assets.settings.outward import ExportSettings
from resources.stores.files import write_file_atomically

CARD = "README.md"
"""The file of a card."""


def read_settings(this_round: Round) -> ExportSettings:
    """The section of the experiment's file."""
    settings = this_round.plan.settings.export
    assert settings is not None, "the noun exists where there is one"
    return settings


def find_folder(this_round: Round) -> Path:
    """Where the round's files lie."""
    base = this_round.plan.folder / Path(read_settings(this_round).to).expanduser()
    return base.resolve() / this_round.plan.name / this_round.key


def make_export(this_round: Round) -> Made:
    """Write the round's training sets and their card; nothing where the round has no row to export.

    Raises:
        ValueError: the folder holds something else.
        OSError: the folder cannot be written.
    """
    settings, folder = read_settings(this_round), find_folder(this_round)
    files = export_data(
        this_round.experiment,
        this_round.platform,
        this_round.key,
        sources=settings.sources,
        formats=settings.formats,
        licence=settings.license,
        allows_nothing=True,
    )
    place_files(folder, files)
    rows = [(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in sorted(files.items())]
    return Made(pl.DataFrame(rows, schema=EXPORT, orient="row"))


def place_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder, the card last; those of an earlier export that are not among them are removed.

    Raises:
        ValueError: the folder holds what no export wrote; nothing of it is touched.
    """
    earlier = {f"{name}.{ending}" for name in ("sft", "preference_pairs") for ending in ("parquet", "jsonl")}
    earlier |= {CARD, "other_formats/sft_sharegpt.json", "other_formats/sft_alpaca.json"}
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    if others := sorted(found.keys() - earlier):
        raise ValueError(
            f"{folder} holds {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}, which no export wrote; "
            "move it away, or set export.to to another folder"
        )
    for name in found.keys() - files.keys():
        found[name].unlink()
    for name, content in sorted(files.items(), key=lambda file: file[0] == CARD):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_file_atomically(folder / name, content)


def report_export(this_round: Round) -> Report:
    """The folder and its files."""
    table = this_round.read("export")
    facts: Report = {"path": find_folder(this_round), "num_files": len(table), "files": Rows(table, table.columns, 8)}
    return facts if len(table) else facts | {"nothing": f"{this_round.key} has no row to export"}


def export_is_whole(this_round: Round) -> Judged:
    """Whether every file of the export is there and holds what was written."""
    folder, table = find_folder(this_round), this_round.read("export")
    broken = []
    for name, _, sha256 in table.iter_rows():
        file = folder / name
        if not file.is_file():
            broken.append(f"{name} is gone")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            broken.append(f"{name} was changed")
    again = f"; materialize export of {this_round.key} again" if broken else ""
    return Judged(
        passed=not broken,
        is_error=False,
        description=f"{folder}: {'; '.join(broken)}{again}" if broken else None,
        facts={"num_files": len(table), "num_broken": len(broken)},
    )
