"""Rounds in trackio: a SQLite file on this machine, or a Space of the hub."""

import os

from resources.tracking.contract import TrackingJob


def write_run(job: TrackingJob) -> str:
    """As `contract.WriteRun`."""
    # trackio reads it when it is imported.
    os.environ["TRACKIO_DIR"] = str(job.folder)
    if not job.is_online:
        for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            os.environ.pop(name, None)
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    tracked = job.round
    # Neither has trackio a transaction over a run, nor a public name for this.
    SQLiteStorage.delete_run(job.project, tracked.run_name)
    is_url = job.server is not None and job.server.startswith(("http://", "https://"))
    trackio.init(
        project=job.project,
        name=tracked.run_name,
        group=tracked.experiment,
        config=dict(tracked.config),
        server_url=job.server if is_url else None,
        space_id=None if is_url else job.server,
        embed=False,
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    steps = tracked.list_steps()
    for number, step in enumerate(steps, start=1):
        trackio.log(step, step=number)
    trackio.log(dict(tracked.values), step=len(steps) + 1)
    trackio.finish()
    return job.server or f"{job.folder}: TRACKIO_DIR={job.folder} trackio show --project {job.project}"
