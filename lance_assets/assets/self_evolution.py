"""self_evolution: all rounds of an experiment in one place, and its study against controls where one was run."""

import hashlib

import dagster as dg
import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.algorithms.measures.progress import START_ROUND, format_round
from lance_assets.assets.building import USER_ERRORS, explain_error
from lance_assets.assets.names import find_key
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.assets.showing import show_figure
from lance_assets.pictures.study import draw_study, say_rounds, tabulate_study
from lance_assets.records import STUDY_ROWS
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.report import SUMMARY
from lance_assets.rounds.study import METHOD, STUDIES, is_finished, read_round, read_study


def read_own_rounds(plan: Plan, platform: Platform) -> pl.DataFrame:
    """The experiment's own finished rounds as the rows of a study with one seed and one arm, its recipe."""
    rows, number = [], 0
    while is_finished(plan, platform.root, key := format_round(number)):
        rows += [read_round(plan, platform.root, BACKBONE, key)] if key == START_ROUND else []
        rows.append(read_round(plan, platform.root, plan.settings.recipe, key))
        number += 1
    return pl.DataFrame(rows, schema=STUDY_ROWS)


def describe_self_evolution(plan: Plan, platform: Platform) -> dg.MaterializeResult:
    """Tables and pictures of the experiment's own rounds and of its study.

    Raises:
        ValueError: r0000 is not finished, or the experiment is not evaluated on a world.
    """
    if (world := plan.world) is None:
        raise ValueError(f"{plan.name} is not evaluated on a world, so there are no strata to show")
    own = read_own_rounds(plan, platform)
    if own.is_empty():
        raise ValueError(f"{plan.name} has no finished {START_ROUND}; materialize it first")
    metadata: dict[str, dg.MetadataValue | int | str] = {
        SUMMARY: say_rounds(own, method=plan.settings.recipe),
        "num_rounds": own.filter(pl.col("arm") != BACKBONE).height,
        "rounds": dg.MetadataValue.md(tabulate_study(own, world, method=plan.settings.recipe)),
        "over_rounds": show_figure(draw_study(own, world)),
    }
    folder = platform.root / STUDIES / plan.name
    study = read_study(plan, folder) if folder.is_dir() else own.clear()
    if METHOD in study["arm"]:
        metadata |= {
            "num_study_seeds": study["rng_seed"].n_unique(),
            "study": dg.MetadataValue.md(tabulate_study(study, world, method=METHOD)),
            "study_over_rounds": show_figure(draw_study(study, world)),
        }
    elif plan.settings.recipe == METHOD:
        metadata["study"] = dg.MetadataValue.md("*none yet: `python -m benchmarks.self_evolution` runs one*")
    # Seconds differ from run to run, and would make equal results look new.
    measured = pl.concat([own, study]).drop("seconds")
    version = hashlib.sha256(measured.write_json().encode()).hexdigest()
    return dg.MaterializeResult(data_version=dg.DataVersion(version), metadata=metadata)


def define_overview(plan: Plan) -> dg.Definitions:
    """The asset over all rounds of an experiment, where it is evaluated on a world."""
    return dg.Definitions(assets=[build_self_evolution(plan)] if plan.settings.evaluation.world else [])


def build_self_evolution(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment; it has no partitions, since it looks at all of them."""
    condition = dg.AutomationCondition

    @dg.asset(
        key=find_key(plan, "self_evolution"),
        deps=[dg.AssetDep(find_key(plan, "eval_report"), partition_mapping=dg.AllPartitionMapping())],
        group_name=plan.name,
        owners=plan.settings.owners,
        kinds={"polars"},
        tags={"recipe": plan.settings.recipe},
        # Where no round has finished there is nothing to show, so the first eval_report is waited for.
        automation_condition=condition.any_deps_updated()
        | (condition.missing() & condition.any_deps_match(~condition.missing())).newly_true(),
    )
    def self_evolution(platform: PlatformResource) -> dg.MaterializeResult:
        """Accuracy by round and stratum over all rounds, and every arm of the study where one was run."""
        try:
            return describe_self_evolution(plan, platform)
        except USER_ERRORS as error:
            text = f"{plan.name} self_evolution: {explain_error(error, platform.root)}"
            raise dg.Failure(description=text, allow_retries=False) from error

    return self_evolution
