"""Rounds in Weights & Biases: a folder that `wandb sync` sends later, or its server at once."""

import os
import shutil

from resources.tracking.contract import TrackingJob


def write_run(job: TrackingJob) -> str:
    """As `contract.WriteRun`."""
    os.environ |= {"WANDB_SILENT": "true", "WANDB_DIR": str(job.folder), "WANDB_ERROR_REPORTING": "false"}
    import wandb

    tracked = job.round
    run_id = tracked.run_name
    # An offline run is a folder, and one that was broken off is half of it.
    for left in (job.folder / "wandb").glob(f"offline-run-*-{run_id}"):
        shutil.rmtree(left)
    # The numbers of the round are all that is written: no terminal, no code, and nothing of the machine.
    settings = {"console": "off", "disable_code": True, "disable_git": True, "x_save_requirements": False}
    settings |= {"x_disable_stats": True, "x_disable_meta": True} | ({"base_url": job.server} if job.server else {})
    run = wandb.init(
        project=job.project,
        id=run_id,
        name=run_id,
        group=tracked.experiment,
        config=dict(tracked.config),
        dir=job.folder,
        mode="online" if job.is_online else "offline",
        # What an earlier try sent stays: the server takes a step once, and ignores it the second time.
        resume="allow" if job.is_online else None,
        settings=wandb.Settings(**settings),
    )
    steps = tracked.list_steps()
    for number, step in enumerate(steps, start=1):
        run.log(step, step=number)
    run.log(dict(tracked.values), step=len(steps) + 1)
    run.finish()
    if job.is_online:
        return str(run.url)
    return f"{job.folder / 'wandb'}: wandb sync {job.folder / 'wandb'}/offline-run-*-{run_id}"
