"""Gives the data of an experiment that was renamed its new name, so that its rounds go on where they were."""

from lance_assets.rounds.platform import Platform
from resources.stores.files import EXPERIMENT_FOLDERS, validate_name


def rename_data(platform: Platform, old: str, new: str) -> list[str]:
    """Move all data of an experiment to another name; what was moved.

    A move that was killed is finished by calling this again. Ids of rows stay as they are, and rounds that are made
    from now on draw their samples under the new name.

    Args:
        platform: where the data is.
        old: the name that the data has.
        new: the name that the experiment has now.

    Raises:
        ValueError: there is no data of that name, or both names have some.
    """
    for name in (old, new):
        validate_name(name, what="experiment")
    # A label model is kept under a name of its own.
    names = {old: new, f"{old}_label": f"{new}_label"}
    moves = [(folder, one, names[one]) for folder in EXPERIMENT_FOLDERS for one in names]
    there = [move for move in moves if (platform.root / move[0] / move[1]).exists()]
    if not (platform.root / "tables" / old).is_dir():
        known = ", ".join(platform.tables.list_experiments()) or "none"
        raise ValueError(f"{platform.root} has no rounds of {old!r}; it has rounds of: {known}")
    if taken := [f"{folder}/{after}" for folder, _, after in there if (platform.root / folder / after).exists()]:
        raise ValueError(
            f"{platform.root} has data of {new!r} already ({', '.join(taken)}); move it away, or choose another name"
        )
    moved = _rename_history(platform, old, new)
    for folder, before, after in there:
        (platform.root / folder / before).rename(platform.root / folder / after)
        moved.append(f"{folder}/{before} -> {folder}/{after}")
    return moved


def _rename_history(platform: Platform, old: str, new: str) -> list[str]:
    """Copy the vectors of each round to the new name, then remove them under the old one."""
    moved = []
    for key in platform.tables.list_rounds(old):
        rows, vectors = platform.history.read_round(old, key)
        if rows.is_empty():
            continue
        (model_hash,) = rows["model_hash"].unique()
        texts = rows.select("row_id", "text")
        platform.history.replace_round(new, key, texts, vectors, model_hash=model_hash)
        platform.history.replace_round(old, key, texts.clear(), vectors[:0], model_hash=model_hash)
        moved.append(f"history of {key}: {len(rows)} texts")
    return moved
