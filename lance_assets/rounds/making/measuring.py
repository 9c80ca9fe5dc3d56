"""review_signal: whether the reviewer that the rounds will build on is better than chance, measured in r0000.

The pairs are made of the experiment's own seeds (`algorithms/reviews/signal_pairs.py`). The reviewer is asked as the
next round will ask it: r0000's checkpoint, or the second model of the role `reviewer`, by the recipe's own rubric.
Where the experiment has pairs judged, it also judges these in both orders, which shows whether it favours a place.
Beside it are measured, on the same pairs, the signals that the recipe offers in its place and that are only read, so
that what to choose is said with figures.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import polars as pl

from lance_assets.algorithms.measures.signals import CHANCE, Rate, ScoredPair, SignalMeasures, measure_signal
from lance_assets.algorithms.reviews.pairwise import PairwiseReport, summarise_verdicts
from lance_assets.algorithms.reviews.signal_pairs import (
    SignalPair,
    SignalSeed,
    build_signal_pairs,
    build_written_pairs,
)
from lance_assets.algorithms.similarity.words import count_words
from lance_assets.recipes.contract import RoundInputs
from lance_assets.records import PAIR_JUDGEMENTS, PREFERENCE_PAIRS, REVIEW_SIGNAL, derive_row_id
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import SUMMARY, Judged, Made, Measures, Report, round_measure
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.samples import sample_rows

PAIR = ("row_id", "kind", "rule", "seed_id", "prompt", "better", "worse")
"""The columns of `REVIEW_SIGNAL` that say what a pair is."""
OTHERS = ("likelihood", "mutual_information", "ifd")
"""The signals that are measured beside the reviewer, as `score_from` names them."""


def make_review_signal(this_round: Round) -> Made:
    """Let the reviewer score both completions of each pair; nothing in later rounds."""
    nothing = {"signal_judgements": this_round.empty("signal_judgements")}
    if not this_round.is_start:
        return Made(this_round.empty("review_signal"), others=nothing)
    plan, seeds = this_round.plan, this_round.read("seed_set")
    own = [SignalSeed(*row) for row in seeds.select("row_id", "prompt", "completion", "answer").iter_rows()]
    built = build_signal_pairs(own, num_pairs=plan.settings.num_signal_pairs, rng_seed=plan.settings.rng_seed)
    facts: Report = {f"num_left_out/{kind}": number for kind, number in built.num_left_out.items()}
    if not built.pairs:
        return Made(this_round.empty("review_signal"), others=nothing, facts=facts)
    trained = this_round.model_path(this_round.key)
    # What reads rows reads them with the model that is asked.
    reading = partial(this_round.read_states, model_path=trained)
    assert plan.recipe.score_rows is not None, "the noun exists for recipes that score rows"
    with this_round.asking("review_signal", trained) as ask:
        inputs = this_round.build_inputs(ask=ask, seeds=seeds, read_states=reading)
        drawn = [pair.seed_id for pair in built.pairs if pair.kind == "other_seed"]
        written = write_worse(plan, inputs, seeds.filter(pl.col("row_id").is_in(drawn)))
        pairs = [*built.pairs, *build_written_pairs([seed for seed in own if seed.row_id in drawn], written)]
        shown = list_shown(pairs)
        reviewed = plan.recipe.score_rows(inputs, shown)
        judged = judge_pairs(plan, inputs, pairs)
    # By now the engines have left the memory.
    read = plan.recipe.read_other_signals
    others = shown.select("row_id") if read is None else read(this_round.build_inputs(read_states=reading), shown)
    return Made(build_signal_table(pairs, reviewed, others), others={"signal_judgements": judged}, facts=facts)


def write_worse(plan: Plan, inputs: RoundInputs[Any], seeds: pl.DataFrame) -> dict[str, str]:
    """What a model wrote where it was asked for a worse completion than the seed's, by the seed's id."""
    if plan.recipe.write_worse is None:
        return {}
    # One that was cut is dropped by cleaning, so no pair is built of it.
    ended = plan.recipe.write_worse(inputs, seeds).filter(pl.col("finish_reason") == "stop")
    return dict(ended.drop_nulls("completion").select("seed_id", "completion").iter_rows())


def judge_pairs(plan: Plan, inputs: RoundInputs[Any], pairs: list[SignalPair]) -> pl.DataFrame:
    """The reviewer's verdicts on the pairs in both orders, schema `PAIR_JUDGEMENTS`; none where rounds judge none.

    A pair's `chosen` is the better completion. As many are judged as of a round's new pairs.
    """
    judge = plan.recipe.judge_pairs
    if judge is None or not plan.settings.parameters.judges_pairs:
        return pl.DataFrame(schema=PAIR_JUDGEMENTS)
    rows = [
        (pair.row_id, pair.prompt, pair.better, pair.worse, pair.row_id, pair.row_id, *(None,) * 3, inputs.round_key)
        for pair in pairs
    ]
    return judge(inputs, pl.DataFrame(rows, schema=PREFERENCE_PAIRS, orient="row"))


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


def build_signal_table(pairs: list[SignalPair], reviewed: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """The pairs with the reviews of both completions, schema `REVIEW_SIGNAL`.

    Args:
        pairs: in order.
        reviewed: schema `REVIEWED_SET`, each text that the pairs have.
        others: the same rows by `row_id`, with a column of each other signal that was measured.
    """
    scored = {row["row_id"]: row for row in reviewed.iter_rows(named=True)}
    read = {row.pop("row_id"): row for row in others.iter_rows(named=True)}
    rows = []
    for pair in pairs:
        row = {name: getattr(pair, name) for name in PAIR}
        for side in ("better", "worse"):
            row_id = derive_row_id("signal", pair.prompt, row[side])
            row |= {f"{side}_score": scored[row_id]["review_score"], f"{side}_reviews": scored[row_id]["reviews"]}
            row |= {f"{side}_{name}": value for name, value in read[row_id].items()}
        rows.append(row)
    return pl.DataFrame(rows, schema=REVIEW_SIGNAL)


def measure_table(table: pl.DataFrame, *, signal: str = "score") -> SignalMeasures:
    """What the scores of a table say of the reviewer, or of another signal.

    Args:
        table: schema `REVIEW_SIGNAL`.
        signal: "score", or one of `OTHERS`.
    """
    columns = ("kind", f"better_{signal}", f"worse_{signal}", "better", "worse")
    return measure_signal(
        [
            ScoredPair(kind, better_score, worse_score, count_words(better), count_words(worse))
            for kind, better_score, worse_score, better, worse in table.select(columns).iter_rows()
        ]
    )


def measure_others(table: pl.DataFrame) -> dict[str, SignalMeasures]:
    """Every other signal of a table that was read, by its name, the highest AUC first."""
    found = {name: measure_table(table, signal=name) for name in OTHERS}
    known = {name: own for name, own in found.items() if own.overall.auc.value is not None}
    return dict(sorted(known.items(), key=lambda item: -(item[1].overall.auc.value or 0.0)))


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
        return {SUMMARY: "The reviewer was measured in r0000", "dagster/row_count": 0}
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
    others = [
        {
            "signal": name,
            "AUC [95%]": describe_rate(own.overall.auc),
            **{kind: describe_rate(found.auc) for kind, found in own.by_kind.items()},
        }
        for name, own in measure_others(table).items()
    ]
    wrong = table.filter(pl.col("better_score") <= pl.col("worse_score"))
    found = read_verdicts(this_round)
    return {
        SUMMARY: f"{say_signal(measured)}{say_places(found)}",
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
        **report_places(found),
        "by_kind": Measures(by_kind),
        **({"other_signals": Measures(others)} if others else {}),
        "wrong": sample_rows(
            wrong,
            ("row_id", "kind", "rule", "prompt", "better", "worse", "better_score", "worse_score"),
            over=("kind",),
            salt=this_round.key,
        ),
    }


def read_verdicts(this_round: Round) -> PairwiseReport | None:
    """What the reviewer said of the pairs in both orders; None where the experiment has no pairs judged."""
    if not this_round.plan.settings.parameters.judges_pairs:
        return None
    table = this_round.read("signal_judgements")
    return summarise_verdicts(table.select("chosen_first_verdict", "rejected_first_verdict").rows())


def report_places(found: PairwiseReport | None) -> Report:
    """Whether the reviewer favours a place, and how often both orders prefer the better completion."""
    if found is None:
        return {}
    low, high = found.first_interval
    return {
        # Each pair is shown in both orders, so that a reviewer without a favourite place has 0.5.
        "bias/position": round_measure(found.first_rate),
        "bias/position_interval": f"{low:.4f} to {high:.4f}",
        "judging/num_judged": found.num_pairs,
        "judging/num_unread": found.num_unread,
        "judging/flip_rate": round_measure(found.flip_rate),
        "judging/accuracy": round_measure(found.agreement),
    }


def say_places(found: PairwiseReport | None) -> str:
    """That the reviewer favours a place, where its interval leaves out one half; else nothing."""
    if found is None or found.first_rate is None or found.first_interval[0] <= CHANCE <= found.first_interval[1]:
        return ""
    place = "first" if found.first_rate > CHANCE else "second"
    shown = describe_rate(Rate(found.first_rate, *found.first_interval))
    return f". Of two completions it favours the {place} place: {shown} of its verdicts are for the first"


def say_signal(measured: SignalMeasures) -> str:
    """What is known of the reviewer, in a sentence."""
    overall = measured.overall
    if overall.auc.value is None:
        return f"Of {overall.num_pairs} pairs none has two scores, so the reviewer was not measured"
    side = "better than chance" if overall.auc.is_above_chance else "which may be chance (0.5)"
    return (
        f"The reviewer tells the better completion from the worse one with an AUC of {describe_rate(overall.auc)} over "
        f"{overall.num_scored} of {overall.num_pairs} pairs, {side}"
    )


def list_remedies(plan: Plan) -> list[str]:
    """What may help a reviewer whose scores tell nothing, by the names of the settings that this experiment has."""
    parameters, roles = plan.settings.parameters, plan.recipe.roles
    has = type(parameters).model_fields
    remedies = []
    if "reviewer" in roles:
        other = "another model" if "reviewer" in plan.roles else "a second model"
        remedies.append(f"{other} under roles.reviewer")
    if plan.settings.seeds.eft_path is None:
        remedies.append(f"examples of reviews to train on, under seeds.eft_path (lance teach {plan.name} writes them)")
    if "score_from" in has and getattr(parameters, "score_from", None) == "text":
        measures = "python -m benchmarks.real_model measures them"
        remedies.append(f"parameters.score_from: expected or yes_no ({measures})")
    if "num_reviews" in has:
        remedies.append(f"more reviews by parameters.num_reviews (now {getattr(parameters, 'num_reviews', 0)})")
    if "num_judged_pairs" in has and not parameters.judges_pairs:
        remedies.append("pairs judged in both orders, by parameters.num_judged_pairs and drop_flipped_pairs")
    remedies.append("gold answers by seeds.answer_field and a recipe that matches them by rule, such as llm2llm")
    return remedies


def find_better(plan: Plan, measured: SignalMeasures, others: Mapping[str, SignalMeasures]) -> str | None:
    """The best other signal, where its AUC is above chance and above the reviewer's beyond the noise; else None."""
    used = getattr(plan.settings.parameters, "score_from", None)
    # One that prefers whatever the model wrote would accept all of it.
    right = [name for name in others if describe_inversion(plan, others[name]) is None]
    name = next((name for name in right if name != used), None)
    if name is None:
        return None
    auc, own = others[name].overall.auc, measured.overall.auc.value
    return name if auc.is_above_chance and (own is None or auc.low > own) else None


