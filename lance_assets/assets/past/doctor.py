"""What differs between what the Dagster instance remembers of the rounds and what is on the disk, and how to go on.

Tables and checkpoints are the truth: the instance is a memory of them, and so is the history in LanceDB. A fix only
adds to these memories, or writes them again from the tables, and removes nothing but keys that are no rounds. Whether
the tables are what was written is looked at in `lance_assets.rounds.past.damage`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import dagster as dg

from lance_assets.algorithms.measures.progress import format_round, is_round_key, parse_round
from lance_assets.assets.building import USER_ERRORS, evaluate_check, report_handover, tell_later_rounds
from lance_assets.assets.names import find_key, name_rounds
from lance_assets.assets.past.lineage import (
    HANDOVER,
    START,
    VERSION_TAG,
    list_parents,
    list_read,
    observe_sources,
    report_version,
)
from lance_assets.assets.showing import show_report
from lance_assets.assets.tables import locate_table
from lance_assets.records import CHECKPOINT
from lance_assets.rounds.alike.kept_texts import find_losses, rebuild_history
from lance_assets.rounds.identity.kept import NoIdentityError, read_identity
from lance_assets.rounds.nouns import (
    NOUNS,
    compute_code_versions,
    explain_identity,
    list_before,
    list_inputs,
    list_nouns,
)
from lance_assets.rounds.past.damage import Finding, find_damaged, find_damaged_costs, find_unrecorded
from lance_assets.rounds.plan import Noun, Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from resources.stores.lance_tables import HistoryError

UNFINISHED = (
    *(dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING),
    *(dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING),
)
"""The states of a run that has not ended."""

MADE_BEFORE = "made by other code or settings than those of now"
"""The code version of a noun that was found on the disk and whose identity is not that of now."""


def examine(
    instance: dg.DagsterInstance, plans: Mapping[str, Plan | str], platform: Platform, name: str | None = None
) -> list[Finding]:
    """Everything that differs, of every experiment or of one, by experiment and round.

    Args:
        instance: what remembers the rounds.
        plans: the plan of every experiment by its name, or what is wrong with its file.
        platform: where the data is.
        name: one experiment, which may be one that has data and no file; None for all.

    Raises:
        ValueError: no experiment and no data has that name.
    """
    on_disk = platform.tables.list_experiments()
    if name is not None and name not in {*plans, *on_disk}:
        raise ValueError(
            f"no experiment and no data is called {name!r}; experiments: {', '.join(sorted(plans)) or 'none'}; data in "
            f"{platform.root}: {', '.join(on_disk) or 'none'}"
        )
    found: list[Finding] = []
    for one in sorted({*plans, *on_disk}) if name is None else [name]:
        plan = plans.get(one)
        if isinstance(plan, Plan):
            found += examine_experiment(instance, plan, platform)
        elif plan is not None:
            found.append(Finding(one, f"its file cannot be loaded: {plan}", "correct it"))
        else:
            rounds = ", ".join(platform.tables.list_rounds(one))
            found.append(
                Finding(
                    one,
                    f"{platform.root / 'tables' / one} holds {rounds or 'no round'}, and no experiment has that name",
                    f"if it was renamed: lance doctor --rename {one} NEW_NAME; if its folder is elsewhere: name it in "
                    "LANCE_EXPERIMENTS",
                )
            )
    return found


def mend(
    instance: dg.DagsterInstance,
    plans: Mapping[str, Plan | str],
    platform: Platform,
    name: str | None,
    *,
    say: Callable[[str], None],
) -> None:
    """Mend what can be mended without a loss, and say each; what cannot is said, and the rest is mended all the same.

    Args:
        instance: what remembers the rounds.
        plans: as for `examine`.
        platform: where the data is.
        name: one experiment; None for all of them.
        say: takes each line.

    Raises:
        ValueError: no experiment and no data has that name.
    """
    for finding in examine(instance, plans, platform, name):
        if finding.fix is None:
            continue
        try:
            finding.fix()
            say(f"mended: {finding.where}: {finding.what}")
        except (ValueError, OSError, HistoryError) as error:
            say(f"not mended: {finding.where}: {error}")


def examine_experiment(instance: dg.DagsterInstance, plan: Plan, platform: Platform) -> Iterator[Finding]:
    """What differs of one experiment: its keys, then each of its rounds."""
    keys, on_disk = instance.get_dynamic_partitions(name_rounds(plan)), platform.tables.list_rounds(plan.name)
    fixes = f"lance doctor {plan.name} --fix"
    for key in sorted(key for key in keys if not is_round_key(key)):
        yield Finding(
            plan.name,
            f"{key!r} is no round's key (r and four digits, such as r0001)",
            f"{fixes} removes it",
            lambda key=key: instance.delete_dynamic_partition(name_rounds(plan), key),  # type: ignore[misc]
        )
    for key in sorted(key for key in {*keys, *on_disk} if is_round_key(key)):
        where = f"{plan.name} {key}"
        if key not in keys:
            yield Finding(
                where,
                f"it has tables in {platform.root} and is no partition of the instance",
                f"{fixes} adds it",
                lambda key=key: instance.add_dynamic_partitions(name_rounds(plan), [key]),  # type: ignore[misc]
            )
        this_round = Round(plan, platform, key, lambda _: None)
        damaged = list(find_damaged(this_round))
        yield from damaged
        # What is read of a damaged table could be anything, so the rest is looked at once it is made again.
        yield from () if damaged else _examine_round(instance, this_round, fixes)
        yield from find_unrecorded(this_round, fixes)
        yield from find_damaged_costs(this_round, fixes)
        before = format_round(max(0, parse_round(key) - 1))
        if key in on_disk and before not in on_disk and key != before:
            yield Finding(
                where, f"{before}, which it was built on, has no tables", "bring them back, or make the rounds again"
            )
    yield from examine_history(plan, platform, on_disk, fixes)


def _examine_round(instance: dg.DagsterInstance, this_round: Round, fixes: str) -> Iterator[Finding]:
    """What differs of a round: tables that are unknown, gone or other ones, the weights, and what it began with."""
    plan, key = this_round.plan, this_round.key
    where = f"{plan.name} {key}"
    redo = f"lance run {plan.name} --redo-from {key} makes the round again, and all after it"
    unknown: list[Noun] = []
    changed: list[Noun] = []
    gone: list[Noun] = []
    for noun in list_nouns(plan):
        remembered = _find_version(instance, plan, key, noun.name)
        if not this_round.has(noun.name, key):
            gone += [noun] if remembered is not None else []
        elif remembered is None:
            unknown.append(noun)
        elif remembered != read_version(this_round, noun):
            changed.append(noun)
    for nouns, what in ((unknown, "on the disk, and the instance does not know"), (changed, "another than")):
        if nouns:
            names = ", ".join(noun.name for noun in nouns)
            told = f"{what} it" if nouns is unknown else f"{what} the instance remembers"
            is_are = "is" if len(nouns) == 1 else "are"
            yield Finding(
                where,
                f"{names} {is_are} {told}",
                f"{fixes} tells the instance what is there",
                lambda nouns=nouns: report_round(instance, this_round, nouns),  # type: ignore[misc]
            )
    if gone:
        names = ", ".join(noun.name for noun in gone)
        yield Finding(
            where,
            f"the instance remembers {names}, and {this_round.platform.root} has no such table of it",
            f"bring the data back (is LANCE_HOME right?), or: {redo}",
        )
    yield from _examine_weights(this_round, redo)
    if this_round.has(START, key):
        (check,) = (one for one in NOUNS[START].checks if one.name == "is_newest")
        judged = NOUNS[START].judge(check, this_round)
        if not judged.passed:
            yield Finding(where, "what it began with is not what earlier rounds hand over", str(judged.description))


def _examine_weights(this_round: Round, redo: str) -> Iterator[Finding]:
    """Whether each folder of weights holds what was recorded; a model is read whole for it."""
    plan, key = this_round.plan, this_round.key
    for noun, owner in (("checkpoint", plan.name), ("label_checkpoint", plan.label_model)):
        # Only r0000 trains a label model; later rounds repeat its row.
        if noun not in {one.name for one in list_nouns(plan)} or not this_round.has(noun, key):
            continue
        if noun == "label_checkpoint" and not this_round.is_start:
            continue
        folder = this_round.platform.checkpoints.folder(owner, key)
        store = this_round.platform.checkpoints
        if store.read_removal(owner, key) is not None or store.is_elsewhere(owner, key):
            continue
        try:
            found = this_round.platform.checkpoints.hash_checkpoint(folder)
        except USER_ERRORS:
            found = None
        if found != this_round.read(noun)["content_hash"][0]:
            state = "is gone" if found is None else "does not hold what was recorded"
            yield Finding(
                f"{plan.name} {key}", f"the folder of its {noun} ({folder}) {state}", f"bring it back, or: {redo}"
            )


def examine_history(plan: Plan, platform: Platform, keys: Sequence[str], fixes: str) -> Iterator[Finding]:
    """Whether the history holds what the rounds stored in it, as one finding.

    Args:
        plan: the experiment.
        platform: where the data is.
        keys: its rounds that are on the disk.
        fixes: the command that mends.
    """
    cleaned = [key for key in keys if platform.tables.exists(plan.name, key, "cleaned_set")]
    if not cleaned:
        return
    reader = Round(plan, platform, cleaned[-1], lambda _: None)
    readable = [key for key in cleaned if _is_readable(reader, key)]
    try:
        losses = find_losses(reader, readable)
    except HistoryError as error:
        lost, what = readable, f"the history cannot be read ({error})"
    except (ValueError, OSError) as error:
        yield Finding(plan.name, f"the history cannot be compared with the tables: {error}", "mend these first")
        return
    else:
        lost = [loss.round_key for loss in losses]
        what = f"the history in {platform.history.uri} is not what was stored: " + "; ".join(
            loss.what for loss in losses
        )
    if lost:
        yield Finding(
            plan.name,
            what,
            f"{fixes} writes these rounds again from their tables",
            lambda: rebuild_history(reader, lost),
        )


def _is_readable(reader: Round, key: str) -> bool:
    """Whether a round's tables of kept texts are what was written; a damaged one is a finding of its own."""
    try:
        for name in ("cleaned_set", "kept_vectors"):
            if reader.has(name, key):
                reader.read(name, key)
    except (ValueError, OSError):
        return False
    return True


