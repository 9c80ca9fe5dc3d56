"""What a person sees of a round's verdicts: how many are right, why not, and how far the model's reviews agree."""

from collections import Counter

import polars as pl

from lance_assets.algorithms.verifying.agreement import measure_review_agreement
from lance_assets.algorithms.verifying.verdict import MARK
from lance_assets.recipes.axes import AxisSettings
from lance_assets.rounds.deciding.decisions import find_scale
from lance_assets.rounds.report import Counts, Report, Rows, round_measure

_HAS = pl.col("reviews").list.last().str.starts_with(MARK).fill_null(False)
"""Whether a row has a verdict."""


def drop_verdicts(reviewed: pl.DataFrame) -> pl.DataFrame:
    """A reviewed set with the model's reviews alone: without the last one of each row that has a verdict."""
    lists = ("reviews", "scores", "unscored_reasons")
    kept = pl.when(_HAS).then(pl.col("reviews").list.len() - 1).otherwise(pl.col("reviews").list.len())
    return reviewed.with_columns(pl.col(name).list.head(kept) for name in lists)


def read_verdicts(reviewed: pl.DataFrame, *, lowest: float, highest: float) -> pl.DataFrame:
    """The verdict of each row beside the model's own score.

    Args:
        reviewed: schema `REVIEWED_SET`.
        lowest: the lowest score of a review.
        highest: the highest.

    Returns:
        Columns row_id, kind, prompt, completion, share (0 to 1, null where unverified), is_right, words, unverified
        (why) and own_score (the mean of the model's reviews).
    """
    verdict = reviewed.filter(_HAS)
    models = drop_verdicts(verdict)["scores"].list.mean()
    return verdict.select(
        "row_id",
        "kind",
        "prompt",
        "completion",
        share=(pl.col("scores").list.last() - lowest) / (highest - lowest),
        words=pl.col("reviews").list.last().str.strip_prefix(MARK),
        unverified=pl.col("unscored_reasons").list.last(),
    ).with_columns(is_right=pl.col("share") >= 1, own_score=models)


def describe_verdicts(reviewed: pl.DataFrame, parameters: AxisSettings, *, weight: float) -> Report:
    """The figures of a round's verdicts, rows of each, and the agreement with the model's reviews where it reviews."""
    scale = find_scale(parameters)
    assert scale is not None, "an experiment with a verifier has reviews: checked when its file is loaded"
    lowest, highest = scale
    rows = read_verdicts(reviewed, lowest=lowest, highest=highest)
    known = rows.drop_nulls("share")
    facts: Report = {
        "verifier/num_right": int(known["is_right"].sum()),
        "verifier/num_wrong": int((~known["is_right"]).sum()),
        "verifier/num_unverified": len(rows) - len(known),
        "verifier/right_rate": round_measure(known["is_right"].mean() if len(known) else None),  # type: ignore[arg-type]
        "verifier/weight": weight,
        "verifier/unverified_reasons": Counts("reason", dict(Counter(rows["unverified"].drop_nulls()))),
        "verifier/verdicts": Rows(
            rows.sort("share", "row_id", nulls_last=False), ("words", "own_score", "prompt", "completion", "row_id")
        ),
    }
    if rows["own_score"].count() == 0:
        return facts
    found = measure_review_agreement(
        rows["own_score"].to_list(), rows["is_right"].to_list(), rows["prompt"].to_list(), bar=(lowest + highest) / 2
    )
    auc, balanced = found.accuracy.auc, found.balanced
    facts |= {"agreement/auc": round_measure(auc.value), "agreement/balanced_accuracy": round_measure(balanced.value)}
    for name, rate in (("auc", auc), ("balanced_accuracy", balanced)):
        if rate.value is not None:
            facts[f"agreement/{name}_interval"] = f"{rate.low:.4f} to {rate.high:.4f}"
    return facts | {"agreement/bar": found.bar}
