"""The asset `leaderboard` over all experiments, and the sensor that makes the overviews again when they are old."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import dagster as dg

from lance_assets.assets.building import USER_ERRORS, explain_error
from lance_assets.assets.names import REFRESH_SENSOR, find_key
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.assets.showing import show_figure
from lance_assets.assets.tables import show_schema
from lance_assets.pictures.leaderboard import (
    draw_leaderboard,
    list_left_out,
    say_best,
    tabulate_all_rounds,
    tabulate_experiments,
    tabulate_seconds,
)
from lance_assets.records import LEADERBOARD
from lance_assets.rounds.finished.leaderboard import read_leaderboard
from lance_assets.rounds.identity.parts import identify_headline
from lance_assets.rounds.nouns import compute_fingerprint
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.report import SUMMARY
from resources.stores.files import write_file_atomically
from resources.stores.tables import encode_table

LEADERBOARD_KEY = dg.AssetKey(["leaderboard"])


def describe_leaderboard(
    plans: Sequence[Plan], platform: Platform, *, left_out: Mapping[str, str]
) -> dg.MaterializeResult:
    """Store the table, and show it: the experiments, all rounds, the seconds of every step, and what is left out.

    Raises:
        DiskFullError: the disk is full.
    """
    rows, unread = read_leaderboard(plans, platform)
    missing = {**left_out, **unread}
    path = platform.root / "leaderboard.parquet"
    write_file_atomically(path, encode_table(rows))
    measured = rows.drop("seconds", "seconds_by_noun", "price")
    version = hashlib.sha256(encode_table(measured) + json.dumps(missing).encode()).hexdigest()
    metadata: dict[str, dg.MetadataValue | int | str] = {
        SUMMARY: say_best(rows),
        "dagster/row_count": len(rows),
        "num_experiments": rows["experiment"].n_unique(),
        "experiments": dg.MetadataValue.md(tabulate_experiments(rows)),
        "left_out": dg.MetadataValue.md(list_left_out(missing)),
        "dagster/uri": path.as_uri(),
        "path": dg.MetadataValue.path(path),
    }
    if len(rows):
        metadata |= {
            "rounds": dg.MetadataValue.md(tabulate_all_rounds(rows)),
            "seconds": dg.MetadataValue.md(tabulate_seconds(rows)),
            "over_rounds": show_figure(draw_leaderboard(rows)),
        }
    return dg.MaterializeResult(data_version=dg.DataVersion(version), metadata=metadata)


def build_leaderboard(plans: Sequence[Plan], left_out: Mapping[str, str] | None = None) -> dg.AssetsDefinition:
    """The asset over all experiments.

    Made again whenever an eval_report is new, or an experiment or its evaluation is another, by `build_refresh_sensor`.

    Args:
        plans: every experiment that could be loaded.
        left_out: what is wrong with each of the others, by name.
    """
    broken = dict(left_out or {})
    identity = [
        (plan.name, plan.settings.recipe, compute_fingerprint(plan, "eval_report"), identify_headline(plan))
        for plan in plans
    ]
    condition = dg.AutomationCondition

    @dg.asset(
        key=LEADERBOARD_KEY,
        deps=[dg.AssetDep(find_key(plan, "eval_report"), partition_mapping=dg.AllPartitionMapping()) for plan in plans],
        group_name="leaderboard",
        owners=sorted({owner for plan in plans for owner in plan.settings.owners}),
        kinds={"parquet"},
        metadata={"dagster/column_schema": show_schema(LEADERBOARD)},
        code_version=hashlib.sha256(json.dumps([identity, broken], sort_keys=True).encode()).hexdigest()[:16],
        # also while it is being made: a round that ends meanwhile may not be in it
        automation_condition=condition.newly_missing()
        | condition.any_deps_updated()
        | condition.code_version_changed(),
    )
    def leaderboard(platform: PlatformResource) -> dg.MaterializeResult:
        """Every round of every experiment, the best first: scores with 95% intervals, what they trained on and took."""
        try:
            return describe_leaderboard(plans, platform, left_out=broken)
        except USER_ERRORS as error:
            reason = f"leaderboard: {explain_error(error, platform.root)}"
            raise dg.Failure(description=reason, allow_retries=False) from error

    return leaderboard


def build_refresh_sensor(plans: Sequence[Plan]) -> dg.AutomationConditionSensorDefinition:
    """Makes what shows all rounds again when it is old; running by default, since it takes seconds and no model.

    Args:
        plans: every experiment.
    """
    overviews = [find_key(plan, "self_evolution") for plan in plans if plan.settings.evaluation.world]
    return dg.AutomationConditionSensorDefinition(
        REFRESH_SENSOR,
        target=dg.AssetSelection.assets(LEADERBOARD_KEY, *overviews),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Makes the leaderboard and each self_evolution again when an eval_report is new, and the "
        "leaderboard when an experiment is another.",
    )