def find_unfinished_runs(instance: dg.DagsterInstance, name: str) -> list[dg.DagsterRun]:
    """The runs of an experiment that have not ended, whether or not it has a file."""
    runs = instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED)))
    jobs = (f"{name}_round", f"{name}_redo")
    return [
        run for run in runs if run.job_name in jobs or any(key.path[0] == name for key in run.asset_selection or ())
    ]


def read_version(this_round: Round, noun: Noun) -> str:
    """The data version of a noun as it is on the disk."""
    if noun.name == START:
        compute_version = NOUNS[START].find_function("version_start")
        assert compute_version is not None, "the module of start_checkpoint has it"
        version = compute_version(this_round.read(START)["handover_hash"][0], this_round.plan)
    elif noun.schema == CHECKPOINT:
        version = this_round.read(noun.name)["content_hash"][0]
    else:
        version = this_round.platform.tables.hash(this_round.plan.name, this_round.key, noun.name)
    return str(version)


def report_round(instance: dg.DagsterInstance, this_round: Round, nouns: list[Noun]) -> None:
    """Report nouns that are on the disk as materialized, in the order of making, with what they were made from.

    A noun whose identity is not that of now is reported with another code version, so that the UI calls it unsynced.

    Args:
        instance: where it is reported.
        this_round: the round.
        nouns: those of its nouns that are reported.
    """
    plan, key = this_round.plan, this_round.key
    instance.add_dynamic_partitions(name_rounds(plan), [key])
    observe_sources(instance, plan)
    # What the round began with comes first, and what it would begin with now afterwards: if they differ, it shows.
    if not this_round.is_start and this_round.has(START, key):
        began = this_round.read(START)["handover_hash"][0]
        report_version(instance, find_key(plan, HANDOVER), began, partition=key)
    versions = compute_code_versions(plan)
    for noun in nouns:
        is_now = all(_is_made_as_now(this_round, one) for one in [*list_before(plan, noun), noun])
        tags = {
            VERSION_TAG: read_version(this_round, noun),
            f"{VERSION_TAG}_is_user_provided": "true",
            "dagster/code_version": versions[noun.name] if is_now else MADE_BEFORE,
            **_describe_inputs(instance, this_round, noun),
        }
        file = this_round.platform.tables.path(plan.name, key, noun.name)
        shown = locate_table(plan, noun, file=file, num_rows=len(this_round.read(noun.name)))
        try:
            told = show_report(noun.report(this_round))
            # What opens a report opens the page.
            shown = {**told, **shown} if told else shown
        except USER_ERRORS as error:
            # The table is there in any case; what is shown of it may need another that is not.
            shown["no_report"] = str(error)
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                find_key(plan, noun.name),
                description="Found on the disk by lance doctor; no run of this instance made it.",
                partition=key,
                metadata=shown,
                tags=tags,
            )
        )
        _report_checks(instance, this_round, noun)
    # An earlier round may lack a table, which is a finding of its own.
    with suppress(*USER_ERRORS):
        report_handover(instance, this_round)
    for noun in nouns:
        # No run is under way that an evaluation of the later rounds' check could belong to; the handover is reported.
        for _ in tell_later_rounds(instance, this_round, noun):
            pass


