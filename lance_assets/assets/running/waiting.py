"""A round that waits for people: how its run ends, and whether what they decided is still so.

The step of decision_set ends without a result, so that the run succeeds, everything after it is skipped, and no
process, slot or claim is left behind. The run has a tag that says what the round waits for.
"""

import dagster as dg

from lance_assets.assets.running.lost import WAITS_TAG
from lance_assets.markdown import show_lines
from lance_assets.rounds.deciding.asked import DecidedRound
from lance_assets.rounds.plan import Noun

MAX_TAG = 250
"""Characters of it that the list of runs has room for."""


def show_waiting(context: dg.AssetExecutionContext, key: dg.AssetKey, told: str) -> None:
    """Say on the run, in its log and on the page of the asset what a round waits for."""
    context.log.info(told)
    context.instance.add_run_tags(context.run_id, {WAITS_TAG: told[:MAX_TAG]})
    metadata = {"waits_for": dg.MetadataValue.md(show_lines(told))}
    context.log_event(dg.AssetObservation(key, partition=context.partition_key, metadata=metadata))


def is_current(this_round: DecidedRound, noun: Noun) -> bool:
    """Whether what people decided of a noun is still what it was made of; so it is of a noun that nobody decides."""
    if not noun.is_decided_by_people:
        return True
    find = noun.find_function(f"is_current_{noun.name}")
    assert find is not None, "a noun that people decide has it"
    return bool(find(this_round))
