"""Run rounds of an experiment in order through Dagster, one run a round.

The runs are kept in the instance of DAGSTER_HOME, where the UI shows them. Rounds that are already finished are kept,
and the loop ends where the experiment's stop rules end it.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from lance_assets.algorithms.measures.progress import parse_round
from lance_assets.assets.location import run_as_launched
from lance_assets.assets.past.lineage import observe_sources
from lance_assets.assets.past.redo import list_from
from lance_assets.assets.platform import build_platform, find_key, name_rounds
from lance_assets.assets.sensors import decide, explain_obstacle, find_finished_rounds
from lance_assets.assets.settings import build_run_config
from lance_assets.home import find_home
from lance_assets.rounds.finished.summary import describe_rounds
from lance_assets.rounds.identity.kept import NoIdentityError, read_identity
from lance_assets.rounds.nouns import NOUNS, explain_round_identity, list_inputs
from lance_assets.rounds.overrides import Launch
from lance_assets.rounds.past.gate import list_before, list_failures, read_failures
from lance_assets.rounds.past.handover import find_handover
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.overrides import apply_overrides

INSTANCE_FILE = Path(__file__).with_name("dagster.yaml")
"""The settings of an instance that this module creates."""


JOB_MODULE = "lance_assets.assets.loading"
"""The module whose `build_round_job` the process of each step calls to build the job again."""


class FailedRoundError(RuntimeError):
    """A round's run did not succeed; the log and the UI say why."""


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The instance of DAGSTER_HOME; where that is not set, the one in `dagster` of LANCE_HOME, created if need be."""
    if not os.environ.get("DAGSTER_HOME"):
        folder = find_home() / "dagster"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / INSTANCE_FILE.name).exists():
            shutil.copy(INSTANCE_FILE, folder)
        # the process of each step reads it too
        os.environ["DAGSTER_HOME"] = str(folder)
    with dg.DagsterInstance.get() as instance:
        yield instance


def is_trained(plan: Plan, platform: Platform, key: str) -> bool:
    """Whether a round only lacks its evaluation: everything before is there, as it would be made now.

    Each table has the identity of now and is no older than what it was made from, the round takes over the same, and no
    blocking check has failed.
    """
    this_round, evaluation = Round(plan, platform, key, lambda _: None), NOUNS["eval_report"]
    before = list_before(plan, evaluation)
    if any(not platform.tables.exists(plan.name, key, noun.name) for noun in before):
        return False
    made = {noun.name: platform.tables.path(plan.name, key, noun.name).stat().st_mtime_ns for noun in before}
    for noun in before:
        if any(made[name] > made[noun.name] for name in list_inputs(plan, noun) if name in made):
            return False
        try:
            kept = read_identity(platform.tables, plan.name, key, noun.name)
        except NoIdentityError:
            return False
        now = explain_round_identity(this_round.plan, noun.name, key)
        if kept != json.loads(json.dumps(now, default=str)):
            return False
    if not this_round.is_start:
        started = this_round.read("start_checkpoint")["handover_hash"][0]
        if find_handover(this_round).version != started:
            return False
    judge = lambda noun, check: noun.judge(check, this_round)  # noqa: E731
    return not list_failures(this_round.plan, platform, key, evaluation, judge)


def run_round(
    instance: dg.DagsterInstance,
    plan: Plan,
    key: str,
    launch: Launch | None = None,
    *,
    selection: frozenset[dg.AssetKey] | None = None,
) -> bool:
    """Materialize one round, or the assets of a selection, with what a launch sets for it; whether it succeeded."""
    instance.add_dynamic_partitions(name_rounds(plan), [key])
    # The versions of files are known before a step notes them, also where no daemon watches the files.
    observe_sources(instance, plan)
    # Each step runs in a process of its own, which cannot be sent a job and builds it again by this name.
    job = dg.build_reconstructable_job(JOB_MODULE, "build_round_job", (plan.name,))
    op = find_key(plan, "start_checkpoint").to_python_identifier()
    run_config = None if launch is None else build_run_config(op, launch)
    return run_as_launched(job, instance, tags={"dagster/partition": key}, run_config=run_config, selection=selection)


def run_rounds(
    plan: Plan,
    definitions: dg.Definitions,
    *,
    num_rounds: int,
    say: Callable[[str], None],
    redo_from: str | None = None,
    launch: Launch | None = None,
) -> None:
    """Run the rounds that are missing, in order, then materialize the overviews and say what was found.

    Args:
        plan: the experiment.
        definitions: those of every experiment, as the module of `JOB_MODULE` builds them.
        num_rounds: rounds after r0000 that are finished at the end, unless a stop rule ends the loop before.
        say: takes each line that a person reads.
        redo_from: a round that is made again first, and after it each later one that there is.
        launch: what the first of these rounds is to have otherwise than the experiment's file.

    Raises:
        FailedRoundError: the run of a round failed.
        ValueError: there is no round to redo, a round is missing that cannot be made as things are, the launch sets
            what cannot be set, or there is no round to set it for.
    """
    apply_overrides(plan.settings, launch.values if launch else {})
    platform = build_platform()
    with open_instance() as instance:
        started, waiting = time.monotonic(), launch if launch != Launch() else None
        for key in list_from(instance, plan, platform, redo_from) if redo_from is not None else []:
            say(f"== {plan.name} {key} again")
            # A launch is for one round: the next one begins with the file's settings, and with what is kept.
            now, waiting = waiting, None
            run_or_fail(instance, plan, platform, key, now)
        while True:
            # What is finished is asked before each round, so that a command that was killed goes on where it was.
            decision = decide(instance, plan, platform)
            following = decision.next_round
            if following is None or parse_round(following) > num_rounds:
                break
            if obstacle := explain_obstacle(instance, plan, platform, following):
                raise ValueError(f"{plan.name}: {obstacle}")
            say(f"== {plan.name} {following}: {decision.reason}")
            now, waiting = waiting, None
            selection = None
            if now is None and is_trained(plan, platform, following):
                say(f"{following} is trained already, by the settings of now: only its evaluation is made")
                selection = frozenset({find_key(plan, "eval_report")})
            run_or_fail(instance, plan, platform, following, now, selection=selection)
        if waiting is not None:
            raise ValueError(
                f"{plan.name} has no round to begin with {', '.join(waiting.values) or 'other settings'}: "
                f"{decision.reason}; ask for more --rounds than {num_rounds}"
            )
        finished = find_finished_rounds(instance, plan, platform)
        show_all_rounds(instance, plan, definitions)
        say(describe_rounds(plan, platform, finished))
        say(f"{len(finished)} rounds are finished after {time.monotonic() - started:.0f} s; loop: {decision.reason}")


def run_or_fail(
    instance: dg.DagsterInstance,
    plan: Plan,
    platform: Platform,
    key: str,
    launch: Launch | None = None,
    *,
    selection: frozenset[dg.AssetKey] | None = None,
) -> None:
    """Materialize one round, or the assets of a selection, with what a launch sets for it.

    Raises:
        FailedRoundError: its run failed; blocking checks that stopped it are named, with their reasons.
    """
    if not run_round(instance, plan, key, launch, selection=selection):
        stopped = "".join(f"\n{failure}" for failure in read_failures(plan, platform, key))
        raise FailedRoundError(
            f"{plan.name} {key} failed; the log above and the UI say where. Correct it and run the "
            f"command again: finished rounds are kept{stopped}"
        )


def show_all_rounds(instance: dg.DagsterInstance, plan: Plan, definitions: dg.Definitions) -> None:
    """Materialize the assets over all rounds: the leaderboard and, where the experiment has one, self_evolution."""
    overviews = {find_key(plan, "self_evolution"), dg.AssetKey(["leaderboard"])}
    there = overviews & set(definitions.resolve_all_asset_keys())
    # They hold no model, so a process of their own would only cost seconds.
    job = definitions.resolve_implicit_global_asset_job_def().with_executor_def(dg.in_process_executor)
    # The rounds are finished in any case; the UI shows why an overview failed.
    run_as_launched(job, instance, tags={}, selection=frozenset(there))