def describe_inversion(plan: Plan, measured: SignalMeasures) -> str | None:
    """In words that the reviewer puts what a model was asked to make worse above the seeds, where it does."""
    found = measured.by_kind.get("written")
    if found is None or found.auc.value is None or found.auc.high >= CHANCE:
        return None
    remedy = "parameters.branches: low builds none" if hasattr(plan.settings.parameters, "branches") else "build none"
    return (
        "It puts completions that the model was asked to make worse above the seeds' own (AUC "
        f"{describe_rate(found.auc)} on written pairs), so preference pairs would be the wrong way round: {remedy}, "
        "and another reviewer may help"
    )


def describe_choice(plan: Plan, measured: SignalMeasures, others: Mapping[str, SignalMeasures]) -> str:
    """The better signal as a setting, with what it was found to tell apart on the same pairs."""
    name = find_better(plan, measured, others)
    assert name is not None, "asked where there is one"
    found = others[name]
    kinds = ", ".join(f"{kind} {own.auc.value:.2f}" for kind, own in found.by_kind.items() if own.auc.value is not None)
    first = "without roles.reviewer, since the round's own model reads it; " if "reviewer" in plan.roles else ""
    return (
        f"parameters.score_from: {name} ({first}its AUC on the same pairs is {describe_rate(found.overall.auc)}: "
        f"{kinds}; choose the thresholds again)"
    )


