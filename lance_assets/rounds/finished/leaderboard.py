"""Every round of every experiment in one table, the best first.

Scores share a table only where benchmark, metric, held-out items and settings of the evaluation are the same; what
differs is written above each table. The settings are those of the experiment's file as it is now. An eval_report that
the UI calls unsynced may have been made with others; what it was made with is kept under `identity/`, and
`lance show EXPERIMENT ROUND --identity` prints it.
"""

import json
from collections.abc import Mapping, Sequence

import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.algorithms.measures.headline import Headline, Items, ScoreRow
from lance_assets.algorithms.measures.leaderboard import Measured, compare_measured, identify_scale, order_rounds
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.records import LEADERBOARD
from lance_assets.rounds.headline import find_headline, read_items
from lance_assets.rounds.identity.parts import identify_evaluation as identify_scores
from lance_assets.rounds.judging.report import BENCHMARK
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round


def identify_evaluation(plan: Plan, benchmark: str) -> dict[str, str]:
    """The settings that a benchmark's scores depend on, by name; the recipe and its seed are none of them."""
    identity, judge = identify_scores(plan), plan.settings.evaluation.judge
    found = flatten({"system_message": identity["prompts"]["system_message"]})
    if judge is not None:
        # a reader knows the judge by the name in the file, not by its content, and its words by one hash
        words = " ".join(text[:8] for text in identity["judge"]["templates"].values() if text is not None)
        identity["judge"] |= {"model": judge.model, "model_revision": judge.model_revision, "templates": words}
    if plan.world is not None and benchmark == plan.world.name:
        others = {"prompts", "rng_seed", "lm_eval", "task_files", "judge"}
    elif benchmark == BENCHMARK:
        others = {"prompts", "rng_seed", "lm_eval", "task_files", "world", "world_content"}
        if judge is not None and judge.opponent == "backbone":
            found["backbone"] = " ".join(filter(None, (plan.settings.model, plan.settings.model_revision)))
    else:
        assert plan.settings.evaluation.lm_eval is not None, "a benchmark of the harness has its settings"
        # the seed draws the examples of a prompt
        has_examples = any(part.num_fewshot != 0 for part in plan.settings.evaluation.lm_eval.split())
        is_chat = plan.settings.evaluation.lm_eval.apply_chat_template is not False
        others = {"prompts", "world", "world_content", "engine", "judge"} | (set() if has_examples else {"rng_seed"})
        # an item that is no chat has no system message
        found = found if is_chat else {}
    found |= flatten({name: value for name, value in identity.items() if name not in others})
    # A grammar is for reviews: no answer that is evaluated has one.
    irrelevant = ("world.sampled_temperature", "lm_eval.tasks", "lm_eval.include_path", "engine.structured_output")
    # a person chose the settings, and not the versions of libraries
    return {name: value for name, value in found.items() if name not in irrelevant and ".libraries." not in name}


