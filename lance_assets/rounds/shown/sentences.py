"""The sentence that each noun's page opens with: what a person asks of it first, with its figures.

Each function takes figures and gives words, so that a page, a check and a command say the same.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import polars as pl

from lance_assets.records import SECOND_LOSSES, SecondLoss

MAX_NAMED = 3
"""How many reasons or kinds a sentence names; the tables below it name all."""


def say_number(number: int, what: str) -> str:
    """A number with its noun.

    >>> say_number(1, "pair"), say_number(1200, "row"), say_number(0, "pair")
    ('1 pair', '1,200 rows', '0 pairs')
    """
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def say_counts(counts: Mapping[str, int]) -> str:
    """The largest of some counts, by name, and how many are left.

    >>> say_counts({"a": 1, "b": 5, "c": 2, "d": 1, "e": 1})
    '5 b, 2 c, 1 a and 2 of 2 others'
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named, others = ordered[:MAX_NAMED], ordered[MAX_NAMED:]
    told = [f"{number:,} {name}" for name, number in named]
    if len(others) == 1:
        return ", ".join([*told, f"{others[0][1]:,} {others[0][0]}"])
    return ", ".join(told) + (f" and {sum(n for _, n in others):,} of {len(others)} others" if others else "")


def count(column: pl.Series) -> dict[str, int]:
    """How many rows there are of each value, nulls left out."""
    return {str(name): number for name, number in column.drop_nulls().value_counts(sort=True).iter_rows()}


def say_seeds(seeds: pl.DataFrame) -> str:
    """What a round starts from. Schema `SEED_SET`."""
    scored = seeds["review_score"].drop_nulls()
    sources = f" ({say_counts(count(seeds['source']))})" if seeds["source"].n_unique() > 1 else ""
    told = f"{say_number(len(seeds), 'seed')} to start from{sources}"
    return f"{told}; {len(scored):,} carry a score, {fmean(scored):.3g} on average" if len(scored) else told


def say_generations(table: pl.DataFrame, *, is_start: bool) -> str:
    """What the model wrote. Schema `RAW_GENERATIONS`."""
    if table.is_empty():
        return "Nothing is proposed in r0000, which trains on the seeds" if is_start else "Nothing was proposed"
    cut, failed = ((table["finish_reason"] == reason).sum() for reason in ("length", "error"))
    ends = [f"{cut:,} cut at the token limit"] if cut else []
    ends += [f"{failed:,} failed"] if failed else []
    return "; ".join([f"{say_number(len(table), 'sample')}: {say_counts(count(table['kind']))}", *ends])


def say_cleaned(table: pl.DataFrame, *, is_start: bool) -> str:
    """What was kept, and why the rest was dropped. Schema `CLEANED_SET`."""
    if table.is_empty():
        return (
            "No candidates in r0000, which trains on the seeds" if is_start else "No candidates: nothing was proposed"
        )
    kept = table["drop_reason"].null_count()
    told = f"{kept:,} of {say_number(len(table), 'candidate')} kept ({kept / len(table):.0%})"
    return told + (f"; dropped: {say_counts(count(table['drop_reason']))}" if kept < len(table) else "")


def say_reviewed(table: pl.DataFrame, *, is_start: bool) -> str:
    """What was scored, and how. Schema `REVIEWED_SET`."""
    if table.is_empty():
        return "r0000 reviews nothing" if is_start else "No row was left to review"
    scored = table["review_score"].drop_nulls()
    if scored.is_empty():
        return f"{say_number(len(table), 'row')}, none of them with a score"
    means = table.drop_nulls("review_score").group_by("kind").agg(pl.col("review_score").mean()).sort("kind")
    by_kind = ", ".join(f"{kind} {mean:.3g}" for kind, mean in means.iter_rows())
    unscored = len(table) - len(scored)
    left = f"; {unscored:,} without a score" if unscored else ""
    return f"{say_number(len(scored), 'row')} scored, {fmean(scored):.3g} on average ({by_kind}){left}"


def _say_too_short(number: int, what: str) -> str:
    return f"; {say_number(number, what)} left out as too short (min_chars)" if number else ""


