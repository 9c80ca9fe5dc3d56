"""Every finished round of an experiment in two small tables: what it made and scored, and what each step took."""

import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.rounds.headline import find_headline, require_headline
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
                "dpo loss": f"{dpo_losses[0]:.3f}>{dpo_losses[-1]:.3f}" if dpo_losses else "-",
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
    for key in keys:
        if said := Round(plan, platform, key, lambda _: None).describe_overrides():
            parts.append(f"{key} ran with {said['overrides']}")
    backbone = find_headline(Round(plan, platform, START_ROUND, lambda _: None), model=BACKBONE)
    if backbone is not None:
        parts.append(f"raw backbone: {format_score(backbone)}")
    return "\n".join(parts)
