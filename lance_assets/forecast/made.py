"""What a finished round really took, for the plan of the rounds after it."""

from lance_assets.algorithms.forecast.made_rounds import MadeRound, MadeStep
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round

NEEDED = ("cleaned_set", "sft_set", "preference_pairs", "checkpoint")
"""The tables that are counted."""


def find_made(plan: Plan, platform: Platform, key: str) -> MadeRound | None:
    """What a round took; None where it is not finished, or its tables cannot be read.

    Args:
        plan: the experiment.
        platform: where its rounds are.
        key: a round after r0000.
    """
    this_round = Round(plan, platform, key, lambda _: None)
    costs = this_round.read_costs()
    if "eval_report" not in costs or not all(this_round.has(noun, key) for noun in NEEDED):
        return None
    steps = {
        noun: MadeStep(cost.num_samples, cost.prompt_tokens - cost.cached_tokens, cost.completion_tokens)
        for noun, cost in costs.items()
        if cost.num_samples
    }
    cleaned = costs.get("cleaned_set")
    try:
        checkpoint, sft_set, pairs = (this_round.read(noun) for noun in ("checkpoint", "sft_set", "preference_pairs"))
    except ValueError:
        # Of an older version, or damaged: a plan can be made without it, and what reads its rows says what is wrong.
        return None
    return MadeRound(
        key,
        steps,
        # Texts that were embedded before, by a round that was made again, are not embedded twice.
        num_kept=cleaned.num_embedded if cleaned is not None and cleaned.num_embedded else None,
        num_sft=len(sft_set),
        num_pairs=len(pairs),
        trained_tokens=checkpoint["num_tokens"][0],
    )


def find_last_made(plan: Plan, platform: Platform, *, before: str | None = None) -> MadeRound | None:
    """The last finished round after r0000; None where there is none.

    Args:
        plan: the experiment.
        platform: where its rounds are.
        before: a round; rounds from it on do not count.
    """
    keys = sorted(path.name for path in (platform.root / "costs" / plan.name).glob("r[0-9]*"))
    for key in reversed(keys):
        if START_ROUND < key < (before or "s") and (made := find_made(plan, platform, key)) is not None:
            return made
    return None