def say_sft(table: pl.DataFrame, new: pl.DataFrame, *, key: str, num_too_short: int = 0) -> str:
    """What SFT trains on.

    Args:
        table: schema `SFT_SET`.
        new: those rows that the round brought.
        key: the round.
        num_too_short: rows that their scores let in and that are too short.
    """
    told = f"{say_number(len(table), 'row')} to train on ({say_counts(count(table['source']))})"
    scored = new["review_score"].drop_nulls()
    mean = f", scored {fmean(scored):.3g} on average" if len(scored) else ""
    return f"{told}; {len(new):,} new in {key}{mean}{_say_too_short(num_too_short, 'row')}"


def say_pairs(table: pl.DataFrame, new: pl.DataFrame, *, key: str, why_none: str, num_too_short: int = 0) -> str:
    """What DPO trains on.

    Args:
        table: schema `PREFERENCE_PAIRS`.
        new: those that the round brought.
        key: the round.
        why_none: why the round brought none, where it brought none.
        num_too_short: pairs that their scores let in and of which a text is too short.
    """
    if new.is_empty():
        earlier = f"; {say_number(len(table), 'pair')} of earlier rounds" if len(table) else ""
        return f"0 {'new ' if len(table) else ''}pairs: {why_none}{earlier}"
    gaps = new["score_gap"].drop_nulls()
    gap = f", the scores {fmean(gaps):.3g} apart on average" if len(gaps) else ""
    which = "all" if len(new) == len(table) else f"{len(new):,}"
    left = _say_too_short(num_too_short, "pair")
    return f"{say_number(len(table), 'pair')}, {which} new in {key}{gap}{left}"


def explain_no_pairs(reviewed: pl.DataFrame) -> str:
    """Why no pair could be made of reviewed rows, whatever the recipe. Schema `REVIEWED_SET`."""
    scored = reviewed.drop_nulls("review_score")
    if scored.is_empty():
        return "no reviewed row has a score"
    spans = scored.group_by("prompt").agg(
        pl.len(), (pl.col("review_score").max() - pl.col("review_score").min()).alias("gap")
    )
    several = spans.filter(pl.col("len") > 1)
    if several.is_empty():
        return f"none of {say_number(len(spans), 'prompt')} has two completions with a score"
    widest = max(several["gap"].to_list())
    return (
        f"of {say_number(len(several), 'prompt')} with several scored completions none gave a pair; the widest gap of "
        f"their scores is {widest:.3g}"
    )


def say_losses(name: str, losses: Sequence[float]) -> str:
    """How a stage's loss went: the means of its first and last tenth, since single steps jump."""
    part = max(1, len(losses) // 10)
    if len(losses) == 1:
        return f"{name} loss {losses[0]:.3g} in one step"
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    return f"{name} loss {first:.3g} to {last:.3g} in {len(losses)} steps"


def say_trained(
    row: Mapping[str, Any], began: str, *, second_loss: SecondLoss = "dpo", num_prompts: int | None = None
) -> str:
    """What a checkpoint was trained on, and how the losses went.

    Args:
        row: of CHECKPOINT.
        began: what training began with, in words.
        second_loss: what the pairs were trained with, or the prompts.
        num_prompts: of GRPO, the prompts that it sampled completions of.
    """
    if not row["is_trained"]:
        return "Nothing was trained, since the round brought nothing new: the start checkpoint is kept"
    stages = {"SFT": row["sft_losses"], SECOND_LOSSES[second_loss]: row["dpo_losses"]}
    went = [say_losses(name, losses) for name, losses in stages.items() if losses]
    rows, pairs = say_number(row["num_sft_rows"], "SFT row"), say_number(row["num_pairs"], "preference pair")
    told = f"Trained from {began} on {rows}" + (f", then {pairs}" if row["num_pairs"] else "")
    told += f", then {say_number(num_prompts, 'prompt')} with a reward" if num_prompts else ""
    return "; ".join([told, *went, f"{row['num_tokens']:,} tokens"])


def say_moved(stages: Mapping[str, Sequence[float]], changes: Mapping[str, float]) -> str:
    """How far each stage moved the weights, in a sentence; each should move them."""
    told = [
        f"{stage} moved the weights by {change:.3g} (L2 norm, which should be above 0) in {len(stages[stage])} steps"
        for stage, change in changes.items()
    ]
    return f"{'; '.join(told)}." if told else "Nothing was trained."


def say_difference(difference: Sequence[float]) -> str:
    """A difference with its 95% interval, three places.

    >>> say_difference((0.06, 0.036, 0.084))
    '+0.060 [+0.036, +0.084]'
    """
    middle, low, high = difference
    return f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]"
