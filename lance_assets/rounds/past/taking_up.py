"""What a round that was broken off need not make again: what would become the same.

A noun is taken as it is where its tables are those that were written, its identity is that of now, and it was made from
the same tables. What a person or a backfill asks for is made again all the same; this is for whoever goes on.
"""

import json
from collections.abc import Callable

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.records import CHECKPOINT
from lance_assets.rounds.identity.kept import MadeRecord, NoIdentityError, hash_tables, read_identity, read_made
from lance_assets.rounds.nouns import explain_round_identity, list_inputs, list_nouns
from lance_assets.rounds.plan import Noun, Plan
from lance_assets.rounds.platform import Platform
from resources.stores.checkpoints import NotACheckpointError


def find_kept(plan: Plan, platform: Platform, key: str, noun: Noun) -> MadeRecord | None:
    """The record of a noun that would be made the same again; None where it has to be made.

    Args:
        plan: the experiment, with the round's overrides.
        platform: where the tables are.
        key: the round.
        noun: the noun.
    """
    tables = platform.tables
    made = read_made(tables, plan.name, key, noun.name)
    if made is None or hash_tables(tables, plan.name, key, list(made.tables)) != made.tables:
        return None
    if hash_tables(tables, plan.name, key, list_inputs(plan, noun)) != made.inputs:
        return None
    try:
        kept = read_identity(tables, plan.name, key, noun.name)
    except (NoIdentityError, ValueError):
        return None
    now = explain_round_identity(plan, noun.name, key)
    is_same = kept == json.loads(json.dumps(now, default=str)) and _has_weights(plan, platform, key, noun)
    return made if is_same else None


def _has_weights(plan: Plan, platform: Platform, key: str, noun: Noun) -> bool:
    """Whether the folder of a noun that holds a model has what was recorded; a model is read whole for it."""
    if noun.schema != CHECKPOINT:
        return True
    # Only r0000 trains a label model; later rounds repeat its row.
    owner, of = (plan.name, key) if noun.name == "checkpoint" else (plan.label_model, START_ROUND)
    recorded = platform.tables.read(plan.name, key, noun.name, schema=noun.schema)["content_hash"][0]
    try:
        return platform.checkpoints.hash_checkpoint(platform.checkpoints.find(owner, of)) == recorded
    except (NotACheckpointError, OSError):
        return False


def list_lost(
    plan: Plan,
    platform: Platform,
    key: str,
    *,
    begins_same: Callable[[Noun], bool],
    has_passed: Callable[[Noun], bool],
    is_known: Callable[[Noun, str], bool],
) -> list[str]:
    """The nouns of a round that a run has to make so that the round is finished, in their order.

    Args:
        plan: the experiment, with the round's overrides.
        platform: where the tables are.
        key: the round.
        begins_same: whether what a noun takes from outside of the round is what it took when it was made.
        has_passed: whether what may stop the round after a noun was judged of what is there now, and passed.
        is_known: whether a noun's version was made known to those who watch the round.

    Returns:
        Those that are not there as they would be made now, those that are made from one of these, and those that were
        not judged or not made known. What of it becomes the same is found where it is made.
    """
    lost: list[str] = []
    made_again: set[str] = set()
    for noun in list_nouns(plan):
        is_followed = bool(made_again & {*list_inputs(plan, noun)})
        kept = None if is_followed else find_kept(plan, platform, key, noun)
        if kept is None or not begins_same(noun):
            made_again.add(noun.name)
            lost.append(noun.name)
        # It is taken as it is by the run that judges it and makes it known, so what follows from it stays.
        elif not has_passed(noun) or not is_known(noun, kept.version):
            lost.append(noun.name)
    return lost
