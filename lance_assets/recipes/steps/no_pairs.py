"""Why LANCE's two branches gave no preference pair, in words: such a round is no failure, and looks like one."""

import polars as pl

from lance_assets.algorithms.selection.pairing import split_by_score


def explain_no_branch_pairs(reviewed: pl.DataFrame, *, branches: str, branch_threshold: float, score_gap: float) -> str:
    """Why seeds and their degraded completions gave no pair.

    Args:
        reviewed: schema `REVIEWED_SET`.
        branches: "both", "low" or "high", as the experiment has it.
        branch_threshold: seeds that score above it have degraded completions.
        score_gap: a pair's scores are further apart than this.

    >>> rows = pl.DataFrame({"kind": ["seed"], "seed_id": ["s"], "review_score": [6.0]})
    >>> explain_no_branch_pairs(rows, branches="both", branch_threshold=7.0, score_gap=2.0)
    'the only seed scored at most 7, so no degraded completions were asked for'
    """
    seeds = reviewed.filter(kind="seed")
    if branches == "low":
        return "branches is low, so no degraded completions are asked for"
    split = split_by_score(seeds, branch_threshold=branch_threshold)["branch"]
    num_high, num_unscored = int((split == "high").sum()), int((split == "unscored").sum())
    if not num_high:
        scored = len(seeds) - num_unscored
        who = "the only seed" if scored == 1 else f"all {scored} seeds"
        left = (
            f" with a score scored at most {branch_threshold:g}"
            if num_unscored
            else f" scored at most {branch_threshold:g}"
        )
        said = f"{who}{left}" if scored else f"none of {len(seeds)} seeds has a score"
        return f"{said}, so no degraded completions were asked for"
    degraded = reviewed.filter(kind="degraded_completion")
    of_high = f"{num_high} of {len(seeds)} seeds scored above {branch_threshold:g}"
    if degraded.is_empty():
        return f"{of_high}, and of their degraded completions cleaning kept none"
    both = reviewed.filter(pl.col("seed_id").is_in(degraded["seed_id"].implode())).drop_nulls("review_score")
    spans = both.group_by("seed_id").agg(pl.len(), gap=pl.col("review_score").max() - pl.col("review_score").min())
    spans = spans.filter(pl.col("len") > 1)
    if spans.is_empty():
        return f"{of_high}, and none of their {len(degraded)} degraded completions could be held against its seed"
    return (
        f"{of_high}, and of their {len(degraded)} degraded completions none is further than {score_gap:g} from its "
        f"seed; the widest gap is {max(spans['gap'].to_list()):.3g}"
    )
