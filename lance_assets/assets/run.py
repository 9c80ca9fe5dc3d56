"""Run rounds of an experiment in order through Dagster, one run a round.

The runs are kept in the instance of DAGSTER_HOME, where the UI shows them. Rounds that are already finished are kept,
and the loop ends where the experiment's stop rules end it.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from lance_assets.algorithms.measures.progress import format_round, parse_round
from lance_assets.assets.deploying.instance import open_prepared
from lance_assets.assets.location import ENDED_OUTSIDE, run_as_launched
from lance_assets.assets.names import find_key, name_rounds
from lance_assets.assets.past.lineage import observe_sources
from lance_assets.assets.past.redo import list_from
from lance_assets.assets.running.full_disk import explain_full_instance
from lance_assets.assets.running.lost import MAX_LOST, TAKE_UP_TAG, WAITS_TAG, end_lost_runs, explain_loss
from lance_assets.assets.running.platform import build_platform
from lance_assets.assets.sensors import decide, explain_obstacle, find_finished_rounds, find_runs, list_to_make
from lance_assets.assets.settings import build_run_config
from lance_assets.home import find_home
from lance_assets.rounds.deciding.asked import explain_waiting
from lance_assets.rounds.finished.summary import describe_rounds
from lance_assets.rounds.nouns import list_nouns
from lance_assets.rounds.overrides import Launch, choose_overrides, read_overrides
from lance_assets.rounds.past.gate import read_failures
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.overrides import apply_overrides
from resources.machine.claims import Claims
from resources.remote.lease import hold_lease
from resources.remote.weights import find_store

JOB_MODULE = "lance_assets.assets.loading"
"""The module whose `build_round_job` the process of each step calls to build the job again."""


POLL_SECONDS = 2.0
"""A round that waits for people is looked at this often."""
SAY_SECONDS = 600.0
"""And what it waits for is said again after so long."""


class FailedRoundError(RuntimeError):
    """A round's run did not succeed; the log and the UI say why."""


class InterruptedRoundError(FailedRoundError):
    """A round's run was ended by whoever runs it: by Ctrl-C, by a signal or in the UI."""


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The instance of DAGSTER_HOME; where that is not set, the one in `dagster` of LANCE_HOME, created if need be.

    Raises:
        DiskFullError: the disk that it lies on is full.
        ValueError: its records belong into PostgreSQL, and something for it is missing.
    """
    named = os.environ.get("DAGSTER_HOME")
    folder = Path(named) if named else find_home() / "dagster"
    with explain_full_instance(folder), open_prepared(folder, is_own=not named) as instance:
        yield instance


@contextmanager
def open_instance_of(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance that belongs to a folder such as LANCE_HOME; DAGSTER_HOME names that of LANCE_HOME alone.

    Raises:
        DiskFullError, ValueError: as `open_instance`.
    """
    if home == find_home():
        with open_instance() as instance:
            yield instance
        return
    with explain_full_instance(home / "dagster"), open_prepared(home / "dagster", is_own=True) as instance:
        yield instance


def begins_as_before(plan: Plan, platform: Platform, key: str, launch: Launch | None) -> bool:
    """Whether a round that was begun has the settings that a launch would give it now."""
    wanted = choose_overrides(plan, platform.tables, key, launch or Launch())
    return read_overrides(platform.tables, plan.name, key) == wanted


def run_round(
    instance: dg.DagsterInstance,
    plan: Plan,
    key: str,
    launch: Launch | None = None,
    *,
    claims: Claims,
    selection: frozenset[dg.AssetKey] | None = None,
    takes_up: bool = False,
) -> list[str]:
    """Materialize one round, or the assets of a selection, with what a launch sets for it; why each failed step did.

    Args:
        instance: where the run is kept.
        plan: the experiment.
        key: the round.
        launch: what it sets; None: what the file says, or what the round began with where that is not made again.
        claims: of what works on the data.
        selection: the assets that are made; None: all of them.
        takes_up: whether what becomes the same as it is may be taken as it is.

    Returns:
        Nothing where the run succeeded.

    Raises:
        ClaimedError: another process works on the round.
    """
    instance.add_dynamic_partitions(name_rounds(plan), [key])
    # The versions of files are known before a step notes them, also where no daemon watches the files.
    observe_sources(instance, plan)
    # Each step runs in a process of its own, which cannot be sent a job and builds it again by this name.
    job = dg.build_reconstructable_job(JOB_MODULE, "build_round_job", (plan.name,))
    op = find_key(plan, "start_checkpoint").to_python_identifier()
    run_config = None if launch is None else build_run_config(op, launch)
    tags = {"dagster/partition": key} | ({TAKE_UP_TAG: "lance run"} if takes_up else {})
    scopes = [f"{plan.name} {key}"]
    return run_as_launched(
        *(job, instance), tags=tags, claims=claims, scopes=scopes, run_config=run_config, selection=selection
    )


