"""What the evaluation turned between two rounds: held-out items that were wrong and are right, or the other way."""

from typing import Any

import polars as pl

from lance_assets.browse.contract import Asked, Page, View, Way
from lance_assets.browse.mistakes import BadQueryError
from lance_assets.browse.shelf import Shelf

MAX_ITEMS = 200
"""Items that are shown with both answers; the page says how many there are."""
WORLD = ("metric", "task", "stratum", "prompt")
"""What makes an item of a world the same in two rounds."""
TURNS = {"gained": "wrong to right", "lost": "right to wrong"}


def compare_items(shelf: Shelf, experiment: str, before: str, after: str) -> pl.DataFrame:
    """Every item of the world that both rounds answered, with both completions and how it turned.

    Returns:
        `WORLD`, `answer`, `before`, `after` (completions), and `turn`: "gained", "lost" or null.
    """
    columns = ["model", *WORLD, "answer", "completion", "is_correct"]
    then, now = (
        shelf.read_if_there(experiment, key, "eval_items", columns).filter(model="checkpoint").drop("model")
        for key in (before, after)
    )
    both = now.join(then.drop("answer"), on=WORLD, suffix="_before", nulls_equal=True, maintain_order="left")
    is_right, was_right = pl.col("is_correct"), pl.col("is_correct_before")
    turn = pl.when(is_right & ~was_right).then(pl.lit("gained")).when(~is_right & was_right).then(pl.lit("lost"))
    return both.with_columns(turn=turn).rename({"completion": "after", "completion_before": "before"})


def compare_judged(shelf: Shelf, experiment: str, before: str, after: str) -> pl.DataFrame:
    """Every prompt that the judge saw in both rounds and that turned: prompt, both completions, both outcomes."""
    columns = ["model", "prompt", "completion", "outcome", "preference"]
    then, now = (
        shelf.read_if_there(experiment, key, "judge_items", columns).filter(model="checkpoint").drop("model")
        for key in (before, after)
    )
    both = now.join(then, on="prompt", suffix="_before", maintain_order="left")
    rose = pl.col("preference") > pl.col("preference_before")
    turn = pl.when(rose).then(pl.lit("gained")).when(pl.col("preference") < pl.col("preference_before"))
    return both.with_columns(turn=turn.then(pl.lit("lost")))


def show_flips(asked: Asked) -> Page:
    """What turned between another round and this one, by task and stratum, and the items with both answers.

    Raises:
        BadQueryError: a metric, a task, a stratum or a turn that there is not.
    """
    shelf, name, key = asked.shelf, asked.experiment, asked.round_key
    other = asked.choose_other_round()
    if other is None:
        return Page("flips.html", f"Flips of {name} {key}", {"other": None, "others": [], "is_empty": True})
    items = compare_items(shelf, name, other, key)
    judged = compare_judged(shelf, name, other, key)
    metrics = items["metric"].unique(maintain_order=True).to_list()
    metric = asked.get("metric") or (metrics[0] if metrics else None)
    if metric is not None and metric not in metrics:
        raise BadQueryError(f"metric: both rounds have no items of {metric!r}; choose one of {', '.join(metrics)}")
    of_metric = items.filter(metric=metric) if metric else items
    chosen = {each: asked.get(each) for each in ("task", "stratum", "turn")}
    shown = of_metric.filter(pl.col("turn").is_not_null())
    for each in ("task", "stratum", "turn"):
        if chosen[each] is not None:
            shown = shown.filter(pl.col(each).cast(pl.String) == chosen[each])
    turned = judged.filter(pl.col("turn").is_not_null())
    content: dict[str, Any] = {
        "other": other,
        "others": [one for one in shelf.list_rounds(name) if one != key],
        "is_empty": not len(items) and not len(judged),
        "metrics": metrics,
        "metric": metric,
        "groups": _count_turns(of_metric),
        "chosen": chosen,
        "items": shown.head(MAX_ITEMS).to_dicts(),
        "num_items": len(shown),
        "num_compared": len(of_metric),
        "judged": turned.head(MAX_ITEMS).to_dicts(),
        "num_judged": len(turned),
        "turns": TURNS,
    }
    return Page("flips.html", f"Flips of {name} {key}", content)


def _count_turns(items: pl.DataFrame) -> list[dict[str, Any]]:
    """By task and stratum: items, how many were right before and now, and how many turned each way; the sum first."""
    counts = [
        pl.len().alias("items"),
        pl.col("is_correct_before").sum().alias("before"),
        pl.col("is_correct").sum().alias("after"),
        (pl.col("turn") == "gained").sum().alias("gained"),
        (pl.col("turn") == "lost").sum().alias("lost"),
        pl.col("turn").count().alias("turned"),
    ]
    if not len(items):
        return []
    total = items.select(counts).with_columns(task=pl.lit(None, pl.String), stratum=pl.lit(None, pl.Int64))
    by_group = items.group_by("task", "stratum").agg(counts).sort("task", "stratum")
    return pl.concat([total.select(by_group.columns), by_group.cast(total.select(by_group.columns).schema)]).to_dicts()


VIEW = View(
    "flips",
    "Flips",
    "What did the model get right that it had wrong, and the other way?",
    (Way("/e/{experiment}/{round_key}/flips", show_flips),),
)
