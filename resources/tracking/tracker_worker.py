"""The process that writes one round to one tracker: `python -m resources.tracking.tracker_worker JOB.json PLACE.txt`.

It ends with code 0 once the round is written; where it can be seen is then in the second file.
"""

import sys
from pathlib import Path
from typing import cast

from lance_assets.dotted_names import find_dotted
from resources.tracking.contract import TRACKERS, TrackingJob, WriteRun


def main(job_file: str, place_file: str) -> None:
    """Write a round.

    Args:
        job_file: a `TrackingJob` as JSON.
        place_file: takes where the round can be seen.
    """
    job = TrackingJob.model_validate_json(Path(job_file).read_text(encoding="utf-8"))
    write_run = cast(WriteRun, find_dotted(TRACKERS[job.tracker][0] if job.tracker in TRACKERS else job.tracker))
    Path(place_file).write_text(write_run(job), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
