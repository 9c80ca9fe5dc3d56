"""review_signal: whether the reviewer that the rounds will build on is better than chance, measured in r0000.

The pairs are made of the experiment's own seeds (`algorithms/reviews/signal_pairs.py`). The reviewer is asked as the
next round will ask it: r0000's checkpoint, or the second model of the role `reviewer`, by the recipe's own rubric.
"""

from functools import partial

import polars as pl

from lance_assets.algorithms.measures.signals import Rate, ScoredPair, SignalMeasures, measure_signal
from lance_assets.algorithms.reviews.signal_pairs import SignalPair, SignalSeed, build_signal_pairs
from lance_assets.algorithms.similarity.words import count_words
from lance_assets.records import REVIEW_SIGNAL, derive_row_id
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import Judged, Made, Measures, Report, Rows, round_measure
from lance_assets.rounds.round import Round

PAIR = ("row_id", "kind", "rule", "seed_id", "prompt", "better", "worse")
"""The columns of `REVIEW_SIGNAL` that say what a pair is."""


def make_review_signal(this_round: Round) -> Made:
    """Let the reviewer score both completions of each pair; nothing in later rounds."""
    if not this_round.is_start:
        return Made(this_round.empty("review_signal"))
    plan = this_round.plan
    rows = this_round.read("seed_set").select("row_id", "prompt", "completion", "answer").iter_rows()
    built = build_signal_pairs(
        [SignalSeed(*row) for row in rows],
        num_pairs=plan.settings.num_signal_pairs,
        rng_seed=plan.settings.rng_seed,
    )
    facts: Report = {f"num_left_out/{kind}": number for kind, number in built.num_left_out.items()}
    shown = list_shown(built.pairs)
    assert plan.recipe.score_rows is not None, "the noun exists for recipes that score rows"
    trained = this_round.model_path(this_round.key)
    with this_round.asking("review_signal", trained) as ask:
        # What reads rows reads them with the same model.
        inputs = this_round.build_inputs(ask=ask, read_states=partial(this_round.read_states, model_path=trained))
        reviewed = plan.recipe.score_rows(inputs, shown) if built.pairs else None
    return Made(build_signal_table(built.pairs, reviewed), facts=facts)


def list_shown(pairs: list[SignalPair]) -> pl.DataFrame:
    """Every completion of every prompt once, with the columns of a row that cleaning kept."""
    texts = dict.fromkeys((pair.seed_id, pair.prompt, text) for pair in pairs for text in (pair.better, pair.worse))
    shown = [
        (derive_row_id("signal", prompt, text), "completion", seed_id, seed_id, prompt, text)
        for seed_id, prompt, text in texts
    ]
    columns = ("row_id", "kind", "seed_id", "parent_id", "prompt", "completion")
    return pl.DataFrame(shown, schema=dict.fromkeys(columns, pl.String), orient="row").unique(
        "row_id", keep="first", maintain_order=True
    )


def build_signal_table(pairs: list[SignalPair], reviewed: pl.DataFrame | None) -> pl.DataFrame:
    """The pairs with the reviews of both completions, schema `REVIEW_SIGNAL`.

    Args:
        pairs: in order.
        reviewed: schema `REVIEWED_SET`, each text that the pairs have; None without pairs.
    """
    scored = {} if reviewed is None else {row["row_id"]: row for row in reviewed.iter_rows(named=True)}
    rows = []
    for pair in pairs:
        row = {name: getattr(pair, name) for name in PAIR}
        for side in ("better", "worse"):
            found = scored[derive_row_id("signal", pair.prompt, row[side])]
            row |= {f"{side}_score": found["review_score"], f"{side}_reviews": found["reviews"]}
        rows.append(row)
    return pl.DataFrame(rows, schema=REVIEW_SIGNAL)


def measure_table(table: pl.DataFrame) -> SignalMeasures:
    """What the scores of a table say of the reviewer.

    Args:
        table: schema `REVIEW_SIGNAL`.
    """
    columns = ("kind", "better_score", "worse_score", "better", "worse")
    return measure_signal(
        [
            ScoredPair(kind, better_score, worse_score, count_words(better), count_words(worse))
            for kind, better_score, worse_score, better, worse in table.select(columns).iter_rows()
        ]
    )


def describe_rate(rate: Rate) -> str:
    """A rate with its interval, in words.

    >>> describe_rate(Rate(0.5, 0.25, 0.75)), describe_rate(Rate(None, 0.0, 1.0))
    ('0.50 [0.25, 0.75]', 'unknown')
    """
    return "unknown" if rate.value is None else f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]"