def review_signal(this_round: Round) -> Judged:
    """Whether the reviewer keeps the bar or, without one, whether its AUC is above chance beyond the noise."""
    if not this_round.is_start:
        return Judged(passed=True, description="The reviewer was measured in r0000.")
    table = this_round.read("review_signal")
    return judge_signal(this_round.plan, measure_table(table), measure_others(table))


def judge_signal(
    plan: Plan, measured: SignalMeasures, others: Mapping[str, SignalMeasures] = MappingProxyType({})
) -> Judged:
    """What the check says of measures; a failure is an error only where the experiment sets a bar.

    Args:
        plan: the experiment.
        measured: of the reviewer.
        others: of the other signals (`measure_others`), the best first.
    """
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
        better = find_better(plan, measured, others)
        choice = f"Another signal does better: {describe_choice(plan, measured, others)}" if better else None
        notes = [part for part in (describe_inversion(plan, measured), choice) if part is not None]
        held = "above chance (0.5), interval and all" if bar is None else f"and at least {bar:g} is asked for"
        found = f"The reviewer's AUC is {describe_rate(auc)} over {measured.overall.num_scored} pairs, {held}."
        return Judged(passed=True, facts=facts, description=f"{'. '.join(notes)}." if notes else None, found=found)
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
    inverted = describe_inversion(plan, measured)
    sentences = ["; ".join(parts), *([inverted] if inverted is not None else [])]
    advice = [describe_choice(plan, measured, others)] if find_better(plan, measured, others) else []
    told = f"{'. '.join(sentences)}. Try one of: {'; '.join([*advice, *list_remedies(plan)])}."
    if known and auc.high > 0.5 and bar is None:
        told += f" More pairs narrow the interval: num_signal_pairs (now {plan.settings.num_signal_pairs})."
    return Judged(passed=False, is_error=bar is not None, facts=facts, description=told)