def run_rounds(
    plan: Plan,
    definitions: dg.Definitions,
    *,
    num_rounds: int,
    say: Callable[[str], None],
    redo_from: str | None = None,
    launch: Launch | None = None,
    waits: bool = True,
) -> None:
    """Run the rounds that are missing, in order, then materialize the overviews and say what was found.

    Args:
        plan: the experiment.
        definitions: those of every experiment, as the module of `JOB_MODULE` builds them.
        num_rounds: rounds after r0000 that are finished at the end, unless a stop rule ends the loop before.
        say: takes each line that a person reads.
        redo_from: a round that is made again first, and after it each later one that there is.
        launch: what the first of these rounds is to have otherwise than the experiment's file.
        waits: whether it stays where a round waits for people, and goes on once they have decided.

    Raises:
        ClaimedError: another process runs the experiment, or works on a round that is to be made, or another machine
            works on the experiment in the store.
        FailedRoundError: the run of a round failed.
        ValueError: there is no round to redo, a round is missing that cannot be made as things are, the launch sets
            what cannot be set, or there is no round to set it for.
    """
    apply_overrides(plan.settings, launch.values if launch else {})
    platform = build_platform()
    what = f"lance run {plan.name}, up to {format_round(num_rounds)}"
    with (
        open_instance() as instance,
        platform.claims.hold(f"command.{plan.name}", what=what, scopes=[plan.name]),
        hold_lease(find_store(), platform.root, plan.name, what=what),
    ):
        end_lost_runs(instance, platform.claims, say=say, own=[plan.name])
        started, waiting = time.monotonic(), launch if launch != Launch() else None
        for key in list_from(instance, plan, platform, redo_from) if redo_from is not None else []:
            say(f"== {plan.name} {key} again")
            # A launch is for one round: the next one begins with the file's settings, and with what is kept.
            now, waiting = waiting, None
            run_or_fail(instance, plan, platform, key, now)
            is_whole = WAITS_TAG not in find_runs(instance, plan, key)[0].tags
            if not is_whole and not go_on(instance, plan, platform, key, None, say=say, waits=waits):
                return
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
            if not go_on(instance, plan, platform, following, now, say=say, waits=waits):
                return
        if waiting is not None:
            raise ValueError(
                f"{plan.name} has no round to begin with {', '.join(waiting.values) or 'other settings'}: "
                f"{decision.reason}; ask for more --rounds than {num_rounds}"
            )
        finished = find_finished_rounds(instance, plan, platform)
        show_all_rounds(instance, plan, definitions, platform.claims)
        say(describe_rounds(plan, platform, finished))
        say(f"{len(finished)} rounds are finished after {time.monotonic() - started:.0f} s; loop: {decision.reason}")


