"""Every finished round of an experiment in two small tables, and in words what the last one is worth."""

import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.algorithms.measures.progress import START_ROUND, find_best_outcome, parse_round
from lance_assets.algorithms.measures.statistics import Interval
from lance_assets.recipes.axes import LOSSES
from lance_assets.rounds.headline import (
    compare_with,
    compare_with_backbone,
    find_headline,
    read_outcomes,
    require_headline,
)
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.report import format_score
from lance_assets.rounds.round import Round


def summarise_rounds(plan: Plan, platform: Platform, keys: list[str]) -> pl.DataFrame:
    """One row a round: rows at every stage, pairs, losses, score with its interval, seconds and tokens."""
    rows = []
    for key in keys:
        this_round = Round(plan, platform, key, lambda _: None)
        cleaned, checkpoint = this_round.read("cleaned_set"), this_round.read("checkpoint").row(0, named=True)
        headline = require_headline(this_round)
        costs = this_round.read_costs()
        num_kept = cleaned["drop_reason"].null_count()
        pairs, sft = this_round.read("preference_pairs"), this_round.read("sft_set")
        is_new = pl.col("source_round") == key
        sft_losses, dpo_losses = checkpoint["sft_losses"], checkpoint["dpo_losses"]
        loss = plan.settings.parameters.second_loss or "dpo"
        rows.append(
            {
                "round": key,
                "seeds": len(this_round.read("seed_set")),
                "generated": len(this_round.read("raw_generations")),
                "kept": num_kept,
                "dropped": len(cleaned) - num_kept,
                "reviewed": len(this_round.read("reviewed_set")),
                "sft (new)": f"{len(sft)} ({len(this_round.read_new_sft_rows())})",
                "pairs (new)": f"{len(pairs)} ({pairs.filter(is_new).height})",
                "sft loss": f"{sft_losses[0]:.3f}>{sft_losses[-1]:.3f}" if sft_losses else "-",
                f"{loss} loss": f"{dpo_losses[0]:.3f}>{dpo_losses[-1]:.3f}" if dpo_losses else "-",
                "score": format_score(headline),
                "seconds": round(sum(cost.seconds for cost in costs.values())),
                "tokens": sum(cost.completion_tokens for cost in costs.values()),
            }
        )
    return pl.DataFrame(rows)


def summarise_stages(plan: Plan, platform: Platform, keys: list[str]) -> pl.DataFrame:
    """Seconds and sampled tokens of every stage, one column a round."""
    costs = {key: Round(plan, platform, key, lambda _: None).read_costs() for key in keys}
    nouns = list(dict.fromkeys(noun for by_noun in costs.values() for noun in by_noun))
    return pl.DataFrame(
        [
            {"stage": noun}
            | {
                key: f"{by_noun[noun].seconds:.1f} s, {by_noun[noun].completion_tokens} tokens"
                if noun in by_noun
                else "-"
                for key, by_noun in costs.items()
            }
            for noun in nouns
        ]
    )


def describe_reviewer(plan: Plan, platform: Platform) -> str:
    """What r0000 found of its reviewer, and what to do where it is at chance; empty where it was not measured."""
    start, noun = Round(plan, platform, START_ROUND, lambda _: None), NOUNS["review_signal"]
    if not noun.exists(plan) or not start.has(noun.name, START_ROUND):
        return ""
    judged = noun.judge(noun.checks[0], start)
    facts = judged.facts
    found = f"reviewer of {START_ROUND}: AUC {facts['auc']} ({facts['auc_interval']}) on {facts['num_pairs']} pairs"
    return found if judged.description is None else f"{found}. {judged.description}"


