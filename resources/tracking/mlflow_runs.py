"""Rounds in MLflow: a SQLite file on this machine, or a tracking server."""

import os
import re
import time

from resources.tracking.contract import TrackingJob

RUN = "lance.run"
"""The tag that names a round's run."""
_UNNAMEABLE = re.compile(r"[^\w\-. /:]")
"""What MLflow takes in no name."""
MOST_METRICS = 1000
"""Metrics that MLflow takes at once."""
MOST_PARAMS = 100
"""Parameters that MLflow takes at once."""


def write_run(job: TrackingJob) -> str:
    """As `contract.WriteRun`."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["GIT_PYTHON_REFRESH"] = "quiet"
    from mlflow.entities import Metric, Param, ViewType
    from mlflow.tracking import MlflowClient

    tracked = job.round
    file = job.folder / "mlflow.db"
    client = MlflowClient(tracking_uri=job.server or f"sqlite:///{file}")
    found = client.get_experiment_by_name(job.project)
    artifacts = None if job.server else (job.folder / "artifacts").as_uri()
    experiment_id = found.experiment_id if found else client.create_experiment(job.project, artifact_location=artifacts)
    named = f"tags.`{RUN}` = '{tracked.run_name}'"
    for left in client.search_runs([experiment_id], named, run_view_type=ViewType.ACTIVE_ONLY):
        client.delete_run(left.info.run_id)
    tags = {RUN: tracked.run_name, "lance.experiment": tracked.experiment, "lance.round": tracked.round_key}
    run_id = client.create_run(experiment_id, run_name=tracked.run_name, tags=tags).info.run_id
    now, steps = int(time.time() * 1000), tracked.list_steps()
    metrics = [
        Metric(_UNNAMEABLE.sub("_", name), value, now, number)
        for number, step in enumerate([*steps, dict(tracked.values)], start=1)
        for name, value in step.items()
    ]
    params = [Param(name, str(value)[:6000]) for name, value in tracked.config.items()]
    for start in range(0, len(params), MOST_PARAMS):
        client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
    for start in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
    client.set_terminated(run_id)
    return job.server or f"{file}: mlflow ui --backend-store-uri sqlite:///{file}"
