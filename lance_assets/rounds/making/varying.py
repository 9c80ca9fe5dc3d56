"""kept_rows, the check that a round's candidates are worth going on with: enough are kept, and they are not all one.

A model that collapsed writes one prompt, or one wording with other words in it, and cleaning then keeps next to nothing
or, where comparing is off, all of it. Either is seen before anything is reviewed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from lance_assets.algorithms.filters.contract import count_drop_reasons
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.algorithms.measures.sameness import Sameness, find_commonest, find_one_wording
from lance_assets.algorithms.similarity.words import normalise_text
from lance_assets.conversations import show_prompt
from lance_assets.rounds.report import Judged, Report, Rows
from lance_assets.rounds.round import Round
from lance_assets.settings.checks import CheckSettings

MIN_ROWS = 20
"""Fewest candidates of a kind, and fewest prompts, of which a share is judged."""


@dataclass(frozen=True)
class Repeats:
    """How far prompts are one and the same."""

    one_prompt: Sameness
    """The commonest prompt after normalisation."""
    one_wording: Sameness
    """The commonest wording."""


def measure_repeats(prompts: list[str]) -> Repeats:
    """How far prompts are one prompt or one wording; fewer than `MIN_ROWS` are not judged."""
    if len(prompts) < MIN_ROWS:
        return Repeats(Sameness(0.0, 0, 0), Sameness(0.0, 0, 0))
    shown = list(map(show_prompt, prompts))
    return Repeats(find_commonest(map(normalise_text, shown)), find_one_wording(shown))


def kept_rows(this_round: Round) -> Judged:
    """Whether neither prompts nor completions are nearly all dropped, and the round's own prompts not all the same."""
    cleaned, seeds = this_round.read("cleaned_set"), this_round.read("seed_set", START_ROUND)["prompt"].to_list()
    # What a model was given to complete is not its own: seeds and rows of a pool are as they are.
    own = cleaned.filter(pl.col("prompt").is_not_null() & ~pl.col("prompt").is_in(seeds))["prompt"].to_list()
    plan = this_round.plan
    return judge_kept(
        cleaned,
        measure_repeats(own),
        measure_repeats(seeds),
        plan.settings.checks,
        prompt_kinds=plan.recipe.compared_prompts,
    )


def judge_kept(
    cleaned: pl.DataFrame, own: Repeats, of_seeds: Repeats, bars: CheckSettings, *, prompt_kinds: Sequence[str]
) -> Judged:
    """What the check says.

    Args:
        cleaned: schema `CLEANED_SET`.
        own: of the round's own prompts, dropped ones among them.
        of_seeds: of the seeds; a task whose seeds are of one wording asks for such prompts.
        bars: the experiment's.
        prompt_kinds: the kinds whose prompt a model wrote; they are judged apart from the others.
    """
    told = [say_dropped(rows, bars) for rows in _list_groups_dropped(cleaned, prompt_kinds, bars)]
    bar = bars.max_one_wording_rate
    repeated = [
        say_repeated(what, found, seeds, bar)
        for what, found, seeds in (
            ("are one prompt", own.one_prompt, of_seeds.one_prompt),
            ("are of one wording", own.one_wording, of_seeds.one_wording),
        )
        if found.rate > bar >= seeds.rate
    ]
    # One prompt is of one wording too, and that is said once.
    told += repeated[:1]
    facts: Report = {
        **{f"keep_rate/{kind}": round(kept / number, 4) for kind, (number, kept) in _count_kinds(cleaned).items()},
        "one_prompt_rate": round(own.one_prompt.rate, 4),
        "one_wording_rate": round(own.one_wording.rate, 4),
        "min_keep_rate": bars.min_keep_rate,
        "max_one_wording_rate": bar,
        "drop_reasons": dict(count_drop_reasons(cleaned)),
        "dropped": Rows(
            cleaned.filter(pl.col("drop_reason").is_not_null()), ("drop_reason", "kind", "prompt", "completion")
        ),
    }
    said = " ".join(told) or (None if len(cleaned) else "This round has no candidates.")
    kept = ", ".join(f"{number} of {total} {kind}" for kind, (total, number) in _count_kinds(cleaned).items())
    found = (
        f"Kept are {kept}; at least {bars.min_keep_rate:.0%} should be. {own.one_wording.rate:.0%} of the round's own "
        f"prompts are of one wording, and at most {bar:.0%} may be."
    )
    return Judged(passed=not told, facts=facts, description=said, found=found)


def _count_kinds(cleaned: pl.DataFrame) -> Mapping[str, tuple[int, int]]:
    """By kind its candidates, and those that are kept."""
    kept = pl.col("drop_reason").is_null().sum()
    counted = cleaned.group_by("kind", maintain_order=True).agg(pl.len(), kept.alias("kept"))
    return {kind: (number, kept) for kind, number, kept in counted.iter_rows()}


def _list_groups_dropped(cleaned: pl.DataFrame, prompt_kinds: Sequence[str], bars: CheckSettings) -> list[pl.DataFrame]:
    # One kind of completions may well be dropped as long as another is kept, and prompts alone train nothing.
    is_prompt = pl.col("kind").is_in(list(prompt_kinds))
    groups = [cleaned.filter(rows) for rows in (is_prompt, ~is_prompt)]
    is_kept = [rows["drop_reason"].null_count() >= bars.min_keep_rate * len(rows) for rows in groups]
    return [rows for rows, enough in zip(groups, is_kept, strict=True) if len(rows) >= MIN_ROWS and not enough]


def say_dropped(rows: pl.DataFrame, bars: CheckSettings) -> str:
    """That nearly all of some candidates are dropped: the share, why, two of them and what helps."""
    kinds = ", ".join(rows["kind"].unique(maintain_order=True))
    dropped = rows.filter(pl.col("drop_reason").is_not_null())
    reasons = ", ".join(f"{reason} {number}" for reason, number in count_drop_reasons(rows).items())
    texts = dropped.unique("drop_reason", maintain_order=True).select(pl.coalesce("completion", "prompt")).to_series()
    shown = "; ".join(repr(text[:120]) for text in texts.drop_nulls().head(2))
    return (
        f"{len(rows) - len(dropped)} of the {len(rows)} candidates of kind {kinds} are kept, a smaller share than "
        f"checks.min_keep_rate={bars.min_keep_rate:g}. Reasons: {reasons}. {f'Such are: {shown}. ' if shown else ''}"
        "Where they are like each other or like seeds, the model has collapsed: go back to an earlier checkpoint, "
        "raise temperature, or give more seeds. Otherwise loosen the filter of that reason, under parameters, filters "
        "or near_duplicates."
    )


def say_repeated(what: str, found: Sameness, seeds: Sameness, bar: float) -> str:
    """That nearly all prompts are the same: the share, some of them and what helps."""
    shown = "; ".join(repr(text[:120]) for text in found.examples)
    return (
        f"{found.rate:.0%} of the round's {found.total} own prompts {what}, more than "
        f"checks.max_one_wording_rate={bar:g} (of the seeds {seeds.rate:.0%}). Such are: {shown}. The model that "
        "proposes has collapsed, or the template asks for one thing: go back to an earlier checkpoint, raise "
        "temperature under parameters.stages, show more examples, or change the template of the step that proposes."
    )