def describe_rounds(plan: Plan, platform: Platform, keys: list[str]) -> str:
    """The tables of the rounds, and the raw backbone's score."""
    with pl.Config(
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=220,
        fmt_str_lengths=60,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
    ):
        parts = [str(summarise_rounds(plan, platform, keys)), str(summarise_stages(plan, platform, keys))]
    silent = [said for key in keys if (said := Round(plan, platform, key, lambda _: None).explain_no_news())]
    parts = [*silent, *parts]
    for key in keys:
        if overridden := Round(plan, platform, key, lambda _: None).describe_overrides():
            parts.append(f"{key} ran with {overridden['overrides']}")
    if reviewer := describe_reviewer(plan, platform):
        parts.append(reviewer)
    backbone = find_headline(Round(plan, platform, START_ROUND, lambda _: None), model=BACKBONE)
    if backbone is not None:
        parts.append(f"raw backbone: {format_score(backbone)}")
    return "\n".join([*parts, *describe_worth(plan, platform, keys)])


def describe_worth(plan: Plan, platform: Platform, keys: list[str]) -> list[str]:
    """What the last round is worth: a sentence each on the raw backbone, on r0000, and on the best round before.

    Where the round trained again on what earlier rounds trained on, one more says how to see what that alone brings.
    """
    if not keys:
        return []
    last = Round(plan, platform, keys[-1], lambda _: None)
    higher_is_better = require_headline(last)["higher_is_better"]
    earlier = list(dict.fromkeys([START_ROUND, find_best(last, keys[:-1])])) if keys[:-1] else []
    compared: dict[str, Interval | None] = {"the raw backbone": compare_with_backbone(last)}
    compared |= {key: compare_with(last, key) for key in earlier}
    told = [
        f"{last.key} against {name}: {describe_difference(difference, higher_is_better=higher_is_better)}"
        for name, difference in compared.items()
        if difference is not None
    ]
    return [*told, *describe_repeats(last)]


def describe_repeats(last: Round) -> list[str]:
    """That a round trained again on people's rows, and the control that shows what this alone brings.

    Nothing is said of r0000, of a round that starts from the base model, which has seen no row more often than r0000's,
    and of the control itself.
    """
    settings = last.plan.settings
    parameters = settings.parameters
    if last.is_start or parameters.starts_from != "previous" or "sft" not in LOSSES[parameters.losses]:
        return []
    if parameters.trains_without_news:
        return []
    rows = last.read("sft_set").filter(pl.col("source_round") != last.key)
    numbers = {"seeds": rows.filter(source="seed").height, "EFT rows": rows.filter(source="eft").height}
    if not numbers["seeds"]:
        return []
    again = " and ".join(f"{number} {name}" for name, number in numbers.items() if number)
    number = parse_round(last.key)
    if "propose" in type(parameters).model_fields:
        control = f"lance run {last.plan.name} --rounds {number} --set parameters.propose=false --keep"
        more = "" if settings.training.token_budget else "; training.token_budget gives both as many tokens"
        if settings.verifier is not None:
            more += "; take the section verifier out of a copy of its file first"
    else:
        num_epochs = settings.training.sft.num_epochs * (number + 1)
        control = f"lance run {last.plan.name} --rounds 0 --set training.sft.num_epochs={num_epochs:g}"
        more = ""
    return [
        f"{last.key} trained again on {again}, and a gain over earlier rounds includes what that alone brings. The "
        f"control trains on these alone, in another LANCE_HOME: {control}{more}"
    ]


def find_best(this_round: Round, keys: list[str]) -> str:
    """The best of some rounds by their headlines, the first where several are equal."""
    best = find_best_outcome(read_outcomes(this_round, keys))
    return best if best is not None else keys[0]


def describe_difference(difference: Interval, *, higher_is_better: bool) -> str:
    """A change of a score in words; only one whose whole interval lies on one side is called better or worse.

    Args:
        difference: mean and 95% interval.
        higher_is_better: whether a larger score is better.

    >>> describe_difference((-0.11, -0.13, -0.09), higher_is_better=False)
    '-0.110 [-0.130, -0.090], better'
    >>> describe_difference((0.01, -0.02, 0.04), higher_is_better=True)
    '+0.010 [-0.020, +0.040], which is within the noise of these items: no difference can be seen'
    """
    middle, low, high = difference
    is_better, is_worse = (low > 0, high < 0) if higher_is_better else (high < 0, low > 0)
    noise = ", which is within the noise of these items: no difference can be seen"
    return f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]" + (", better" if is_better else ", worse" if is_worse else noise)