def _report_checks(instance: dg.DagsterInstance, this_round: Round, noun: Noun) -> None:
    """Report what each check finds of a noun that was reported just now: its figures are those of the stored tables."""
    for check in noun.checks:
        # What a check reads beside the noun may be gone, and is a finding of its own; then it counts as not evaluated.
        with suppress(*USER_ERRORS):
            instance.report_runless_asset_event(evaluate_check(instance, this_round, noun, check))


def _describe_inputs(instance: dg.DagsterInstance, this_round: Round, noun: Noun) -> dict[str, str]:
    """What Dagster notes of a step's inputs: the event and the data version of each."""
    plan, key, tags = this_round.plan, this_round.key, {}
    sources = {find_key(plan, source.name): source for source in list_read(plan, noun)}
    for parent in list_parents(plan, noun):
        partition = None if parent in sources else key
        wanted = dg.AssetRecordsFilter(asset_key=parent, asset_partitions=[partition] if partition else None)
        is_made = parent in {find_key(plan, name) for name in list_inputs(plan, noun)}
        fetch = instance.fetch_materializations if is_made else instance.fetch_observations
        records = fetch(wanted, limit=1).records
        event = records[0].event_log_entry if records else None
        version = (event.tags or {}).get(VERSION_TAG) if event is not None else None
        name = parent.to_user_string()
        tags[f"dagster/input_data_version/{name}"] = version or "INITIAL"
        tags[f"dagster/input_event_pointer/{name}"] = str(records[0].storage_id) if records else "NULL"
    return tags


def _is_made_as_now(this_round: Round, noun: Noun) -> bool:
    """Whether a noun's identity is what it would be made with now."""
    plan = this_round.plan
    try:
        kept = read_identity(this_round.platform.tables, plan.name, this_round.key, noun.name)
    except NoIdentityError:
        return False
    now: object = json.loads(json.dumps(explain_identity(plan, noun.name), default=str))
    return kept == now


def _find_version(instance: dg.DagsterInstance, plan: Plan, key: str, noun: str) -> str | None:
    """The data version that the instance remembers of a noun; None where it knows none."""
    wanted = dg.AssetRecordsFilter(asset_key=find_key(plan, noun), asset_partitions=[key])
    records = instance.fetch_materializations(wanted, limit=1).records
    made = records[0].asset_materialization if records else None
    return None if made is None else (made.tags or {}).get(VERSION_TAG, "none")
