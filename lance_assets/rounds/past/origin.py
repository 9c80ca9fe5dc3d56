"""Which start checkpoint the rows to train on were asked of: `origins/<experiment>/<round>/<noun>.json`.

A start checkpoint can be made anew under rows that the one before it had written. Training on them would teach the new
weights what a model that is gone has said, whether training begins with those weights or with the base model.
"""

import json
from pathlib import Path

from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from resources.stores.files import read_json_file, write_file_atomically


class GoneModelError(ValueError):
    """Rows were written by a start checkpoint that the round no longer has."""


def record_origin(plan: Plan, platform: Platform, key: str, noun: str, content_hash: str | None) -> None:
    """Keep which start checkpoint a noun's rows come from.

    Args:
        plan: the experiment.
        platform: where it is kept.
        key: the round.
        noun: what was made.
        content_hash: of the start checkpoint; None for a noun without rows, which comes from no model.
    """
    file = _find_file(plan, platform, key, noun)
    if content_hash is None:
        file.unlink(missing_ok=True)
    else:
        write_file_atomically(file, json.dumps({"start_checkpoint": content_hash}).encode())


def require_origin(plan: Plan, platform: Platform, key: str, content_hash: str) -> None:
    """Check that all rows of a round come from its start checkpoint; those of an older version have no origin and pass.

    Args:
        plan: the experiment.
        platform: where origins are kept.
        key: the round.
        content_hash: of the start checkpoint that the round has now.

    Raises:
        GoneModelError: some come from another one.
        DamagedFileError: what is kept of a noun's origin cannot be read.
    """
    for file in sorted(_find_file(plan, platform, key, "any").parent.glob("*.json")):
        again = f"materialize {plan.name}/{file.stem} for {key} again"
        origin = read_json_file(file, remedy=again)["start_checkpoint"]
        if origin != content_hash:
            raise GoneModelError(
                f"{file.stem} of {plan.name} {key} was asked of a start checkpoint that is gone ({origin[:12]}, now "
                f"{content_hash[:12]}); materialize {file.stem} and all after it again, or redo the round and all "
                f"after it: lance run {plan.name} --redo-from {key}"
            )


def _find_file(plan: Plan, platform: Platform, key: str, noun: str) -> Path:
    return platform.root / "origins" / plan.name / key / f"{noun}.json"
