"""A finished round in numbers, and its way to the trackers that the experiment names.

Everything is read from the round's tables and costs, once its eval_report exists. So what is tracked is what was
stored, and a run that was killed and taken up again tracks nothing that another one has not finished.

That a round is tracked, and where, changes no result and is in no identity. A tracker that fails is named in the report
of eval_report, and the loop goes on.
"""

import math

import polars as pl

from lance_assets.rounds.asking import add_costs
from lance_assets.rounds.report import Report
from lance_assets.rounds.round import Round
from resources.tracking.contract import TrackedRound, TrackingJob
from resources.tracking.sending import TrackingError, send_round

_COUNTED = ("seed_set", "raw_generations", "cleaned_set", "reviewed_set", "sft_set", "preference_pairs")


def track_round(this_round: Round) -> Report:
    """Write a finished round to each tracker of the experiment, and say where it can be seen, or why it cannot."""
    tracking = this_round.plan.settings.tracking
    if not tracking.to:
        return {}
    tracked, facts = collect_round(this_round), {}
    for name in tracking.to:
        folder = this_round.platform.root / "tracking" / name.replace(":", ".")
        job = TrackingJob(
            tracker=name,
            project=tracking.project,
            folder=folder,
            server=tracking.server,
            is_online=tracking.online,
            round=tracked,
        )
        try:
            facts[f"tracked/{name}"] = send_round(job, timeout_seconds=tracking.timeout_seconds)
        except (TrackingError, OSError) as error:
            facts[f"tracked/{name}"] = f"warning: this round is not in {name}: {error}"
            this_round.log(f"warning: {this_round.plan.name} {this_round.key} is not in {name}: {error}")
    return dict(facts)


def collect_round(this_round: Round) -> TrackedRound:
    """Losses, scores, counts and costs of a finished round."""
    values = {"round": float(this_round.key.removeprefix("r"))}
    values |= collect_scores(this_round) | collect_counts(this_round) | collect_costs(this_round)
    return TrackedRound(
        experiment=this_round.plan.name,
        round_key=this_round.key,
        config=describe_config(this_round),
        series=collect_losses(this_round),
        values={name: value for name, value in values.items() if math.isfinite(value)},
    )


def describe_config(this_round: Round) -> dict[str, str | float | int | bool | None]:
    """What a person compares runs by: the method, the model's name and the settings of method and training."""
    settings = this_round.plan.settings
    found: dict[str, str | float | int | bool | None] = {
        "experiment": this_round.plan.name,
        "round": this_round.key,
        "recipe": settings.recipe,
        # Of a folder on this machine the name is enough, and its place is nobody's business.
        "model": settings.model.rstrip("/").rpartition("/")[2]
        if settings.model.startswith(("/", "~"))
        else settings.model,
        "rng_seed": settings.rng_seed,
    }
    training = settings.training.at_round(this_round.key)
    loss = settings.parameters.second_loss or "dpo"
    sections = {"parameters": settings.parameters, "sft": training.sft, loss: training.find_stage(loss)}
    for section, own in sections.items():
        for name, value in own.model_dump(mode="json").items():
            found[f"{section}.{name}"] = value if isinstance(value, str | int | float | bool | None) else str(value)
    return found


def collect_losses(this_round: Round) -> dict[str, list[float]]:
    """The loss of each optimizer step, by stage."""
    row = this_round.read("checkpoint").row(0, named=True)
    loss = this_round.plan.settings.parameters.second_loss or "dpo"
    losses = {"loss/sft": row["sft_losses"], f"loss/{loss}": row["dpo_losses"]}
    return {name: list(values) for name, values in losses.items() if values}


def collect_scores(this_round: Round) -> dict[str, float]:
    """Every score of the evaluation, and the measures of variety."""
    found = {}
    for row in this_round.read("eval_report").to_dicts():
        parts = [row["model"], row["benchmark"], row["task"], row["metric"]]
        name = "/".join(str(part) for part in parts if part not in ("checkpoint", "all"))
        found[f"score/{name}" + ("" if row["stratum"] is None else f"/{row['stratum']}")] = float(row["score"])
    if this_round.has("diversity_report", this_round.key):
        mine = this_round.read("diversity_report").filter(pl.col("round") == this_round.key).drop("round")
        for name, value in (mine.row(0, named=True) if len(mine) else {}).items():
            if value is not None:
                found[f"diversity/{name}"] = float(value)
    return found


def collect_counts(this_round: Round) -> dict[str, float]:
    """How many rows each table has, how many were dropped and why, and the mean review score."""
    tables = {name: this_round.read(name) for name in _COUNTED if this_round.has(name, this_round.key)}
    found = {f"count/{name}": float(len(table)) for name, table in tables.items()}
    for name in ("sft_set", "preference_pairs"):
        is_new = pl.col("source_round") == this_round.key
        found[f"count/new_{name}"] = float(tables[name].filter(is_new).height)
    reasons = tables["cleaned_set"]["drop_reason"]
    found["count/kept"] = float(reasons.null_count())
    for reason, number in reasons.drop_nulls().value_counts().iter_rows():
        found[f"dropped/{reason.replace(':', '/')}"] = float(number)
    scores = tables["reviewed_set"]["review_score"]
    if scores.count():
        found["review/mean_score"] = float(scores.drop_nulls().to_numpy().mean())
        found["review/unscored_rate"] = scores.null_count() / len(scores)
    row = this_round.read("checkpoint").row(0, named=True)
    return found | {"train/tokens": float(row["num_tokens"]), "train/truncated": float(row["num_truncated"])}


def collect_costs(this_round: Round) -> dict[str, float]:
    """What the round took, and the seconds of each noun; a price only where one is known."""
    costs = this_round.read_costs()
    total = add_costs(list(costs.values()))
    names = ("seconds", "engine_seconds", "num_samples", "prompt_tokens", "completion_tokens", "peak_host_gib")
    found = {f"cost/{name}": float(getattr(total, name)) for name in names}
    for name in ("peak_gpu_gib", "price"):
        if value := getattr(total, name):
            found[f"cost/{name}"] = float(value)
    return found | {f"cost/seconds/{noun}": cost.seconds for noun, cost in costs.items()}