def report_review_signal(this_round: Round) -> Report:
    """AUC, accuracy, unscored rate and bias over all pairs and by kind, and pairs that the reviewer has wrong."""
    table = this_round.read("review_signal")
    if not this_round.is_start:
        return {"dagster/row_count": 0}
    measured = measure_table(table)
    overall = measured.overall
    by_kind = [
        {
            "pairs": kind,
            "number": str(found.num_pairs),
            "scored": str(found.num_scored),
            "AUC [95%]": describe_rate(found.auc),
            "accuracy [95%]": describe_rate(found.accuracy),
        }
        for kind, found in [*measured.by_kind.items(), ("all", overall)]
    ]
    wrong = table.filter(pl.col("better_score") <= pl.col("worse_score"))
    return {
        "dagster/row_count": len(table),
        "auc": round_measure(overall.auc.value),
        "auc_interval": f"{overall.auc.low:.4f} to {overall.auc.high:.4f}",
        "accuracy": round_measure(overall.accuracy.value),
        "accuracy_interval": f"{overall.accuracy.low:.4f} to {overall.accuracy.high:.4f}",
        "unscored_rate": round_measure(measured.unscored_rate),
        "tied_rate": round_measure(overall.tied_rate),
        "num_distinct_scores": measured.num_distinct,
        "score_deviation": round_measure(measured.deviation),
        "bias/length": round_measure(measured.length_bias),
        "by_kind": Measures(by_kind),
        "wrong": Rows(wrong, ("kind", "rule", "prompt", "better", "better_score", "worse", "worse_score")),
    }


def list_remedies(plan: Plan) -> list[str]:
    """What may help a reviewer that is at chance, by the names of the settings that this experiment has."""
    parameters, roles = plan.settings.parameters, plan.recipe.roles
    has = type(parameters).model_fields
    remedies = []
    if "reviewer" in roles:
        other = "another model" if "reviewer" in plan.roles else "a second model"
        remedies.append(f"{other} under roles.reviewer")
    if plan.settings.seeds.eft_path is None:
        remedies.append("examples of reviews to train on, under seeds.eft_path")
    if "score_from" in has and getattr(parameters, "score_from", None) == "text":
        measures = "python -m benchmarks.real_model measures them"
        remedies.append(f"parameters.score_from: expected, yes_no or mutual_information ({measures})")
    if "num_reviews" in has:
        remedies.append(f"more reviews by parameters.num_reviews (now {getattr(parameters, 'num_reviews', 0)})")
    if "num_judged_pairs" in has and not parameters.judges_pairs:
        remedies.append("pairs judged in both orders, by parameters.num_judged_pairs and drop_flipped_pairs")
    remedies.append("gold answers by seeds.answer_field and a recipe that matches them by rule, such as llm2llm")
    return remedies


def review_signal(this_round: Round) -> Judged:
    """Whether the reviewer keeps the bar or, without one, whether its AUC is above chance beyond the noise."""
    if not this_round.is_start:
        return Judged(passed=True, description="The reviewer was measured in r0000.")
    plan = this_round.plan
    return judge_signal(plan, measure_table(this_round.read("review_signal")))


def judge_signal(plan: Plan, measured: SignalMeasures) -> Judged:
    """What the check says of measures; a failure is an error only where the experiment sets a bar."""
    auc, bar, unscored = measured.overall.auc, plan.settings.checks.min_review_auc, measured.unscored_rate
    facts: Report = {
        "auc": round_measure(auc.value),
        "auc_interval": f"{auc.low:.4f} to {auc.high:.4f}",
        "accuracy": round_measure(measured.overall.accuracy.value),
        "unscored_rate": round_measure(unscored),
        "num_pairs": measured.overall.num_pairs,
        **({} if bar is None else {"bar": bar}),
    }
    if not measured.overall.num_pairs:
        told = "The seeds give no pair of a better and a worse completion, so the reviewer was not measured."
        return Judged(passed=bar is None, is_error=bar is not None, facts=facts, description=told)
    known = auc.value is not None
    passed = known and (auc.is_above_chance if bar is None else (auc.value or 0.0) >= bar)
    if passed:
        return Judged(passed=True, facts=facts)
    read = f"{describe_rate(auc)} over {measured.overall.num_scored} of {measured.overall.num_pairs} pairs"
    wanted = "not above chance (0.5)" if bar is None else f"below checks.min_review_auc={bar:g}"
    found = f"its AUC is {read}, {wanted}" if known else "no pair has two scores that could be read"
    weakest = min(
        ((found.auc.value, kind) for kind, found in measured.by_kind.items() if found.auc.value is not None),
        default=None,
    )
    parts = [
        f"The reviewer does not tell better completions from worse ones: {found}",
        f"{unscored or 0:.0%} of its reviews have no score",
        *([f"it is weakest on {weakest[1]} pairs ({weakest[0]:.2f})"] if weakest is not None else []),
    ]
    told = f"{'; '.join(parts)}. Try one of: {'; '.join(list_remedies(plan))}."
    if known and auc.high > 0.5 and bar is None:
        told += f" More pairs narrow the interval: num_signal_pairs (now {plan.settings.num_signal_pairs})."
    return Judged(passed=False, is_error=bar is not None, facts=facts, description=told)