def go_on(
    instance: dg.DagsterInstance,
    plan: Plan,
    platform: Platform,
    key: str,
    launch: Launch | None,
    *,
    say: Callable[[str], None],
    waits: bool = True,
) -> bool:
    """Make what is left of a round; after the loss of a step's process, or once people have decided, from there on.

    Args:
        instance: where the runs are kept.
        plan: the experiment.
        platform: where the data is.
        key: the round.
        launch: what it is to have otherwise than the experiment's file.
        say: takes each line that a person reads.
        waits: whether it stays where the round waits for people.

    Returns:
        Whether all of it is made; it is not where the round waits and nobody stays for it.

    Raises:
        FailedRoundError: a run failed, or was lost again and again with no step finished between.
        ClaimedError: another process works on the round.
    """
    left_before = None
    fruitless = 0
    while True:
        if explain_waiting(read_round(plan, platform, key)) is not None and not wait_for_people(
            plan, platform, key, say=say, stays=waits
        ):
            return False
        nouns = [noun.name for noun in list_nouns(plan)]
        names, selection = nouns, None
        if begins_as_before(plan, platform, key, launch):
            names = list_to_make(instance, plan, platform, key)
        if names != nouns:
            taken = [name for name in nouns if name not in names]
            say(f"{key} was begun before: {', '.join(taken)} taken as made; {', '.join(names)} to make")
            selection = frozenset(find_key(plan, name) for name in names)
        # The round has the launch's settings already; they can only be given to a run that makes its start_checkpoint.
        now = launch if "start_checkpoint" in names else None
        try:
            run_or_fail(instance, plan, platform, key, now, selection=selection, takes_up=True)
            if WAITS_TAG not in find_runs(instance, plan, key)[0].tags:
                return True
        except FailedRoundError:
            why = explain_loss(find_runs(instance, plan, key)[0])
            fruitless = fruitless + 1 if names == left_before else 0
            left_before = names
            if why is None or fruitless >= MAX_LOST - 1:
                raise
            say(f"{key}: {why}; the round goes on from there")


def read_round(plan: Plan, platform: Platform, key: str) -> Round:
    """A round, to read what is there of it."""
    return Round(plan, platform, key, lambda _: None)


def wait_for_people(plan: Plan, platform: Platform, key: str, *, say: Callable[[str], None], stays: bool) -> bool:
    """Stay until every row that people are asked about is decided; whether it is.

    Args:
        plan: the experiment.
        platform: where the data is.
        key: the round.
        say: takes each line that a person reads.
        stays: whether to stay at all.
    """
    said_at = -math.inf
    while (told := explain_waiting(read_round(plan, platform, key))) is not None:
        if time.monotonic() - said_at >= SAY_SECONDS:
            say(told)
            said_at = time.monotonic()
        if not stays:
            return False
        time.sleep(POLL_SECONDS)
    say(f"{key}: people have decided; the round goes on")
    return True


def run_or_fail(
    instance: dg.DagsterInstance,
    plan: Plan,
    platform: Platform,
    key: str,
    launch: Launch | None = None,
    *,
    selection: frozenset[dg.AssetKey] | None = None,
    takes_up: bool = False,
) -> None:
    """Materialize one round, or the assets of a selection, as `run_round` does.

    Raises:
        FailedRoundError: its run failed; blocking checks that stopped it, or else its failed steps, say why.
        InterruptedRoundError: it was ended from outside.
        ClaimedError: another process works on the round.
    """
    told = run_round(instance, plan, key, launch, claims=platform.claims, selection=selection, takes_up=takes_up)
    if told:
        # A blocking check has its own words, and what Dagster says of it names the check alone.
        why = "".join(f"\n{failure}" for failure in read_failures(plan, platform, key) or told)
        interrupted = any(one == ENDED_OUTSIDE or dg.DagsterExecutionInterruptedError.__name__ in one for one in told)
        raise (InterruptedRoundError if interrupted else FailedRoundError)(
            f"{plan.name} {key} failed. Correct it and run the command again: finished rounds and steps are kept{why}"
        )


def show_all_rounds(instance: dg.DagsterInstance, plan: Plan, definitions: dg.Definitions, claims: Claims) -> None:
    """Materialize the assets over all rounds: the leaderboard and, where the experiment has one, self_evolution."""
    overviews = {find_key(plan, "self_evolution"), dg.AssetKey(["leaderboard"])}
    there = overviews & set(definitions.resolve_all_asset_keys())
    # They hold no model, so a process of their own would only cost seconds.
    job = definitions.resolve_implicit_global_asset_job_def().with_executor_def(dg.in_process_executor)
    # The rounds are finished in any case; the UI shows why an overview failed.
    run_as_launched(job, instance, tags={}, claims=claims, selection=frozenset(there))