def flatten(sections: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings as one level, named with dots; null and empty ones are left out."""
    found: dict[str, str] = {}
    for name, value in sections.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{name}.")
        elif value not in (None, [], ()):
            found[f"{prefix}{name}"] = str(value)
    return found


def list_standing_rounds(plan: Plan, platform: Platform) -> list[str]:
    """Every round whose eval_report exists, oldest first, gaps or not."""
    found = platform.tables.path(plan.name, START_ROUND, "eval_report").parents[1].glob("r[0-9]*/eval_report.parquet")
    return sorted(path.parent.name for path in found)


def describe_scale(plan: Plan, headline: Headline) -> dict[str, str]:
    """The settings that a headline's scores depend on, by name."""
    found: dict[str, str] = {}
    for benchmark in dict.fromkeys(part["benchmark"] for part in headline["parts"]):
        found |= identify_evaluation(plan, benchmark)
    if len(set(headline["weights"])) > 1:
        found["weights"] = ", ".join(f"{weight:.4g}" for weight in headline["weights"])
    return found if headline["higher_is_better"] else found | {"higher_is_better": "False"}


def measure(this_round: Round, model: str) -> Measured | None:
    """A model's headline with its items; None where the model is not in the round's eval_report."""
    headline = find_headline(this_round, model=model)
    if headline is None:
        return None
    items = [read_items(this_round, part) for part in headline["parts"]]
    asked = [
        key for part, found in zip(headline["parts"], items, strict=True) for key in list_asked(this_round, part, found)
    ]
    scale = identify_scale(
        benchmark=headline["benchmark"],
        metric=headline["metric"],
        settings=describe_scale(this_round.plan, headline),
        items=asked,
    )
    return Measured(scale, headline, items)


def list_asked(this_round: Round, part: ScoreRow, items: Items) -> list[str]:
    """The prompts or keys of the items of a score, or their number where nothing else is known."""
    # Items that the judge could not be read on were asked too.
    judged = this_round.read("judge_items")["prompt"].unique().to_list() if part["benchmark"] == BENCHMARK else []
    return judged or list(items) or [f"{part['num_items']} items"]


def read_row(this_round: Round, start: Measured | None, backbone: Measured | None) -> dict[str, object]:
    """One row of the leaderboard.

    Args:
        this_round: a round whose eval_report exists.
        start: r0000's headline, to compare with; None in r0000 itself, and where there is none.
        backbone: the raw backbone's.

    Raises:
        ValueError: a table cannot be read.
        OSError: a table is missing.
    """
    measured = measure(this_round, "checkpoint")
    assert measured is not None, "a written eval_report has a headline"
    headline = measured.headline
    plan, costs = this_round.plan, this_round.read_costs()
    sft, pairs = this_round.read("sft_set"), this_round.read("preference_pairs")
    is_new = pl.col("source_round") == this_round.key
    price = sum(cost.price for cost in costs.values())
    return {
        **{"experiment": plan.name, "recipe": plan.settings.recipe, "round": this_round.key, "scale": measured.scale},
        **{"benchmark": headline["benchmark"], "metric": headline["metric"], "num_items": headline["num_items"]},
        **{"score": headline["score"], "ci_low": headline["ci_low"], "ci_high": headline["ci_high"]},
        "higher_is_better": headline["higher_is_better"],
        "evaluation": json.dumps(describe_scale(plan, headline), sort_keys=True),
        "since_start": compare_measured(start, measured) if start else None,
        "over_backbone": compare_measured(backbone, measured) if backbone else None,
        "num_sft_rows": len(sft),
        "num_new_sft_rows": len(this_round.read_new_sft_rows()),
        "num_pairs": len(pairs),
        "num_new_pairs": pairs.filter(is_new).height,
        "sampled_tokens": sum(cost.completion_tokens for cost in costs.values()) if costs else None,
        "train_tokens": this_round.read("checkpoint")["num_tokens"][0],
        "seconds": sum(cost.seconds for cost in costs.values()) if costs else None,
        "seconds_by_noun": [{"noun": noun, "seconds": costs[noun].seconds} for noun in NOUNS if noun in costs],
        "price": price or None,
        **{"overrides": None, **this_round.describe_overrides()},
    }


def read_leaderboard(plans: Sequence[Plan], platform: Platform) -> tuple[pl.DataFrame, dict[str, str]]:
    """Every finished round, the best first, and which ones are left out and why, by experiment and round.

    A round whose tables cannot be read is left out, and the others stay. Reads every round's tables whole.
    """
    rows, left_out = [], {}
    for plan in plans:
        start, backbone = None, None
        for key in list_standing_rounds(plan, platform):
            this_round = Round(plan, platform, key, lambda _: None)
            try:
                if key == START_ROUND:
                    backbone = measure(this_round, BACKBONE)
                rows.append(read_row(this_round, start, backbone))
                start = measure(this_round, "checkpoint") if key == START_ROUND else start
            except (ValueError, OSError) as error:
                left_out[f"{plan.name} {key}"] = str(error)
    return order_rounds(pl.DataFrame(rows, schema=LEADERBOARD)), left_out
