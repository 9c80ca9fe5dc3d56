"""One budget of training tokens for the experiments that a study compares."""

from collections.abc import Sequence

from lance_assets.algorithms.measures.progress import START_ROUND, format_round, parse_round
from lance_assets.recipes.axes import LOSSES
from lance_assets.rounds.overrides import Launch, plan_round, read_overrides
from lance_assets.rounds.plan import Plan
from lance_assets.settings.overrides import apply_overrides, format_value, read_setting
from resources.stores.tables import TableStore

SETTING = "training.token_budget"


def give_budget(plan: Plan, tables: TableStore, token_budget: int) -> Launch | None:
    """What the next round of an experiment is launched with, so that it and later rounds train on so many tokens.

    Args:
        plan: the experiment as its file has it.
        tables: of its rounds.
        token_budget: at least 1.

    Returns:
        None where the next round has this budget anyway: by its file, or since the round before keeps it.

    Raises:
        ValueError: a round after r0000 is finished that was trained with another budget, or with none.
    """
    key, last = START_ROUND, None
    while tables.exists(plan.name, key, "eval_report"):
        own = read_setting(plan_round(plan, key, read_overrides(tables, plan.name, key)).settings, SETTING)
        # r0000 trains for its epochs, whatever the budget.
        if key != START_ROUND and own != token_budget:
            raise ValueError(
                f"{plan.name} {key} is finished with {SETTING} {format_value(own)}, and --token-budget is "
                f"{token_budget}: rounds of both would be compared. Take a LANCE_HOME without it, or make it again by "
                f"lance run {plan.name} --redo-from {key} --set {SETTING}={token_budget} --keep"
            )
        last, key = key, format_round(parse_round(key) + 1)
    inherited = {} if last is None else read_overrides(tables, plan.name, last).kept
    now = read_setting(apply_overrides(plan.settings, inherited), SETTING)
    return None if now == token_budget else Launch({SETTING: token_budget}, is_kept=True)


def describe_unheld(plans: Sequence[Plan], token_budget: int) -> str:
    """A sentence about the experiments that a budget holds to nothing; empty where there is none."""
    unheld = [
        plan.name
        for plan in plans
        if not plan.settings.parameters.trains_model or "sft" not in LOSSES[plan.settings.parameters.losses]
    ]
    return (
        f"{SETTING} {token_budget:,} is filled by SFT. It does not bind {', '.join(unheld)}, whose rounds have no SFT: "
        "compare their tokens trained."
        if unheld
        else ""
    )
